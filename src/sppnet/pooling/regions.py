"""Spatial pyramid pooling of regions of a map: convolve an image once, pool it thousands of times.

Plain torch, and exact. Three things make it fast: regions and bins that coincide are pooled once (a
fifth of selective-search windows fall on the same cells); a level that divides a finer one is the
union of the finer one's bins; and a bin is the maximum of four entries of a table of windows whose
sides are powers of two.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sppnet.pooling.bins import DEFAULT_LEVELS, check_levels, num_bins
from sppnet.pooling.level_pools import LevelPools, PooledLevel
from sppnet.pooling.pyramid import check_features

# Regions laid out at a time: 64 x 36 bins x 512 channels stay near the cache.
CHUNK = 64


def check_regions(regions: Tensor | Sequence[Tensor], features: Tensor) -> Tensor:
    """Return regions as one (K, 5) int64 tensor, or name the row that is not inside its map.

    Args:
        regions: (K, 5) integers [image, x0, y0, x1, y1], or a sequence of (K_i, 4), one per image.
        features: (N, C, H, W) maps that the regions belong to.

    Returns:
        (K, 5) int64 on the device of the features.

    Raises:
        TypeError: If regions are not tensors of integers.
        ValueError: If a shape is wrong, or a region is empty, reversed, outside its map, or of no
            image; names the row, counted over all images.

    Example:
        >>> check_regions([torch.tensor([[0, 0, 2, 3]])], torch.zeros(1, 1, 3, 2))
        tensor([[0, 0, 0, 2, 3]])
        >>> check_regions(torch.tensor([[0, 0, 0, 2, 4]]), torch.zeros(1, 1, 3, 2))
        Traceback (most recent call last):
        ValueError: regions must lie in 0 <= x0 < x1 <= 2 and 0 <= y0 < y1 <= 3 of image 0..0,
        got [0, 0, 0, 2, 4] in row 0
    """
    rows = regions if isinstance(regions, Tensor) else _number_images(regions, features)
    _check_integers(rows, "regions")
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise ValueError(
            f"regions must have shape (K, 5), or (K, 4) in a list, got {tuple(rows.shape)}"
        )
    rows = rows.to(device=features.device, dtype=torch.int64)
    images, (height, width) = len(features), features.shape[2:]
    image, x0, y0, x1, y1 = rows.unbind(1)
    good = (image >= 0) & (image < images)
    good &= (x0 >= 0) & (x0 < x1) & (x1 <= width) & (y0 >= 0) & (y0 < y1) & (y1 <= height)
    if not bool(good.all()):
        row = int((~good).nonzero()[0, 0])
        raise ValueError(
            f"regions must lie in 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height} of image "
            f"0..{images - 1}, got {rows[row].tolist()} in row {row}"
        )
    return rows


def _check_integers(regions: Tensor, name: str) -> None:
    """Refuse anything but a tensor of integers."""
    if not isinstance(regions, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(regions).__name__}")
    if regions.is_floating_point() or regions.is_complex() or regions.dtype == torch.bool:
        raise TypeError(f"{name} must be integers (cells of the map), got {regions.dtype}")


def _number_images(regions: Sequence[Tensor], features: Tensor) -> Tensor:
    """Put the number of the image before the regions of each image."""
    if len(regions) != len(features):
        raise ValueError(
            f"regions must have one tensor per image ({len(features)}), got {len(regions)}"
        )
    numbered = [torch.zeros(0, 5, dtype=torch.int64, device=features.device)]
    for i, each in enumerate(regions):
        _check_integers(each, f"regions[{i}]")
        if each.ndim != 2 or each.shape[1] != 4:
            raise ValueError(f"regions[{i}] must have shape (K, 4), got {tuple(each.shape)}")
        cells = each.to(device=features.device, dtype=torch.int64)
        numbered.append(torch.cat([torch.full_like(cells[:, :1], i), cells], 1))
    return torch.cat(numbered)


def pool_regions(
    features: Tensor,
    regions: Tensor | Sequence[Tensor],
    levels: Sequence[int] = DEFAULT_LEVELS,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Pool regions of feature maps into vectors of one length.

    Every row equals ``spatial_pyramid_pool`` of the cropped map exactly, ties and NaN included
    (only the sign of a zero may differ where 0.0 and -0.0 tie). The gradient goes to the same
    cells; on a CPU it adds up in the same order in every run.

    Convention:
        Regions are integer cells, half-open: [x0, x1) x [y0, y1). Order of the vector, NaN and ties
        as in :func:`sppnet.pooling.spatial_pyramid_pool`.

    Args:
        features: (N, C, H, W) floating point of any layout, H and W at least 1.
        regions: (K, 5) integers [image, x0, y0, x1, y1], or a sequence of N tensors (K_i, 4).
        levels: Bins along each side, one number per level.
        out: Contiguous (K, C * sum(n * n)) of the same dtype and device to write into; saves the
            page faults of a fresh output. Not for training.

    Returns:
        (K, C * sum(n * n)); ``out`` where it was given.

    Raises:
        TypeError: If ``features`` is not floating point, or regions or levels are not integers.
        ValueError: If a region is not inside its map (names the row), a shape is wrong, or ``out``
            does not fit.

    Example:
        >>> features = torch.arange(12.0).reshape(1, 1, 3, 4)
        >>> pool_regions(features, torch.tensor([[0, 1, 0, 3, 2]]), levels=(1, 2))
        tensor([[6., 1., 2., 5., 6.]])

    Source:
        SPP-net, section 4.1; spm_pool_caffe_mex.cpp of the authors' code.
    """
    check_features(features)
    levels = check_levels(levels)
    rows = check_regions(regions, features)
    shape = (len(rows), features.shape[1] * num_bins(levels))
    needs_grad = features.requires_grad and torch.is_grad_enabled()
    if out is None:
        out = features.new_empty(0 if needs_grad else shape)
    elif needs_grad or out.requires_grad:
        raise ValueError("out must not be given where a gradient is needed")
    else:
        _check_out(out, features, shape)
    if 0 in shape:  # nothing to pool, but a loss over nothing must still be differentiable
        return features.flatten()[:0].reshape(shape) if needs_grad else out
    unique, duplicate_of = torch.unique(rows, dim=0, return_inverse=True)
    if needs_grad:
        # index_select, not [...]: its gradient adds up in one order, whatever the number of threads
        return _pool_with_gradient(features, unique, levels).index_select(0, duplicate_of)
    pools = LevelPools(features.detach(), unique, levels)
    _lay_out([pools.level(n) for n in levels], duplicate_of, out)
    return out


def _check_out(out: Tensor, features: Tensor, shape: tuple[int, int]) -> None:
    """Refuse an output that the pooled vectors do not fit into as they are."""
    alike = out.dtype == features.dtype and out.device == features.device
    if out.shape != shape or not alike or not out.is_contiguous():
        layout = "contiguous" if out.is_contiguous() else "not contiguous"
        raise ValueError(
            f"out must be contiguous, {features.dtype} on {features.device} and of shape {shape}, "
            f"got {layout}, {out.dtype} on {out.device} and of shape {tuple(out.shape)}"
        )


def _lay_out(levels: list[PooledLevel], rows: Tensor, out: Tensor) -> None:
    """Write the levels into the rows of the output, channel slowest inside a level."""
    offset = 0
    for level in levels:
        bins, channels = level.bin_of.shape[1], level.maxima.shape[1]
        target = out[:, offset : offset + channels * bins].unflatten(1, (channels, bins))
        for start in range(0, len(rows), CHUNK):
            chosen = level.bin_of[rows[start : start + CHUNK]]
            pooled = level.maxima.index_select(0, chosen.flatten()).unflatten(0, chosen.shape)
            target[start : start + CHUNK] = pooled.transpose(1, 2)
        offset += channels * bins


def _pool_with_gradient(features: Tensor, rows: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Pool by looking the winning cells up, so that autograd (twice, if need be) does the rest."""
    with torch.no_grad():
        pools = LevelPools(features, rows, levels)
        winners = [pools.winners(n)[pools.level(n).bin_of.flatten()] for n in levels]
    cells = features.permute(0, 2, 3, 1).flatten(0, 2)
    pooled = [cells.gather(0, cell).unflatten(0, (len(rows), -1)) for cell in winners]
    return torch.cat([values.transpose(1, 2).flatten(1) for values in pooled], 1)


class RegionPool(nn.Module):
    """Module form of :func:`pool_regions`.

    Args:
        levels: Bins along each side, one number per level.

    Raises:
        TypeError: If a level is not an integer.
        ValueError: If there is no level, or one is below 1.

    Example:
        >>> RegionPool((1, 2))(torch.rand(1, 8, 7, 30), [torch.tensor([[2, 0, 9, 7]])]).shape
        torch.Size([1, 40])
    """

    def __init__(self, levels: Sequence[int] = DEFAULT_LEVELS) -> None:
        super().__init__()
        self.levels = check_levels(levels)

    def forward(
        self,
        features: Tensor,
        regions: Tensor | Sequence[Tensor],
        *,
        out: Tensor | None = None,
    ) -> Tensor:
        """Pool regions of (N, C, H, W) into (K, C * sum(n * n))."""
        return pool_regions(features, regions, self.levels, out=out)

    def extra_repr(self) -> str:
        """Show the levels."""
        return f"levels={self.levels}"
