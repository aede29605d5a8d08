"""Figures of a classifier on images whose class is known."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from sppnet.evaluation import mean_class_accuracy, per_class_accuracy, top_k_accuracy

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
        >>> import torch
        >>> figures = score_predictions(torch.eye(2), torch.tensor([0, 0]), ("cat", "dog"))
        >>> figures["top1"], figures["per_class"]
        (0.5, {'cat': 0.5, 'dog': None})
    """
    if not len(labels):
        return {**dict.fromkeys(FIGURES), "per_class": dict.fromkeys(names)}
    values, truth = scores.double().numpy(), labels.numpy()
    best = values.argmax(axis=1)  # the first of equal ones
    shares = per_class_accuracy(best, truth, len(names)).tolist()
    return {
        "top1": top_k_accuracy(values, truth, 1),
        "top5": top_k_accuracy(values, truth, 5),
        "mean_class_accuracy": mean_class_accuracy(best, truth, len(names)),
        "per_class": {
            name: None if math.isnan(share) else share
            for name, share in zip(names, shares, strict=True)
        },
    }
