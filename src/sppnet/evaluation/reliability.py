"""Whether a probability of 0.7 is right seven times of ten."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sppnet.evaluation.matching import (
    Floats,
    Ints,
    Mask,
    collect_detections,
    collect_truth,
    match_voc,
)
from sppnet.evaluation.score_calibration import ScoreCalibration, cross_calibrate

if TYPE_CHECKING:
    from sppnet.images.dataset import LabelledImage


class JudgedScores(NamedTuple):
    """The detections that count, of all images."""

    scores: Floats  # (N,)
    labels: Ints  # (N,)
    is_hit: Mask  # (N,)
    image: Ints  # (N,) number of the image


@dataclass(frozen=True)
class Reliability:
    """Probabilities against shares of hits.

    Args:
        source: Where the probabilities are from: "scores", "calibration" or "cross-calibration".
        probability: (B,) mean probability of the detections in each bin; NaN for an empty one.
        share: (B,) share of them that are hits.
        counts: (B,) how many they are.
        ece: Expected calibration error: mean distance of the two, weighted by the counts.
        brier: Mean squared distance of the probability from 1 (hit) or 0.
    """

    source: str
    probability: Floats
    share: Floats
    counts: Ints
    ece: float
    brier: float

    def numbers(self) -> dict[str, object]:
        """All of it, for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("probability", "share", "counts")}
        return {"source": self.source, **arrays, "ece": self.ece, "brier": self.brier}


def judge_scores(
    truth: Sequence["LabelledImage"],
    detections: Mapping[Any, Any],
    names: Sequence[object],
    iou_threshold: float = 0.5,
) -> JudgedScores:
    """Collect scores and whether they are hits, by PASCAL VOC's rule; what is ignored is left out.

    Args:
        truth: Images with their objects.
        detections: By image id.
        names: Class names, of which only the number matters.
        iou_threshold: Overlap that makes a hit.

    Returns:
        What ``ScoreCalibration.fit`` learns from.

    Raises:
        ValueError: As for :func:`sppnet.evaluation.evaluate_detections`.
    """
    objects = collect_truth(truth, len(names))
    found = collect_detections(truth, detections, len(names))
    matches = match_voc(objects, found, np.array([iou_threshold]))
    kept = ~matches.ignored[0]
    return JudgedScores(
        found.scores[kept], found.label[kept], matches.hit[0][kept], found.image[kept]
    )


def measure_reliability(
    judged: JudgedScores, num_classes: int, calibration: ScoreCalibration | None = None
) -> Reliability | None:
    """Compare probabilities with shares of hits.

    Args:
        judged: Detections.
        num_classes: Number of classes.
        calibration: Turns scores into probabilities. Without one, scores of 0..1 are taken as they
            are; others are calibrated across images: five parts, each by the other four.

    Returns:
        The comparison; None if there are too few images or detections to make one.
    """
    if not len(judged.scores):
        return None
    if calibration is not None:
        probability: Floats | None = calibration.probabilities(judged.scores, judged.labels)
        source = "calibration"
    elif judged.scores.min() >= 0 and judged.scores.max() <= 1:
        probability, source = judged.scores, "scores"
    else:
        probability = cross_calibrate(
            judged.scores, judged.labels, judged.is_hit, judged.image, num_classes
        )
        source = "cross-calibration"
    return None if probability is None else reliability_of(probability, judged.is_hit, source)


def reliability_of(
    probability: ArrayLike, is_hit: ArrayLike, source: str = "scores", bins: int = 10
) -> Reliability:
    """Compare probabilities with shares of hits, in bins of equal width.

    Args:
        probability: (N,) 0..1.
        is_hit: (N,) bool.
        source: Recorded in the result.
        bins: Number of bins; the last one holds 1.

    Returns:
        The comparison.

    Raises:
        ValueError: If a probability is outside 0..1.

    Example:
        >>> reliability_of([0.9, 0.9, 0.9, 0.1], [True, True, False, False]).ece.__round__(3)
        0.2

    Source:
        Guo et al., On Calibration of Modern Neural Networks (2017).
    """
    values, hits = np.asarray(probability, np.float64), np.asarray(is_hit, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"probability must be 0..1, got {values.min()}..{values.max()}")
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, values, bins) / counts
        share = np.bincount(place, hits, bins) / counts
    if not len(values):
        return Reliability(source, mean, share, counts, math.nan, math.nan)
    ece = float(np.nansum(counts * np.abs(mean - share)) / len(values))
    brier = float(((values - hits) ** 2).mean())
    return Reliability(source, mean, share, counts, ece, brier)
