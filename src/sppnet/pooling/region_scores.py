"""Linear scores of regions without their vectors."""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from sppnet.pooling import cpu_kernel
from sppnet.pooling.bins import DEFAULT_LEVELS, check_levels, num_bins
from sppnet.pooling.checks import as_maps, as_rows, check_rows
from sppnet.pooling.regions import pool_regions

# Memory for the vectors of regions that are pooled at a time; each thread keeps its own.
CHUNK_BYTES = 2**27
# With more columns, the product of matrices is faster than the kernel's.
FEW_COLUMNS = 20
# Regions in one call of the kernel: each needs some kilobytes for the sums of its parts.
MOST_ROWS = 1 << 15
_kept = threading.local()


def score_regions(
    features: Tensor,
    regions: Tensor | Sequence[Tensor],
    weights: Tensor,
    levels: Sequence[int] = DEFAULT_LEVELS,
) -> Tensor:
    """Multiply pooled regions by a matrix without ever holding all of their vectors.

    On a processor and for a few columns, such as the SVMs of some classes, the kernel multiplies
    the bins as it finds them. Otherwise some hundreds of regions are pooled at a time, into the
    same memory: no page faults, and little of it.

    Args:
        features: (N, C, H, W) floating point, H and W at least 1.
        regions: (R, 5) integers [image, x0, y0, x1, y1], or a sequence of N tensors (R_i, 4).
        weights: (C * sum(n * n), K) in the order of the pooled vector.
        levels: Bins along each side, one number per level.

    Returns:
        (R, K), the product. Not differentiable.

    Raises:
        TypeError: As :func:`pool_regions`.
        ValueError: As :func:`pool_regions`, or if the weights have another number of rows or are on
            another device.

    Example:
        >>> features = torch.arange(12.0).reshape(1, 1, 3, 4)
        >>> score_regions(features, torch.tensor([[0, 1, 0, 3, 2]]), torch.ones(5, 1), (1, 2))
        tensor([[20.]])
    """
    maps, levels = as_maps(features), check_levels(levels)
    rows = as_rows(regions, maps)
    length = maps[0].shape[1] * num_bins(levels)
    if weights.ndim != 2 or len(weights) != length:
        raise ValueError(f"weights must have shape ({length}, K), got {tuple(weights.shape)}")
    if weights.device != maps[0].device:
        raise ValueError(f"weights must be on {maps[0].device}, got {weights.device}")
    if 0 < weights.shape[1] <= FEW_COLUMNS and cpu_kernel.serves(maps):
        check_rows(rows, maps)
        chunks = rows.split(MOST_ROWS)
        return torch.cat([cpu_kernel.score(maps, chunk, weights, levels) for chunk in chunks])
    scores = maps[0].new_empty(len(rows), weights.shape[1])
    with torch.no_grad():
        vectors = _take_memory(len(rows), length, maps[0])
        for start in range(0, len(rows), len(vectors)):
            chunk = rows[start : start + len(vectors)]
            pooled = pool_regions(maps, chunk, levels, out=vectors[: len(chunk)])
            torch.mm(pooled, weights, out=scores[start : start + len(vectors)])
    return scores


def _take_memory(count: int, length: int, like: Tensor) -> Tensor:
    """(M, length) for at most ``count`` vectors; on a processor the same from call to call.

    Fresh pages cost as much as the pooling itself; on other devices torch keeps memory anyway.
    """
    count = max(1, min(count, CHUNK_BYTES // (length * like.itemsize)))
    if like.device.type != "cpu":
        return like.new_empty(count, length)
    held: Tensor | None = getattr(_kept, "vectors", None)
    if held is None or held.dtype != like.dtype or held.numel() < count * length:
        with torch.inference_mode(False):  # whoever comes next may not be in that mode
            held = torch.empty(count * length, dtype=like.dtype)
        _kept.vectors = held
    return held[: count * length].view(count, length)
