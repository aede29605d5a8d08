"""The paper's first recipe for the pyramid: ordinary pooling layers, for maps of one known size."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from sppnet.pooling.bins import DEFAULT_LEVELS, check_levels, sliding_window_bins
from sppnet.pooling.checks import as_maps


def sliding_window_pool(features: Tensor, levels: Sequence[int] = DEFAULT_LEVELS) -> Tensor:
    """Pool maps with windows of ceil(side / n) cells at strides of floor(side / n).

    What networks of 2014 were trained with, at one size (13 x 13 cells in the paper). It equals
    :func:`sppnet.pooling.spatial_pyramid_pool` where ``side % n <= 1`` for both sides and every
    level. Elsewhere the windows miss the last cells, or there are not n of them, which is refused.

    Args:
        features: (N, C, H, W) floating point.
        levels: Windows along each side, one number per level.

    Returns:
        (N, C * sum(n * n)), in the order of :func:`sppnet.pooling.spatial_pyramid_pool`.

    Raises:
        TypeError: If ``features`` is not floating point or a level is not an integer.
        ValueError: If a side does not give n windows; names the side and the number that it gives.

    Example:
        >>> features = torch.arange(169.0).reshape(1, 1, 13, 13)
        >>> sliding_window_pool(features, (3, 1))
        tensor([[ 56.,  60.,  64., 108., 112., 116., 160., 164., 168., 168.]])

    Source:
        SPP-net, section 2.3 and figure 4.
    """
    (maps,) = as_maps(features)
    pooled = []
    for n in check_levels(levels):
        (height, width), (down, right) = zip(
            *(_window(side, n) for side in maps.shape[2:]), strict=True
        )
        pooled.append(max_pool2d(maps, (height, width), (down, right)).flatten(1))
    return torch.cat(pooled, 1)


def _window(side: int, n: int) -> tuple[int, int]:
    """Length and stride of the n windows along a side."""
    bins = sliding_window_bins(side, n)
    return bins[0][1] - bins[0][0], side // n


class SlidingWindowPool(nn.Module):
    """Module form of :func:`sliding_window_pool`.

    Args:
        levels: Windows along each side, one number per level.

    Raises:
        TypeError: If a level is not an integer.
        ValueError: If there is no level, or one is below 1.

    Example:
        >>> SlidingWindowPool((6, 3, 2, 1))(torch.rand(2, 256, 13, 13)).shape
        torch.Size([2, 12800])
    """

    def __init__(self, levels: Sequence[int] = DEFAULT_LEVELS) -> None:
        super().__init__()
        self.levels = check_levels(levels)

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, H, W) into (N, C * sum(n * n))."""
        return sliding_window_pool(features, self.levels)

    def extra_repr(self) -> str:
        """Show the levels."""
        return f"levels={self.levels}"
