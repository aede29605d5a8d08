"""From which score on a detection counts: the operating point of a detector.

``best_operating_point`` finds and measures one threshold for a report. ``OperatingPoints`` is what
a detector keeps: a threshold for each class and the calibration of its scores.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from sppnet.config.fields import Count, CountOrNone, Each, OneOf, Within, restore_fields
from sppnet.errors import count_of
from sppnet.evaluation.calibration import MatchedScores, ScoreCalibration, match_scores
from sppnet.evaluation.overlaps import Floats, Mask
from sppnet.geometry import Detections
from sppnet.images.dataset import LabelledImage

SOURCES = ("training", "val")  # where points are found: photos held out in training, or by `val`
FEWEST = 5  # with fewer true positives than this nothing can be said
IOU_THRESHOLD = 0.5
PART = 1000  # images that are matched at a time
FOLDS = 2  # parts of the photos of a training that are held out in turn
MOST_JUDGED = 10_000  # photos that are scored then: more would say nothing new


@dataclass(frozen=True)
class OperatingPoint:
    """What a detector does at one score threshold, over all images and classes.

    Args:
        score_threshold: Lowest score that counts.
        true_positives: Objects found.
        false_positives: Detections that found nothing new.
        false_negatives: Objects not found.
    """

    score_threshold: float
    true_positives: int
    false_positives: int
    false_negatives: int

    @property
    def precision(self) -> float:
        """Share of the detections that are right; NaN without detections."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Share of the objects that are found; NaN without objects."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    def to_json(self) -> dict[str, float]:
        """All of it, for JSON."""
        return {
            "score_threshold": self.score_threshold,
            "hits": self.true_positives,
            "false_alarms": self.false_positives,
            "misses": self.false_negatives,
            "precision": self.precision,
            "recall": self.recall,
        }


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
        iou_threshold: Lowest overlap of a true positive.

    Returns:
        The point; its threshold is infinite if nothing was found.
    """
    shown = {image.image_id for image in images} & detections.keys()
    found = {name: detections[name] for name in shown}
    every_label = [image.labels for image in images] + [one.labels for one in found.values()]
    num_classes = max((int(labels.max()) + 1 for labels in every_label if len(labels)), default=0)
    matched = match_scores(images, found, range(num_classes), iou_threshold)
    num_objects = sum(int((~(image.difficult | image.crowd)).sum()) for image in images)
    is_right = torch.from_numpy(matched.is_true_positive)
    return _best_point(torch.from_numpy(matched.scores), is_right, num_objects)


def _best_point(scores: Tensor, is_right: Tensor, num_objects: int) -> OperatingPoint:
    """The best threshold among the scores that occur."""
    ranked, order = scores.sort(descending=True, stable=True)
    true_positives = is_right[order].cumsum(0)
    if not len(ranked) or not int(true_positives[-1]):
        return OperatingPoint(math.inf, 0, 0, num_objects)
    f1 = 2 * true_positives / (torch.arange(1, len(ranked) + 1) + num_objects)
    # Equal scores are taken together: only the last of them is a threshold.
    is_last = torch.cat([ranked[1:] != ranked[:-1], torch.tensor([True])])
    best = int(torch.where(is_last, f1, -1).argmax())
    found = int(true_positives[best])
    return OperatingPoint(float(ranked[best]), found, best + 1 - found, num_objects - found)


@dataclass(frozen=True)
class SavedOperatingPoints:
    """What :meth:`OperatingPoints.config` writes."""

    thresholds: Annotated[tuple[float, ...], Each(Within(-1e6, 1e6), least=1)]
    calibration: dict[str, Any]
    source: Annotated[str, OneOf(SOURCES)]
    images: Count
    objects: tuple[int, ...]
    counted: CountOrNone = 0
    right: CountOrNone = 0


@dataclass(frozen=True, eq=False)
class OperatingPoints:
    """From which score on detections count, class by class, and how sure each of them is.

    Args:
        thresholds: (K,) least score of a detection that counts.
        calibration: Turns scores into probabilities.
        source: "training" (photos of the training, each scored by a classifier that was fitted
            without it) or "val" (other labelled photos).
        images: On how many photos they were found.
        objects: (K,) how many objects of each class these showed.
        counted: How many detections reached the thresholds there; 0 if that was not kept.
        right: How many of them were right.

    Example:
        >>> matched = MatchedScores(*map(np.array, (
        ...     [0.9, 0.8, 0.7, 0.6, 0.5, 0.1], [0] * 6, [True] * 5 + [False], [0, 1, 2, 3, 4, 5]
        ... )))
        >>> points = OperatingPoints.from_matches(matched, [6], 6, "val")
        >>> [round(value, 2) for value in points.thresholds]
        [0.3]
    """

    thresholds: tuple[float, ...]
    calibration: ScoreCalibration
    source: str
    images: int
    objects: tuple[int, ...]
    counted: int = 0
    right: int = 0

    @classmethod
    def fit(
        cls,
        images: Sequence[LabelledImage],
        detections: Mapping[Any, Detections],
        names: Sequence[str],
        source: str,
    ) -> "OperatingPoints | None":
        """Find them on labelled photos that the detector was not fitted on.

        The threshold of a class has the best F1 at overlap 0.5, halfway to the next lower score; a
        class with fewer than ten true or false positives has that of all classes together. Scores
        become probabilities by Platt's sigmoid.

        Args:
            images: With their truth; difficult objects and crowds do not count.
            detections: By image id, down to low scores.
            names: Class names.
            source: One of :data:`SOURCES`.

        Returns:
            The points; None with fewer than five true positives.

        Raises:
            ValueError: If detections and truth do not belong together.

        Source:
            Platt (1999); see :class:`ScoreCalibration`.
        """
        matched = _match_in_parts(images, detections, names)
        objects = np.zeros(len(names), dtype=np.int64)
        for image in images:
            counted = image.labels[~(image.difficult | image.crowd)].numpy()
            objects += np.bincount(counted, minlength=len(names))
        return cls.from_matches(matched, objects.tolist(), len(images), source)

    @classmethod
    def from_matches(
        cls, matched: MatchedScores, objects: Sequence[int], images: int, source: str
    ) -> "OperatingPoints | None":
        """Find them from scores that were matched with the truth.

        Args:
            matched: As ``match_scores`` gives it, of detections that no classifier was fitted to.
            objects: (K,) how many objects of each class there are to find.
            images: On how many photos.
            source: One of :data:`SOURCES`.

        Returns:
            The points; None with fewer than five true positives.
        """
        scores, labels, is_right = matched.scores, matched.labels, matched.is_true_positive
        if is_right.sum() < FEWEST:
            return None
        calibration = ScoreCalibration().fit(scores, labels, is_right, len(objects))
        shared = _best_threshold(scores, is_right, sum(objects))
        thresholds = []
        for label, count in enumerate(objects):
            own = labels == label
            is_known = calibration.curves_[label] is not None
            best = _best_threshold(scores[own], is_right[own], count) if is_known else shared
            thresholds.append(best)
        counts = scores >= np.array(thresholds, scores.dtype)[labels]
        shown = (int(counts.sum()), int(is_right[counts].sum()))
        return cls(tuple(thresholds), calibration, source, images, tuple(objects), *shown)

    def select(self, detections: Detections) -> Detections:
        """Take the detections that count, with the confidence of each.

        Args:
            detections: As the detector gives them.

        Returns:
            Those whose score reaches the threshold of their class, in the same order.
        """
        return self.with_confidence(detections.select(reaches(detections, self.thresholds)))

    def with_confidence(self, detections: Detections) -> Detections:
        """Give each detection the probability that it is right; nothing is left out.

        Args:
            detections: As the detector gives them.

        Returns:
            The same boxes, scores and labels, with :attr:`Detections.confidence`.
        """
        scores, labels = detections.scores.cpu().numpy(), detections.labels.cpu().numpy()
        sure = torch.from_numpy(self.calibration.probabilities(scores, labels))
        return Detections(detections.boxes, detections.scores, detections.labels, sure)

    def describe(self, names: Sequence[str]) -> str:
        """Say from which scores on detections count, and where that is from.

        Args:
            names: K class names.

        Example:
            >>> OperatingPoints((-0.25,), ScoreCalibration(), "val", 40, (30,)).describe(["cat"])
            'detections count from a score of -0.25, found by detect val on 40 photos'
        """
        ranked = sorted(zip(self.thresholds, names, strict=True))
        (low, first), (high, last) = ranked[0], ranked[-1]
        scores = f"scores of {low:z.2f} ({first}) to {high:z.2f} ({last})"
        if high == low:
            scores = f"a score of {low:z.2f}"
        where = f"by detect val on {count_of(self.images, 'photo')}"
        if self.source == "training":
            where = f"on {count_of(self.images, 'photo')} of the training, held out in turn"
        return f"detections count from {scores}, found {where}"

    def expect(self) -> str:
        """Say what the detections that count are worth: what they find, and how many are right.

        Points of an earlier version only know how sure a detection at the thresholds is.

        Example:
            >>> right = [False, True] * 20
            >>> calibration = ScoreCalibration().fit([-1.0, 1.0] * 20, [0] * 40, right, 1)
            >>> OperatingPoints((0.0,), calibration, "val", 40, (30,), 20, 18).expect()
            'there it finds 60 %, 90 % of what it says is right'
            >>> OperatingPoints((0.0,), calibration, "val", 40, (30,)).expect()
            'a detection that only just counts is right in 50 % of cases'
        """
        if self.counted:
            found = self.right / max(sum(self.objects), 1)
            right = self.right / self.counted
            return (
                f"there it finds {100 * found:.0f} %, {100 * right:.0f} % of what it says is right"
            )
        labels = np.arange(len(self.thresholds))
        sure = self.calibration.probabilities(np.array(self.thresholds, np.float32), labels)
        shares = [f"{100 * share:.0f}" for share in (sure.min(), sure.max())]
        percent = " to ".join(dict.fromkeys(shares))
        return f"a detection that only just counts is right in {percent} % of cases"

    def config(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return {
            "thresholds": list(self.thresholds),
            "calibration": self.calibration.config(),
            "source": self.source,
            "images": self.images,
            "objects": list(self.objects),
            "counted": self.counted,
            "right": self.right,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], num_classes: int) -> "OperatingPoints":
        """Build them again from :meth:`config`.

        Args:
            config: As :meth:`config` gives it.
            num_classes: K.

        Raises:
            TypeError: If it is no object.
            ValueError: If a part is missing, unknown or out of range, or of another number of
                classes.
        """
        saved = restore_fields(SavedOperatingPoints, config, "operating_points")
        calibration = ScoreCalibration.from_config(saved.calibration)
        lengths = {len(saved.thresholds), len(saved.objects), len(calibration.curves_)}
        if lengths != {num_classes} or calibration.shared_ is None:
            raise ValueError(f"operating_points must have {num_classes} classes and be fitted")
        if saved.right > saved.counted:
            raise ValueError(f"right must be at most {saved.counted}, got {saved.right}")
        shown = (saved.counted, saved.right)
        return cls(saved.thresholds, calibration, saved.source, saved.images, saved.objects, *shown)


def hold_out(count: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Divide photos into parts that are held out in turn.

    Of more than :data:`MOST_JUDGED` photos, only so many are scored; where one part has enough of
    them, the other parts are not held out.

    Args:
        count: How many photos there are.
        seed: Seed of their order.

    Returns:
        For each part, the numbers of the photos to learn from and of those to score, both rising.

    Example:
        >>> [(len(learnt), len(judged)) for learnt, judged in hold_out(30_000, 0)]
        [(15000, 10000)]
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    parts = 1 if count >= FOLDS * MOST_JUDGED else FOLDS
    last = MOST_JUDGED * (FOLDS // parts)
    places = list(enumerate(order))
    return [
        (
            [number for number, place in places if place % FOLDS != part],
            [number for number, place in places if place % FOLDS == part and place < last],
        )
        for part in range(parts)
    ]


def _match_in_parts(
    images: Sequence[LabelledImage], detections: Mapping[Any, Detections], names: Sequence[str]
) -> MatchedScores:
    """Match some images at a time, so that the tables of all of them are never there at once."""
    ids = {image.image_id for image in images}
    if len(images) <= PART or len(ids) < len(images) or not detections.keys() <= ids:
        return match_scores(images, detections, names, IOU_THRESHOLD)
    parts = []
    for start in range(0, len(images), PART):
        part = images[start : start + PART]
        found = {
            each.image_id: detections[each.image_id] for each in part if each.image_id in detections
        }
        matched = match_scores(part, found, names, IOU_THRESHOLD)
        parts.append(matched._replace(image=matched.image + start))
    return MatchedScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def reaches(detections: Detections, thresholds: Sequence[float]) -> Tensor:
    """Tell which detections reach the threshold of their class.

    Args:
        detections: N detections.
        thresholds: (K,) least score of each class.

    Returns:
        (N,) bool.

    Example:
        >>> boxes, labels = torch.tensor([[0.0, 0, 4, 4]] * 2), torch.tensor([0, 1])
        >>> reaches(Detections(boxes, torch.tensor([0.5, 0.5]), labels), [0.4, 0.6]).tolist()
        [True, False]
    """
    least = torch.tensor(thresholds, dtype=torch.float64, device=detections.labels.device)
    return detections.scores.double() >= least[detections.labels]


def _best_threshold(scores: Floats, is_right: Mask, num_objects: int) -> float:
    """The threshold with the best F1, halfway to the next lower score."""
    point = _best_point(torch.from_numpy(scores), torch.from_numpy(is_right), num_objects)
    lower = scores[scores < point.score_threshold]
    return (
        point.score_threshold if not len(lower) else float(point.score_threshold + lower.max()) / 2
    )
