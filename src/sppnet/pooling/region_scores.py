"""Linear scores of regions without their vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sppnet.pooling.bins import DEFAULT_LEVELS, check_levels, num_bins
from sppnet.pooling.level_pools import LevelPools
from sppnet.pooling.pyramid import check_features
from sppnet.pooling.regions import check_regions


def score_regions(
    features: Tensor,
    regions: Tensor | Sequence[Tensor],
    weights: Tensor,
    levels: Sequence[int] = DEFAULT_LEVELS,
) -> Tensor:
    """Multiply pooled regions by a matrix without ever building their vectors.

    A linear score is a sum over bins, and regions share bins: each distinct bin meets its part of
    the matrix once, and a region adds up the scores of its bins. For thousands of regions that is
    several times less memory traffic than ``pool_regions(...) @ weights``.

    Args:
        features: (N, C, H, W) floating point, H and W at least 1.
        regions: (R, 5) integers [image, x0, y0, x1, y1], or a sequence of N tensors (R_i, 4).
        weights: (C * sum(n * n), K) in the order of the pooled vector.
        levels: Bins along each side, one number per level.

    Returns:
        (R, K), equal to the product up to rounding. Not differentiable.

    Raises:
        TypeError: As :func:`pool_regions`.
        ValueError: As :func:`pool_regions`, or if the weights have another number of rows.

    Example:
        >>> features = torch.arange(12.0).reshape(1, 1, 3, 4)
        >>> score_regions(features, torch.tensor([[0, 1, 0, 3, 2]]), torch.ones(5, 1), (1, 2))
        tensor([[20.]])
    """
    check_features(features)
    levels = check_levels(levels)
    rows = check_regions(regions, features)
    channels = features.shape[1]
    if weights.ndim != 2 or len(weights) != channels * num_bins(levels):
        length = channels * num_bins(levels)
        raise ValueError(f"weights must have shape ({length}, K), got {tuple(weights.shape)}")
    scores = features.new_zeros(len(rows), weights.shape[1])
    if not len(rows) or not channels:
        return scores
    with torch.no_grad():
        pools = LevelPools(features, rows, levels)
        parts = weights.split([channels * n * n for n in levels])
        for n, part in zip(levels, parts, strict=True):
            level = pools.level(n)
            # every distinct bin at every place of the grid: (B, C) x (C, n * n * K)
            at_places = (level.maxima @ part.reshape(channels, -1)).unflatten(1, (n * n, -1))
            for place, bins in enumerate(level.bin_of.unbind(1)):
                scores += at_places[:, place].index_select(0, bins)
    return scores
