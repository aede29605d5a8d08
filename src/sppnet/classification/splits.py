"""Divides images into those that a classifier is fitted on and those that it is scored on."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class SplitConfig:
    """How the images of a plain folder, without a test part, are divided.

    Args:
        train_per_class: Images of each class to fit on; None keeps 20 % of each class for scoring.
        test_per_class: Most images of each class to score on; None takes all that are left.
        splits: How many random splits; more than 1 needs ``train_per_class``.
        seed: Seed of the draw.

    Raises:
        ValueError: If a number is below 1, or one is given without ``train_per_class``.
    """

    train_per_class: int | None = None
    test_per_class: int | None = None
    splits: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.train_per_class is None and (self.test_per_class is not None or self.splits > 1):
            raise ValueError("test_per_class and splits must come with train_per_class")
        numbers = (self.train_per_class, self.test_per_class, self.splits)
        if any(number is not None and number < 1 for number in numbers):
            raise ValueError(
                f"train_per_class, test_per_class, splits must be at least 1, got {numbers}"
            )

    @property
    def is_protocol(self) -> bool:
        """Whether splits of given sizes are drawn, as in the paper's Caltech-101 runs."""
        return self.train_per_class is not None

    def draw(self, labels: Tensor) -> list[Split]:
        """Divide images by their labels."""
        if self.train_per_class is None:
            return [holdout_split(labels, HOLDOUT, self.seed)]
        return protocol_splits(
            labels, self.train_per_class, self.test_per_class, self.splits, self.seed
        )


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


def draw_sample(count: int, most: int | None, seed: int) -> Tensor:
    """Draw at most so many of ``count`` items: their positions, (n,) int64, sorted.

    Args:
        count: How many items there are.
        most: How many to keep; None keeps all.
        seed: Decides which.

    Example:
        >>> draw_sample(5, 3, seed=0), draw_sample(2, None, seed=0)
        (tensor([0, 1, 4]), tensor([0, 1]))
    """
    if most is None or most >= count:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:most].sort().values
