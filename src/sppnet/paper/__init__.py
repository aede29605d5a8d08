"""The tables of the paper: the numbers it prints, and the same measured on the data at hand.

``printed.py`` holds the printed numbers, ``tables.py`` what came of measuring them, and this module
lists the tables. ``resources.py`` says what there is to measure with: data, networks, how much of
the protocol is done. ``imagenet.py`` measures tables 1 to 4, ``transfer.py`` 6 to 8,
``detection.py`` 9 to 12: ``detection_setup.py`` finds networks and images,
``detection_experiment.py`` trains and scores one column, ``detection_speed.py`` times it. Start
reading with ``TABLES`` below, then the table that you want.
"""

from sppnet.paper.detection import (
    measure_table_9,
    measure_table_10,
    measure_table_11,
    measure_table_12,
)
from sppnet.paper.imagenet import measure_table_1, measure_table_2, measure_table_3, measure_table_4
from sppnet.paper.printed import (
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_6,
    TABLE_7,
    TABLE_8,
    TABLE_9,
    TABLE_10,
    TABLE_11,
    TABLE_12,
)
from sppnet.paper.resources import Budget, NetworkTrainingConfig, Resources
from sppnet.paper.tables import Measured, NotRun, PaperTable, TableResult
from sppnet.paper.transfer import measure_table_6, measure_table_7, measure_table_8

__all__ = [
    "TABLES",
    "Budget",
    "Measured",
    "NetworkTrainingConfig",
    "NotRun",
    "PaperTable",
    "Resources",
    "TableResult",
    "find_table",
]

_IMAGENET = (
    "class folders of ImageNet 2012 in DATA/imagenet/val (and DATA/imagenet/train for --train)",
    "trained networks in MODELS/NAME-KIND, such as MODELS/zf5-multi; --train makes them",
)
_VOC = "VOC 2007 in DATA/VOCdevkit/VOC2007"
_CALTECH = "class folders of Caltech-101 in DATA/caltech101"
_FROZEN = "networks in MODELS (zf5-no-spp, zf5-multi, overfeat7-multi), or --backbone and --weights"
_BOXES = "VOC 2007 in DATA/VOCdevkit/VOC2007, or any images with boxes; for seconds any images"
_ZF5 = "a network in MODELS/zf5-multi, or --backbone and --weights"
_ALEX = "torchvision's weights of alexnet in TORCH_HOME, or --backbone and --weights"
_TWO = "two networks in MODELS/zf5-multi and MODELS/zf5-multi-2, or --backbone and --second"

TABLES = {
    table.printed.number: table
    for table in (
        PaperTable(TABLE_1, measure_table_1),
        PaperTable(TABLE_2, measure_table_2, _IMAGENET),
        PaperTable(TABLE_3, measure_table_3, _IMAGENET),
        PaperTable(TABLE_4, measure_table_4, _IMAGENET),
        PaperTable(TABLE_6, measure_table_6, (_VOC, _FROZEN)),
        PaperTable(TABLE_7, measure_table_7, (_CALTECH, _FROZEN)),
        PaperTable(TABLE_8, measure_table_8, (_VOC, _CALTECH, _FROZEN)),
        PaperTable(TABLE_9, measure_table_9, (_BOXES, _ZF5, _ALEX)),
        PaperTable(TABLE_10, measure_table_10, (_BOXES, _ZF5)),
        PaperTable(TABLE_11, measure_table_11, (_BOXES, _ZF5, _ALEX)),
        PaperTable(TABLE_12, measure_table_12, (_BOXES, _TWO)),
    )
}


def find_table(number: int) -> PaperTable:
    """Look a table up.

    Args:
        number: Its number in the paper.

    Raises:
        ValueError: If it cannot be run; the legal numbers are listed.

    Example:
        >>> find_table(7).printed.section
        '3.3'
    """
    if number not in TABLES:
        raise ValueError(f"table must be one of {', '.join(map(str, TABLES))}, got {number}")
    return TABLES[number]
