"""Maps, windows and shapes to time on; all of them follow from a seed."""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

STRIDE = 16  # pixels to a cell
LEAST_SIDE = 20  # pixels; selective search's windows are seldom smaller
MOVED = 0.35  # part of the windows that are earlier ones, moved a little
MOVE = 2  # pixels at most
WINDOW_WORDS = (
    f"Windows are drawn in the pixels of an image {STRIDE} times the size of the map, as selective "
    f"search leaves them: each side log-uniform from {LEAST_SIDE} pixels to the whole image, the "
    f"place uniform; {MOVED:.0%} are earlier windows with corners moved by up to {MOVE} pixels. "
    "Projected to cells, about a fifth coincide with another one."
)
LAYOUTS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}


def draw_map(shape: Sequence[int], seed: int) -> Tensor:
    """Draw a feature map as a rectifier leaves it: half of it zeros, so that there are ties.

    Example:
        >>> draw_map((1, 2, 3, 4), seed=0).shape
        torch.Size([1, 2, 3, 4])
    """
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).relu_()


def draw_gradient(pooled: Tensor, seed: int) -> Tensor:
    """Draw whole numbers: their sums are exact, so that gradients can be compared bit by bit.

    Example:
        >>> draw_gradient(torch.zeros(1, 2), seed=0).dtype
        torch.float32
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, pooled.shape, generator=generator).float()


def draw_windows(count: int, size_hw: tuple[int, int], seed: int) -> Tensor:
    """Draw windows like those of selective search, as regions of one map.

    Args:
        count: How many.
        size_hw: Cells of the map.
        seed: Of the draw.

    Returns:
        (count, 5) int64 rows of image 0.

    Example:
        >>> rows = draw_windows(1000, (40, 60), seed=0)
        >>> 0.1 < duplicate_share(rows) < 0.3
        True
    """
    generator = torch.Generator().manual_seed(seed)
    sides = torch.tensor([size_hw[1], size_hw[0]]) * STRIDE
    least = sides.clamp(max=LEAST_SIDE)
    spans = least * (sides / least) ** torch.rand(count, 2, generator=generator)
    low = torch.rand(count, 2, generator=generator) * (sides - spans)
    corners = torch.cat([low, low + spans], 1)
    moved = torch.rand(count, generator=generator) < MOVED
    moved[0] = False
    earlier = (torch.rand(count, generator=generator) * torch.arange(count)).long()
    shift = MOVE * (2 * torch.rand(count, 4, generator=generator) - 1)
    corners = torch.where(moved[:, None], corners[earlier] + shift, corners)
    return _to_cells(corners, size_hw)


def _to_cells(corners: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Project pixel corners to the cells that they touch, at least one."""
    most = torch.tensor([size_hw[1], size_hw[0]])
    low = (corners[:, :2] / STRIDE).floor().long().clamp(min=0).minimum(most - 1)
    high = (corners[:, 2:] / STRIDE).ceil().long().minimum(most).maximum(low + 1)
    return torch.cat([torch.zeros(len(corners), 1, dtype=torch.int64), low, high], 1)


def duplicate_share(rows: Tensor) -> float:
    """Part of the regions that coincide with an earlier one.

    Example:
        >>> duplicate_share(torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]))
        0.5
    """
    return 1 - len(torch.unique(rows, dim=0)) / len(rows)


def draw_shapes(count: int, most_bytes: int, seed: int) -> list[tuple[int, int, int, int]]:
    """Draw (N, C, H, W), each side log-uniform: N to 32, C to 512, H and W to 64.

    Example:
        >>> len(draw_shapes(3, 1_000_000, seed=0))
        3
    """
    generator = random.Random(seed)  # noqa: S311 - no secrets
    drawn: list[tuple[int, int, int, int]] = []
    while len(drawn) < count:
        logs = [generator.uniform(0, math.log(most + 1)) for most in (32, 512, 64, 64)]
        n, c, h, w = (max(1, int(math.exp(each))) for each in logs)
        if 4 * n * c * h * w <= most_bytes:
            drawn.append((n, c, h, w))
    return drawn


def draw_sizes(count: int, sides: tuple[int, int], seed: int) -> list[tuple[int, int]]:
    """Draw different (height, width) pairs, uniform between two sides.

    Example:
        >>> len(set(draw_sizes(9, (6, 40), seed=0)))
        9
    """
    low, high = sides
    every = [(h, w) for h in range(low, high + 1) for w in range(low, high + 1)]
    return random.Random(seed).sample(every, count)  # noqa: S311 - no secrets
