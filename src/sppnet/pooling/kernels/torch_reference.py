"""Pyramid pooling in plain torch: the truth of the kernels, and what runs where none fits.

Whole maps are pooled by torch's adaptive pooling, averages of regions crop by crop. The maxima of
regions come from :class:`LevelPools`. At a stride of 16 bins are small, so that thousands of
regions share most of them: each distinct bin is pooled once. Those of the finest level are read
from tables of windows whose sides are powers of two, four entries to a bin; a level that divides a
finer one unites the finer one's bins.

Gradients come from looking the winning cells up, so that autograd does the rest, as often as it is
asked to.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._higher_order_ops.scan import scan_op
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from sppnet.pooling.bins import Level, bin_ranges, level_shape, num_bins

# Regions laid out at a time: 64 x 36 bins x 512 channels stay near the cache.
CHUNK = 64


def pool(
    maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[Level], mode: str, out: Tensor
) -> None:
    """Pool whole maps, or checked regions (R, 5), into ``out``; distinct ones once.

    Example:
        >>> out = torch.empty(1, 5)
        >>> features = torch.arange(12.0).reshape(1, 1, 3, 4)
        >>> pool([features], torch.tensor([[0, 1, 0, 3, 2]]), (1, 2), "max", out)
        >>> out
        tensor([[6., 1., 2., 5., 6.]])
    """
    if rows is None:
        out.copy_(pool_maps(maps, levels, mode))
        return
    if out.numel() == 0:
        return
    distinct, duplicate_of = torch.unique(rows, dim=0, return_inverse=True)
    pooled = []
    for features, own in _split_by_map(maps, distinct):
        if not len(own):
            continue
        if mode == "avg":
            pooled.append(_average_regions(features, own, levels))
        else:
            pools = LevelPools(features, own, tuple(levels))
            pooled.append(out.new_empty(len(own), out.shape[1]))
            _lay_out([pools.level(n) for n in levels], pooled[-1])
    torch.index_select(torch.cat(pooled), 0, duplicate_of, out=out)


def pool_maps(maps: Sequence[Tensor], levels: Sequence[Level], mode: str) -> Tensor:
    """Pool whole maps, differentiable.

    Example:
        >>> pool_maps([torch.arange(4.0).reshape(1, 1, 2, 2)], (1, 2), "avg")
        tensor([[1.5000, 0.0000, 1.0000, 2.0000, 3.0000]])
    """
    if maps[0].shape[1] == 0:  # torch refuses maps without channels
        return torch.cat([each.flatten(1) for each in maps])
    pool = adaptive_max_pool2d if mode == "max" else _average
    return torch.cat([torch.cat([pool(each, n).flatten(1) for n in levels], 1) for each in maps])


def _average(features: Tensor, n: Level) -> Tensor:
    """Average bins in float64, whatever the dtype, and round once."""
    return adaptive_avg_pool2d(features.double(), n).to(features.dtype)


def _average_regions(features: Tensor, rows: Tensor, levels: Sequence[Level]) -> Tensor:
    """Average regions one after the other, differentiable."""
    crops = [features[i : i + 1, :, y0:y1, x0:x1] for i, x0, y0, x1, y1 in rows.tolist()]
    return pool_maps(crops or [features[:0]], levels, "avg")


def _split_by_map(maps: Sequence[Tensor], rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each map with its rows, which then count images from it. Rows are sorted by image."""
    first = 0
    for features in maps:
        own = rows[(rows[:, 0] >= first) & (rows[:, 0] < first + len(features))]
        yield features, own - own.new_tensor([first, 0, 0, 0, 0])
        first += len(features)


def backward(
    grad: Tensor,
    maps: Sequence[Tensor],
    rows: Tensor | None,
    levels: Sequence[Level],
    mode: str,
    *,
    again: bool = False,
) -> list[Tensor]:
    """Gradients of the maps from that of the pooled vectors; ``again`` keeps a graph of them.

    Args:
        grad: (R, C * bins).
        maps: What was pooled.
        rows: (R, 5) regions; None for whole maps.
        levels: The pyramid.
        mode: "max" or "avg".
        again: Whether the result shall be differentiable in ``grad``.

    Returns:
        One gradient per map.

    Example:
        >>> backward(torch.ones(1, 1), [torch.tensor([[[[1.0, 3.0]]]])], None, (1,), "max")
        [tensor([[[[0., 1.]]]])]
    """
    with torch.enable_grad():
        leaves = [each.detach().requires_grad_() for each in maps]
        if rows is None:
            pooled = pool_maps(leaves, levels, mode)
        elif mode == "avg":
            pooled = _average_rows(leaves, rows, levels)
        else:
            pooled = _at_winners(leaves, maps, rows, levels)
        return list(
            torch.autograd.grad(pooled, leaves, grad, create_graph=again, materialize_grads=True)
        )


def tangent(
    tangents: Sequence[Tensor | None],
    maps: Sequence[Tensor],
    rows: Tensor | None,
    levels: Sequence[Level],
    mode: str,
) -> Tensor:
    """How the pooled vectors move when the maps do: the forward-mode derivative.

    Example:
        >>> maps = [torch.tensor([[[[1.0, 3.0]]]])]
        >>> tangent([torch.tensor([[[[5.0, 7.0]]]])], maps, None, (1,), "max")
        tensor([[7.]])
    """
    moved = [
        torch.zeros_like(each) if change is None else change
        for each, change in zip(maps, tangents, strict=True)
    ]
    rows = whole_maps(maps) if rows is None else rows
    if mode == "avg":
        return _average_rows(moved, rows, levels)
    return _at_winners(moved, maps, rows, levels)


def _average_rows(maps: Sequence[Tensor], rows: Tensor, levels: Sequence[Level]) -> Tensor:
    """Average regions of several maps, differentiable."""
    distinct, duplicate_of = torch.unique(rows, dim=0, return_inverse=True)
    pooled = [_average_regions(each, own, levels) for each, own in _split_by_map(maps, distinct)]
    return torch.cat(pooled).index_select(0, duplicate_of)


def _at_winners(
    values: Sequence[Tensor], maps: Sequence[Tensor], rows: Tensor, levels: Sequence[Level]
) -> Tensor:
    """Take from ``values`` the cells where ``maps`` are greatest; differentiable in the values."""
    distinct, duplicate_of = torch.unique(rows, dim=0, return_inverse=True)
    split = zip(values, _split_by_map(maps, distinct), strict=True)
    pooled = [_take_winners(each, features, own, levels) for each, (features, own) in split]
    # index_select, not [...]: its gradient adds up in one order, whatever the number of threads
    return torch.cat(pooled).index_select(0, duplicate_of)


def _take_winners(
    values: Tensor, features: Tensor, rows: Tensor, levels: Sequence[Level]
) -> Tensor:
    """Take the winning cells of the regions of one map."""
    channels = features.shape[1]
    if 0 in (len(rows), channels):
        return values.flatten()[:0].reshape(len(rows), channels * num_bins(levels))
    pools = LevelPools(features.detach(), rows, tuple(levels))
    cells = values.permute(0, 2, 3, 1).flatten(0, 2)
    taken = []
    for n in levels:
        winners = pools.winners(n)[pools.level(n).bin_of.flatten()]
        taken.append(cells.gather(0, winners).unflatten(0, (len(rows), num_bins([n]))))
    return torch.cat([each.transpose(1, 2).flatten(1) for each in taken], 1)


def whole_maps(maps: Sequence[Tensor]) -> Tensor:
    """(images, 5) regions that cover every image.

    Example:
        >>> whole_maps([torch.zeros(2, 1, 3, 4), torch.zeros(1, 1, 5, 6)])
        tensor([[0, 0, 0, 4, 3],
                [1, 0, 0, 4, 3],
                [2, 0, 0, 6, 5]])
    """
    sizes = [each.shape[2:] for each in maps for _ in range(len(each))]
    rows = [[i, 0, 0, width, height] for i, (height, width) in enumerate(sizes)]
    return torch.tensor(rows, dtype=torch.int64, device=maps[0].device).reshape(-1, 5)


def pool_maps_by_masks(maps: Sequence[Tensor], levels: Sequence[Level], mode: str) -> Tensor:
    """Pool whole maps whose sizes are unknown, in operators that every exporter has.

    Each bin is the maximum or sum of a whole side with all other cells masked: slow, but one graph
    for every size. The ONNX exporters' runtimes lose NaN in a maximum, so NaN is looked for apart.

    Example:
        >>> pool_maps_by_masks([torch.arange(4.0).reshape(1, 1, 2, 2)], (1, 2), "max")
        tensor([[3., 0., 1., 2., 3.]])
    """
    return torch.cat([_pool_cells(each, each.shape[2:], levels, mode) for each in maps])


def pool_regions_by_masks(
    maps: Sequence[Tensor], rows: Tensor, levels: Sequence[Level], mode: str
) -> Tensor:
    """Pool regions of one batch of maps as :func:`pool_maps_by_masks`, one after the other.

    Raises:
        ValueError: If there are maps of several sizes.
    """
    if len(maps) != 1:
        raise ValueError(
            f"features must be one batch of maps to export pool_regions, got {len(maps)}"
        )

    def step(count: Tensor, row: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        image, x0, y0, x1, y1 = row.split(1)
        own = features.index_select(0, image)
        pooled = _pool_cells(own, (y1 - y0, x1 - x0), levels, mode, (y0, x0))
        return count + 1, pooled.squeeze(0)

    cell = (
        torch.arange(5, device=rows.device)[None] // 3
    )  # [0, 0, 0, 1, 1]: no runtime scans nothing
    count = torch.zeros(1, dtype=torch.int64, device=rows.device)
    with torch.no_grad():  # torch cannot take a scan apart that may be differentiated
        scanned = scan_op(step, [count], [torch.cat([rows, cell])], [maps[0].detach()])
    return scanned[1][:-1]


def _pool_cells(
    features: Tensor,
    size: Sequence[int | Tensor],
    levels: Sequence[Level],
    mode: str,
    corner: tuple[int | Tensor, int | Tensor] = (0, 0),
) -> Tensor:
    """Pool a rectangle of all maps (N, C, H, W) whose upper left corner (y, x) may be a tensor."""
    pooled = []
    for level in levels:
        masks = []
        for axis, first, side, n in zip((2, 3), corner, size, level_shape(level), strict=True):
            index = torch.arange(n, device=features.device)
            start, end = bin_ranges(side, index, n)  # type: ignore[arg-type]
            cell = torch.arange(features.shape[axis], device=features.device) - first
            masks.append((cell >= start[:, None]) & (cell < end[:, None]))
        pooled.append(_reduce_bins(features, masks[0], masks[1], mode).flatten(1))
    return torch.cat(pooled, 1)


def _reduce_bins(features: Tensor, rows: Tensor, columns: Tensor, mode: str) -> Tensor:
    """(N, C, H, W) -> (N, C, r, c) by the cells of each bin: masks (r, H) and (c, W)."""

    def reduce(values: Tensor, outside: float, function: Callable[..., Tensor]) -> Tensor:
        strips = torch.where(rows[:, :, None], values[:, :, None], outside)
        bands = function(strips, 3)  # (N, C, r, W)
        return function(torch.where(columns, bands[:, :, :, None], outside), 4)

    if mode == "max":
        maxima = reduce(features, -torch.inf, torch.amax)
        lost = reduce(features.isnan().to(features.dtype), 0.0, torch.amax)
        return torch.where(lost > 0, torch.nan, maxima)
    sums = reduce(features.double(), 0.0, torch.sum)
    return (sums / (rows.sum(1)[:, None] * columns.sum(1))).to(features.dtype)


@dataclass(frozen=True)
class PooledLevel:
    """One level of the pyramid for a set of regions.

    Args:
        bins: (B, 4) distinct bins (y0, x0, y1, x1), half-open cells of all maps in a column.
        bin_of: (R, rows * columns) which of them the bins of each region are, row by row.
        maxima: (B, C) maximum of each distinct bin.
        parts: (B, P) bins of the finer level that unite to each bin; None without a finer level.
    """

    bins: Tensor
    bin_of: Tensor
    maxima: Tensor
    parts: Tensor | None


class LevelPools:
    """Pooled levels of a set of regions, each computed once.

    Args:
        features: (N, C, H, W).
        rows: (R, 5) int64 regions [image, x0, y0, x1, y1] inside the maps.
        levels: The pyramid.

    Example:
        >>> features = torch.arange(6.0).reshape(1, 1, 2, 3)
        >>> pools = LevelPools(features, torch.tensor([[0, 0, 0, 3, 2]]), (1, 2))
        >>> pools.level(2).maxima.flatten().tolist()
        [1.0, 2.0, 4.0, 5.0]
    """

    def __init__(self, features: Tensor, rows: Tensor, levels: tuple[Level, ...]) -> None:
        self.height = features.shape[2]
        # images one above the other, (N * H, W, C): a cell is a contiguous vector of channels
        self.cells = features.permute(0, 2, 3, 1).flatten(0, 1).contiguous()
        self.rows = rows
        self.levels = levels
        self._tables = {(0, 0): self.cells}
        self._level_of: dict[Level, PooledLevel] = {}
        self._winners_of: dict[Level, Tensor] = {}

    def level(self, n: Level) -> PooledLevel:
        """Pool level n."""
        if n not in self._level_of:
            bins, bin_of = self._bins(n)
            m = self._finer_of(n)
            if m is None:
                parts, maxima = None, self._bin_maxima(bins)
            else:
                finer = self.level(m)
                parts = _find_parts(finer.bin_of, bin_of, m, n, len(bins))
                maxima = finer.maxima.index_select(0, parts[:, 0])
                for part in parts.unbind(1)[1:]:
                    torch.maximum(maxima, finer.maxima.index_select(0, part), out=maxima)
            self._level_of[n] = PooledLevel(bins, bin_of, maxima, parts)
        return self._level_of[n]

    def winners(self, n: Level) -> Tensor:
        """(B, C) row-major cell of each maximum of level n: first among equals, last NaN."""
        if n not in self._winners_of:
            level, finer = self.level(n), self._finer_of(n)
            if finer is None or level.parts is None:
                winners = self._bin_winners(level.bins, level.maxima)
            else:
                values = self.level(finer).maxima[level.parts]
                winners = _merge_winners(values, self.winners(finer)[level.parts], level.maxima)
            self._winners_of[n] = winners
        return self._winners_of[n]

    def _finer_of(self, n: Level) -> Level | None:
        """Find a finer level of the pyramid whose bins unite to those of level n exactly."""
        rows, columns = level_shape(n)
        finer = []
        for m in self.levels:
            more_rows, more_columns = level_shape(m)
            if m != n and more_rows % rows == 0 and more_columns % columns == 0:
                finer.append(m)
        return min(finer, key=lambda m: num_bins([m]), default=None)

    def _bins(self, n: Level) -> tuple[Tensor, Tensor]:
        """Distinct bins (y0, x0, y1, x1) of level n, and which of them each region's bins are."""
        image, x0, y0, x1, y1 = (column[:, None] for column in self.rows.unbind(1))
        down, across = level_shape(n)
        row, column = (torch.arange(k, device=self.rows.device) for k in (down, across))
        top, bottom = (y0 + image * self.height + edge for edge in bin_ranges(y1 - y0, row, down))
        left, right = (x0 + edge for edge in bin_ranges(x1 - x0, column, across))
        sides = [top[:, :, None], left[:, None, :], bottom[:, :, None], right[:, None, :]]
        bins = torch.stack([side.expand(-1, down, across) for side in sides], -1).flatten(0, 2)
        distinct, bin_of = _unique_rows(bins)
        return distinct, bin_of.unflatten(0, (-1, down * across))

    def _bin_maxima(self, bins: Tensor) -> Tensor:
        """(B, C) maximum of each bin: four overlapping windows of powers of two cover it."""
        maxima = self.cells.new_empty(len(bins), self.cells.shape[2])
        top_left, bottom_right = bins[:, :2], bins[:, 2:]
        exponents = (bottom_right - top_left).double().frexp().exponent - 1  # floor of log2
        sizes, size_of = _unique_rows(exponents.to(torch.int64))
        for number, (a, b) in enumerate(sizes.tolist()):
            which = (size_of == number).nonzero().flatten()
            table = self._table(a, b)
            windows, width = table.flatten(0, 1), table.shape[1]
            (y0, x0), (y1, x1) = top_left[which].T, bottom_right[which].T
            y1, x1 = y1 - (1 << a), x1 - (1 << b)
            best = windows.index_select(0, y0 * width + x0)
            if b:
                torch.maximum(best, windows.index_select(0, y0 * width + x1), out=best)
            if a:
                torch.maximum(best, windows.index_select(0, y1 * width + x0), out=best)
            if a and b:
                torch.maximum(best, windows.index_select(0, y1 * width + x1), out=best)
            maxima[which] = best
        return maxima

    def _table(self, a: int, b: int) -> Tensor:
        """Maxima of all windows of 2**a x 2**b cells, by doubling."""
        if (a, b) not in self._tables:
            if a:
                half, rows = self._table(a - 1, b), 1 << (a - 1)
                self._tables[a, b] = torch.maximum(half[:-rows], half[rows:])
            else:
                half, columns = self._table(a, b - 1), 1 << (b - 1)
                self._tables[a, b] = torch.maximum(half[:, :-columns], half[:, columns:])
        return self._tables[a, b]

    def _bin_winners(self, bins: Tensor, maxima: Tensor) -> Tensor:
        """(B, C) first cell of each bin that holds its maximum; the last NaN, as torch does."""
        cells, width = self.cells.flatten(0, 1), self.cells.shape[1]
        winners = torch.full(maxima.shape, -1, device=maxima.device)
        height_of, width_of = (bins[:, 2:] - bins[:, :2]).T
        for dy in range(int(height_of.max())):
            for dx in range(int(width_of[height_of > dy].max())):
                which = ((height_of > dy) & (width_of > dx)).nonzero().flatten()
                cell = (bins[which, 0] + dy) * width + bins[which, 1] + dx
                value, found = cells[cell], winners[which]
                wins = ((value == maxima[which]) & (found < 0)) | value.isnan()
                winners[which] = torch.where(wins, cell[:, None], found)
        return winners


def _find_parts(finer_of: Tensor, bin_of: Tensor, m: Level, n: Level, count: int) -> Tensor:
    """(B, P) bins of level m that make up each of B bins of level n, read off its first region."""
    (rows, columns), (more_rows, more_columns) = level_shape(n), level_shape(m)
    down, across = more_rows // rows, more_columns // columns
    split = finer_of.reshape(-1, rows, down, columns, across)
    grid = split.transpose(2, 3).reshape(-1, down * across)
    flat = bin_of.flatten()
    places = torch.arange(len(flat), device=flat.device)
    first = torch.full((count,), len(flat), device=flat.device)
    return grid[first.scatter_reduce_(0, flat, places, "amin")]


def _merge_winners(values: Tensor, winners: Tensor, maxima: Tensor) -> Tensor:
    """Winners of united bins: the smallest cell with the maximum (the largest that is NaN)."""
    last = torch.iinfo(winners.dtype).max
    first_equal = torch.where(values == maxima[:, None], winners, last).amin(1)
    last_nan = torch.where(values.isnan(), winners, -1).amax(1)
    return torch.where(last_nan >= 0, last_nan, first_equal)


def _unique_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows of small non-negative integers, by packing each row into one number."""
    spans = (rows.amax(0) + 1).tolist()
    packed = rows[:, 0]
    for column, span in zip(rows.unbind(1)[1:], spans[1:], strict=True):
        packed = packed * span + column
    distinct, index = torch.unique(packed, return_inverse=True)
    columns = []
    for span in reversed(spans[1:]):
        columns.append(distinct % span)
        distinct = distinct // span
    return torch.stack([distinct, *reversed(columns)], 1), index


def _lay_out(levels: list[PooledLevel], out: Tensor) -> None:
    """Write the levels into the rows of the output, channel slowest inside a level."""
    offset = 0
    for level in levels:
        bins, channels = level.bin_of.shape[1], level.maxima.shape[1]
        target = out[:, offset : offset + channels * bins].unflatten(1, (channels, bins))
        for start in range(0, len(out), CHUNK):
            chosen = level.bin_of[start : start + CHUNK]
            pooled = level.maxima.index_select(0, chosen.flatten()).unflatten(0, chosen.shape)
            target[start : start + CHUNK] = pooled.transpose(1, 2)
        offset += channels * bins
