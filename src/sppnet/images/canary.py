"""A picture that every installation draws alike, and what a model answers about it.

A model keeps its answers when it is saved; ``sppnet doctor`` asks again. The picture is made of
whole numbers, so that no decoder, no random generator and no font decides what it shows.
"""

import platform
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sppnet.errors import count_of

SIZE_HW = (192, 256)
MOST_ANSWERS = 512  # numbers that are kept of a tensor
DIGITS = 7  # of float32 that are written down


def canary_image() -> Tensor:
    """Draw the picture: slopes, a disc, a chequerboard and stripes.

    Returns:
        (3, 192, 256) float32 RGB 0..1, the same bits everywhere.

    Example:
        >>> canary_image().shape
        torch.Size([3, 192, 256])
    """
    y = torch.arange(SIZE_HW[0])[:, None]
    x = torch.arange(SIZE_HW[1])[None, :]
    disc = ((x - 80) ** 2 + (y - 96) ** 2 < 60**2).long()
    chequered = ((x // 16 + y // 16) % 2) * (x > 160) * (y < 96)
    stripes = (x // 6 % 2) * (x > 160) * (y >= 96)
    red = (x + 0 * y) * (1 - disc) + 230 * disc
    green = (y + x // 4) % 256 + 60 * chequered
    blue = 40 + 200 * stripes + 90 * disc + 0 * (x + y)
    return torch.stack([red, green, blue]).clamp(0, 255).float() / 255


def canary_boxes() -> Tensor:
    """Place boxes on the picture: its whole, the disc, the chequerboard, the stripes, a grid.

    Returns:
        (13, 4) float32 xyxy in pixels.
    """
    named = [(0, 0, 256, 192), (20, 36, 140, 156), (160, 0, 256, 96), (160, 96, 256, 192)]
    grid = [(x, y, x + 96, y + 72) for y in (0, 60, 120) for x in (0, 80, 160)]
    return torch.tensor([*named, *grid], dtype=torch.float32)


def as_answers(*values: Tensor) -> dict[str, Any]:
    """Write numbers down, at most 512 of each tensor, and on what they were computed.

    Args:
        *values: Tensors of any shape.

    Returns:
        ``numbers``, a list, and ``machine``, words; what JSON can hold.

    Example:
        >>> as_answers(torch.tensor([[1 / 3, 2.0]]))["numbers"]
        [0.3333333, 2.0]
    """
    kept = [v for each in values for v in each.flatten()[:MOST_ANSWERS].tolist()]
    threads = count_of(torch.get_num_threads(), "thread")
    machine = f"{platform.machine()}, torch {torch.__version__}, {threads}"
    return {"numbers": [float(f"{v:.{DIGITS}g}") for v in kept], "machine": machine}


def largest_difference(now: Mapping[str, Any], then: Mapping[str, Any]) -> float:
    """Compare answers: the largest difference beside the size of the numbers (1 at least).

    Args:
        now: From :func:`as_answers`.
        then: The same of another time, out of a file that may hold anything.

    Returns:
        0 where all are the same; infinity if they are not as many, or one is no finite number.

    Example:
        >>> largest_difference({"numbers": [1.0, 20.0]}, {"numbers": [1.0, 20.2]}) < 0.0101
        True
    """
    try:
        a, b = (torch.tensor(each["numbers"], dtype=torch.float64) for each in (now, then))
    except (LookupError, TypeError, ValueError):
        return float("inf")
    if a.shape != b.shape:
        return float("inf")
    difference = ((a - b).abs() / b.abs().clamp_min(1)).nan_to_num(float("inf"))
    return float(difference.max()) if len(a) else 0.0
