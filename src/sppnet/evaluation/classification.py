"""Accuracy of a classifier: top-k, by class, and the confusion matrix."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def top_k_accuracy(scores: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """Share of the images whose true class is among the k best scores.

    Among equal scores the lower class number comes first, so a classifier that says nothing earns
    nothing.

    Args:
        scores: (N, C) finite.
        labels: (N,) true classes, 0..C-1.
        k: At least 1; with k >= C every image counts.

    Returns:
        0..1; NaN without images.

    Raises:
        ValueError: If the shapes do not fit, a score is not finite or a label is no class.

    Example:
        >>> top_k_accuracy([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], [1, 1]), top_k_accuracy(
        ...     [[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]], [1, 1], k=2
        ... )
        (0.5, 1.0)
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"scores must be finite and of shape (N, C), got {values.shape}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    truth = _checked_labels(labels, values.shape[1], "labels")
    if len(truth) != len(values):
        raise ValueError(f"labels must have shape ({len(values)},), got {truth.shape}")
    own = values[np.arange(len(truth)), truth][:, None]
    earlier = np.arange(values.shape[1]) < truth[:, None]
    rank = ((values > own) | ((values == own) & earlier)).sum(1)
    return _mean(rank < k)


def confusion_matrix(
    predicted: ArrayLike, labels: ArrayLike, num_classes: int
) -> NDArray[np.int64]:
    """Count how often each class was taken for each class.

    Args:
        predicted: (N,) classes, 0..num_classes-1.
        labels: (N,) true classes.
        num_classes: Number of classes C.

    Returns:
        (C, C); rows are true classes, columns predicted ones.

    Raises:
        ValueError: If the lengths differ or a number is no class.

    Example:
        >>> confusion_matrix([0, 1, 1], [0, 0, 1], 2).tolist()
        [[1, 1], [0, 1]]
    """
    guesses = _checked_labels(predicted, num_classes, "predicted")
    truth = _checked_labels(labels, num_classes, "labels")
    if len(guesses) != len(truth):
        raise ValueError(f"predicted must have shape ({len(truth)},), got {guesses.shape}")
    counts = np.bincount(truth * num_classes + guesses, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def per_class_accuracy(
    predicted: ArrayLike, labels: ArrayLike, num_classes: int
) -> NDArray[np.float64]:
    """Share of each class's images that were recognised.

    Args:
        predicted: (N,) classes, 0..num_classes-1.
        labels: (N,) true classes.
        num_classes: Number of classes C.

    Returns:
        (C,) 0..1; NaN for a class without images.

    Raises:
        ValueError: As for :func:`confusion_matrix`.

    Example:
        >>> per_class_accuracy([0, 1, 1], [0, 0, 1], 3).tolist()
        [0.5, 1.0, nan]
    """
    counts = confusion_matrix(predicted, labels, num_classes)
    images = counts.sum(1)
    shares = np.full(num_classes, np.nan)
    np.divide(counts.diagonal(), images, out=shares, where=images > 0)
    return shares


def mean_class_accuracy(predicted: ArrayLike, labels: ArrayLike, num_classes: int) -> float:
    """Mean over the classes that have images of the share that was recognised.

    Args:
        predicted: (N,) classes, 0..num_classes-1.
        labels: (N,) true classes.
        num_classes: Number of classes.

    Returns:
        0..1; NaN without images.

    Raises:
        ValueError: As for :func:`confusion_matrix`.

    Example:
        >>> mean_class_accuracy([0, 1, 1], [0, 0, 1], 3)
        0.75

    Source:
        The measure of Caltech-101; SPP-net, section 3.3.
    """
    shares = per_class_accuracy(predicted, labels, num_classes)
    return _mean(shares[~np.isnan(shares)])


def _checked_labels(labels: ArrayLike, num_classes: int, name: str) -> NDArray[np.int64]:
    """Return class numbers as integers, all of them inside 0..num_classes-1."""
    values = np.asarray(labels)
    if values.ndim != 1:
        raise ValueError(f"{name} must have shape (N,), got {values.shape}")
    if values.size and values.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {values.dtype}")
    bad = values[(values < 0) | (values >= num_classes)]
    if bad.size:
        raise ValueError(f"{name} must be 0..{num_classes - 1}, got {bad[0]}")
    return values.astype(np.int64)


def _mean(values: NDArray[np.bool_] | NDArray[np.float64]) -> float:
    """Mean, NaN for nothing."""
    return float(values.mean()) if len(values) else float("nan")
