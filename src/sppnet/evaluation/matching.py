"""Which detections are true positives: the rules of VOC and of COCO.

Detections are matched from the best score down. Among equal scores, images go in the order of the
truth and the detections of one image in the order given.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.evaluation.overlaps import (
    BLOCK_PAIRS,
    Floats,
    Found,
    Ints,
    Mask,
    Truth,
    class_blocks,
    class_overlaps,
    each_image,
    row_blocks,
)
from sppnet.geometry import Detections

if TYPE_CHECKING:
    from sppnet.images.dataset import LabelledImage

COCO_MAX_DETECTIONS = 100
EVERY_AREA = (0.0, 1e10)


class Matches(NamedTuple):
    """What became of each detection at each of T overlap thresholds."""

    true_positive: Mask  # (T, D)
    ignored: Mask  # (T, D) counts neither way
    # (T, D) row of the object found, -1 unless a true positive
    target: NDArray[np.signedinteger[Any]]


class CocoRows(NamedTuple):
    """What is matched in one go: R pairs of an overlap and a range of areas."""

    thresholds: Floats  # (R,) overlaps that are enough, 0..1
    areas: Floats  # (R, 2) smallest and largest area that counts, square pixels


@dataclass(frozen=True)
class ImageMatches:
    """What became of each detection and each object of one image.

    Args:
        is_true_positive: (K,) bool: the detection found an object that no better one had found.
        is_ignored: (K,) bool: it lies on an object that does not count.
        is_false_negative: (T,) bool: the object counts, and nothing found it.
    """

    is_true_positive: Tensor
    is_ignored: Tensor
    is_false_negative: Tensor

    @property
    def is_false_positive(self) -> Tensor:
        """(K,) bool: neither a true positive nor ignored."""
        return ~(self.is_true_positive | self.is_ignored)

    def counts(self) -> tuple[int, int, int]:
        """Number of true positives, of false positives and of false negatives."""
        return (
            int(self.is_true_positive.sum()),
            int(self.is_false_positive.sum()),
            int(self.is_false_negative.sum()),
        )


def collect_truth(truth: Sequence["LabelledImage"], num_classes: int) -> Truth:
    """Collect the objects of all images in one table.

    Args:
        truth: Images with their objects.
        num_classes: Labels must be below it.

    Raises:
        ValueError: If two images share an id or a label is outside 0..num_classes-1.
    """
    ids = [image.image_id for image in truth]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"truth must have one image per image_id, got {twice!r} twice")
    label = _joined([image.labels for image in truth], (0,), np.int64)
    _check_labels(label, num_classes, "truth")
    crowd = _joined([image.crowd for image in truth], (0,), np.bool_)
    difficult = _joined([image.difficult for image in truth], (0,), np.bool_)
    boxes = _joined([scored_boxes(image) for image in truth], (0, 4), np.float64)
    return Truth(
        _numbers([image.labels for image in truth]), label, boxes, crowd | difficult, crowd
    )


def scored_boxes(image: "LabelledImage") -> Tensor:
    """Boxes to score by: as the file says them, beyond the image too, as all judges take them.

    Args:
        image: With its objects; one that lacks ``stated_boxes`` is scored by its ``boxes``.

    Returns:
        (K, 4) xyxy pixels.
    """
    stated: Tensor | None = getattr(image, "stated_boxes", None)
    return image.boxes if stated is None else stated


def collect_detections(
    truth: Sequence["LabelledImage"], detections: Mapping[Any, Any], num_classes: int
) -> Found:
    """Collect the detections of all images in one table, in the order of the truth.

    Args:
        truth: Images; one that ``detections`` lacks has none.
        detections: ``Detections``, or dicts of the same three tensors, by image id.
        num_classes: Labels must be below it.

    Raises:
        ValueError: If there are detections of an unknown image, of an unknown class, or with
            values that are not finite.
    """
    unknown = set(detections) - {image.image_id for image in truth}
    if unknown:
        name = sorted(unknown, key=repr)[0]
        raise ValueError(f"detections must be of images in the truth, got image {name!r}")
    empty = Detections.empty()
    each = [_checked(detections.get(image.image_id, empty)) for image in truth]
    label = _joined([one.labels for one in each], (0,), np.int64)
    _check_labels(label, num_classes, "detections")
    return Found(
        _numbers([one.labels for one in each]),
        label,
        _joined([one.scores for one in each], (0,), np.float64),
        _joined([one.boxes for one in each], (0, 4), np.float64),
    )


def match_voc(truth: Truth, found: Found, iou_thresholds: Floats) -> Matches:
    """Match by the rule of PASCAL VOC.

    A detection looks only at the object of its class that it overlaps most (the first one of
    equals). Enough overlap with an object that is not taken yet: a true positive; with a taken one:
    a false positive; with a difficult one: ignored. VOC knows no crowds: a detection that finds
    nothing and lies on a crowd is ignored, as in COCO.

    Args:
        truth: All objects.
        found: All detections.
        iou_thresholds: (T,) overlaps that are enough, above 0 and up to 1.

    Source:
        Everingham et al. (2010), section 4.2; VOCdevkit, VOCevaldet.m. Its "+1" rule for
        inclusive corners gives the same areas as our half-open boxes.
    """
    best, best_overlap, crowd_overlap = _best_objects(truth, found)
    order = np.argsort(-found.scores, kind="stable")
    shape = (len(iou_thresholds), len(found.scores))
    target, ignored = np.full(shape, -1), np.zeros(shape, np.bool_)
    for row, threshold in enumerate(iou_thresholds):
        near = best_overlap >= threshold
        on_ignored = np.zeros_like(near)
        on_ignored[near] = truth.ignored[best[near]]
        contenders = order[(near & ~on_ignored)[order]]
        objects, first = np.unique(best[contenders], return_index=True)
        target[row, contenders[first]] = objects
        ignored[row] = on_ignored | (~near & (crowd_overlap >= threshold))
    return Matches(target >= 0, ignored, target)


def match_coco(truth: Truth, found: Found, iou_thresholds: Floats) -> Matches:
    """Match by the rule of COCO, objects of every size.

    A detection takes the free object of its class that it overlaps most (the last one of equals),
    if that is enough; failing that, one that is ignored: difficult ones once, crowds any number
    of times. The overlap with a crowd is the share of the detection that lies in it.
    Only the best 100 detections per image and class count; the others are ignored.

    Args:
        truth: All objects.
        found: All detections.
        iou_thresholds: (T,) overlaps that are enough, 0..1.

    Source:
        Lin et al. (2014); pycocotools, cocoeval.py.
    """
    rows = CocoRows(iou_thresholds, np.tile(EVERY_AREA, (len(iou_thresholds), 1)))
    return match_coco_rows(truth, found, rows, np.zeros(len(truth.label)))


def match_coco_rows(truth: Truth, found: Found, rows: CocoRows, truth_areas: Floats) -> Matches:
    """Match by the rule of COCO at several overlaps and for several ranges of areas at once.

    An object outside a row's range is ignored in it, and so is a detection outside the range that
    takes no object.

    Args:
        truth: All objects.
        found: All detections.
        rows: Overlaps and ranges.
        truth_areas: (G,) of the objects, square pixels.

    Returns:
        The matches, (R, D).
    """
    shape = (len(rows.thresholds), len(found.scores))
    # most entries stay as they are, and tables of zeros take memory only where they change
    target, ignored = np.zeros(shape, np.int32), np.zeros(shape, np.bool_)  # target: row + 1
    beyond = rank_in_class(found) >= COCO_MAX_DETECTIONS
    not_asked = truth.ignored | _outside(truth_areas, rows.areas)  # (R, G)
    matching = _CocoMatching(truth, rows.thresholds, not_asked, target, ignored)
    for detected, objects in each_image(truth, found):
        detected = detected[~beyond[detected]]
        detected = detected[np.argsort(-found.scores[detected], kind="stable")]
        if len(detected) * len(objects) <= BLOCK_PAIRS:
            overlaps = class_overlaps(truth, found, detected, objects)
            detected = matching.match_alone(detected, objects, overlaps)
        least = rows.thresholds.min()
        taken = np.zeros((len(rows.thresholds), len(objects)), np.bool_)
        for d, near, overlaps in _touching(truth, found, detected, objects, least):
            matching.match_one(d, objects[near], overlaps, taken, near)
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    areas = sides.prod(1)
    for row, (out, took) in enumerate(zip(ignored, target, strict=True)):
        out |= beyond | ((took == 0) & _outside(areas, rows.areas[row : row + 1])[0])
    target -= 1
    return Matches(target >= 0, ignored, target)


class _CocoMatching(NamedTuple):
    """COCO's rule at work on one image after the other."""

    truth: Truth
    thresholds: Floats  # (R,)
    not_asked: Mask  # (R, G)
    target: NDArray[np.int32]  # (R, D) filled in: 1 more than the row of the object found
    ignored: Mask  # (R, D) filled in

    def match_alone(self, detected: Ints, objects: Ints, overlaps: Floats) -> Ints:
        """Match objects whose detections touch no other one, all at once.

        Almost all objects are such. Of the detections of one, the first that overlaps enough takes
        it in each row.

        Args:
            detected: (B,) rows of detections of an image, best score first.
            objects: (M,) rows of its objects.
            overlaps: (B, M) of those of one class.

        Returns:
            Rows of the detections that are left, in the same order.
        """
        touches = overlaps >= self.thresholds.min()
        shared = touches[touches.sum(1) > 1].any(0)
        column, row = np.nonzero((touches & ~shared).T)
        if len(column):
            enough = overlaps[row, column] >= self.thresholds[:, None]  # (R, P)
            starts = np.flatnonzero(np.r_[True, column[1:] != column[:-1]])
            place = np.where(enough, np.arange(len(column)), len(column))
            first = np.minimum.reduceat(place, starts, axis=1)  # of each object
            taking, group = np.nonzero(first < len(column))
            pair = first[taking, group]
            self._note(taking, detected[row[pair]], objects[column[pair]])
            crowd = self.truth.crowd[objects[column]]
            if crowd.any():
                taking, pair = np.nonzero(enough & crowd)
                self.ignored[taking, detected[row[pair]]] = True
        return detected[(touches & shared).any(1)]

    def match_one(self, d: int, objects: Ints, overlaps: Floats, taken: Mask, places: Ints) -> None:
        """Match a detection with one of several objects, (N,), whose places in ``taken`` follow."""
        usable = ~taken[:, places] | self.truth.crowd[objects]
        chosen = _choose(overlaps, usable, self.not_asked[:, objects], self.thresholds)
        taking = np.flatnonzero(chosen >= 0)
        chosen = chosen[taking]
        taken[taking, places[chosen]] = True
        self._note(taking, np.full(len(taking), d), objects[chosen])

    def _note(self, taking: Ints, detected: Ints, objects: Ints) -> None:
        """Write down which detection takes which object in which row."""
        is_ignored = self.not_asked[taking, objects]
        self.target[taking, detected] = np.where(is_ignored, 0, objects + 1)
        self.ignored[taking, detected] = is_ignored


def match_detections(
    truth_boxes: Tensor,
    truth_labels: Tensor,
    detections: Detections,
    iou_threshold: float = 0.5,
    truth_ignored: Tensor | None = None,
) -> ImageMatches:
    """Match the detections of one image with its objects, by the rule of PASCAL VOC.

    The best score goes first. Each detection looks at the object of its class that it overlaps
    most; if the overlap is large enough and the object not taken yet, it is a true positive.

    Args:
        truth_boxes: (T, 4) xyxy pixels.
        truth_labels: (T,) classes.
        detections: What was found.
        iou_threshold: Overlap that is enough, above 0 and up to 1.
        truth_ignored: (T,) bool, objects that count neither way, such as difficult ones.

    Returns:
        What became of each, in the orders given.

    Example:
        >>> truth = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
        >>> found = Detections(truth, torch.tensor([0.9]), torch.tensor([0]))
        >>> match_detections(truth, torch.tensor([0]), found).counts()
        (1, 0, 0)

    Source:
        Everingham et al., The PASCAL Visual Object Classes Challenge (2010), section 4.2.
    """
    no_crowd = np.zeros(len(truth_boxes), np.bool_)
    ignored = no_crowd if truth_ignored is None else np.asarray(truth_ignored.cpu(), np.bool_)
    truth = Truth(*_one_image(truth_labels, truth_boxes), ignored, no_crowd)
    image, label, boxes = _one_image(detections.labels, detections.boxes)
    scores = np.asarray(detections.scores.detach().cpu(), np.float64)
    matches = match_voc(truth, Found(image, label, scores, boxes), np.array([iou_threshold]))
    is_false_negative = ~ignored
    is_false_negative[matches.target[0][matches.true_positive[0]]] = False
    return ImageMatches(
        torch.from_numpy(matches.true_positive[0].copy()),
        torch.from_numpy(matches.ignored[0].copy()),
        torch.from_numpy(is_false_negative),
    )


def _one_image(labels: Tensor, boxes: Tensor) -> tuple[Ints, Ints, Floats]:
    """Number of the image, labels and boxes as a table has them."""
    label = np.asarray(labels.detach().cpu(), np.int64)
    return np.zeros(len(label), np.int64), label, np.asarray(boxes.detach().cpu(), np.float64)


def rank_in_class(found: Found) -> Ints:
    """Place of each detection among those of its image and class, from 0, best score first."""
    order = np.lexsort((-found.scores, found.label, found.image))
    group = np.stack([found.image, found.label])[:, order]
    starts = np.flatnonzero(np.r_[True, (group[:, 1:] != group[:, :-1]).any(0)][: len(order)])
    sizes = np.diff(np.r_[starts, len(order)])
    rank = np.zeros(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return rank


def ranked_by_class(labels: Ints, order: Ints, num_classes: int) -> list[Ints]:
    """Rows of each class, in an order of all rows.

    Args:
        labels: (N,) classes.
        order: Row numbers, any of 0..N-1.
        num_classes: How many classes there are.

    Example:
        >>> rows = ranked_by_class(np.array([1, 0, 1]), np.array([2, 1, 0]), 3)
        >>> [each.tolist() for each in rows]
        [[1], [2, 0], []]
    """
    ranked = labels[order]
    by_class = order[np.argsort(ranked, kind="stable")]
    ends = np.cumsum(np.bincount(ranked, minlength=num_classes))
    return np.split(by_class, ends[:-1])[:num_classes]


class _Nearest(NamedTuple):
    """Of each detection: the object that it overlaps most, by how much, its share in a crowd."""

    best: Ints  # (D,)
    overlap: Floats  # (D,) -1 where it touches no object of its class
    crowd: Floats  # (D,) -1 where it touches no crowd of its class


# The measures of one evaluation ask for the same tables again and again.
_LAST: dict[bytes, _Nearest] = {}


def _best_objects(truth: Truth, found: Found) -> _Nearest:
    """What each detection overlaps most; the last answer is kept, by the content of the tables."""
    objects: list[NDArray[Any]] = [truth.image, truth.label, truth.boxes, truth.crowd]
    asked = [*objects, found.image, found.label, found.boxes]
    digest = hashlib.blake2b(repr([part.shape for part in asked]).encode())
    for part in asked:
        digest.update(np.ascontiguousarray(part).tobytes())
    key = digest.digest()
    if key not in _LAST:
        nearest = _find_best_objects(truth, found)
        _LAST.clear()
        _LAST[key] = nearest
    return _LAST[key]


def _find_best_objects(truth: Truth, found: Found) -> _Nearest:
    """Work out what each detection overlaps most, the first of equals."""
    count = len(found.scores)
    nearest = _Nearest(np.zeros(count, np.int64), np.full(count, -1.0), np.full(count, -1.0))
    for everything, asked in each_image(truth, found):
        for detected, objects, overlaps in class_blocks(truth, found, everything, asked):
            crowd = truth.crowd[objects]
            if crowd.any():
                nearest.crowd[detected] = overlaps[:, crowd].max(1)
                overlaps[:, crowd] = -1.0
            column = overlaps.argmax(1)
            nearest.best[detected] = objects[column]
            nearest.overlap[detected] = overlaps[np.arange(len(detected)), column]
    return nearest


def _touching(
    truth: Truth, found: Found, detected: Ints, objects: Ints, least: float
) -> Iterator[tuple[int, Ints, Floats]]:
    """Each detection that touches objects of its class: its row, their places, the overlaps.

    Those of one class come in the order given.
    """
    for block, places in _same_class(truth, found, detected, objects):
        overlaps = class_overlaps(truth, found, block, objects[places])
        for d, row in zip(block.tolist(), overlaps, strict=True):
            near = np.flatnonzero(row >= least)
            if len(near):
                yield d, places[near], row[near]


def _same_class(
    truth: Truth, found: Found, detected: Ints, objects: Ints
) -> Iterator[tuple[Ints, Ints]]:
    """Detections in blocks, with places among the objects; of many objects those of one class."""
    if len(detected) * len(objects) <= BLOCK_PAIRS:
        yield detected, np.arange(len(objects))
        return
    own, others = found.label[detected], truth.label[objects]
    for label in np.intersect1d(own, others):
        places = np.flatnonzero(others == label)
        for block in row_blocks(detected[own == label], len(places)):
            yield block, places


def _choose(overlaps: Floats, usable: Mask, not_asked: Mask, thresholds: Floats) -> Ints:
    """Object that one detection takes in each row, -1 for none: (R,)."""
    usable = (overlaps >= thresholds[:, None]) & usable
    first_choice = usable & ~not_asked
    usable = np.where(first_choice.any(1, keepdims=True), first_choice, usable)
    masked = np.where(usable, overlaps, -1.0)[:, ::-1]  # argmax takes the first of equals
    last_best = overlaps.shape[-1] - 1 - masked.argmax(1)
    return np.where(usable.any(1), last_best, -1)


def _outside(areas: Floats, ranges: Floats) -> Mask:
    """Tell which areas lie outside which ranges: (R, N)."""
    return (areas < ranges[:, :1]) | (areas > ranges[:, 1:])


def _joined(parts: Sequence[Any], empty: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """Join the tensors of all images into one array."""
    arrays: list[NDArray[Any]] = [np.asarray(part.detach().cpu(), dtype=dtype) for part in parts]
    return np.concatenate([np.zeros(empty, dtype), *arrays])


def _numbers(parts: Sequence[Any]) -> Ints:
    """Number of the image that each row belongs to."""
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts])


def _checked(one: Any) -> Detections:
    """Take Detections, or build them from a plain dict, which checks it."""
    if isinstance(one, Detections):
        return one
    return Detections(one["boxes"], one["scores"], one["labels"])


def _check_labels(labels: Ints, num_classes: int, name: str) -> None:
    """Refuse labels without a class name."""
    bad = labels[(labels < 0) | (labels >= num_classes)]
    if len(bad):
        raise ValueError(f"labels in {name} must be 0..{num_classes - 1}, got {bad[0]}")
