"""The tables and claims of the paper: what it prints, and the same measured on the data at hand.

``printed.py`` holds the printed numbers, ``tables.py`` what came of measuring them, and this module
lists the tables and the claims. ``resources.py`` says what there is to measure with: data,
networks, how much of the protocol is done. ``imagenet.py`` measures tables 1 to 5, ``transfer.py``
6 to 8, ``detection.py`` 9 to 13: ``detection_setup.py`` finds networks and images,
``detection_experiment.py`` trains and scores one column, ``detection_speed.py`` times it. A claim
is measured beside its tables. Start reading with ``TABLES`` and ``CLAIMS`` below, then the one that
you want.
"""

from pathlib import Path

from sppnet.paper.detection import (
    measure_precision_claim,
    measure_speed_claim,
    measure_table_9,
    measure_table_10,
    measure_table_11,
    measure_table_12,
    measure_table_13,
)
from sppnet.paper.detection_setup import find_detection_root, find_photos, has_alexnet
from sppnet.paper.imagenet import (
    find_models,
    measure_sizes,
    measure_table_1,
    measure_table_2,
    measure_table_3,
    measure_table_4,
    measure_table_5,
)
from sppnet.paper.printed import (
    CLAIM_PRECISION,
    CLAIM_PYRAMID,
    CLAIM_SIZES,
    CLAIM_SPEED,
    CLAIM_VIEW_TIME,
    CLAIM_VIEWS,
    CLAIM_WHOLE,
    NETWORKS,
    PRE_TRAINED,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_7,
    TABLE_8,
    TABLE_9,
    TABLE_10,
    TABLE_11,
    TABLE_12,
    TABLE_13,
)
from sppnet.paper.resources import (
    CALTECH,
    IMAGENET,
    KINDS,
    NEEDS_CLASSES,
    VOC07,
    Budget,
    ModelSpec,
    NetworkTrainingConfig,
    Resources,
)
from sppnet.paper.tables import (
    Claim,
    Measured,
    Need,
    NotRun,
    PaperTable,
    TableResult,
    leave_out,
)
from sppnet.paper.transfer import (
    measure_pyramid,
    measure_table_6,
    measure_table_7,
    measure_table_8,
    measure_view_time,
    measure_views,
    measure_whole_image,
)

__all__ = [
    "CLAIMS",
    "TABLES",
    "Budget",
    "Claim",
    "Measured",
    "Need",
    "NetworkTrainingConfig",
    "NotRun",
    "PaperTable",
    "Resources",
    "TableResult",
    "find_table",
    "leave_out",
]


def _needs_data(place: str, text: str) -> Need:
    """A data set in its place, or one that stands in for it."""
    return Need(text, lambda resources: resources.find_data(place) is not None)


def _needs_networks(text: str, *names: tuple[str, str]) -> Need:
    """Trained networks, or what stands in for them."""

    def are_there(resources: Resources) -> bool:
        specs = [ModelSpec(*name) for name in names if resources.wants(name[0])]
        has_other = bool(resources.backbone) or resources.training is not None
        return has_other or all(spec.find(resources.models_folder) for spec in specs)

    return Need(text, are_there)


_IMAGENET = (
    _needs_data(
        IMAGENET,
        "class folders of ImageNet 2012 in DATA/imagenet/val (and DATA/imagenet/train for --train)",
    ),
    _needs_networks(
        "trained networks in MODELS/NAME-KIND, such as MODELS/zf5-multi; --train makes them",
        *((network, kind) for network in NETWORKS for kind in KINDS),
    ),
)
_VALIDATION = _needs_data(IMAGENET, "class folders of ImageNet 2012 in DATA/imagenet/val")
_VOC = _needs_data(VOC07, "VOC 2007 in DATA/VOCdevkit/VOC2007")
_CALTECH = _needs_data(CALTECH, "class folders of Caltech-101 in DATA/caltech101")
_FROZEN = _needs_networks(
    "networks in MODELS (zf5-no-spp, zf5-multi, overfeat7-multi), or --backbone and --weights",
    *(("ZF-5", "no-spp"), ("ZF-5", "multi"), ("Overfeat-7", "multi")),
)
_BOXES = Need(
    "VOC 2007 in DATA/VOCdevkit/VOC2007, or any images with boxes; for seconds any images",
    lambda resources: (
        find_detection_root(resources) is not None
        or (resources.budget.parts == ("speed",) and bool(find_photos(resources)))
    ),
)
_ZF5 = _needs_networks(
    "a network in MODELS/zf5-multi, or --backbone and --weights", ("ZF-5", "multi")
)
_ALEX = Need(
    "torchvision's weights of alexnet in TORCH_HOME (--download fetches them), or --backbone and "
    "--weights",
    lambda resources: bool(resources.backbone) or has_alexnet(),
)
_TWO = Need(
    "two networks in MODELS/zf5-multi and MODELS/zf5-multi-2, or --backbone and --second",
    lambda resources: (
        bool(resources.backbone and resources.second)
        or all(
            ModelSpec("ZF-5", kind).find(resources.models_folder) for kind in ("multi", "multi-2")
        )
    ),
)
_MODELS = Need(
    "trained networks in MODELS (any of table 2's, and more of a kind as zf5-multi-2)",
    lambda resources: bool(find_models(resources)),
)
_PRE_TRAINED = _needs_networks(
    "networks in MODELS/zf5-multi, zf5-det200, zf5-det499, zf5-det499-400",
    *(("ZF-5", kind) for kind in PRE_TRAINED.values()),
)

TABLES = {
    table.printed.number: table
    for table in (
        PaperTable(TABLE_1, measure_table_1),
        PaperTable(TABLE_2, measure_table_2, _IMAGENET),
        PaperTable(TABLE_3, measure_table_3, _IMAGENET),
        PaperTable(TABLE_4, measure_table_4, _IMAGENET),
        PaperTable(TABLE_5, measure_table_5, (_VALIDATION, _MODELS)),
        PaperTable(TABLE_6, measure_table_6, (_VOC, _FROZEN)),
        PaperTable(TABLE_7, measure_table_7, (_CALTECH, _FROZEN)),
        PaperTable(TABLE_8, measure_table_8, (_VOC, _CALTECH, _FROZEN)),
        PaperTable(TABLE_9, measure_table_9, (_BOXES, _ZF5, _ALEX)),
        PaperTable(TABLE_10, measure_table_10, (_BOXES, _ZF5)),
        PaperTable(TABLE_11, measure_table_11, (_BOXES, _ZF5, _ALEX)),
        PaperTable(TABLE_12, measure_table_12, (_BOXES, _TWO)),
        PaperTable(TABLE_13, measure_table_13, (_VOC, _PRE_TRAINED)),
    )
}

_CLASSES = (
    Need(f"{NEEDS_CLASSES} in DATA", lambda resources: isinstance(resources.find_classes(), Path)),
)
_LABELLED = (
    Need(
        "images with boxes (VOC, YOLO, COCO) in DATA, or named by --boxes",
        lambda resources: find_detection_root(resources) is not None,
    ),
)
_PHOTOS = (Need("images in DATA", lambda resources: bool(find_photos(resources))),)


def _seconds_of_training(resources: Resources) -> float:
    """Seconds of claim 3: two networks for each seed, by images, epochs and pixels."""
    training = resources.training or NetworkTrainingConfig()
    passes = resources.repeats * 2 * (training.epochs or 70)
    return passes * resources.most(400) * 0.015 * (max(training.sizes) / 128) ** 2


# Seconds of one thread of a machine that did other work, from the run in docs/reproduce.md: for
# each image, view, proposal and split. The plan scales what is left by what the others took.
CLAIMS = (
    Claim(CLAIM_PYRAMID, measure_pyramid, _CLASSES, lambda r: r.most(800) / 10 + 10 * r.splits),
    Claim(CLAIM_WHOLE, measure_whole_image, _CLASSES, lambda r: 2.5 * r.splits),
    Claim(CLAIM_SIZES, measure_sizes, _CLASSES, _seconds_of_training),
    Claim(
        CLAIM_PRECISION,
        measure_precision_claim,
        _LABELLED,
        lambda r: r.repeats * 2 * r.most(24) * (r.budget.max_proposals or 64) / 5,
        on_boxes=True,
    ),
    Claim(CLAIM_SPEED, measure_speed_claim, _PHOTOS, lambda r: 8 * r.budget.timed, on_boxes=True),
    Claim(CLAIM_VIEWS, measure_views, _CLASSES, lambda r: 3 * r.most(60)),
    Claim(CLAIM_VIEW_TIME, measure_view_time, _CLASSES, lambda r: 1.5 * r.budget.timed),
)


def find_table(number: int) -> PaperTable:
    """Look a table up.

    Args:
        number: Its number in the paper.

    Raises:
        ValueError: If the paper has no such table; the legal numbers are listed.

    Example:
        >>> find_table(7).printed.section
        '3.3'
    """
    if number not in TABLES:
        raise ValueError(f"table must be one of {', '.join(map(str, TABLES))}, got {number}")
    return TABLES[number]
