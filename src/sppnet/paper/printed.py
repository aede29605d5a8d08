"""The numbers that the paper prints, table by table; nothing here is measured.

Source:
    He, Zhang, Ren, Sun: "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual
    Recognition", arXiv 1406.4729 v4, tables 1 to 4 and 6 to 8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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
    """

    number: int
    title: str
    measure: str
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[float | None]]
    section: str

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


NETWORKS = ("ZF-5", "Convnet*-5", "Overfeat-5", "Overfeat-7")
SPP_OVERFEAT_10 = "SPP-net O-7, 1 scale, 10 views"
SPP_OVERFEAT_98 = "SPP-net O-7, 6 scales, 96 views + 2 full"

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
)
