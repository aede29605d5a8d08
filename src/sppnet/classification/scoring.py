"""Figures of merit of a classifier: accuracies, VOC 2007's average precision, means over splits."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sppnet.evaluation import (
    average_precision_voc07,
    mean_class_accuracy,
    per_class_accuracy,
    precision_and_recall,
    top_k_accuracy,
)

FIGURES = ("top1", "top5", "mean_class_accuracy")


@dataclass(frozen=True)
class Task:
    """What is to be predicted for N images, and how predictions are scored.

    Args:
        targets: (N, K) int8: 1 the image shows the class, -1 it does not, 0 counts neither way.
        names: K class names.
        figures: From scores and targets of some images, each (n, K), to figures by name.
        key: Name of the figure that choices are made by; larger is better.
    """

    targets: Tensor
    names: tuple[str, ...]
    figures: Callable[[Tensor, Tensor], dict[str, Any]]
    key: str

    def figure(self, scores: Tensor, targets: Tensor) -> float:
        """The figure that choices are made by; 0 where there is no image to tell."""
        return float(self.figures(scores, targets)[self.key] or 0.0)


def class_task(labels: Tensor, names: Sequence[str]) -> Task:
    """Images of one class each: (N,) int64 labels and K names."""

    def figures(scores: Tensor, targets: Tensor) -> dict[str, Any]:
        return score_predictions(scores, targets.argmax(dim=1), names)

    targets = one_against_rest(labels, len(names))
    return Task(targets, tuple(names), figures, "mean_class_accuracy")


def presence_task(targets: Tensor, names: Sequence[str]) -> Task:
    """Images that show any number of K classes: (N, K) targets, 0 where VOC ignores them."""
    figures = partial(score_presence, names=names)
    return Task(targets, tuple(names), figures, "mean_ap")


def one_against_rest(labels: Tensor, num_classes: int) -> Tensor:
    """Turn classes into targets: (N,) int64 -> (N, K) int8, 1 for the image's class, else -1.

    Example:
        >>> one_against_rest(torch.tensor([1, 0]), 2).tolist()
        [[-1, 1], [1, -1]]
    """
    targets = torch.full((len(labels), num_classes), -1, dtype=torch.int8)
    targets[torch.arange(len(labels)), labels] = 1
    return targets


def score_predictions(scores: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Compute accuracies from the scores of every class.

    Args:
        scores: (N, K), larger is more likely.
        labels: (N,) int64, the true classes.
        names: K names.

    Returns:
        dict(top1, top5, mean_class_accuracy, per_class) with shares 0..1; None where there is no
        image, and for a class without images.

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


def score_presence(scores: Tensor, targets: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Rank images by every class's score: VOC 2007's average precision at 11 recalls.

    Args:
        scores: (N, K), larger is more likely.
        targets: (N, K): 1 shows the class, -1 does not, 0 counts neither way.
        names: K names.

    Returns:
        dict(mean_ap, per_class), 0..1; None for a class that no image shows, and for the mean of
        none. Equal scores keep the order of the images.

    Example:
        >>> import torch
        >>> targets = torch.tensor([[1], [0], [-1], [1]])
        >>> scores = torch.tensor([[0.9], [0.8], [0.7], [0.1]])
        >>> score_presence(scores, targets, ["cat"])["per_class"]
        {'cat': 0.8484848484848484}

    Source:
        Everingham et al. (2010), section 4.1; SPP-net, section 3.2.
    """
    pairs = zip(scores.double().numpy().T, targets.numpy().T, names, strict=True)
    per_class = {name: _average_precision(values, truth) for values, truth, name in pairs}
    known = [value for value in per_class.values() if value is not None]
    return {"mean_ap": mean(known) if known else None, "per_class": per_class}


def _average_precision(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Average precision of one class."""
    order = np.argsort(-scores, kind="stable")
    hits = truth[order][truth[order] != 0] > 0
    if not hits.any():
        return None
    return average_precision_voc07(*precision_and_recall(hits, int(hits.sum())))


def mean_figures(
    per_split: Sequence[dict[str, Any]],
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Average accuracy over splits.

    Args:
        per_split: For each split what ``score_predictions`` returns.

    Returns:
        The mean of every figure, classes too, and a summary dict(count, mean, std, each); the
        deviation is that of a sample (n - 1). For one split, or splits without a test image, that
        split's figures and None.

    Example:
        >>> a = {"top1": 0.5, "top5": 1.0, "per_class": {"cat": 0.5, "dog": None}}
        >>> figures, summary = mean_figures([a, {**a, "top1": 0.75}])
        >>> figures["top1"], figures["per_class"], round(summary["std"]["top1"], 4)
        (0.625, {'cat': 0.5, 'dog': None}, 0.1768)
    """
    if len(per_split) == 1 or per_split[0]["top1"] is None:
        return dict(per_split[0]), None
    names = [name for name in per_split[0] if name != "per_class"]
    columns = {name: [float(each[name]) for each in per_split] for name in names}
    means = {name: mean(column) for name, column in columns.items()}
    summary = {
        "count": len(per_split),
        "mean": means,
        "std": {name: stdev(column) for name, column in columns.items()},
        "each": [{name: each[name] for name in names} for each in per_split],
    }
    classes = per_split[0]["per_class"]
    per_class = {name: _mean([each["per_class"][name] for each in per_split]) for name in classes}
    return {**means, "per_class": per_class}, summary


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there."""
    present = [value for value in values if value is not None]
    return mean(present) if present else None
