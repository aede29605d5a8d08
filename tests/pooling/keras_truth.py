"""Maps for the checks of the Keras layer, and what torch makes of them."""

import math
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from sppnet.pooling import spatial_pyramid_pool

FORMATS = ("channels_last", "channels_first")
# JAX compiles every shape and bin anew, so that few and small maps are what runs always
ALL = "--all" in sys.argv
LEVELS = (7, 5, 2, 2) if ALL else (4, 2, 2)
BINS = 3 * sum(n * n for n in LEVELS)  # of three channels
SIZES = [(1, 1), (2, 3), (13, 10)] if ALL else [(1, 1), (3, 2)]
FIT_SIZES = [(1, 1), (2, 3), (13, 10)]
# most cells tie; the smallest are numbers that TensorFlow and JAX take for zero
CHOICES = [math.nan, -math.nan, -math.inf, math.inf, -2.0, -1e-40, -0.0, 0.0, 1e-45, 1e-40, 1.0]
WEIGHTS = np.array([1, 1, 39, 1, 30, 3, 4, 4, 3, 3, 4]) / 93


def drawn(seed: int, height: int, width: int) -> torch.Tensor:
    """Maps (2, 3, H, W) full of ties, NaN and infinities."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.choice(CHOICES, (2, 3, height, width), p=WEIGHTS)).float()


def both_formats() -> Iterator[tuple[torch.Tensor, str]]:
    """Maps smaller and larger than the grid, for both data formats.

    The compiled forms meet all sizes: without compilation JAX needs seconds for each of them.
    """
    for seed, (height, width) in enumerate(SIZES[1:]):
        maps = drawn(seed, height, width)
        yield from ((maps, data_format) for data_format in FORMATS)


def whole_numbers() -> torch.Tensor:
    """Gradients of the output (2, L) that add up without rounding, in whatever order."""
    return (torch.arange(2.0 * BINS) % 5 + 1).reshape(2, BINS)


def max_by_torch(maps: torch.Tensor) -> torch.Tensor:
    """The truth; its own tests compare it with slow loops."""
    return spatial_pyramid_pool(maps, LEVELS)


def mean_by_torch(maps: torch.Tensor) -> torch.Tensor:
    """Means of the bins in the order of the pooled vector."""
    return torch.cat([adaptive_avg_pool2d(maps, n).flatten(1) for n in LEVELS], 1)


def gradient_by_torch(function: Callable, maps: torch.Tensor) -> torch.Tensor:
    """Gradient of the torch function."""
    maps = maps.clone().requires_grad_()
    return torch.autograd.grad(function(maps), maps, whole_numbers())[0]
