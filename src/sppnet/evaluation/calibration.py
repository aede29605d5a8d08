"""Scores as probabilities: calibration by Platt's sigmoid or isotonic steps, and its reliability.

``match_scores`` collects what ``ScoreCalibration`` learns from; ``measure_reliability`` tells how
far the scores of a detector, or the probabilities made of them, can be believed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from sppnet.config.fields import Count, Each, Within, restore_fields
from sppnet.evaluation.matching import collect_detections, collect_truth, match_voc
from sppnet.evaluation.overlaps import Floats, Ints, Mask
from sppnet.geometry import Detections

if TYPE_CHECKING:
    from sppnet.images.dataset import LabelledImage


class MatchedScores(NamedTuple):
    """Scores of the detections of all images that count, and which of them are right."""

    scores: Floats  # (N,)
    labels: Ints  # (N,)
    is_true_positive: Mask  # (N,)
    image: Ints  # (N,) number of the image


def match_scores(
    truth: Sequence["LabelledImage"],
    detections: Mapping[Any, Any],
    names: Sequence[object],
    iou_threshold: float = 0.5,
) -> MatchedScores:
    """Collect scores, and which are of true positives by PASCAL VOC's rule; leave out the ignored.

    Args:
        truth: Images with their objects.
        detections: By image id.
        names: Class names, of which only the number matters.
        iou_threshold: Lowest overlap of a true positive.

    Returns:
        What ``ScoreCalibration.fit`` learns from.

    Raises:
        ValueError: As for :func:`sppnet.evaluation.evaluate_detections`.
    """
    objects = collect_truth(truth, len(names))
    found = collect_detections(truth, detections, len(names))
    matches = match_voc(objects, found, np.array([iou_threshold]))
    kept = ~matches.ignored[0]
    return MatchedScores(
        found.scores[kept], found.label[kept], matches.true_positive[0][kept], found.image[kept]
    )


@dataclass(frozen=True)
class SavedCalibration:
    """What :meth:`ScoreCalibration.config` writes."""

    method: str
    least: Count
    shared: dict[str, Any] | None
    curves: list[dict[str, Any] | None]


class ScoreCalibration:
    """Turns the scores of a detector into probabilities, class by class.

    Fit it on detections of images that the detector was not trained on. The order of the
    detections of a class is never turned round, so average precision stays what it is, up to ties.

    Args:
        method: "platt" (a sigmoid, two numbers a class) or "isotonic" (rising steps; needs more
            data).
        least: A class with fewer true or fewer false positives than this uses the curve of all
            classes together.

    Attributes:
        curves_: One per class after ``fit``; None where the shared one is used.
        shared_: The curve of all classes together.

    Example:
        >>> scores, is_true_positive = [-2.0, -1.0, 1.0, 2.0] * 10, [False, False, True, True] * 10
        >>> calibration = ScoreCalibration().fit(scores, [0] * 40, is_true_positive, num_classes=1)
        >>> calibration.probabilities([-2.0, 0.0, 2.0], [0, 0, 0]).round(1).tolist()
        [0.0, 0.5, 1.0]

    Source:
        Platt (1999) with the targets of Lin, Lin and Weng (2007); Zadrozny and Elkan (2002).
    """

    def __init__(self, method: str = "platt", least: int = 10) -> None:
        if method not in _FITS:
            raise ValueError(f"method must be one of {', '.join(_FITS)}, got {method!r}")
        self.method = method
        self.least = least
        self.curves_: list[Curve | None] = []
        self.shared_: Curve | None = None

    def fit(
        self, scores: ArrayLike, labels: ArrayLike, is_true_positive: ArrayLike, num_classes: int
    ) -> "ScoreCalibration":
        """Learn from scores that were matched with the truth, as ``match_scores`` gives them.

        Args:
            scores: (N,) finite.
            labels: (N,) classes, 0..num_classes-1.
            is_true_positive: (N,) bool.
            num_classes: Number of classes.

        Returns:
            Itself.

        Raises:
            ValueError: If there is no detection, or a score is not finite.
        """
        values = np.asarray(scores, dtype=np.float64)
        classes, is_right = np.asarray(labels), np.asarray(is_true_positive, dtype=np.bool_)
        if not len(values) or not np.isfinite(values).all():
            raise ValueError(f"scores must be finite and at least one, got {values[:5]}")
        fit_curve = _FITS[self.method]
        self.shared_ = fit_curve(values, is_right)
        self.curves_ = []
        for label in range(num_classes):
            own = classes == label
            fewest = min(int(is_right[own].sum()), int((~is_right[own]).sum()))
            enough = fewest >= self.least
            self.curves_.append(fit_curve(values[own], is_right[own]) if enough else None)
        return self

    def probabilities(self, scores: ArrayLike, labels: ArrayLike) -> Floats:
        """Give the probability that each detection is right.

        Args:
            scores: (N,) finite.
            labels: (N,) classes.

        Returns:
            (N,) 0..1.

        Raises:
            ValueError: If it was not fitted, or a label is no class.
        """
        if self.shared_ is None:
            raise ValueError("the calibration must be fitted first")
        values, classes = np.asarray(scores, dtype=np.float64), np.asarray(labels)
        if len(classes) and not 0 <= classes.min() <= classes.max() < len(self.curves_):
            raise ValueError(f"labels must be 0..{len(self.curves_) - 1}, got {classes.max()}")
        result = np.zeros(len(values))
        for label in np.unique(classes):
            own = classes == label
            result[own] = (self.curves_[label] or self.shared_)(values[own])
        return result

    def apply(self, detections: Detections) -> Detections:
        """Replace the scores of detections by probabilities; boxes, labels and order stay."""
        scores = self.probabilities(
            detections.scores.cpu().numpy(), detections.labels.cpu().numpy()
        )
        values = torch.from_numpy(scores).to(detections.scores)
        return Detections(detections.boxes, values, detections.labels)

    def config(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        curves = [curve and curve.config() for curve in self.curves_]
        shared = self.shared_ and self.shared_.config()
        return {"method": self.method, "least": self.least, "shared": shared, "curves": curves}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "ScoreCalibration":
        """Build it again from its configuration.

        Args:
            config: As :meth:`config` gives it.

        Raises:
            TypeError: If it is no object.
            ValueError: If a part is missing, unknown or out of range.
        """
        saved = restore_fields(SavedCalibration, config, "calibration")
        result = cls(saved.method, saved.least)
        result.shared_, *result.curves_ = (
            None if entry is None else restore_fields(CURVES[saved.method], entry, "curve")
            for entry in (saved.shared, *saved.curves)
        )
        return result


def cross_calibrate(
    scores: Floats,
    labels: Ints,
    is_true_positive: Mask,
    groups: Ints,
    num_classes: int,
    method: str = "platt",
    folds: int = 5,
) -> Floats | None:
    """Calibrate each group by a curve that was fitted to other groups.

    Args:
        scores: (N,) finite.
        labels: (N,) classes.
        is_true_positive: (N,) bool.
        groups: (N,) what belongs together, such as the number of the image.
        num_classes: Number of classes.
        method: As for :class:`ScoreCalibration`.
        folds: Into how many parts the groups are divided; each is calibrated by the others.

    Returns:
        (N,) probabilities; None with fewer than two groups.
    """
    fold = np.unique(groups, return_inverse=True)[1] % folds
    if len(np.unique(fold)) < 2:
        return None
    result = np.zeros(len(scores))
    for number in np.unique(fold):
        own = fold == number
        curve = ScoreCalibration(method).fit(
            scores[~own], labels[~own], is_true_positive[~own], num_classes
        )
        result[own] = curve.probabilities(scores[own], labels[own])
    return result


@dataclass(frozen=True)
class PlattCurve:
    """The sigmoid of ``slope * score + offset``; the slope is not negative."""

    slope: Annotated[float, Within(0)]
    offset: float

    def __call__(self, scores: Floats) -> Floats:
        """Probability of each score: (N,)."""
        return _sigmoid(self.slope * scores + self.offset)

    def config(self) -> dict[str, Any]:
        """Both numbers."""
        return dict(vars(self))


def fit_platt(scores: Floats, is_true_positive: Mask) -> PlattCurve:
    """Fit the sigmoid of the least log loss, as a logistic regression without a penalty.

    With P right and N wrong detections, targets are (P + 1) / (P + 2) and 1 / (N + 2) instead of 1
    and 0, which keeps the slope finite where the scores separate right from wrong: each detection
    stands in the regression twice, as right and as wrong, weighted by its target. Scores that are
    lower where detections are right give the level curve: the order of detections is never turned
    round.

    Args:
        scores: (N,) finite.
        is_true_positive: (N,) bool.

    Returns:
        The curve.

    Source:
        Platt (1999); the targets after Lin, Lin and Weng, A note on Platt's probabilistic outputs
        for support vector machines (2007).
    """
    from sklearn.linear_model import LogisticRegression  # imported here so that --help stays quick

    right, wrong = int(is_true_positive.sum()), int((~is_true_positive).sum())
    targets = np.where(is_true_positive, (right + 1) / (right + 2), 1 / (wrong + 2))
    level = PlattCurve(0.0, float(np.log(targets.mean() / (1 - targets.mean()))))
    if scores.min() == scores.max():
        return level
    middle, spread = float(scores.mean()), float(scores.std())
    standard = (scores - middle) / spread
    regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    regression.fit(
        np.tile(standard, 2)[:, None],
        np.repeat([1, 0], len(scores)),
        sample_weight=np.r_[targets, 1 - targets],
    )
    slope, offset = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    if slope < 0:
        return level
    return PlattCurve(slope / spread, offset - slope * middle / spread)


def _sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -logits))


@dataclass(frozen=True)
class IsotonicCurve:
    """Linear interpolation between rising points; level before the first and after the last."""

    x: tuple[float, ...]
    y: Annotated[tuple[float, ...], Each(Within(0, 1), least=1)]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or any(
            a > b for v in (self.x, self.y) for a, b in pairwise(v)
        ):
            raise ValueError("x and y must rise together, one y for each x")

    def __call__(self, scores: Floats) -> Floats:
        """Probability of each score: (N,)."""
        return np.interp(scores, self.x, self.y)

    def config(self) -> dict[str, Any]:
        """The points."""
        return {"x": list(self.x), "y": list(self.y)}


def fit_isotonic(scores: Floats, is_true_positive: Mask) -> IsotonicCurve:
    """Fit the rising curve of the least squared error.

    Args:
        scores: (N,) finite.
        is_true_positive: (N,) bool.

    Returns:
        The curve; its points are the ends of the level parts.

    Source:
        Zadrozny and Elkan (2002); fitted by scikit-learn.
    """
    from sklearn.isotonic import IsotonicRegression  # imported here so that --help stays quick

    fitted = IsotonicRegression().fit(scores, is_true_positive.astype(np.float64))
    return IsotonicCurve(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))


Curve = PlattCurve | IsotonicCurve
CURVES: dict[str, type[PlattCurve] | type[IsotonicCurve]] = {
    "platt": PlattCurve,
    "isotonic": IsotonicCurve,
}
_FITS: dict[str, Callable[[Floats, Mask], Curve]] = {
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


@dataclass(frozen=True)
class ReliabilityDiagram:
    """Probabilities against shares of true positives, in bins.

    Args:
        source: Where the probabilities are from: "scores", "calibration" or "cross-calibration".
        probability: (B,) mean probability of the detections in each bin; NaN for an empty one.
        share: (B,) share of them that are true positives.
        counts: (B,) how many they are.
        ece: Expected calibration error: mean distance of the two, weighted by the counts.
        brier: Mean squared distance of the probability from 1 (true positive) or 0.
    """

    source: str
    probability: Floats
    share: Floats
    counts: Ints
    ece: float
    brier: float

    def to_json(self) -> dict[str, object]:
        """All of it, for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("probability", "share", "counts")}
        return {"source": self.source, **arrays, "ece": self.ece, "brier": self.brier}


def measure_reliability(
    matched: MatchedScores, num_classes: int, calibration: ScoreCalibration | None = None
) -> ReliabilityDiagram | None:
    """Compare probabilities with shares of true positives.

    Args:
        matched: Scores of detections, and whether each is right.
        num_classes: Number of classes.
        calibration: Turns scores into probabilities. Without one, scores of 0..1 are taken as they
            are; others are calibrated across images: five parts, each by the other four.

    Returns:
        The comparison; None if there are too few images or detections to make one.
    """
    if not len(matched.scores):
        return None
    if calibration is not None:
        probability: Floats | None = calibration.probabilities(matched.scores, matched.labels)
        source = "calibration"
    elif matched.scores.min() >= 0 and matched.scores.max() <= 1:
        probability, source = matched.scores, "scores"
    else:
        probability = cross_calibrate(
            matched.scores, matched.labels, matched.is_true_positive, matched.image, num_classes
        )
        source = "cross-calibration"
    return (
        None
        if probability is None
        else reliability_diagram(probability, matched.is_true_positive, source)
    )


def reliability_diagram(
    probability: ArrayLike, is_true_positive: ArrayLike, source: str = "scores", bins: int = 10
) -> ReliabilityDiagram:
    """Compare probabilities with shares of true positives, in bins of equal width.

    Args:
        probability: (N,) 0..1.
        is_true_positive: (N,) bool.
        source: Recorded in the result.
        bins: Number of bins; the last one holds 1.

    Returns:
        The comparison.

    Raises:
        ValueError: If a probability is outside 0..1.

    Example:
        >>> reliability_diagram([0.9, 0.9, 0.9, 0.1], [True, True, False, False]).ece.__round__(3)
        0.2

    Source:
        Guo et al., On Calibration of Modern Neural Networks (2017).
    """
    values, is_right = np.asarray(probability, np.float64), np.asarray(is_true_positive, np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"probability must be 0..1, got {values.min()}..{values.max()}")
    place = np.minimum((values * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(place, values, bins) / counts
        share = np.bincount(place, is_right, bins) / counts
    if not len(values):
        return ReliabilityDiagram(source, mean, share, counts, math.nan, math.nan)
    ece = float(np.nansum(counts * np.abs(mean - share)) / len(values))
    brier = float(((values - is_right) ** 2).mean())
    return ReliabilityDiagram(source, mean, share, counts, ece, brier)
