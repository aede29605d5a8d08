"""A slow linear SVM, written from the objective: minimise |w|^2 / 2 + C * sum of hinge losses."""

import numpy as np


def hinge_objective(
    weights: np.ndarray, bias: float, rows: np.ndarray, signs: np.ndarray, c: float
) -> float:
    """Value that the SVM minimises; signs are +1 and -1."""
    losses = [
        max(0.0, 1 - s * (float(weights @ row) + bias)) for row, s in zip(rows, signs, strict=True)
    ]
    return 0.5 * float(weights @ weights) + c * sum(losses)


def descend(
    rows: np.ndarray, signs: np.ndarray, c: float, steps: int = 20_000
) -> tuple[np.ndarray, float]:
    """Subgradient descent with averaging: close to the minimum, never exactly there."""
    weights, bias = np.zeros(rows.shape[1]), 0.0
    best, lowest = (weights, bias), hinge_objective(weights, bias, rows, signs, c)
    for step in range(1, steps + 1):
        inside = signs * (rows @ weights + bias) < 1
        rate = 1.0 / (step + 10)
        weights = weights - rate * (weights - c * (signs[inside, None] * rows[inside]).sum(axis=0))
        bias = bias + rate * c * signs[inside].sum()
        if step % 20 == 0 and (value := hinge_objective(weights, bias, rows, signs, c)) < lowest:
            best, lowest = (weights, bias), value
    return best
