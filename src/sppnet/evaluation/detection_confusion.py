"""Which class a detector takes for which, with the background as one more class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sppnet.evaluation.matching import (
    Floats,
    Found,
    Ints,
    Truth,
    any_overlaps,
    collect_detections,
    collect_truth,
    each_image,
    match_voc,
)

if TYPE_CHECKING:
    from sppnet.images.dataset import LabelledImage

BACKGROUND = "background"


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

    def numbers(self) -> dict[str, object]:
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

    The hits of PASCAL VOC's rule are the diagonal. Of what is left, detections and objects of
    different classes are paired, those that overlap most first, each once. The rest is background.
    Difficult objects and crowds, and what lies on them, are left out.

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
    found = collect_detections(truth, detections, len(names)).above(score_threshold)
    matches = match_voc(objects, found, np.array([iou_threshold]))
    target = matches.target[0].copy()
    is_free = ~objects.ignored
    is_free[target[target >= 0]] = False
    for detected, here in each_image(objects, found):
        left = detected[(target[detected] < 0) & ~matches.ignored[0][detected]]
        _pair(objects, found, left, here[is_free[here]], iou_threshold, target)
    counted = ~matches.ignored[0]
    counts = _count(objects, found.label[counted], target[counted], len(names))
    return DetectionConfusion((*names, BACKGROUND), counts, score_threshold, iou_threshold)


def _pair(
    truth: Truth, found: Found, detected: Ints, objects: Ints, threshold: float, target: Ints
) -> None:
    """Pair detections and objects of different classes, the largest overlap first."""
    if not len(detected) or not len(objects):
        return
    overlaps: Floats = any_overlaps(truth, found, detected, objects)
    overlaps[found.label[detected, None] == truth.label[objects]] = -1.0
    for place in np.argsort(-overlaps, axis=None, kind="stable"):
        row, column = np.unravel_index(place, overlaps.shape)
        if overlaps[row, column] >= threshold:
            target[detected[row]] = objects[column]
            overlaps[row], overlaps[:, column] = -1.0, -1.0


def _count(truth: Truth, label: Ints, target: Ints, num_classes: int) -> NDArray[np.int64]:
    """The table from the object of each detection, -1 for none."""
    is_paired = target >= 0
    rows = np.full(len(label), num_classes)
    rows[is_paired] = truth.label[target[is_paired]]
    is_missed = ~truth.ignored
    is_missed[target[is_paired]] = False
    lost = truth.label[is_missed]
    sides = num_classes + 1
    truths, seen = np.r_[rows, lost], np.r_[label, np.full(len(lost), num_classes)]
    return np.bincount(truths * sides + seen, minlength=sides**2).reshape(sides, sides)
