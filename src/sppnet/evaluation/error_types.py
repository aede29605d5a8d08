"""What kind of mistakes a detector makes, and how much average precision each kind costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sppnet.evaluation.average_precision import average_precision_area, precision_and_recall
from sppnet.evaluation.matching import (
    Floats,
    Found,
    Ints,
    Mask,
    Matches,
    Truth,
    any_overlaps,
    collect_detections,
    collect_truth,
    each_image,
    match_voc,
)

if TYPE_CHECKING:
    from sppnet.images.dataset import LabelledImage

# In the order in which they are tried; "both" is what none of the others is.
FALSE_ALARMS = ("localisation", "classification", "duplicate", "background", "both")
MISSED = "missed"
ERROR_TYPES = (*FALSE_ALARMS, MISSED)
_LOCALISATION, _CLASSIFICATION, _DUPLICATE, _BACKGROUND, _BOTH = range(5)
_NONE = -1


@dataclass(frozen=True)
class ErrorTypes:
    """The mistakes of a detector, sorted.

    Args:
        score_threshold: Lowest score that was counted.
        counts: By kind. "localisation": right class, overlap of 0.1 up to the threshold;
            "classification": enough overlap with an object of another class; "duplicate": an object
            found before; "background": overlap below 0.1 with everything; "both": wrong class and
            too little overlap; "missed": objects that no detection found and that no mistake of the
            first two kinds is about.
        per_class: By kind, then by class name: of the detection, for "missed" of the object.
        ap_cost: By kind, how much the mean AP (area, at the same overlap, all scores) would rise if
            mistakes of this kind alone were mended; NaN without objects.
    """

    score_threshold: float
    counts: dict[str, int]
    per_class: dict[str, dict[str, int]]
    ap_cost: dict[str, float]

    def numbers(self) -> dict[str, object]:
        """All of it, for JSON."""
        return dict(vars(self))


class _Sorted(NamedTuple):
    """The kind of each detection, and the object that it should have found."""

    kind: Ints  # (D,) place in FALSE_ALARMS; _NONE for hits and what is ignored
    meant: Ints  # (D,) row of an object; only for localisation and classification


def find_error_types(
    truth: Sequence["LabelledImage"],
    detections: Mapping[Any, Any],
    names: Sequence[str],
    score_threshold: float = -np.inf,
    iou_threshold: float = 0.5,
    background_iou: float = 0.1,
) -> ErrorTypes:
    """Sort the mistakes of a detector.

    Hits are those of PASCAL VOC's rule; difficult objects and crowds count neither way.

    Args:
        truth: Images with their objects.
        detections: By image id; an image that is missing has none.
        names: Class names.
        score_threshold: Lowest score that is counted; the costs take all scores.
        iou_threshold: Overlap that makes a hit.
        background_iou: Less overlap than this counts as none.

    Returns:
        Counts and costs by kind.

    Raises:
        ValueError: As for :func:`sppnet.evaluation.evaluate_detections`.

    Source:
        Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors (2020), with
        its order of kinds. Mending: a box or class is put right if its object was not found (of
        several only the best score), and taken away otherwise; other false alarms are taken away;
        missed objects are not asked for.
    """
    objects = collect_truth(truth, len(names))
    found = collect_detections(truth, detections, len(names))
    matches = match_voc(objects, found, np.array([iou_threshold]))
    found_kinds = _sort(objects, found, matches, iou_threshold, background_iou)
    shown = found.scores >= score_threshold
    missed = _missed(objects, matches, found_kinds, shown)
    kinds = {
        name: _per_class(found.label[shown & (found_kinds.kind == kind)], names)
        for kind, name in enumerate(FALSE_ALARMS)
    }
    kinds[MISSED] = _per_class(objects.label[missed], names)
    return ErrorTypes(
        score_threshold,
        {kind: sum(counts.values()) for kind, counts in kinds.items()},
        kinds,
        _costs(objects, found, matches, found_kinds, len(names)),
    )


def _sort(
    truth: Truth, found: Found, matches: Matches, iou_threshold: float, background_iou: float
) -> _Sorted:
    """Give each false alarm its kind."""
    kind = np.full(len(found.scores), _BACKGROUND)
    meant = np.full(len(found.scores), -1)
    for detected, objects in each_image(truth, found):
        asked = objects[~truth.ignored[objects]]
        if not len(asked):
            continue
        overlaps = any_overlaps(truth, found, detected, asked)
        is_same = found.label[detected, None] == truth.label[asked]
        own, other = np.where(is_same, overlaps, -1.0), np.where(is_same, -1.0, overlaps)
        best_own, best_other = own.max(1), other.max(1)
        tests = [
            (best_own >= background_iou) & (best_own < iou_threshold),
            best_other >= iou_threshold,
            best_own >= iou_threshold,
            overlaps.max(1) < background_iou,
        ]
        kind[detected] = np.select(tests, range(4), _BOTH)
        nearest = np.where(tests[_LOCALISATION], own.argmax(1), other.argmax(1))
        meant[detected] = asked[nearest]
    kind[matches.hit[0] | matches.ignored[0]] = _NONE
    return _Sorted(kind, meant)


def _missed(truth: Truth, matches: Matches, found: _Sorted, shown: Mask) -> Mask:
    """Objects that no hit and no mistake of class or place is about: (G,)."""
    is_about = shown & np.isin(found.kind, (_LOCALISATION, _CLASSIFICATION))
    missed = ~truth.ignored
    missed[found.meant[is_about]] = False
    missed[matches.target[0][shown & matches.hit[0]]] = False
    return missed


def _per_class(labels: Ints, names: Sequence[str]) -> dict[str, int]:
    """Count by class name."""
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


def _costs(
    truth: Truth, found: Found, matches: Matches, kinds: _Sorted, num_classes: int
) -> dict[str, float]:
    """Rise of the mean average precision when one kind of mistake is mended."""
    asked = np.bincount(truth.label[~truth.ignored], minlength=num_classes)
    order = np.argsort(-found.scores, kind="stable")
    hit, kept = matches.hit[0], ~matches.ignored[0]
    before = _mean_precision(order, found.label, hit, kept, asked, asked)
    costs = {}
    for kind, name in enumerate(FALSE_ALARMS):
        mended = _mended(kind, order, matches, kinds)
        label = found.label.copy()
        label[mended] = truth.label[kinds.meant[mended]]
        left = kept & ((kinds.kind != kind) | mended)
        costs[name] = _mean_precision(order, label, hit | mended, left, asked, asked) - before
    missed = _missed(truth, matches, kinds, np.ones(len(hit), np.bool_))
    left_to_find = asked - np.bincount(truth.label[missed], minlength=num_classes)
    after = _mean_precision(order, found.label, hit, kept, asked, left_to_find)
    return {**costs, MISSED: after - before}


def _mended(kind: int, order: Ints, matches: Matches, kinds: _Sorted) -> Mask:
    """Mark the mistakes of a kind that become hits: the best of those about a free object."""
    mended = np.zeros(len(order), np.bool_)
    if kind in (_LOCALISATION, _CLASSIFICATION):
        candidates = order[kinds.kind[order] == kind]
        is_free = ~np.isin(kinds.meant[candidates], matches.target[0][matches.hit[0]])
        _, first = np.unique(kinds.meant[candidates[is_free]], return_index=True)
        mended[candidates[is_free][first]] = True
    return mended


def _mean_precision(
    order: Ints, label: Ints, hit: Mask, kept: Mask, asked: Ints, to_find: Ints
) -> float:
    """Mean over the classes with objects; one of which nothing is left to find counts as 1."""
    ranked = order[kept[order]]
    values: list[float] = []
    for number in np.flatnonzero(asked):
        rows = ranked[label[ranked] == number]
        count = int(to_find[number])
        values.append(_area(hit[rows], count) if count else 1.0)
    return float(np.mean(values)) if values else float("nan")


def _area(hit: Mask, count: int) -> float:
    """Average precision of ranked detections."""
    curve: tuple[Floats, Floats] = precision_and_recall(hit, count)
    return average_precision_area(*curve)
