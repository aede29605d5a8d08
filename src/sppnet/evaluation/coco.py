"""The twelve numbers of COCO: average precision by overlap and size, average recall."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sppnet.evaluation.average_precision import (
    COCO_IOU_THRESHOLDS,
    average_precision_coco,
    precision_and_recall,
)
from sppnet.evaluation.matching import (
    EVERY_AREA,
    CocoRows,
    Floats,
    Found,
    Truth,
    collect_detections,
    collect_truth,
    match_coco_rows,
    rank_in_class,
)

if TYPE_CHECKING:
    from sppnet.images.dataset import LabelledImage


# Smallest and largest area that counts, square pixels; both ends belong to both neighbours.
COCO_AREAS = {
    "": EVERY_AREA,
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
RECALL_LIMITS = (1, 10, 100)
_NUM_OVERLAPS = len(COCO_IOU_THRESHOLDS)


@dataclass(frozen=True)
class CocoMeasures:
    """COCO's numbers, spelled as they are usually printed.

    Args:
        mean: ``AP``, ``AP50``, ``AP75``, ``APsmall``, ``APmedium``, ``APlarge``, ``AR1``, ``AR10``,
            ``AR100``, ``ARsmall``, ``ARmedium``, ``ARlarge``: means over the classes that have
            objects (of that size); NaN if none has.
        per_class: By the same names, then by class name; NaN for a class without such objects.
    """

    mean: dict[str, float]
    per_class: dict[str, dict[str, float]]


def coco_measures(
    truth: Sequence["LabelledImage"],
    detections: Mapping[Any, Any],
    names: Sequence[str],
) -> CocoMeasures:
    """Score detections by COCO's twelve numbers.

    The area of an object is the one in its file (that of its segment in COCO's own files), else
    that of its box. Crowds, and objects marked difficult, count neither way.

    Args:
        truth: Images with their objects.
        detections: By image id; an image that is missing has none.
        names: Class names.

    Returns:
        The twelve numbers, and the same of each class.

    Raises:
        ValueError: As for :func:`sppnet.evaluation.evaluate_detections`.

    Source:
        Lin et al. (2014); pycocotools, cocoeval.py.
    """
    objects = collect_truth(truth, len(names))
    found = collect_detections(truth, detections, len(names))
    tables = _tables(objects, found, object_areas(truth), len(names))
    per_class = {
        measure: dict(zip(names, values.tolist(), strict=True))
        for measure, values in tables.items()
    }
    mean = {measure: _mean(values) for measure, values in tables.items()}
    return CocoMeasures(mean, per_class)


def object_areas(truth: Sequence["LabelledImage"]) -> Floats:
    """Area of every object: as its file says, else of its box: (G,) square pixels."""
    each = [np.zeros(0)]
    for image in truth:
        areas = image.areas
        if areas is None:
            areas = (image.boxes[:, 2:] - image.boxes[:, :2]).double().prod(1)
        each.append(np.asarray(areas, dtype=np.float64))
    return np.concatenate(each)


def _tables(
    truth: Truth, found: Found, truth_areas: Floats, num_classes: int
) -> dict[str, NDArray[np.float64]]:
    """Each measure of each class: (K,)."""
    ranges = np.repeat(list(COCO_AREAS.values()), _NUM_OVERLAPS, 0)
    rows = CocoRows(np.tile(COCO_IOU_THRESHOLDS, len(COCO_AREAS)), ranges)
    matches = match_coco_rows(truth, found, rows, truth_areas)
    rank = rank_in_class(found)
    order = np.argsort(-found.scores, kind="stable")
    precision: dict[str, list[Floats]] = {area: [] for area in COCO_AREAS}
    recall: dict[str, list[list[float]]] = {area: [] for area in COCO_AREAS}
    for label in range(num_classes):
        ranked = order[found.label[order] == label]
        for number, (area, (low, high)) in enumerate(COCO_AREAS.items()):
            part = slice(number * _NUM_OVERLAPS, (number + 1) * _NUM_OVERLAPS)
            asked = (truth.label == label) & ~truth.ignored
            count = int((asked & (truth_areas >= low) & (truth_areas <= high)).sum())
            true_positive, ignored = (
                matches.true_positive[part][:, ranked],
                matches.ignored[part][:, ranked],
            )
            precision[area].append(_averages(true_positive, ignored, count))
            recall[area].append(
                [_recall(true_positive, rank[ranked] < n, count) for n in RECALL_LIMITS]
            )
    return _named(
        {area: np.reshape(values, (-1, _NUM_OVERLAPS)) for area, values in precision.items()},
        {area: np.reshape(values, (-1, len(RECALL_LIMITS))) for area, values in recall.items()},
    )


def _named(precision: dict[str, Floats], recall: dict[str, Floats]) -> dict[str, Floats]:
    """Take COCO's twelve numbers out of the tables, by their names."""
    sizes = [area for area in COCO_AREAS if area]
    return {
        "AP": precision[""].mean(1),
        "AP50": precision[""][:, 0],
        "AP75": precision[""][:, 5],
        **{f"AP{area}": precision[area].mean(1) for area in sizes},
        **{f"AR{limit}": recall[""][:, place] for place, limit in enumerate(RECALL_LIMITS)},
        **{f"AR{area}": recall[area][:, -1] for area in sizes},
    }


def _averages(true_positive: NDArray[np.bool_], ignored: NDArray[np.bool_], count: int) -> Floats:
    """Average precision at each overlap, NaN without objects: (T,)."""
    if not count:
        return np.full(len(true_positive), np.nan)
    pairs = zip(true_positive, ignored, strict=True)
    return np.array([average_precision_coco(*precision_and_recall(h[~i], count)) for h, i in pairs])


def _recall(
    true_positive: NDArray[np.bool_], is_among_best: NDArray[np.bool_], count: int
) -> float:
    """Share of the objects that are found, mean over the overlaps."""
    return float(true_positive[:, is_among_best].sum(1).mean() / count) if count else math.nan


def _mean(values: Floats) -> float:
    """Mean over the classes that have a value."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan
