"""Linear scores of regions without their vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sppnet.pooling.bins import DEFAULT_LEVELS, check_levels, num_bins
from sppnet.pooling.checks import as_maps, as_rows
from sppnet.pooling.regions import pool_regions

# Regions pooled at a time, into memory that is used again.
CHUNK = 512


def score_regions(
    features: Tensor,
    regions: Tensor | Sequence[Tensor],
    weights: Tensor,
    levels: Sequence[int] = DEFAULT_LEVELS,
) -> Tensor:
    """Multiply pooled regions by a matrix without ever holding all of their vectors.

    Some hundreds are pooled at a time, into the same memory: no page faults, and little of it.

    Args:
        features: (N, C, H, W) floating point, H and W at least 1.
        regions: (R, 5) integers [image, x0, y0, x1, y1], or a sequence of N tensors (R_i, 4).
        weights: (C * sum(n * n), K) in the order of the pooled vector.
        levels: Bins along each side, one number per level.

    Returns:
        (R, K), the product. Not differentiable.

    Raises:
        TypeError: As :func:`pool_regions`.
        ValueError: As :func:`pool_regions`, or if the weights have another number of rows.

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
    scores = maps[0].new_empty(len(rows), weights.shape[1])
    with torch.no_grad():
        vectors = maps[0].new_empty(min(len(rows), CHUNK), length)
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            pooled = pool_regions(maps, chunk, levels, out=vectors[: len(chunk)])
            torch.mm(pooled, weights, out=scores[start : start + CHUNK])
    return scores
