"""Box regression the long way: targets one by one, whitening by eigenvectors, sklearn's ridge."""

import math
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import Ridge


def delta(proposal: Sequence[float], target: Sequence[float]) -> list[float]:
    """Shift of the centre in units of the window's sides, and logarithms of the growth."""
    px, py, gx, gy = ((box[i] + box[i + 2]) / 2 for box in (proposal, target) for i in (0, 1))
    pw, ph, gw, gh = (box[i + 2] - box[i] for box in (proposal, target) for i in (0, 1))
    return [(gx - px) / pw, (gy - py) / ph, math.log(gw / pw), math.log(gh / ph)]


def whiten(deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whitened targets, their mean before, and the matrix that takes whitened ones back."""
    mean = deltas.mean(axis=0)
    covariance = (deltas - mean).T @ (deltas - mean) / len(deltas)
    values, vectors = np.linalg.eigh(covariance)
    forth = vectors @ np.diag(1 / np.sqrt(values + 0.001)) @ vectors.T
    back = vectors @ np.diag(np.sqrt(values + 0.001)) @ vectors.T
    return (deltas - mean) @ forth, mean, back


def predict_deltas(
    rows: np.ndarray, deltas: np.ndarray, strength: float, asked: np.ndarray
) -> np.ndarray:
    """Fit on rows with a constant 1 behind them, regularised like the others, and predict."""
    whitened, mean, back = whiten(deltas)
    ridge = Ridge(alpha=strength, fit_intercept=False, solver="cholesky")
    ridge.fit(np.c_[rows, np.ones(len(rows))], whitened)
    return ridge.predict(np.c_[asked, np.ones(len(asked))]) @ back + mean
