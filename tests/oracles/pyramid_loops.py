"""The truth about pyramid pooling: the paper's definition on nested lists, one cell at a time."""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

Map = Sequence[Sequence[Sequence[float]]]  # [channel][row][column]


@functools.cache
def bin_cells(size: int, n: int, i: int) -> list[int]:
    """Cells k of 0..size-1 in bin i of n: floor(i/n * size) <= k < ceil((i+1)/n * size)."""
    start = math.floor(Fraction(i, n) * size)
    end = math.ceil(Fraction(i + 1, n) * size)
    return [k for k in range(size) if start <= k < end]


def largest(values: Sequence[float]) -> float:
    """Largest value; NaN as soon as there is one."""
    best = values[0]
    for value in values[1:]:
        if math.isnan(value) or value > best:
            best = value
        if math.isnan(best):
            break
    return best


Level = int | tuple[int, int]  # bins along each side, or (rows, columns) of bins


def pool_map(features: Map, levels: Sequence[Level]) -> list[float]:
    """Pool one (C, H, W) map: levels in order; in a level channel slowest, then row, column."""
    pooled = []
    for level in levels:
        n, m = (level, level) if isinstance(level, int) else level
        for channel in features:
            for i in range(n):
                for j in range(m):
                    rows = bin_cells(len(channel), n, i)
                    columns = bin_cells(len(channel[0]), m, j)
                    pooled.append(largest([channel[y][x] for y in rows for x in columns]))
    return pooled


def pool_region(features: Map, region: Sequence[int], levels: Sequence[Level]) -> list[float]:
    """Pool the cells [x0, x1) x [y0, y1) of one map as if they were a map of their own."""
    x0, y0, x1, y1 = region
    crop = [[[row[x] for x in range(x0, x1)] for row in channel[y0:y1]] for channel in features]
    return pool_map(crop, levels)


def slide_window(size: int, n: int) -> list[tuple[int, int]] | None:
    """Windows of ceil(size/n) at every floor(size/n)-th cell that fit; None for a stride of 0."""
    window, stride = math.ceil(Fraction(size, n)), math.floor(Fraction(size, n))
    if stride == 0:
        return None
    windows, start = [], 0
    while start + window <= size:
        windows.append((start, start + window))
        start += stride
    return windows
