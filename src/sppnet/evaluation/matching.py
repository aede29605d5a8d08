"""Tables of all objects and detections, and which detections are hits by PASCAL VOC's rule.

Detections are treated from the best score down. Among equal scores, images go in the order of the
truth and the detections of one image in the order given. COCO's rule is in ``coco_matching``.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sppnet.geometry import Detections

if TYPE_CHECKING:
    from sppnet.images.dataset import LabelledImage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Truth(NamedTuple):
    """All objects: image number, class, box, whether it counts, whether it is a crowd."""

    image: Ints  # (G,)
    label: Ints  # (G,)
    boxes: Floats  # (G, 4)
    ignored: Mask  # (G,) difficult or crowd
    crowd: Mask  # (G,)


class Found(NamedTuple):
    """All detections: image number, class, score, box; image by image, in the order given."""

    image: Ints  # (D,)
    label: Ints  # (D,)
    scores: Floats  # (D,)
    boxes: Floats  # (D, 4)

    def above(self, score: float) -> "Found":
        """Take the detections of this score or a better one."""
        kept = self.scores >= score
        return Found(self.image[kept], self.label[kept], self.scores[kept], self.boxes[kept])


class Matches(NamedTuple):
    """What became of each detection at each of T overlap thresholds."""

    hit: Mask  # (T, D)
    ignored: Mask  # (T, D) counts neither way
    target: Ints  # (T, D) row of the object that a hit found, -1 for the others


def collect_truth(truth: Sequence["LabelledImage"], num_classes: int) -> Truth:
    """Put the objects of all images into one table.

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
    boxes = _joined([image.boxes for image in truth], (0, 4), np.float64)
    return Truth(
        _numbers([image.labels for image in truth]), label, boxes, crowd | difficult, crowd
    )


def collect_detections(
    truth: Sequence["LabelledImage"], detections: Mapping[Any, Any], num_classes: int
) -> Found:
    """Put the detections of all images into one table, in the order of the truth.

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
    equals). Enough overlap with an object that is not taken yet: a hit; with a taken one: a false
    alarm; with a difficult one: ignored. VOC knows no crowds: a detection that hits nothing and
    lies on a crowd is ignored, as in COCO.

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


def _best_objects(truth: Truth, found: Found) -> tuple[Ints, Floats, Floats]:
    """Object that each detection overlaps most, that overlap, and the most it lies in a crowd."""
    best = np.zeros(len(found.scores), np.int64)
    best_overlap = np.full(len(found.scores), -1.0)
    crowd_overlap = np.full(len(found.scores), -1.0)
    for detected, objects in each_image(truth, found):
        overlaps = class_overlaps(truth, found, detected, objects)
        crowd = truth.crowd[objects]
        if crowd.any():
            crowd_overlap[detected] = overlaps[:, crowd].max(1)
            overlaps[:, crowd] = -1.0
        column = overlaps.argmax(1)
        best[detected] = objects[column]
        best_overlap[detected] = overlaps[np.arange(len(detected)), column]
    return best, best_overlap, crowd_overlap


def each_image(truth: Truth, found: Found) -> Iterator[tuple[Ints, Ints]]:
    """Row numbers of the detections and of the objects of each image that has both."""
    for image in np.intersect1d(truth.image, found.image):
        objects = np.arange(*np.searchsorted(truth.image, [image, image + 1]))
        yield np.arange(*np.searchsorted(found.image, [image, image + 1])), objects


def class_overlaps(truth: Truth, found: Found, detected: Ints, objects: Ints) -> Floats:
    """Overlap of detections and objects of one image (D, G); -1 where the classes differ."""
    overlaps = any_overlaps(truth, found, detected, objects)
    overlaps[found.label[detected, None] != truth.label[objects]] = -1.0
    return overlaps


def any_overlaps(truth: Truth, found: Found, detected: Ints, objects: Ints) -> Floats:
    """Overlap of detections and objects of one image (D, G); in a crowd, the detection's share."""
    boxes, others = found.boxes[detected, None], truth.boxes[objects]
    sides = np.minimum(boxes[..., 2:], others[:, 2:]) - np.maximum(boxes[..., :2], others[:, :2])
    shared = sides.clip(0).prod(-1)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)  # (D, 1)
    other_area = (others[:, 2:] - others[:, :2]).prod(-1)
    whole = np.where(truth.crowd[objects], area, area + other_area - shared)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)


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
