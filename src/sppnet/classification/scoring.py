"""Figures of a classifier on images whose class is known."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FIGURES = ("top1", "top5", "mean_class_accuracy")


def score_predictions(scores: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Work out accuracy from the scores of every class.

    Args:
        scores: (N, K), larger is more likely.
        labels: (N,) int64, the true classes.
        names: K names.

    Returns:
        dict(top1, top5, mean_class_accuracy, per_class) with shares 0..1; None where no image is
        left to tell, and for a class without test images.

    Example:
        >>> figures = score_predictions(torch.eye(2), torch.tensor([0, 0]), ("cat", "dog"))
        >>> figures["top1"], figures["per_class"]
        (0.5, {'cat': 0.5, 'dog': None})
    """
    if not len(labels):
        return {**dict.fromkeys(FIGURES), "per_class": dict.fromkeys(names)}
    is_hit = rank_classes(scores) == labels[:, None]  # (N, K), one True in each row
    right = is_hit[:, 0].double()
    each = {
        name: float(right[labels == label].mean()) if bool((labels == label).any()) else None
        for label, name in enumerate(names)
    }
    present = [value for value in each.values() if value is not None]
    return {
        "top1": float(right.mean()),
        "top5": float(is_hit[:, :5].any(dim=1).double().mean()),
        "mean_class_accuracy": sum(present) / len(present),
        "per_class": each,
    }


def rank_classes(scores: Tensor) -> Tensor:
    """Order the classes of every image: (N, K) scores -> (N, K) int64, best first; ties by class.

    Example:
        >>> rank_classes(torch.tensor([[0.1, 0.6, 0.3]]))
        tensor([[1, 2, 0]])
    """
    order: Tensor = torch.sort(scores, dim=1, descending=True, stable=True).indices
    return order
