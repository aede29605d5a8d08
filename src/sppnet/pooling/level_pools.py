"""The work behind pooled regions: each distinct bin of each pyramid level, pooled once.

Bins at a stride of 16 are small, so that thousands of windows share most of them. The finest level
is pooled from tables of windows whose sides are powers of two: four entries cover a bin. A level
that divides a finer one is the union of the finer one's bins.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.pooling.bins import bin_ranges


@dataclass(frozen=True)
class PooledLevel:
    """One level of the pyramid for a set of regions.

    Args:
        bins: (B, 4) distinct bins (y0, x0, y1, x1), half-open cells of all maps in a column.
        bin_of: (R, n * n) which of them the bins of each region are, row by row.
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

    def __init__(self, features: Tensor, rows: Tensor, levels: tuple[int, ...]) -> None:
        self.height = features.shape[2]
        # images one above the other, (N * H, W, C): a cell is a contiguous vector of channels
        self.cells = features.permute(0, 2, 3, 1).flatten(0, 1).contiguous()
        self.rows = rows
        self.levels = levels
        self._tables = {(0, 0): self.cells}
        self._level_of: dict[int, PooledLevel] = {}
        self._winners_of: dict[int, Tensor] = {}

    def level(self, n: int) -> PooledLevel:
        """Pool level n."""
        if n not in self._level_of:
            bins, bin_of = self._bins(n)
            finer = self._finer(n)
            if finer is None:
                parts, maxima = None, self._bin_maxima(bins)
            else:
                parts = _find_parts(finer.bin_of, bin_of, n, len(bins))
                maxima = finer.maxima.index_select(0, parts[:, 0])
                for part in parts.unbind(1)[1:]:
                    torch.maximum(maxima, finer.maxima.index_select(0, part), out=maxima)
            self._level_of[n] = PooledLevel(bins, bin_of, maxima, parts)
        return self._level_of[n]

    def winners(self, n: int) -> Tensor:
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

    def _finer_of(self, n: int) -> int | None:
        """Find a finer level of the pyramid whose bins unite to those of level n exactly."""
        return min((m for m in self.levels if m > n and m % n == 0), default=None)

    def _finer(self, n: int) -> PooledLevel | None:
        """Pool the finer level that level n is made of, if there is one."""
        finer = self._finer_of(n)
        return None if finer is None else self.level(finer)

    def _bins(self, n: int) -> tuple[Tensor, Tensor]:
        """Distinct bins (y0, x0, y1, x1) of level n, and which of them each region's bins are."""
        image, x0, y0, x1, y1 = (column[:, None] for column in self.rows.unbind(1))
        index = torch.arange(n, device=self.rows.device)
        top, bottom = (y0 + image * self.height + edge for edge in bin_ranges(y1 - y0, index, n))
        left, right = (x0 + edge for edge in bin_ranges(x1 - x0, index, n))
        sides = [top[:, :, None], left[:, None, :], bottom[:, :, None], right[:, None, :]]
        bins = torch.stack([side.expand(-1, n, n) for side in sides], -1).flatten(0, 2)
        distinct, bin_of = _unique_rows(bins)
        return distinct, bin_of.unflatten(0, (-1, n * n))

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


def _find_parts(finer_of: Tensor, bin_of: Tensor, n: int, count: int) -> Tensor:
    """(B, P) finer bins that make up each of B bins of level n, read off its first region."""
    m = round(finer_of.shape[1] ** 0.5)
    ratio = m // n
    grid = finer_of.reshape(-1, n, ratio, n, ratio).transpose(2, 3).reshape(-1, ratio * ratio)
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
