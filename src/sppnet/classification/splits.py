"""Which images a classifier is fitted on and which it is scored on."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

from sppnet.images import split_per_class

HOLDOUT = 0.2


@dataclass(frozen=True)
class Split:
    """Positions of the images to fit on and of those to score on; no image is in both.

    Args:
        train: (M,) int64, sorted.
        test: (N,) int64, sorted; empty where nothing is left to score on.
    """

    train: Tensor
    test: Tensor


def protocol_splits(
    labels: Tensor, train_per_class: int, test_per_class: int | None, splits: int, seed: int
) -> list[Split]:
    """Draw the splits of the Caltech-101 protocol.

    Args:
        labels: (N,) int64.
        train_per_class: Images of each class to fit on, at least 1.
        test_per_class: Most images of each class to score on, out of those left; None takes all of
            them.
        splits: How many random splits, at least 1.
        seed: Split i is drawn with ``seed + i``.

    Returns:
        The splits.

    Raises:
        ValueError: If a number is below 1, or a class leaves no image to score on.

    Source:
        SPP-net, section 3.3: 30 images per category to train, up to 50 to test, 10 random splits.
    """
    if train_per_class < 1 or splits < 1 or (test_per_class is not None and test_per_class < 1):
        raise ValueError(
            "train_per_class, test_per_class and splits must be at least 1, got "
            f"{train_per_class}, {test_per_class} and {splits}"
        )
    return [
        Split(*split_per_class(labels, train_per_class, test_per_class, seed + i))
        for i in range(splits)
    ]


def holdout_split(labels: Tensor, share: float = HOLDOUT, seed: int = 0) -> Split:
    """Keep a share of every class for scoring.

    A class of one image goes to the fitting side; a class of two or more keeps at least one image
    on each side.

    Args:
        labels: (N,) int64.
        share: Share of each class to score on, 0..1.
        seed: Decides which.

    Returns:
        The split.

    Raises:
        ValueError: If ``share`` is not between 0 and 1.

    Example:
        >>> split = holdout_split(torch.tensor([0] * 5 + [1] * 10), 0.2)
        >>> len(split.train), len(split.test)
        (12, 3)
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    generator = torch.Generator().manual_seed(seed)
    train, test = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        held = min(max(1, round(share * len(members))), len(members) - 1)
        test.append(members[:held])
        train.append(members[held:])
    return Split(torch.cat(train).sort().values, torch.cat(test).sort().values)


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
