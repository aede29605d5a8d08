"""Rising curves from a score to a probability: a sigmoid, and steps."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sppnet.evaluation.matching import Floats, Mask

_MOST_STEPS = 100
_LEAST_GAIN = 1e-12


@dataclass(frozen=True)
class PlattCurve:
    """The sigmoid of ``slope * score + offset``; the slope is not negative."""

    slope: float
    offset: float

    def __call__(self, scores: Floats) -> Floats:
        """Probability of each score: (N,)."""
        return _sigmoid(self.slope * scores + self.offset)

    def configuration(self) -> dict[str, Any]:
        """Both numbers."""
        return dict(vars(self))


@dataclass(frozen=True)
class IsotonicCurve:
    """Straight lines between points that rise; level beyond the first and the last."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, scores: Floats) -> Floats:
        """Probability of each score: (N,)."""
        return np.interp(scores, self.x, self.y)

    def configuration(self) -> dict[str, Any]:
        """The points."""
        return {"x": list(self.x), "y": list(self.y)}


CURVES: dict[str, type[PlattCurve] | type[IsotonicCurve]] = {
    "platt": PlattCurve,
    "isotonic": IsotonicCurve,
}


def fit_platt(scores: Floats, is_hit: Mask) -> PlattCurve:
    """Fit the sigmoid of the least log loss by Newton's method.

    Targets are (hits + 1) / (hits + 2) and 1 / (others + 2) instead of 1 and 0, which keeps the
    slope finite where the scores separate hits from the rest. Scores that fall with the hits give
    the level curve: the order of detections is never turned round.

    Args:
        scores: (N,) finite.
        is_hit: (N,) bool.

    Returns:
        The curve.

    Source:
        Lin, Lin and Weng, A note on Platt's probabilistic outputs for support vector machines
        (2007), algorithm 1.
    """
    hits, others = int(is_hit.sum()), int((~is_hit).sum())
    targets = np.where(is_hit, (hits + 1) / (hits + 2), 1 / (others + 2))
    middle, spread = float(scores.mean()), float(scores.std()) or 1.0
    columns = np.stack([(scores - middle) / spread, np.ones_like(scores)], 1)  # (N, 2)
    prior = (hits + 1) / (hits + others + 2)
    level = np.array([0.0, np.log(prior / (1 - prior))])
    slope, offset = _newton(columns, targets, level)
    if slope < 0:
        return PlattCurve(0.0, float(np.log(targets.mean() / (1 - targets.mean()))))
    return PlattCurve(slope / spread, offset - slope * middle / spread)


def fit_isotonic(scores: Floats, is_hit: Mask) -> IsotonicCurve:
    """Fit the rising curve of the least squared error, by pooling neighbours that fall.

    Args:
        scores: (N,) finite.
        is_hit: (N,) bool.

    Returns:
        The curve; its points are the ends of the level parts.

    Source:
        Zadrozny and Elkan (2002); Ayer et al. (1955).
    """
    values, place = np.unique(scores, return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    means = np.bincount(place, weights=is_hit) / weights
    blocks: list[list[float]] = []  # mean, weight, number of values
    for mean, weight in zip(means.tolist(), weights.tolist(), strict=True):
        blocks.append([mean, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            mean_b, weight_b, count_b = blocks.pop()
            mean_a, weight_a, count_a = blocks.pop()
            total = weight_a + weight_b
            mean_ab = (mean_a * weight_a + mean_b * weight_b) / total
            blocks.append([mean_ab, total, count_a + count_b])
    level = np.repeat([block[0] for block in blocks], [int(block[2]) for block in blocks])
    inside = np.r_[False, (level[2:] == level[1:-1]) & (level[1:-1] == level[:-2]), False]
    kept = ~inside[: len(level)]
    return IsotonicCurve(tuple(values[kept].tolist()), tuple(level[kept].tolist()))


def _newton(columns: Floats, targets: Floats, start: Floats) -> tuple[float, float]:
    """Minimise the log loss; steps are halved until they help."""
    weights = start
    loss = _log_loss(columns @ weights, targets)
    for _ in range(_MOST_STEPS):
        probability = _sigmoid(columns @ weights)
        gradient = columns.T @ (probability - targets)
        curvature = (columns * (probability * (1 - probability))[:, None]).T @ columns
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        size = 1.0
        while size > _LEAST_GAIN:
            better = _log_loss(columns @ (weights - size * step), targets)
            if better <= loss:
                break
            size /= 2
        gain, weights, loss = loss - better, weights - size * step, min(better, loss)
        if gain < _LEAST_GAIN * max(1.0, abs(loss)):
            break
    return float(weights[0]), float(weights[1])


def _log_loss(logits: Floats, targets: Floats) -> float:
    """Sum of the log losses, without overflow."""
    return float((np.logaddexp(0, logits) - targets * logits).sum())


def _sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -logits))
