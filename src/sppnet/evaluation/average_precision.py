"""Average precision of detections: VOC 2007, VOC 2010, COCO, and COCO's twelve numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sppnet.evaluation.matching import (
    EVERY_AREA,
    CocoRows,
    Matches,
    collect_detections,
    collect_truth,
    match_coco,
    match_coco_rows,
    match_voc,
    rank_in_class,
    ranked_by_class,
    scored_boxes,
)
from sppnet.evaluation.overlaps import Floats, Found, Mask, Truth

if TYPE_CHECKING:
    from sppnet.images.dataset import LabelledImage

# Spelled as in pycocotools: other spellings of the same numbers differ in the last bit.
COCO_IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
COCO_RECALLS: Floats = np.linspace(0.0, 1.0, 101)
VOC07_RECALLS: Floats = np.arange(11) / 10
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
class AveragePrecision:
    """Average precision by class, and the curves behind it.

    Args:
        metric: The rule.
        iou_thresholds: The overlaps; with several, the average precision is the mean over them.
        mean_ap: Mean over the classes that have objects; NaN if none has.
        per_class: By name, 0..1; None for a class without objects that count.
        curves: (recall, precision), each (K,), by name, at the first overlap, best score first;
            empty arrays for a class without objects.
        num_truth: By name, the number of objects that count.
    """

    metric: str
    iou_thresholds: tuple[float, ...]
    mean_ap: float
    per_class: dict[str, float | None]
    curves: dict[str, tuple[Floats, Floats]] = field(repr=False)
    num_truth: dict[str, int]


def evaluate_detections(
    truth: Sequence["LabelledImage"],
    detections: Mapping[Any, Mapping[str, Any]],
    names: Sequence[str],
    metric: str = "voc07",
    iou_threshold: float | None = None,
) -> AveragePrecision:
    """Score detections against the truth.

    Difficult objects and crowds count neither way under every rule. Equal scores: images in the
    order of ``truth``, then detections in the order given.

    Args:
        truth: Images with ``image_id``, boxes, labels, difficult and crowd.
        detections: ``Detections`` (or dicts of the same tensors) by image id; an image that is
            missing has none.
        names: Class names; labels are places in here.
        metric: "voc07" (mean of the best precision at 11 recalls), "voc10" or "area" (area under
            the curve made monotone), or "coco" (COCO's matching, mean at 101 recalls, at most 100
            detections per image and class).
        iou_threshold: Lowest overlap of a true positive, 0..1; default 0.5, and for "coco" the
            mean over 0.50, 0.55, ..., 0.95.

    Returns:
        The average precision of each class and its mean.

    Raises:
        ValueError: If the metric or the threshold is not one of these, a label has no name, two
            images share an id, or detections belong to no image or are not finite.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from sppnet.geometry import Detections
        >>> boxes, no = torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([False])
        >>> image = SimpleNamespace(
        ...     image_id="a", boxes=boxes, labels=torch.tensor([0]), difficult=no, crowd=no
        ... )
        >>> found = Detections(boxes, torch.tensor([0.9]), torch.tensor([0]))
        >>> result = evaluate_detections([image], {"a": found}, ["cat", "dog"], "voc07")
        >>> result.mean_ap, result.per_class
        (1.0, {'cat': 1.0, 'dog': None})

    Source:
        Everingham et al. (2010); Lin et al. (2014); SPP-net, section 4.1.
    """
    objects = collect_truth(truth, len(names))
    found = collect_detections(truth, detections, len(names))
    return _evaluate(objects, found, names, metric, iou_threshold)


def summarise_detections(
    truth: Sequence["LabelledImage"],
    detections: Mapping[Any, Mapping[str, Any]],
    names: Sequence[str],
) -> dict[str, Any]:
    """Give the numbers of ``metrics.json``: the usual measures, in one go.

    Args:
        truth: As for :func:`evaluate_detections`.
        detections: As for :func:`evaluate_detections`.
        names: Class names.

    Returns:
        ``ap50`` and ``ap75`` (area under the curve at overlap 0.5 and 0.75), ``ap`` (COCO's rule,
        0.50 to 0.95), ``ap50_voc07`` (11 points): means over the classes, NaN without objects;
        ``per_class`` (``ap50`` by name, None without objects) and ``per_class_by_measure`` (the
        same for all four).

    Raises:
        ValueError: As for :func:`evaluate_detections`.
    """
    objects = collect_truth(truth, len(names))
    found = collect_detections(truth, detections, len(names))
    results = {
        "ap50": _evaluate(objects, found, names, "area", 0.5),
        "ap75": _evaluate(objects, found, names, "area", 0.75),
        "ap": _evaluate(objects, found, names, "coco", None),
        "ap50_voc07": _evaluate(objects, found, names, "voc07", 0.5),
    }
    return {
        **{measure: result.mean_ap for measure, result in results.items()},
        "per_class": results["ap50"].per_class,
        "per_class_by_measure": {name: result.per_class for name, result in results.items()},
    }


def precision_and_recall(is_true_positive: Mask, num_truth: int) -> tuple[Floats, Floats]:
    """Recall and precision after each detection, best score first.

    Args:
        is_true_positive: (K,) whether each detection is right; ignored ones are left out
            beforehand.
        num_truth: Number of objects that count, at least 1.

    Returns:
        Recall and precision, each (K,), 0..1.

    Example:
        >>> recall, precision = precision_and_recall(np.array([True, False, True]), 2)
        >>> recall.tolist(), precision.round(2).tolist()
        ([0.5, 0.5, 1.0], [1.0, 0.5, 0.67])
    """
    true_positives = np.cumsum(is_true_positive, dtype=np.float64)
    return true_positives / num_truth, true_positives / np.arange(1, len(true_positives) + 1)


def average_precision_voc07(recall: Floats, precision: Floats) -> float:
    """Mean over the recalls 0, 0.1, ..., 1 of the best precision at that recall or above.

    Args:
        recall: (K,) never falling.
        precision: (K,) of the same detections.

    Example:
        >>> average_precision_voc07(np.array([0.5]), np.array([1.0])).__round__(4)
        0.5455
    """
    return _mean_at(VOC07_RECALLS, recall, precision)


def average_precision_coco(recall: Floats, precision: Floats) -> float:
    """Mean over the recalls 0, 0.01, ..., 1 of the best precision at that recall or above.

    Args:
        recall: (K,) never falling.
        precision: (K,) of the same detections.

    Example:
        >>> average_precision_coco(np.array([0.5]), np.array([1.0])).__round__(4)
        0.505
    """
    return _mean_at(COCO_RECALLS, recall, precision)


def average_precision_area(recall: Floats, precision: Floats) -> float:
    """Area under the curve of the best precision at each recall or above.

    Args:
        recall: (K,) never falling.
        precision: (K,) of the same detections.

    Example:
        >>> average_precision_area(np.array([0.5]), np.array([1.0]))
        0.5
    """
    steps = np.diff(recall, prepend=0.0)
    return float((steps * _falling(precision)).sum())


AVERAGES: dict[str, Callable[[Floats, Floats], float]] = {
    "voc07": average_precision_voc07,
    "voc10": average_precision_area,
    "area": average_precision_area,
    "coco": average_precision_coco,
}


def _mean_at(recalls: Floats, recall: Floats, precision: Floats) -> float:
    """Mean of the best precision at or above each recall; 0 for a recall that is not reached."""
    best = np.append(_falling(precision), 0.0)
    return float(best[np.searchsorted(recall, recalls, side="left")].mean())


def _falling(precision: Floats) -> Floats:
    """Make precision monotone: replace each value by the best that follows it."""
    return np.maximum.accumulate(precision[::-1])[::-1]


def _evaluate(
    truth: Truth, found: Found, names: Sequence[str], metric: str, iou_threshold: float | None
) -> AveragePrecision:
    """Match once for all classes, then average class by class."""
    if metric not in AVERAGES:
        raise ValueError(f"metric must be one of {', '.join(AVERAGES)}, got {metric!r}")
    thresholds = _thresholds(metric, iou_threshold)
    match = match_coco if metric == "coco" else match_voc
    matches = match(truth, found, thresholds)
    order = np.argsort(-found.scores, kind="stable")
    per_class: dict[str, float | None] = {}
    curves: dict[str, tuple[Floats, Floats]] = {}
    counts = np.bincount(truth.label[~truth.ignored], minlength=len(names))
    ranked = ranked_by_class(found.label, order, len(names))
    for label, (name, rows) in enumerate(zip(names, ranked, strict=True)):
        class_curves = _curves(matches, rows, int(counts[label]))
        curves[name] = class_curves[0]
        averages = [AVERAGES[metric](*curve) for curve in class_curves]
        per_class[name] = float(np.mean(averages)) if counts[label] else None
    known = [value for value in per_class.values() if value is not None]
    mean = float(np.mean(known)) if known else float("nan")
    num_truth = dict(zip(names, counts.tolist(), strict=True))
    return AveragePrecision(metric, tuple(thresholds.tolist()), mean, per_class, curves, num_truth)


def _curves(matches: Matches, rows: Any, num_truth: int) -> list[tuple[Floats, Floats]]:
    """Recall and precision of one class at each threshold; ``rows`` go from the best score down."""
    if not num_truth:
        return [(np.zeros(0), np.zeros(0))] * len(matches.true_positive)
    curves = []
    for true_positive, ignored in zip(matches.true_positive, matches.ignored, strict=True):
        counting = rows[~ignored[rows]]
        curves.append(precision_and_recall(true_positive[counting], num_truth))
    return curves


def _thresholds(metric: str, iou_threshold: float | None) -> Floats:
    """Overlaps to evaluate at."""
    if iou_threshold is None:
        return COCO_IOU_THRESHOLDS if metric == "coco" else np.array([0.5])
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be above 0 and at most 1, got {iou_threshold}")
    return np.array([iou_threshold], dtype=np.float64)


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
            boxes = scored_boxes(image)
            areas = (boxes[:, 2:] - boxes[:, :2]).double().prod(1)
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
    counts = {
        area: np.bincount(
            truth.label[~truth.ignored & (truth_areas >= low) & (truth_areas <= high)],
            minlength=num_classes,
        ).tolist()
        for area, (low, high) in COCO_AREAS.items()
    }
    for label, ranked in enumerate(ranked_by_class(found.label, order, num_classes)):
        for number, area in enumerate(COCO_AREAS):
            part = slice(number * _NUM_OVERLAPS, (number + 1) * _NUM_OVERLAPS)
            count = counts[area][label]
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
