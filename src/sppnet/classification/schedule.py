"""Which input size and which learning rate belong to which epoch."""

import re
from dataclasses import dataclass

import torch

from sppnet.training.seeds import seed_of


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
