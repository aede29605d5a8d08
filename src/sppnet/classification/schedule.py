"""Which input size and which learning rate belong to which epoch."""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch

SHARES = (1.0, 0.1, 0.01)  # "divided by 10 (twice)"
LATEST = (0.6, 0.85)  # share of the epochs after which a drop comes even without a plateau
MOST_SEED = 2**32 - 1
LEAST_GAIN = 0.01  # a loss that falls by less than this share has not improved


@dataclass(frozen=True)
class InputSizes:
    """Sizes of the network's input, epoch by epoch.

    Args:
        sides: Pixels: sides of the square input, or short sides of natural input.
        is_range: Draw a size between the smallest and the largest for every epoch; otherwise the
            sizes take turns, one whole epoch each.
        natural: Show whole images in their own shape instead of square crops.

    Raises:
        ValueError: If there is no size, or one is below 1.

    Example:
        >>> sizes = InputSizes.parse("180,224")
        >>> [sizes.of_epoch(epoch, seed=0) for epoch in range(4)]
        [224, 180, 224, 180]
        >>> InputSizes.parse("natural")
        InputSizes(sides=(224,), is_range=False, natural=True)

    Source:
        SPP-net, section 2.3: sizes that take turns, and a random size in [180, 224] per epoch.
    """

    sides: tuple[int, ...] = (180, 224)
    is_range: bool = False
    natural: bool = False

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < 1:
            raise ValueError(f"imgsz must be one or more positive numbers, got {self.sides}")

    @classmethod
    def parse(cls, text: str) -> "InputSizes":
        """Read ``224``, ``180,224``, ``180-224``, ``natural``, ``natural:192`` or the like.

        Raises:
            ValueError: If it is none of them.
        """
        word, _, rest = text.replace(" ", "").partition(":")
        numbers = (rest or "224") if word == "natural" else text.replace(" ", "")
        if not re.fullmatch(r"\d{1,4}(-\d{1,4}|(,\d{1,4})*)", numbers):
            rule = "imgsz must be N, N,N,..., N-N or natural[:N], numbers below 10000"
            raise ValueError(f"{rule}, got {text!r}")
        sides = tuple(int(number) for number in re.split("[-,]", numbers))
        return cls(sides, "-" in numbers, word == "natural")

    def __str__(self) -> str:
        numbers = ("-" if self.is_range else ",").join(map(str, self.sides))
        return f"natural:{numbers}" if self.natural else numbers

    @property
    def largest(self) -> int:
        """The largest of the sizes; smaller input is the same crop resized."""
        return max(self.sides)

    def of_epoch(self, epoch: int, seed: int) -> int:
        """The size of an epoch, 0 for the first; sizes that take turns begin with the largest."""
        if self.is_range:
            low, high = min(self.sides), max(self.sides)
            draw = torch.Generator().manual_seed(seed_of(seed, "size", epoch))
            return int(torch.randint(low, high + 1, (), generator=draw))
        ordered = sorted(self.sides, reverse=True)
        return ordered[epoch % len(ordered)]


def check_seed(seed: int) -> None:
    """Refuse a seed that a random generator would not take.

    Raises:
        ValueError: If it is not in 0..2**32 - 1.

    Example:
        >>> check_seed(5)
    """
    if not 0 <= seed <= MOST_SEED:
        raise ValueError(f"seed must be at least 0 and at most {MOST_SEED}, got {seed}")


def seed_of(*parts: int | str) -> int:
    """Make a seed out of what shall decide random numbers: the run's seed, a purpose, a place.

    Nothing that was drawn before matters, so a run can begin anywhere and draw the same.

    Example:
        >>> seed_of(0, "order", 1) != seed_of(1, "order", 0)
        True
    """
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def cosine_share(step: int, total_steps: int) -> float:
    """Fall along half a cosine from 1 to nearly 0.

    Args:
        step: 0 for the first update.
        total_steps: Updates in all, at least 1.

    Example:
        >>> [round(cosine_share(step, 4), 2) for step in range(4)]
        [1.0, 0.85, 0.5, 0.15]
    """
    return 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0)))


def plateau_share(losses: Sequence[float], epochs: int, patience: int, window: int = 1) -> float:
    """Divide the rate by 10 when the loss has stopped improving, twice at most.

    The mean loss of the last ``window`` epochs has to fall by 1 % within ``patience`` epochs. A run
    of few epochs may never come to rest, so the two drops come at the latest after 60 % and 85 % of
    them. After the second the training goes on to its last epoch. The share follows from the losses
    alone, so a resumed run needs no other state.

    Args:
        losses: Training loss of each epoch so far.
        epochs: Epochs in all.
        patience: Epochs without improvement that count as a plateau.
        window: Epochs to average: a whole turn where sizes take turns, as their losses differ.

    Returns:
        1, 0.1 or 0.01.

    Example:
        >>> [plateau_share([1.0] * count, 100, patience=3) for count in (3, 4, 8)]
        [1.0, 0.1, 0.01]

    Source:
        SPP-net, section 3.1: "divided by 10 (twice) when the error plateaus".
    """
    drops, waited, best, since = 0, 0, math.inf, 0
    for done in range(1, len(losses) + 1):
        if done - since >= window:  # a shorter mean could be of the easier sizes only
            loss = mean(losses[done - window : done])
            waited, best = (0, loss) if loss < best * (1 - LEAST_GAIN) else (waited + 1, best)
        if drops < len(LATEST) and (waited >= patience or done >= round(LATEST[drops] * epochs)):
            drops, waited, best, since = drops + 1, 0, math.inf, done
    return SHARES[drops]
