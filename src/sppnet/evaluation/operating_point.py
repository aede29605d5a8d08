"""The score threshold at which a detector is shown, and which of its images are shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sppnet.evaluation.hits_and_misses import judge_detections
from sppnet.evaluation.reliability import judge_scores
from sppnet.geometry import Detections
from sppnet.images.dataset import LabelledImage


@dataclass(frozen=True)
class OperatingPoint:
    """What a detector does at one score threshold, over all images and classes.

    Args:
        score_threshold: Lowest score that counts.
        hits: Objects found.
        false_alarms: Detections that found nothing new.
        misses: Objects not found.
    """

    score_threshold: float
    hits: int
    false_alarms: int
    misses: int

    @property
    def precision(self) -> float:
        """Share of the detections that are right; NaN without detections."""
        return _share(self.hits, self.hits + self.false_alarms)

    @property
    def recall(self) -> float:
        """Share of the objects that are found; NaN without objects."""
        return _share(self.hits, self.hits + self.misses)

    def numbers(self) -> dict[str, float]:
        """All of it, for JSON."""
        return {**vars(self), "precision": self.precision, "recall": self.recall}


def _share(part: int, whole: int) -> float:
    """A ratio, NaN where there is nothing to divide."""
    return part / whole if whole else math.nan


def best_operating_point(
    images: Sequence[LabelledImage],
    detections: Mapping[Any, Detections],
    iou_threshold: float = 0.5,
) -> OperatingPoint:
    """Find the score threshold with the best F1, the harmonic mean of precision and recall.

    It is chosen on the images that it is measured on: good for looking at pictures, not a result.

    Args:
        images: With their truth; difficult objects and crowds do not count.
        detections: By image id; an image that is missing has none.
        iou_threshold: Overlap that makes a hit.

    Returns:
        The point; its threshold is infinite if nothing was found.
    """
    shown = {image.image_id for image in images} & detections.keys()
    found = {name: detections[name] for name in shown}
    every_label = [image.labels for image in images] + [one.labels for one in found.values()]
    num_classes = max((int(labels.max()) + 1 for labels in every_label if len(labels)), default=0)
    judged = judge_scores(images, found, range(num_classes), iou_threshold)
    num_objects = sum(int((~(image.difficult | image.crowd)).sum()) for image in images)
    scores, is_hit = torch.from_numpy(judged.scores), torch.from_numpy(judged.is_hit)
    return _best_point(scores, is_hit, num_objects)


def _best_point(scores: Tensor, is_hit: Tensor, num_objects: int) -> OperatingPoint:
    """The best threshold among the scores that occur."""
    ranked, order = scores.sort(descending=True, stable=True)
    hits = is_hit[order].cumsum(0)
    if not len(ranked) or not int(hits[-1]):
        return OperatingPoint(math.inf, 0, 0, num_objects)
    f1 = 2 * hits / (torch.arange(1, len(ranked) + 1) + num_objects)
    # Equal scores are taken together: only the last of them is a threshold.
    is_last = torch.cat([ranked[1:] != ranked[:-1], torch.tensor([True])])
    best = int(torch.where(is_last, f1, -1).argmax())
    found = int(hits[best])
    return OperatingPoint(float(ranked[best]), found, best + 1 - found, num_objects - found)


@dataclass(frozen=True)
class JudgedImage:
    """An image with the number of its hits, false alarms and misses at one threshold."""

    image: LabelledImage
    hits: int
    false_alarms: int
    misses: int

    @property
    def mistakes(self) -> int:
        """False alarms and misses."""
        return self.false_alarms + self.misses


def judge_images(
    images: Sequence[LabelledImage],
    detections: Mapping[Any, Detections],
    score_threshold: float,
    iou_threshold: float = 0.5,
) -> list[JudgedImage]:
    """Count hits and mistakes of each image.

    Args:
        images: With their truth.
        detections: By image id.
        score_threshold: Lowest score that counts.
        iou_threshold: Overlap that makes a hit.

    Returns:
        One record per image, in their order.
    """
    judged = []
    for image in images:
        found = detections.get(image.image_id, Detections.empty())
        found = found.select(found.scores >= score_threshold)
        ignored = image.difficult | image.crowd
        result = judge_detections(image.boxes, image.labels, found, iou_threshold, ignored)
        judged.append(JudgedImage(image, *result.counts()))
    return judged


def best_and_worst(
    judged: Sequence[JudgedImage], count: int = 6
) -> tuple[list[JudgedImage], list[JudgedImage]]:
    """Choose images to show.

    Args:
        judged: All images.
        count: How many of each kind at most.

    Returns:
        Those with most hits and fewest mistakes, and those with most mistakes; none is in both.
    """
    with_mistakes = [entry for entry in judged if entry.mistakes]
    worst = sorted(with_mistakes, key=lambda entry: (-entry.mistakes, entry.hits))[:count]
    shown = {id(entry) for entry in worst}
    others = [entry for entry in judged if entry.hits and id(entry) not in shown]
    return sorted(others, key=lambda entry: (entry.mistakes, -entry.hits))[:count], worst
