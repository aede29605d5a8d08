"""From scores of any scale, such as margins of SVMs, to probabilities of being right."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from sppnet.evaluation.calibration_curves import (
    CURVES,
    IsotonicCurve,
    PlattCurve,
    fit_isotonic,
    fit_platt,
)
from sppnet.evaluation.matching import Floats, Ints, Mask
from sppnet.geometry import Detections

Curve = PlattCurve | IsotonicCurve
_FITS: dict[str, Callable[[Floats, Mask], Curve]] = {
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}


class ScoreCalibration:
    """Turns the scores of a detector into probabilities, class by class.

    Fit it on detections of images that the detector was not trained on. The order of the
    detections of a class is never turned round, so average precision stays what it is, up to ties.

    Args:
        method: "platt" (a sigmoid, two numbers a class) or "isotonic" (rising steps; needs more
            data).
        least: A class with fewer hits or fewer false alarms than this uses the curve of all
            classes together.

    Attributes:
        curves_: One per class after ``fit``; None where the shared one is used.
        shared_: The curve of all classes together.

    Example:
        >>> scores, is_hit = [-2.0, -1.0, 1.0, 2.0] * 10, [False, False, True, True] * 10
        >>> calibration = ScoreCalibration().fit(scores, [0] * 40, is_hit, num_classes=1)
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
        self, scores: ArrayLike, labels: ArrayLike, is_hit: ArrayLike, num_classes: int
    ) -> "ScoreCalibration":
        """Learn from judged detections, such as those of ``judge_scores``.

        Args:
            scores: (N,) finite.
            labels: (N,) classes, 0..num_classes-1.
            is_hit: (N,) bool.
            num_classes: Number of classes.

        Returns:
            Itself.

        Raises:
            ValueError: If there is no detection, or a score is not finite.
        """
        values = np.asarray(scores, dtype=np.float64)
        classes, hits = np.asarray(labels), np.asarray(is_hit, dtype=np.bool_)
        if not len(values) or not np.isfinite(values).all():
            raise ValueError(f"scores must be finite and at least one, got {values[:5]}")
        fit_curve = _FITS[self.method]
        self.shared_ = fit_curve(values, hits)
        self.curves_ = []
        for label in range(num_classes):
            own = classes == label
            fewest = min(int(hits[own].sum()), int((~hits[own]).sum()))
            enough = fewest >= self.least
            self.curves_.append(fit_curve(values[own], hits[own]) if enough else None)
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
        """Replace the scores of detections by probabilities; boxes and order stay."""
        scores = self.probabilities(
            detections.scores.cpu().numpy(), detections.labels.cpu().numpy()
        )
        values = torch.from_numpy(scores).to(detections.scores)
        return Detections(detections.boxes, values, detections.labels)

    def configuration(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        curves = [curve and curve.configuration() for curve in self.curves_]
        shared = self.shared_ and self.shared_.configuration()
        return {"method": self.method, "least": self.least, "shared": shared, "curves": curves}

    @classmethod
    def restore(cls, configuration: Mapping[str, Any]) -> "ScoreCalibration":
        """Build it again from its configuration.

        Args:
            configuration: As :meth:`configuration` gives it.

        Raises:
            ValueError: If the method is not known.
            KeyError: If a part is missing.
        """
        result = cls(configuration["method"], configuration["least"])
        curve = CURVES[result.method]
        shared = configuration["shared"]
        result.shared_ = shared and curve(**shared)
        result.curves_ = [entry and curve(**entry) for entry in configuration["curves"]]
        return result


def cross_calibrate(
    scores: Floats,
    labels: Ints,
    is_hit: Mask,
    groups: Ints,
    num_classes: int,
    method: str = "platt",
    folds: int = 5,
) -> Floats | None:
    """Calibrate each group by a curve that was fitted on the other groups.

    Args:
        scores: (N,) finite.
        labels: (N,) classes.
        is_hit: (N,) bool.
        groups: (N,) what belongs together, such as the number of the image.
        num_classes: Number of classes.
        method: As for :class:`ScoreCalibration`.
        folds: Number of parts that take turns.

    Returns:
        (N,) probabilities; None with fewer than two groups.
    """
    fold = np.unique(groups, return_inverse=True)[1] % folds
    if len(np.unique(fold)) < 2:
        return None
    result = np.zeros(len(scores))
    for number in np.unique(fold):
        own = fold == number
        curve = ScoreCalibration(method).fit(scores[~own], labels[~own], is_hit[~own], num_classes)
        result[own] = curve.probabilities(scores[own], labels[own])
    return result
