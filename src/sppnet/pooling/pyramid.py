"""Spatial pyramid pooling of whole feature maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from sppnet.pooling.bins import DEFAULT_LEVELS, check_levels


def check_features(features: Tensor) -> Tensor:
    """Return feature maps as they are, or say why they cannot be pooled.

    Example:
        >>> check_features(torch.zeros(2, 3, 4, 5)).shape
        torch.Size([2, 3, 4, 5])
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"features must be a floating-point tensor, got {kind}")
    if features.ndim != 4 or 0 in features.shape[2:]:
        raise ValueError(
            "features must have shape (N, C, H, W) with H and W at least 1, "
            f"got {tuple(features.shape)}"
        )
    return features


def spatial_pyramid_pool(features: Tensor, levels: Sequence[int] = DEFAULT_LEVELS) -> Tensor:
    """Pool feature maps of any size into vectors of one length.

    Each level n cuts the map into n x n bins and takes the maximum of every channel in every bin.
    Maps smaller than the grid repeat cells.

    Convention:
        Bins follow :func:`sppnet.pooling.bin_edges`. The vector holds the levels in the order
        given; inside a level the channel runs slowest, then the row, then the column. NaN wins over
        every number. On ties the gradient goes to the first cell in row-major order.

    Args:
        features: (N, C, H, W) floating point of any layout, H and W at least 1.
        levels: Bins along each side, one number per level.

    Returns:
        (N, C * sum(n * n)) of the same dtype.

    Raises:
        TypeError: If ``features`` is not floating point or a level is not an integer.
        ValueError: If the shape is not (N, C, H, W), the map is empty, or a level is below 1.

    Example:
        >>> spatial_pyramid_pool(torch.rand(2, 256, 13, 10)).shape
        torch.Size([2, 12800])
        >>> spatial_pyramid_pool(torch.arange(4.0).reshape(1, 1, 2, 2), levels=(1, 2))
        tensor([[3., 0., 1., 2., 3.]])

    Source:
        SPP-net, section 2.2 and appendix A.
    """
    check_features(features)
    levels = check_levels(levels)
    if features.shape[1] == 0:  # torch refuses maps without channels
        return features.flatten(1)
    pooled = [adaptive_max_pool2d(features, n).flatten(1) for n in levels]
    return torch.cat(pooled, dim=1)


class SpatialPyramidPool(nn.Module):
    """Module form of :func:`spatial_pyramid_pool`.

    Args:
        levels: Bins along each side, one number per level.

    Raises:
        TypeError: If a level is not an integer.
        ValueError: If there is no level, or one is below 1.

    Example:
        >>> SpatialPyramidPool()(torch.rand(2, 8, 7, 30)).shape
        torch.Size([2, 400])
    """

    def __init__(self, levels: Sequence[int] = DEFAULT_LEVELS) -> None:
        super().__init__()
        self.levels = check_levels(levels)

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, H, W) into (N, C * sum(n * n))."""
        return spatial_pyramid_pool(features, self.levels)

    def extra_repr(self) -> str:
        """Show the levels."""
        return f"levels={self.levels}"
