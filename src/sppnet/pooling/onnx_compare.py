"""How far the results of an exported file are from torch's."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Comparison:
    """How far onnxruntime and torch are apart on one set of inputs.

    Args:
        shapes: Of the inputs.
        difference: Largest difference of the outputs, in shares of the largest value.
        pooling: The same of the pooled vectors alone; None where nothing was probed.
    """

    shapes: tuple[tuple[int, ...], ...]
    difference: float
    pooling: float | None

    def matches(self, tolerance: float) -> bool:
        """Whether the outputs are as close as they must be, and the pooled vectors equal."""
        return self.difference <= tolerance and not self.pooling


def largest_difference(actual: Tensor, expected: Tensor) -> float:
    """Largest difference in shares of the largest finite value expected; 0 only where all is equal.

    Args:
        actual: A result.
        expected: What it should be; NaN equals NaN.

    Returns:
        The share; infinity where the shapes differ, or only one of two values is finite.

    Example:
        >>> largest_difference(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 5.0]))
        0.1
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return torch.inf
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    if bool(same.all()):
        return 0.0
    apart = (actual - expected).abs()[~same].max().double()
    largest = expected[expected.isfinite()].abs().max().double() if expected.numel() else apart
    share = float(apart / largest)
    return share if share > 0 else torch.inf  # NaN is no share
