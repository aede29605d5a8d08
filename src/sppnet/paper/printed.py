"""The numbers that the paper prints: all its tables, and its claims as pairs of them.

Source:
    He, Zhang, Ren, Sun: "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
    Recognition", arXiv 1406.4729 v4.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

NETWORKS = ("ZF-5", "Convnet*-5", "Overfeat-5", "Overfeat-7")
SPP_OVERFEAT_10 = "SPP-net O-7, 1 scale, 10 views"
SPP_OVERFEAT_98 = "SPP-net O-7, 6 scales, 96 views + 2 full"
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
OURS, OUR_COLUMN = "recipe best (ours)", "SPP (recipe best)"  # what the paper's tables do not have
FIRST, SECOND, BOTH = "SPP-net (1)", "SPP-net (2)", "combination"


@dataclass(frozen=True)
class Printed:
    """One table as printed.

    Args:
        number: Its number in the paper.
        title: What it is about.
        measure: What a number in it means, with its unit.
        columns: Names of the columns.
        rows: For each row its name and one value for each column; None where nothing is printed.
        section: Where the paper speaks of it.
        deviations: Row and column -> what is printed behind a plus-minus.
    """

    number: int
    title: str
    measure: str
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[float | None]]
    section: str
    deviations: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def value(self, row: str, column: str) -> float | None:
        """Return what the paper prints in one cell.

        Raises:
            KeyError: If there is no such row.
            ValueError: If there is no such column.

        Example:
            >>> TABLE_3.value("ZF-5, single-size trained", "1 full")
            37.55
        """
        return self.rows[row][self.columns.index(column)]


TABLE_1 = Printed(
    1,
    "Architectures of the four networks",
    "cells along a side of the map after each convolution stage, image of 224 x 224",
    NETWORKS,
    {
        "conv1": (55, 55, 36, 36),
        "conv2": (27, 27, 18, 18),
        "conv3": (13, 13, 18, 18),
        "conv4": (13, 13, 18, 18),
        "conv5": (13, 13, 18, 18),
        "conv6": (None, None, None, 18),
        "conv7": (None, None, None, 18),
    },
    "3.1",
)
TABLE_2 = Printed(
    2,
    "ImageNet 2012, multi-level pooling and multi-size training",
    "validation error in %, 10 views",
    NETWORKS,
    {
        "(a) no SPP, top-1": (35.99, 34.93, 34.13, 32.01),
        "(b) SPP single-size trained, top-1": (34.98, 34.38, 32.87, 30.36),
        "(c) SPP multi-size trained, top-1": (34.60, 33.94, 32.26, 29.68),
        "(a) no SPP, top-5": (14.76, 13.92, 13.52, 11.97),
        "(b) SPP single-size trained, top-5": (14.14, 13.54, 12.80, 11.12),
        "(c) SPP multi-size trained, top-5": (13.64, 13.33, 12.33, 10.95),
    },
    "3.1.1, 3.1.2",
)
TABLE_3 = Printed(
    3,
    "ImageNet 2012, one crop against the whole image",
    "validation top-1 error in %, one view of the image with short side 256",
    ("1 crop", "1 full"),
    {
        "ZF-5, single-size trained": (38.01, 37.55),
        "ZF-5, multi-size trained": (37.57, 37.07),
        "Overfeat-7, single-size trained": (33.18, 32.72),
        "Overfeat-7, multi-size trained": (32.57, 31.25),
    },
    "3.1.3",
)
TABLE_4 = Printed(
    4,
    "ImageNet 2012, single networks",
    "error in %",
    ("top-1 val", "top-5 val", "top-5 test"),
    {
        "Krizhevsky et al., 1 scale, 10 views": (40.7, 18.2, None),
        "Overfeat (fast), 1 scale": (39.01, 16.97, None),
        "Overfeat (fast), 6 scales": (38.12, 16.27, None),
        "Overfeat (big), 4 scales": (35.74, 14.18, None),
        "Howard (base), 3 scales, 162 views": (37.0, 15.8, None),
        "Howard (high-res), 3 scales, 162 views": (36.8, 16.2, None),
        "Zeiler & Fergus (fast), 1 scale, 10 views": (38.4, 16.5, None),
        "Zeiler & Fergus (big), 1 scale, 10 views": (37.5, 16.0, None),
        "Chatfield et al., 1 scale, 10 views": (None, 13.1, None),
        SPP_OVERFEAT_10: (29.68, 10.95, None),
        SPP_OVERFEAT_98: (27.86, 9.14, 9.08),
    },
    "3.1.4",
)
SPP_11 = "SPP-net (11 models)"
TABLE_5 = Printed(
    5,
    "ILSVRC 2014 classification",
    "top-5 error in % on the test images of the competition",
    ("top-5 test",),
    {
        "GoogLeNet": (6.66,),
        "VGG": (7.32,),
        SPP_11: (8.06,),
        "Howard": (8.11,),
        "DeeperVision": (9.50,),
        "NUS-BST": (9.79,),
        "TTIC_ECP": (10.22,),
    },
    "3.1.5",
)
TABLE_6 = Printed(
    6,
    "VOC 2007 classification, frozen features and linear SVMs",
    "mean average precision in % (11 points)",
    (
        "(a) no SPP, ZF-5, crop 224",
        "(b) SPP, ZF-5, crop 224",
        "(c) SPP, ZF-5, full 224",
        "(d) SPP, ZF-5, full 392",
        "(e) SPP, O-7, full 364",
    ),
    {
        "conv4": (59.96, 57.28, None, None, None),
        "conv5": (66.34, 65.43, None, None, None),
        "pool5/7 (6x6)": (69.14, 68.76, 70.82, 71.67, 76.09),
        "fc6/8": (74.86, 75.55, 77.32, 78.78, 81.58),
        "fc7/9": (75.90, 76.45, 78.39, 80.10, 82.44),
    },
    "3.2",
)
TABLE_7 = Printed(
    7,
    "Caltech-101, frozen features and linear SVMs",
    "mean class accuracy in %, 30 images of each category to fit, up to 50 to score",
    (
        "(a) no SPP, ZF-5, crop 224",
        "(b) SPP, ZF-5, crop 224",
        "(c) SPP, ZF-5, full 224",
        "(d) SPP, O-7, full 224",
    ),
    {
        "conv4": (80.12, 81.03, None, None),
        "conv5": (84.40, 83.76, None, None),
        "pool5/7 (6x6)": (87.98, 87.60, 89.46, 91.46),
        "SPP pool5/7": (None, 89.47, 91.44, 93.42),
        "fc6/8": (87.86, 88.54, 89.50, 91.83),
        "fc7/9": (85.30, 86.10, 87.08, 90.00),
    },
    "3.3",
)
TABLE_8 = Printed(
    8,
    "VOC 2007 and Caltech-101, methods",
    "mean average precision and mean class accuracy, in %",
    ("VOC 2007", "Caltech-101"),
    {
        "VQ": (56.07, 74.41),
        "LLC": (57.66, 76.95),
        "FK": (61.69, 77.78),
        "DeCAF": (None, 86.91),
        "Zeiler & Fergus": (75.90, 86.5),
        "Oquab et al.": (77.7, None),
        "Chatfield et al.": (82.42, 88.54),
        "SPP-net": (82.44, 93.42),
    },
    "3.2, 3.3",
    {
        (row, "Caltech-101"): deviation
        for row, deviation in (
            ("VQ", 1.0),
            ("LLC", 0.4),
            ("FK", 0.6),
            ("DeCAF", 0.7),
            ("Zeiler & Fergus", 0.5),
            ("Chatfield et al.", 0.3),
            ("SPP-net", 0.5),
        )
    },
)
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
DET_TEST, VOC_POOL5 = "DET test mAP", "VOC 2007 pool5 mAP"
SPP_6_MODELS, SPP_1_MODEL = "SPP-net (6 models)", "SPP-net (1 model)"
# Section 4.5, in the text: how the network was pre-trained, and the suffix of its folder here.
PRE_TRAINED = {
    "pre-trained on CLS, 1000 classes": "multi",
    "pre-trained on DET, 200 classes": "det200",
    "pre-trained on DET, 499 classes": "det499",
    "pre-trained on DET, 499 classes, short side 400": "det499-400",
}
TABLE_13 = Printed(
    13,
    "ILSVRC 2014 detection, and what networks were pre-trained on",
    "mean average precision in %; provided data only",
    (DET_TEST, VOC_POOL5),
    {
        "NUS": (37.21, None),
        SPP_6_MODELS: (35.11, None),
        "UvA": (32.02, None),
        SPP_1_MODEL: (31.84, None),
        "Southeast-CASIA": (30.47, None),
        "1-HKUST": (28.86, None),
        "CASIA_CRIPAC_2": (28.61, None),
        **{
            row: (None, value)
            for row, value in zip(PRE_TRAINED, (43.0, 32.7, 35.9, 37.8), strict=True)
        },
    },
    "4.5",
)


@dataclass(frozen=True)
class PrintedClaim(Printed):
    """A claim of the paper as a table: the old way, the new way, and what that gains.

    Args:
        gain: ``"more"`` is new less old, ``"less"`` old less new, ``"times"`` old over new.
        is_as_good: The claim is that nothing is lost, not that something is gained.
        origin: Which of the paper's numbers stand beside ours.

    Raises:
        ValueError: If there is no such gain, or not one old and one new way.
    """

    gain: str = "more"
    is_as_good: bool = False
    origin: str = ""

    def __post_init__(self) -> None:
        if self.gain not in GAINS:
            raise ValueError(f"gain must be one of {', '.join(GAINS)}, got {self.gain!r}")
        if len(self.rows) != 3 or len(self.columns) != 1:
            raise ValueError(f"rows must be the old way, the new and the gain, got {[*self.rows]}")

    @property
    def ways(self) -> tuple[str, str]:
        """Rows of the old and of the new way."""
        old, new, _ = self.rows
        return old, new

    @property
    def gain_row(self) -> str:
        """Row of what the new way gains."""
        return list(self.rows)[-1]

    @property
    def no_gain(self) -> float:
        """The gain of a new way that is as the old one."""
        return 1.0 if self.gain == "times" else 0.0

    def gains(self, old: Sequence[float], new: Sequence[float]) -> list[float]:
        """What the new way gains in each of several measurements.

        Example:
            >>> CLAIM_SPEED.gains([14.0], [0.5]), CLAIM_SIZES.gains([38.0], [37.5])
            ([28.0], [0.5])
        """
        return [GAINS[self.gain](a, b) for a, b in zip(old, new, strict=True)]


GAINS: Mapping[str, Callable[[float, float], float]] = {
    "more": lambda old, new: new - old,
    "less": lambda old, new: old - new,
    "times": lambda old, new: old / new,
}
POINTS = "gain, points"
ONE_LEVEL, PYRAMID = "one level, 6 x 6", "pyramid, 1 x 1 to 6 x 6"
CROP, WHOLE = "crop from the centre", "whole image"
ONE_SIZE, SEVERAL_SIZES = "trained at one size", "trained at several"
RCNN, SPP = "R-CNN", "SPP-net"
CUT, ON_MAPS = "96 crops, each convolved", "96 views on the maps"
_CALTECH_MEASURE = "mean class accuracy in %"
CLAIM_PYRAMID = PrintedClaim(
    1,
    "A pyramid is better than one level",
    _CALTECH_MEASURE,
    (_CALTECH_MEASURE,),
    {ONE_LEVEL: (89.46,), PYRAMID: (91.44,), POINTS: (1.98,)},
    "3.3",
    origin="table 7, column (c): ZF-5 on Caltech-101, whole images",
)
CLAIM_WHOLE = PrintedClaim(
    2,
    "The whole image is better than its central crop",
    _CALTECH_MEASURE,
    (_CALTECH_MEASURE,),
    {CROP: (89.47,), WHOLE: (91.44,), POINTS: (1.97,)},
    "3.3",
    origin="table 7, columns (b) and (c): ZF-5 on Caltech-101, the pyramid",
)
CLAIM_SIZES = PrintedClaim(
    3,
    "Training at several sizes is better than at one",
    "top-1 error in %",
    ("top-1 error in %",),
    {ONE_SIZE: (37.55,), SEVERAL_SIZES: (37.07,), POINTS: (0.48,)},
    "3.1.3",
    gain="less",
    origin="table 3: ZF-5 on ImageNet 2012, whole images",
)
CLAIM_PRECISION = PrintedClaim(
    4,
    "SPP-net is as precise as R-CNN",
    "mean average precision in % (11 points)",
    ("mean average precision in %",),
    {RCNN: (59.2,), SPP: (58.0,), POINTS: (-1.2,)},
    "4.3",
    is_as_good=True,
    origin="table 10: ZF-5 on VOC 2007, one scale; with five scales SPP-net has 59.2",
)
CLAIM_SPEED = PrintedClaim(
    5,
    "SPP-net is many times as fast as R-CNN",
    "seconds per image for the features",
    ("seconds per image",),
    {RCNN: (14.46,), SPP: (0.142,), "times as fast": (102.0,)},
    "4.3",
    gain="times",
    origin="table 10: ZF-5 on VOC 2007, one scale, on a GPU; with five scales 0.382 s",
)
CLAIM_VIEWS = PrintedClaim(
    6,
    "Views pooled from the maps are as good as crops",
    "top-1 error in %",
    ("top-1 error in %",),
    {CUT: (None,), ON_MAPS: (None,), POINTS: (-0.1,)},
    "3.1.5",
    gain="less",
    is_as_good=True,
    origin="in the text: with 10 views the top-5 errors differ by at most 0.1; no other number",
)
CLAIM_VIEW_TIME = PrintedClaim(
    7,
    "Views pooled from the maps are faster than crops",
    "seconds per image",
    ("seconds per image",),
    {CUT: (None,), ON_MAPS: (None,), "times as fast": (None,)},
    "3.1.5",
    gain="times",
    origin="the paper prints no seconds",
)
