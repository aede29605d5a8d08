"""Spatial pyramid pooling of whole feature maps, of one size or of many."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d
from torch.overrides import handle_torch_function

from sppnet.pooling.bins import (
    DEFAULT_LEVELS,
    Level,
    as_maps,
    check_levels,
    check_mode,
    check_pyramid,
    choose_levels,
    sliding_window_bins,
    vector_length,
)
from sppnet.pooling.operators import overriders, pool, split_levels


def spatial_pyramid_pool(
    features: Tensor | Sequence[Tensor],
    levels: int | Sequence[Level] = DEFAULT_LEVELS,
    *,
    mode: str = "max",
    sizes_hw: Tensor | Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Pool feature maps of any sizes into vectors of one length.

    Each level n cuts a map into n x n bins and takes the maximum of every channel in every bin.
    Maps smaller than the grid repeat cells. The row of an image does not depend on what else is in
    the batch, bit for bit.

    Convention:
        Bins follow :func:`sppnet.pooling.bin_edges`. The vector holds the levels in the order
        given; inside a level the channel runs slowest, then the row, then the column. NaN wins over
        every number. On ties the gradient goes to the first cell in row-major order. An average is
        summed in float64, whatever the dtype, and rounded once.

    Args:
        features: (N, C, H, W) floating point of any layout, H and W at least 1; or maps of
            different sizes: a sequence of (C, H_i, W_i) or (N_i, C, H_i, W_i), or a nested tensor;
            or one map without a batch, (C, H, W).
        levels: Bins along each side, one number per level, or (rows, columns) of bins; or one
            number alone.
        mode: "max", or "avg" for the mean of each bin.
        sizes_hw: (N, 2) cells of each image of a padded batch, (height, width), counted from its
            top left cell; the rest is ignored.

    Returns:
        (N, C * sum(n * n)) of the same dtype, images in order; (C * sum(n * n),) of one map
        without a batch. A level of (r, c) counts r * c in place of n * n.

    Raises:
        TypeError: If ``features`` is not floating point, or a level no integer or pair of them.
        ValueError: If a shape is not (N, C, H, W) or (C, H, W), a map is empty, maps differ in
            channels, dtype or device, a level is below 1, the mode is unknown, or a size does not
            fit its map.

    Example:
        >>> spatial_pyramid_pool(torch.rand(2, 256, 13, 10)).shape
        torch.Size([2, 12800])
        >>> spatial_pyramid_pool(torch.arange(4.0).reshape(1, 1, 2, 2), levels=(1, 2))
        tensor([[3., 0., 1., 2., 3.]])
        >>> spatial_pyramid_pool(torch.arange(4.0).reshape(1, 2, 2), levels=[(1, 2), 1])
        tensor([2., 3., 3.])
        >>> spatial_pyramid_pool([torch.rand(256, 13, 10), torch.rand(256, 7, 31)]).shape
        torch.Size([2, 12800])

    Source:
        SPP-net, section 2.2 and appendix A.
    """
    if watching := overriders(features, sizes_hw):
        return handle_torch_function(
            spatial_pyramid_pool, watching, features, levels, mode=mode, sizes_hw=sizes_hw
        )
    if isinstance(features, Tensor) and features.ndim == 3 and not features.is_nested:
        sizes_hw = None if sizes_hw is None else torch.as_tensor(sizes_hw).reshape(1, -1)
        batch = features.unsqueeze(0)
        return spatial_pyramid_pool(batch, levels, mode=mode, sizes_hw=sizes_hw).squeeze(0)
    maps, levels = as_maps(features), check_pyramid(levels)
    rows = None if sizes_hw is None else _valid_rows(sizes_hw, maps)
    return pool(maps, rows, levels, check_mode(mode))


def _valid_rows(sizes_hw: Tensor | Sequence[tuple[int, int]], maps: list[Tensor]) -> Tensor:
    """Regions of the images of a padded batch."""
    try:
        sizes = torch.as_tensor(sizes_hw, device=maps[0].device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"sizes_hw must be (height, width) of each, got {sizes_hw!r}") from None
    if sizes.is_floating_point() or sizes.dtype == torch.bool:
        raise TypeError(f"sizes_hw must be integers, got {sizes.dtype}")
    if len(maps) > 1 or sizes.shape != (maps[0].shape[0], 2):
        count = sum(each.shape[0] for each in maps)
        raise ValueError(
            f"sizes_hw must have shape ({count}, 2) beside one padded batch, got "
            f"{tuple(sizes.shape)} and {len(maps)} batches"
        )
    corner = torch.zeros_like(sizes[:, :1])
    images = torch.arange(sizes.shape[0], device=sizes.device)[:, None]
    return torch.cat([images, corner, corner, sizes.flip(1)], 1).long()


class SpatialPyramidPool(nn.Module):
    """Module form of :func:`spatial_pyramid_pool`.

    Args:
        levels: Bins along each side, one number per level, or (rows, columns) of bins; or one
            number alone.
        mode: "max" or "avg".
        output_sizes: Another name of ``levels``.

    Raises:
        TypeError: If a level is not an integer.
        ValueError: If there is no level, or one is below 1, or the mode is unknown, or both
            ``levels`` and ``output_sizes`` are given.

    Example:
        >>> SpatialPyramidPool()(torch.rand(2, 8, 7, 30)).shape
        torch.Size([2, 400])
        >>> SpatialPyramidPool(output_sizes=[(1, 1), (2, 2)])
        SpatialPyramidPool(levels=(1, 2))

    Source:
        SPP-net, section 2.2 and appendix A.
    """

    def __init__(
        self,
        levels: int | Sequence[Level] = DEFAULT_LEVELS,
        mode: str = "max",
        *,
        output_sizes: int | Sequence[Level] | None = None,
    ) -> None:
        super().__init__()
        self.levels = choose_levels(levels, output_sizes)
        self.mode = check_mode(mode)

    def forward(
        self,
        features: Tensor | Sequence[Tensor],
        sizes_hw: Tensor | Sequence[tuple[int, int]] | None = None,
    ) -> Tensor:
        """Pool maps of any sizes into (N, C * sum(n * n))."""
        return spatial_pyramid_pool(features, self.levels, mode=self.mode, sizes_hw=sizes_hw)

    def out_features(self, channels: int) -> int:
        """Length of the vector of maps with so many channels: what a linear layer takes in.

        Example:
            >>> SpatialPyramidPool((1, (2, 3))).out_features(256)
            1792
        """
        return vector_length(channels, self.levels)

    def __prepare_scriptable__(self) -> nn.Module:
        """Give torch.jit.script a module that it can read; it stays in the network afterwards."""
        return _ScriptablePool(self.levels, self.mode)

    def extra_repr(self) -> str:
        """Show the levels, and the mode if it is not the paper's."""
        return f"levels={self.levels}" + (f", mode={self.mode!r}" if self.mode != "max" else "")


class _ScriptablePool(SpatialPyramidPool):
    """The same, for one batch of maps where torch.jit.script compiled it.

    What it saves needs ``import sppnet.pooling`` in the program that loads it.
    """

    def __init__(self, levels: Sequence[Level], mode: str) -> None:
        super().__init__(levels, mode)
        self.rows, self.columns = split_levels(self.levels)

    def forward(self, features: Tensor, sizes_hw: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if not torch.jit.is_scripting():
            return spatial_pyramid_pool(features, self.levels, mode=self.mode, sizes_hw=sizes_hw)
        if sizes_hw is not None:
            raise ValueError("sizes_hw must be None in a program of torch.jit.script")
        pooled: Tensor = torch.ops.sppnet.pool_maps([features], self.rows, self.mode, self.columns)
        return pooled

    def __prepare_scriptable__(self) -> nn.Module:
        return self

    def _get_name(self) -> str:
        return SpatialPyramidPool.__name__


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

    Source:
        SPP-net, section 2.3.
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
