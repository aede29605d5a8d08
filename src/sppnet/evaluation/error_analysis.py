"""Where a detector is wrong: kinds of errors, confusion of classes, mistakes image by image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sppnet.evaluation.average_precision import average_precision_area, precision_and_recall
from sppnet.evaluation.matching import (
    Matches,
    collect_detections,
    collect_truth,
    match_detections,
    match_voc,
    ranked_by_class,
)
from sppnet.evaluation.overlaps import (
    Floats,
    Found,
    Ints,
    Mask,
    Truth,
    any_overlaps,
    class_blocks,
    each_image,
)
from sppnet.geometry import Detections
from sppnet.images.dataset import LabelledImage

# In the order in which they are tried; "both" is what none of the others is.
FALSE_POSITIVE_TYPES = ("localisation", "classification", "duplicate", "background", "both")
MISSED = "missed"
ERROR_TYPES = (*FALSE_POSITIVE_TYPES, MISSED)
_LOCALISATION, _CLASSIFICATION, _DUPLICATE, _BACKGROUND, _BOTH = range(5)
_NONE = -1
BACKGROUND = "background"
MOST_PAIRS, PAIRS_AT_ONCE = 1 << 22, 1 << 14  # that are kept, that are looked at in one go


@dataclass(frozen=True)
class ErrorTypes:
    """The mistakes of a detector by kind, and what each kind costs.

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

    def to_json(self) -> dict[str, object]:
        """All of it, for JSON."""
        return dict(vars(self))


class _Sorted(NamedTuple):
    """The kind of each mistake, and the object that it should have found."""

    kind: Ints  # (D,) place in FALSE_POSITIVE_TYPES; _NONE for true positives and what is ignored
    meant: Ints  # (D,) row of an object; only for localisation and classification


def find_error_types(
    truth: Sequence["LabelledImage"],
    detections: Mapping[Any, Any],
    names: Sequence[str],
    score_threshold: float = -np.inf,
    iou_threshold: float = 0.5,
    background_iou: float = 0.1,
) -> ErrorTypes:
    """Sort the mistakes of a detector by kind.

    True positives are those of PASCAL VOC's rule; difficult objects and crowds count neither way.

    Args:
        truth: Images with their objects.
        detections: By image id; an image that is missing has none.
        names: Class names.
        score_threshold: Lowest score that is counted; the costs take all scores.
        iou_threshold: Lowest overlap of a true positive.
        background_iou: Less overlap than this counts as none.

    Returns:
        Counts and costs by kind.

    Raises:
        ValueError: As for :func:`sppnet.evaluation.evaluate_detections`.

    Source:
        Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors (2020), with
        its order of kinds. To mend a mistake of place or class, the box or the class is put right
        if nothing else found its object (of several detections, for the one with the best score),
        and the detection is taken away otherwise. Other false positives are taken away, and missed
        objects are no longer asked for.
    """
    objects = collect_truth(truth, len(names))
    found = collect_detections(truth, detections, len(names))
    matches = match_voc(objects, found, np.array([iou_threshold]))
    found_kinds = _sort(objects, found, matches, iou_threshold, background_iou)
    shown = found.scores >= score_threshold
    missed = _missed(objects, matches, found_kinds, shown)
    kinds = {
        name: _per_class(found.label[shown & (found_kinds.kind == kind)], names)
        for kind, name in enumerate(FALSE_POSITIVE_TYPES)
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
    """Give each false positive its kind."""
    kind = np.full(len(found.scores), _BACKGROUND)
    meant = np.full(len(found.scores), -1)
    is_settled = matches.true_positive[0] | matches.ignored[0]
    for everything, here in each_image(truth, found):
        mistaken, asked = everything[~is_settled[everything]], here[~truth.ignored[here]]
        own, best_own = _best_of(truth, found, mistaken, asked, same=True)
        other, best_other = _best_of(truth, found, mistaken, asked, same=False)
        tests = [
            (best_own >= background_iou) & (best_own < iou_threshold),
            best_other >= iou_threshold,
            best_own >= iou_threshold,
            np.maximum(best_own, best_other) < background_iou,
        ]
        kind[mistaken] = np.select(tests, range(4), _BOTH)
        meant[mistaken] = np.where(tests[_LOCALISATION], own, other)
    kind[is_settled] = _NONE
    return _Sorted(kind, meant)


def _best_of(
    truth: Truth, found: Found, detected: Ints, asked: Ints, *, same: bool
) -> tuple[Ints, Floats]:
    """Object of the same class, or of another, that each detection overlaps most, and how much."""
    best, largest = np.full(len(detected), -1), np.full(len(detected), -1.0)
    for rows, objects, overlaps in class_blocks(truth, found, detected, asked, same=same):
        column = overlaps.argmax(1)
        places = np.searchsorted(detected, rows)  # rows of an image rise
        best[places] = objects[column]
        largest[places] = overlaps[np.arange(len(rows)), column]
    return best, largest


def _missed(truth: Truth, matches: Matches, found: _Sorted, shown: Mask) -> Mask:
    """Mark objects that neither a true positive nor a mistake of class or place is about: (G,)."""
    is_about = shown & np.isin(found.kind, (_LOCALISATION, _CLASSIFICATION))
    missed = ~truth.ignored
    missed[found.meant[is_about]] = False
    missed[matches.target[0][shown & matches.true_positive[0]]] = False
    return missed


def _per_class(labels: Ints, names: Sequence[str]) -> dict[str, int]:
    """Count by class name."""
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


def _costs(
    truth: Truth, found: Found, matches: Matches, kinds: _Sorted, num_classes: int
) -> dict[str, float]:
    """How much the mean average precision would rise if one kind of mistake alone were mended."""
    asked = np.bincount(truth.label[~truth.ignored], minlength=num_classes)
    order = np.argsort(-found.scores, kind="stable")
    true_positive, kept = matches.true_positive[0], ~matches.ignored[0]
    before = _mean_precision(order, found.label, true_positive, kept, asked, asked)
    costs = {}
    for kind, name in enumerate(FALSE_POSITIVE_TYPES):
        mended = _mended(kind, order, matches, kinds)
        label = found.label.copy()
        label[mended] = truth.label[kinds.meant[mended]]
        left = kept & ((kinds.kind != kind) | mended)
        costs[name] = (
            _mean_precision(order, label, true_positive | mended, left, asked, asked) - before
        )
    missed = _missed(truth, matches, kinds, np.ones(len(true_positive), np.bool_))
    left_to_find = asked - np.bincount(truth.label[missed], minlength=num_classes)
    after = _mean_precision(order, found.label, true_positive, kept, asked, left_to_find)
    return {**costs, MISSED: after - before}


def _mended(kind: int, order: Ints, matches: Matches, kinds: _Sorted) -> Mask:
    """Mark the mistakes that mending would make right: the best one about each unfound object."""
    mended = np.zeros(len(order), np.bool_)
    if kind in (_LOCALISATION, _CLASSIFICATION):
        candidates = order[kinds.kind[order] == kind]
        is_free = ~np.isin(kinds.meant[candidates], matches.target[0][matches.true_positive[0]])
        _, first = np.unique(kinds.meant[candidates[is_free]], return_index=True)
        mended[candidates[is_free][first]] = True
    return mended


def _mean_precision(
    order: Ints, label: Ints, true_positive: Mask, kept: Mask, asked: Ints, to_find: Ints
) -> float:
    """Mean over the classes with objects; a class with nothing left to find counts as 1."""
    ranked = ranked_by_class(label, order[kept[order]], len(asked))
    values: list[float] = []
    for number in np.flatnonzero(asked).tolist():
        count = int(to_find[number])
        values.append(_area(true_positive[ranked[number]], count) if count else 1.0)
    return float(np.mean(values)) if values else float("nan")


def _area(true_positive: Mask, count: int) -> float:
    """Average precision of ranked detections."""
    curve: tuple[Floats, Floats] = precision_and_recall(true_positive, count)
    return average_precision_area(*curve)


@dataclass(frozen=True)
class DetectionConfusion:
    """How many objects of each class were taken for each class.

    Args:
        names: K class names, then "background".
        counts: (K + 1, K + 1); truth by row, detection by column. The last column counts objects
            that were not found, the last row detections where there is nothing.
        score_threshold: Lowest score that was counted.
        iou_threshold: Overlap that was asked for.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    score_threshold: float
    iou_threshold: float

    def to_json(self) -> dict[str, object]:
        """All of it, for JSON."""
        return {**vars(self), "names": list(self.names), "counts": self.counts.tolist()}


def confuse_detections(
    truth: Sequence["LabelledImage"],
    detections: Mapping[Any, Any],
    names: Sequence[str],
    score_threshold: float,
    iou_threshold: float = 0.5,
) -> DetectionConfusion:
    """Count which class was taken for which.

    The true positives of PASCAL VOC's rule are the diagonal. Of what is left, detections and
    objects of different classes are paired, those that overlap most first, each once. The rest is
    background. Difficult objects and crowds, and what lies on them, are left out.

    Args:
        truth: Images with their objects.
        detections: By image id; an image that is missing has none.
        names: Class names.
        score_threshold: Lowest score that counts.
        iou_threshold: Overlap that makes a pair, 0..1.

    Returns:
        The table. Its row sums, without the last row, are the numbers of objects.

    Raises:
        ValueError: As for :func:`sppnet.evaluation.evaluate_detections`.
    """
    objects = collect_truth(truth, len(names))
    found = collect_detections(truth, detections, len(names))
    matches = match_voc(objects, found, np.array([iou_threshold]))
    counted = ~matches.ignored[0] & (found.scores >= score_threshold)
    target = np.where(counted, matches.target[0], -1)
    is_free = ~objects.ignored
    is_free[target[target >= 0]] = False
    is_left = counted & (target < 0)
    pairs = _all_pairs(objects, found, is_left, is_free, iou_threshold)
    if pairs is not None:
        _take_pairs(*pairs, is_free.copy(), target)
    else:
        for detected, here in each_image(objects, found):
            left, asked = detected[is_left[detected]], here[is_free[here]]
            _pair_one_by_one(objects, found, left, asked, iou_threshold, target)
    counts = _count(objects, found.label[counted], target[counted], len(names))
    return DetectionConfusion((*names, BACKGROUND), counts, score_threshold, iou_threshold)


def _pair_one_by_one(
    truth: Truth, found: Found, detected: Ints, objects: Ints, threshold: float, target: Ints
) -> None:
    """Do the same where the pairs are too many to be kept: only the best one of each detection."""
    is_free = np.ones(len(truth.label), np.bool_)
    best, largest = _best_of(truth, found, detected, objects, same=False)
    found_pairs = zip((-largest).tolist(), detected.tolist(), best.tolist(), strict=True)
    waiting = [pair for pair in found_pairs if -pair[0] >= threshold]
    heapify(waiting)
    while waiting:
        _, row, column = heappop(waiting)
        if is_free[column]:
            is_free[column], target[row] = False, column
            continue
        objects = objects[is_free[objects]]
        left = objects[truth.label[objects] != found.label[row]]  # the next best of what is left
        if len(left):
            overlap = any_overlaps(truth, found, np.array([row]), left)[0]
            if overlap.max() >= threshold:
                heappush(waiting, (-float(overlap.max()), row, int(left[overlap.argmax()])))


def _count(truth: Truth, label: Ints, target: Ints, num_classes: int) -> NDArray[np.int64]:
    """Build the table from the object of each detection, -1 for none."""
    is_paired = target >= 0
    rows = np.full(len(label), num_classes)
    rows[is_paired] = truth.label[target[is_paired]]
    is_false_negative = ~truth.ignored
    is_false_negative[target[is_paired]] = False
    lost = truth.label[is_false_negative]
    sides = num_classes + 1
    truths, seen = np.r_[rows, lost], np.r_[label, np.full(len(lost), num_classes)]
    return np.bincount(truths * sides + seen, minlength=sides**2).reshape(sides, sides)


class MistakesByThreshold(NamedTuple):
    """What is right and wrong at each of T thresholds, for K classes; rises with neither."""

    objects: Ints  # (K,) that are asked for
    true_positives: Ints  # (T, K)
    false_positives: Ints  # (T, K)
    kinds: Ints  # (T, 6) mistakes in the order of ERROR_TYPES
    confusion: Ints  # (T, K + 1, K + 1), as in DetectionConfusion; (0, ...) with too many pairs


def count_by_threshold(
    truth: Sequence["LabelledImage"],
    detections: Mapping[Any, Any],
    names: Sequence[str],
    thresholds: Floats,
    *,
    sure: Mapping[Any, Any] | None = None,
    iou_threshold: float = 0.5,
    background_iou: float = 0.1,
) -> MistakesByThreshold:
    """Count right and wrong detections at many thresholds at once.

    Overlaps are measured once. A detection is right or wrong whatever the threshold: better ones of
    its class go first, and only they can take its object.

    Args:
        truth: Images with their objects.
        detections: By image id; an image that is missing has none.
        names: K class names.
        thresholds: (T,) what a detection must reach to count.
        sure: By image id, the same detections with what is compared with the thresholds as their
            scores, such as confidences; the detections themselves if not given. It must rise with
            the scores of each class.
        iou_threshold: Lowest overlap of a true positive.
        background_iou: Less overlap than this counts as none.

    Returns:
        The counts; at one threshold they are those of :func:`find_error_types` and
        :func:`confuse_detections`.

    Raises:
        ValueError: As for :func:`sppnet.evaluation.evaluate_detections`.
    """
    objects = collect_truth(truth, len(names))
    found = collect_detections(truth, detections, len(names))
    values = found.scores if sure is None else collect_detections(truth, sure, len(names)).scores
    matches = match_voc(objects, found, np.array([iou_threshold]))
    sorted_ = _sort(objects, found, matches, iou_threshold, background_iou)
    right, counted = matches.true_positive[0], ~matches.ignored[0]
    pairs = _all_pairs(objects, found, counted & ~right, ~objects.ignored, iou_threshold)
    columns: tuple[list[Ints], ...] = ([], [], [], [])
    for threshold in thresholds:
        shown = counted & (values >= threshold)
        target = np.where(shown & right, matches.target[0], -1)
        kinds = np.bincount(sorted_.kind[shown & ~right], minlength=len(FALSE_POSITIVE_TYPES))
        missed = _missed(objects, matches, sorted_, values >= threshold).sum()
        columns[0].append(np.bincount(found.label[shown & right], minlength=len(names)))
        columns[1].append(np.bincount(found.label[shown & ~right], minlength=len(names)))
        columns[2].append(np.r_[kinds, missed])
        if pairs is not None:
            is_free = ~objects.ignored
            is_free[target[target >= 0]] = False
            some = [column[shown[pairs[0]] & is_free[pairs[1]]] for column in pairs]
            _take_pairs(some[0], some[1], is_free, target)
            columns[3].append(_count(objects, found.label[shown], target[shown], len(names)))
    asked = np.bincount(objects.label[~objects.ignored], minlength=len(names))
    steps, sides = len(thresholds), len(names) + 1
    shapes = ((steps, len(names)),) * 2 + ((steps, len(ERROR_TYPES)), (-1, sides, sides))
    tables = [np.array(c, np.int64).reshape(s) for c, s in zip(columns, shapes, strict=True)]
    return MistakesByThreshold(asked, *tables)


def _all_pairs(
    truth: Truth, found: Found, detected: Mask, asked: Mask, threshold: float
) -> tuple[Ints, Ints] | None:
    """Detections and objects of different classes that overlap enough, the largest overlap first.

    None if they are too many to be kept.
    """
    none = np.zeros(0, np.int64)
    values, rows, columns, count = [np.zeros(0)], [none], [none], 0
    for everything, here in each_image(truth, found):
        some, others = everything[detected[everything]], here[asked[here]]
        for block in class_blocks(truth, found, some, others, same=False):
            row, column = np.nonzero(block.overlaps >= threshold)
            values.append(block.overlaps[row, column])
            rows.append(block.detected[row])
            columns.append(block.objects[column])
            count += len(row)
            if count > MOST_PAIRS:
                return None
    row, column = np.concatenate(rows), np.concatenate(columns)
    order = np.lexsort((column, row, -np.concatenate(values)))
    return row[order], column[order]


def _take_pairs(row: Ints, column: Ints, is_free: Mask, target: Ints) -> None:
    """Give each detection without an object the first object of its pairs that is free."""
    for start in range(0, len(row), PAIRS_AT_ONCE):
        some = np.arange(start, min(start + PAIRS_AT_ONCE, len(row)))
        some = some[is_free[column[some]] & (target[row[some]] < 0)]
        for d, g in zip(row[some].tolist(), column[some].tolist(), strict=True):
            if is_free[g] and target[d] < 0:
                is_free[g], target[d] = False, g


@dataclass(frozen=True)
class ImageCounts:
    """An image with its true positives, false positives and false negatives, counted."""

    image: LabelledImage
    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def mistakes(self) -> int:
        """False positives and false negatives."""
        return self.false_positives + self.false_negatives


def count_matches(
    images: Sequence[LabelledImage],
    detections: Mapping[Any, Detections],
    score_threshold: float,
    iou_threshold: float = 0.5,
) -> list[ImageCounts]:
    """Count the true positives and the mistakes of each image.

    Args:
        images: With their truth.
        detections: By image id.
        score_threshold: Lowest score that counts.
        iou_threshold: Lowest overlap of a true positive.

    Returns:
        One record per image, in their order.
    """
    counts = []
    for image in images:
        found = detections.get(image.image_id, Detections.empty())
        found = found.select(found.scores >= score_threshold)
        ignored = image.difficult | image.crowd
        matches = match_detections(image.boxes, image.labels, found, iou_threshold, ignored)
        counts.append(ImageCounts(image, *matches.counts()))
    return counts


def best_and_worst(
    images: Sequence[ImageCounts], count: int = 6
) -> tuple[list[ImageCounts], list[ImageCounts]]:
    """Choose images to show.

    Args:
        images: All of them, counted.
        count: How many of each kind at most.

    Returns:
        Those with most true positives and fewest mistakes, and those with most mistakes; none is
        in both.
    """
    with_mistakes = [entry for entry in images if entry.mistakes]
    worst = sorted(with_mistakes, key=lambda entry: (-entry.mistakes, entry.true_positives))[:count]
    shown = {id(entry) for entry in worst}
    others = [entry for entry in images if entry.true_positives and id(entry) not in shown]
    return sorted(others, key=lambda entry: (entry.mistakes, -entry.true_positives))[:count], worst
