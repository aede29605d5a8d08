"""What the paper prints about detection on VOC 2007; nothing here is measured.

Source:
    He, Zhang, Ren, Sun: "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
    Recognition", arXiv 1406.4729 v4, tables 9 to 12.
"""

from sppnet.paper.printed import Printed

# VOC's classes in its order, and what the tables call them.
VOC_COLUMNS = {
    "aeroplane": "aero",
    "bicycle": "bike",
    "bird": "bird",
    "boat": "boat",
    "bottle": "bottle",
    "bus": "bus",
    "car": "car",
    "cat": "cat",
    "chair": "chair",
    "cow": "cow",
    "diningtable": "table",
    "dog": "dog",
    "horse": "horse",
    "motorbike": "mbike",
    "person": "person",
    "pottedplant": "plant",
    "sheep": "sheep",
    "sofa": "sofa",
    "train": "train",
    "tvmonitor": "tv",
}
MEAN = "mAP"
CONV, FC, TOTAL, SPEED_UP = "conv time, s", "fc time, s", "total time, s", "speed-up"
POOLING, CONV_SPEED_UP = "pooling, s", "speed-up, conv"  # rows that the paper's tables do not have
SPP_1, SPP_5 = "SPP (1-sc) (ZF-5)", "SPP (5-sc) (ZF-5)"
RCNN_ALEX, RCNN_ZF = "R-CNN (Alex-5)", "R-CNN (ZF-5)"
FIRST, SECOND, BOTH = "SPP-net (1)", "SPP-net (2)", "combination"

TABLE_9 = Printed(
    9,
    "VOC 2007 detection, SPP-net and R-CNN",
    "mean average precision in % (11 points), seconds per image for the features",
    (SPP_1, SPP_5, RCNN_ALEX),
    {
        "pool5": (43.0, 44.9, 44.2),
        "fc6": (42.5, 44.8, 46.2),
        "ft fc6": (52.3, 53.7, 53.1),
        "ft fc7": (54.5, 55.2, 54.2),
        "ft fc7 bb": (58.0, 59.2, 58.5),
        CONV: (0.053, 0.293, 8.96),
        FC: (0.089, 0.089, 0.07),
        TOTAL: (0.142, 0.382, 9.03),
        SPEED_UP: (64, 24, None),
    },
    "4.2, 4.3",
)
TABLE_10 = Printed(
    10,
    "VOC 2007 detection, SPP-net and R-CNN with the same trained network",
    "mean average precision in % (11 points), seconds per image for the features",
    (SPP_1, SPP_5, RCNN_ZF),
    {
        "ft fc7": (54.5, 55.2, 55.1),
        "ft fc7 bb": (58.0, 59.2, 59.2),
        CONV: (0.053, 0.293, 14.37),
        FC: (0.089, 0.089, 0.089),
        TOTAL: (0.142, 0.382, 14.46),
        SPEED_UP: (102, 38, None),
    },
    "4.2, 4.3",
)


def _numbers(text: str) -> tuple[float, ...]:
    """Read a row: the mean, then the classes in VOC's order."""
    return tuple(map(float, text.split()))


TABLE_11 = Printed(
    11,
    "VOC 2007 detection, by class",
    "average precision in % (11 points)",
    (MEAN, *VOC_COLUMNS.values()),
    {
        "DPM": _numbers(
            "33.7 33.2 60.3 10.2 16.1 27.3 54.3 58.2 23.0 20.0 24.1 "
            "26.7 12.7 58.1 48.2 43.2 12.0 21.1 36.1 46.0 43.5"
        ),
        "SS": _numbers(
            "33.8 43.5 46.5 10.4 12.0 9.3 49.4 53.7 39.4 12.5 36.9 "
            "42.2 26.4 47.0 52.4 23.5 12.1 29.9 36.3 42.2 48.8"
        ),
        "Regionlet": _numbers(
            "41.7 54.2 52.0 20.3 24.0 20.1 55.5 68.7 42.6 19.2 44.2 "
            "49.1 26.6 57.0 54.5 43.4 16.4 36.6 37.7 59.4 52.3"
        ),
        "DetectorNet": _numbers(
            "30.5 29.2 35.2 19.4 16.7 3.7 53.2 50.2 27.2 10.2 34.8 "
            "30.2 28.2 46.6 41.7 26.2 10.3 32.8 26.8 39.8 47.0"
        ),
        "R-CNN ft fc7 (Alex-5)": _numbers(
            "54.2 64.2 69.7 50.0 41.9 32.0 62.6 71.0 60.7 32.7 58.5 "
            "46.5 56.1 60.6 66.8 54.2 31.5 52.8 48.9 57.9 64.7"
        ),
        "R-CNN ft fc7 (ZF-5)": _numbers(
            "55.1 64.8 68.4 47.0 39.5 30.9 59.8 70.5 65.3 33.5 62.5 "
            "50.3 59.5 61.6 67.9 54.1 33.4 57.3 52.9 60.2 62.9"
        ),
        "SPP ft fc7 (ZF-5)": _numbers(
            "55.2 65.5 65.9 51.7 38.4 32.7 62.6 68.6 69.7 33.1 66.6 "
            "53.1 58.2 63.6 68.8 50.4 27.4 53.7 48.2 61.7 64.7"
        ),
        "R-CNN bb (Alex-5)": _numbers(
            "58.5 68.1 72.8 56.8 43.0 36.8 66.3 74.2 67.6 34.4 63.5 "
            "54.5 61.2 69.1 68.6 58.7 33.4 62.9 51.1 62.5 64.8"
        ),
        "R-CNN bb (ZF-5)": _numbers(
            "59.2 68.4 74.0 54.0 40.9 35.2 64.1 74.4 69.8 35.5 66.9 "
            "53.8 64.2 69.9 69.6 58.9 36.8 63.4 56.0 62.8 64.9"
        ),
        "SPP bb (ZF-5)": _numbers(
            "59.2 68.6 69.7 57.1 41.2 40.5 66.3 71.3 72.5 34.4 67.3 "
            "61.7 63.1 71.0 69.8 57.6 29.7 59.0 50.2 65.2 68.0"
        ),
    },
    "4.2",
)
TABLE_12 = Printed(
    12,
    "VOC 2007 detection, two networks and both together",
    "average precision in % (11 points)",
    (MEAN, *VOC_COLUMNS.values()),
    {
        FIRST: TABLE_11.rows["SPP bb (ZF-5)"],
        SECOND: _numbers(
            "59.1 65.7 71.4 57.4 42.4 39.9 67.0 71.4 70.6 32.4 66.7 "
            "61.7 64.8 71.7 70.4 56.5 30.8 59.9 53.2 63.9 64.6"
        ),
        BOTH: _numbers(
            "60.9 68.5 71.7 58.7 41.9 42.5 67.7 72.1 73.8 34.7 67.0 "
            "63.4 66.0 72.5 71.3 58.9 32.8 60.9 56.1 67.9 68.8"
        ),
    },
    "4.4",
)
