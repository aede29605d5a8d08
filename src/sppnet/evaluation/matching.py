"""Which detections are true positives: the rules of VOC and of COCO.

Detections are matched from the best score down. Among equal scores, images go in the order of the
truth and the detections of one image in the order given.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.geometry import Detections, box_iou

if TYPE_CHECKING:
    from sppnet.images.dataset import LabelledImage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
COCO_MAX_DETECTIONS = 100
EVERY_AREA = (0.0, 1e10)
# Overlaps are worked out for so many pairs at a time: about 100 MB.
BLOCK_PAIRS = 1 << 20


class Truth(NamedTuple):
    """All objects, one a row, image by image."""

    image: Ints  # (G,) number of the image
    label: Ints  # (G,)
    boxes: Floats  # (G, 4) xyxy
    ignored: Mask  # (G,) difficult or crowd
    crowd: Mask  # (G,)


class Found(NamedTuple):
    """All detections, one a row, image by image in the order given."""

    image: Ints  # (D,) number of the image
    label: Ints  # (D,)
    scores: Floats  # (D,)
    boxes: Floats  # (D, 4) xyxy

    def above(self, score: float) -> "Found":
        """Keep the detections that score at least this much."""
        kept = self.scores >= score
        return Found(self.image[kept], self.label[kept], self.scores[kept], self.boxes[kept])


class Matches(NamedTuple):
    """What became of each detection at each of T overlap thresholds."""

    true_positive: Mask  # (T, D)
    ignored: Mask  # (T, D) counts neither way
    target: Ints  # (T, D) row of the object found, -1 unless a true positive


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
        iou_thresholds: (T,) overlaps that are enough, 0..1.

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
    target, ignored = np.full(shape, -1), np.zeros(shape, np.bool_)
    beyond = rank_in_class(found) >= COCO_MAX_DETECTIONS
    not_asked = truth.ignored | _outside(truth_areas, rows.areas)  # (R, G)
    for detected, objects in each_image(truth, found):
        detected = detected[~beyond[detected]]
        detected = detected[np.argsort(-found.scores[detected], kind="stable")]
        taken = np.zeros((len(rows.thresholds), len(objects)), np.bool_)
        for d, near, overlaps in _touching(truth, found, detected, objects, rows.thresholds.min()):
            usable = ~taken[:, near] | truth.crowd[objects[near]]
            chosen = _choose(overlaps, usable, not_asked[:, objects[near]], rows.thresholds)
            rows_taking = np.flatnonzero(chosen >= 0)
            chosen = near[chosen[rows_taking]]
            taken[rows_taking, chosen] = True
            is_ignored = not_asked[rows_taking, objects[chosen]]
            target[rows_taking, d] = np.where(is_ignored, -1, objects[chosen])
            ignored[rows_taking, d] = is_ignored
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    ignored |= beyond | ((target < 0) & _outside(sides.prod(1), rows.areas))
    return Matches(target >= 0, ignored, target)


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
        iou_threshold: Overlap that is enough, 0..1.
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
    num_truth = len(truth_boxes)
    ignored = torch.zeros(num_truth, dtype=torch.bool) if truth_ignored is None else truth_ignored
    is_taken = torch.zeros(num_truth, dtype=torch.bool)
    is_true_positive = torch.zeros(detections.count, dtype=torch.bool)
    is_ignored = torch.zeros(detections.count, dtype=torch.bool)
    if num_truth and detections.count:
        best_overlaps, best_objects = _best_of_class(truth_boxes, truth_labels, detections)
        for row in detections.scores.sort(descending=True, stable=True).indices.tolist():
            target = int(best_objects[row])
            if best_overlaps[row] < iou_threshold:
                continue
            is_ignored[row] = ignored[target]
            is_true_positive[row] = not (ignored[target] or is_taken[target])
            is_taken[target] = True
    return ImageMatches(is_true_positive, is_ignored, ~(is_taken | ignored))


def each_image(truth: Truth, found: Found) -> Iterator[tuple[Ints, Ints]]:
    """Row numbers of the detections and of the objects of each image that has both."""
    for image in np.intersect1d(truth.image, found.image):
        objects = np.arange(*np.searchsorted(truth.image, [image, image + 1]))
        yield np.arange(*np.searchsorted(found.image, [image, image + 1])), objects


def row_blocks(rows: Ints, columns: int) -> Iterator[Ints]:
    """Cut rows into blocks, so that a table of these rows and some columns stays small.

    Args:
        rows: (N,) row numbers.
        columns: Width of the table.

    Example:
        >>> [len(block) for block in row_blocks(np.arange(30_000), 30_000)][:2]
        [34, 34]
    """
    step = max(1, BLOCK_PAIRS // max(1, columns))
    return (rows[start : start + step] for start in range(0, len(rows), step))


def class_overlaps(truth: Truth, found: Found, detected: Ints, objects: Ints) -> Floats:
    """Overlap of detections and objects of one image (D, G); -1 where the classes differ."""
    overlaps = any_overlaps(truth, found, detected, objects)
    overlaps[found.label[detected, None] != truth.label[objects]] = -1.0
    return overlaps


def any_overlaps(truth: Truth, found: Found, detected: Ints, objects: Ints) -> Floats:
    """Overlap of detections and objects of one image (D, G); in a crowd, the detection's share."""
    x0, y0, x1, y1 = found.boxes[detected].T[..., None]  # (D, 1) each
    left, top, right, bottom = truth.boxes[objects].T
    shared = (np.minimum(x1, right) - np.maximum(x0, left)).clip(0)
    shared *= (np.minimum(y1, bottom) - np.maximum(y0, top)).clip(0)
    area = (x1 - x0) * (y1 - y0)
    whole = area + (right - left) * (bottom - top) - shared
    np.copyto(whole, area, where=truth.crowd[objects])
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


def rank_in_class(found: Found) -> Ints:
    """Place of each detection among those of its image and class, from 0, best score first."""
    order = np.lexsort((-found.scores, found.label, found.image))
    group = np.stack([found.image, found.label])[:, order]
    starts = np.flatnonzero(np.r_[True, (group[:, 1:] != group[:, :-1]).any(0)][: len(order)])
    sizes = np.diff(np.r_[starts, len(order)])
    rank = np.zeros(len(order), np.int64)
    rank[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return rank


def _best_objects(truth: Truth, found: Found) -> tuple[Ints, Floats, Floats]:
    """The object that each detection overlaps most, by how much, and its share in a crowd."""
    best = np.zeros(len(found.scores), np.int64)
    best_overlap = np.full(len(found.scores), -1.0)
    crowd_overlap = np.full(len(found.scores), -1.0)
    blocks = (
        (block, objects)
        for detected, objects in each_image(truth, found)
        for block in row_blocks(detected, len(objects))
    )
    for detected, objects in blocks:
        overlaps = class_overlaps(truth, found, detected, objects)
        crowd = truth.crowd[objects]
        if crowd.any():
            crowd_overlap[detected] = overlaps[:, crowd].max(1)
            overlaps[:, crowd] = -1.0
        column = overlaps.argmax(1)
        best[detected] = objects[column]
        best_overlap[detected] = overlaps[np.arange(len(detected)), column]
    return best, best_overlap, crowd_overlap


def _touching(
    truth: Truth, found: Found, detected: Ints, objects: Ints, least: float
) -> Iterator[tuple[int, Ints, Floats]]:
    """Each detection that touches objects of its class: its row, their places, the overlaps."""
    for block in row_blocks(detected, len(objects)):
        overlaps = class_overlaps(truth, found, block, objects)
        for d, row in zip(block.tolist(), overlaps, strict=True):
            near = np.flatnonzero(row >= least)
            if len(near):
                yield d, near, row[near]


def _best_of_class(
    truth_boxes: Tensor, truth_labels: Tensor, detections: Detections
) -> tuple[Tensor, Tensor]:
    """Overlap with the object of its class that each detection overlaps most, and its row."""
    step = max(1, BLOCK_PAIRS // len(truth_boxes))
    others, best = truth_boxes.to(torch.float32), []
    for boxes, labels in zip(
        detections.boxes.split(step), detections.labels.split(step), strict=True
    ):
        overlaps = box_iou(boxes, others)
        overlaps[labels[:, None] != truth_labels[None, :]] = -1
        best.append(overlaps.max(dim=1))
    values, rows = zip(*best, strict=True)
    return torch.cat(values), torch.cat(rows)


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
