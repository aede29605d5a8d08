"""What the kernels for CUDA are compiled for: levels, tables, blocks and types."""

import functools
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from sppnet.pooling.bins import num_bins

# Bins and channels of a program at a time: 2048 values, 16 to each thread of 4 warps.
BINS, CHANNELS, WARPS = 16, 128, 4
# A GPU is not filled by fewer programs than this: then each takes fewer channels.
FEW_PROGRAMS, FEW_CHANNELS = 1024, 32
# Tables of windows of 2, 4 and 8 cells pay when the finest bins are so many times the cells.
TABLES, BINS_PER_CELL = 3, 4
# Rows of cells that a program makes tables of.
ROWS = 16
# Places from here on are counted in 64 bits.
FEW_PLACES = 2**31


class Level(NamedTuple):
    """One level of the pyramid as the kernels see it.

    Args:
        n: Bins along each side.
        bins: Bins pooled at a time, a power of two.
        first_bin: Bins before it in the pooled vector.
        finer: A level that n divides, whose bins unite to those of n; 0 without one.
        finer_first_bin: Bins before that level.
    """

    n: int
    bins: int
    first_bin: int
    finer: int
    finer_first_bin: int


class Plan(NamedTuple):
    """What the kernels are compiled for.

    Args:
        levels: The pyramid, from fine to coarse.
        mode: "max" or "avg".
        tables: Tables of windows besides the cells.
        rows: Cells of a program that makes tables.
        block: Channels of a program.
        full_blocks: Whether every block is full.
        warps: Warps of a program.
        index: Integer type of places in the cells, in their tables and in a pooled vector.
        compute: Type of comparisons and sums.
    """

    levels: tuple[Level, ...]
    mode: str
    tables: int
    rows: int
    block: int
    full_blocks: bool
    warps: int
    index: tl.dtype
    compute: tl.dtype


@functools.cache
def plan_levels(levels: tuple[int, ...]) -> tuple[Level, ...]:
    """Put levels from fine to coarse, each with the coarsest finer one that it divides.

    Example:
        >>> plan_levels((1, 3))
        (Level(n=3, bins=16, first_bin=1, finer=0, finer_first_bin=0),
         Level(n=1, bins=1, first_bin=0, finer=3, finer_first_bin=1))
    """
    first = [sum(m * m for m in levels[:i]) for i in range(len(levels))]
    planned = []
    for n, before in zip(levels, first, strict=True):
        finer = min((m for m in levels if m > n and m % n == 0), default=0)
        bins = min(BINS, 1 << (n * n - 1).bit_length())
        planned.append(Level(n, bins, before, finer, first[levels.index(finer)] if finer else 0))
    return tuple(sorted(planned, key=lambda level: -level.n))


def make_plan(cells: Tensor, views: int, levels: tuple[int, ...], mode: str) -> Plan:
    """Plan the pooling of a number of views of (M, C) cells."""
    rows, channels = cells.shape
    compute = compute_dtype(cells.dtype, mode)
    block = _choose_block(channels, views, compute.itemsize)
    many = views * max(levels) ** 2 >= BINS_PER_CELL * rows
    tables = TABLES if many and mode == "max" else 0
    places = rows * max(cells.stride(0), (1 + tables) * channels)
    largest = max(places, (rows + 1) * (max(levels) + 1), (channels + block) * num_bins(levels))
    return Plan(
        levels=plan_levels(levels),
        mode=mode,
        tables=tables,
        rows=ROWS,
        block=block,
        full_blocks=channels % block == 0,
        warps=max(1, WARPS * block * compute.itemsize // (4 * CHANNELS)),
        index=tl.int32 if largest < FEW_PLACES else tl.int64,
        compute=tl.float64 if compute == torch.float64 else tl.float32,
    )


def compute_dtype(dtype: torch.dtype, mode: str) -> torch.dtype:
    """Type of comparisons and sums: averages are summed in float64, whatever the dtype.

    Example:
        >>> compute_dtype(torch.bfloat16, "max"), compute_dtype(torch.bfloat16, "avg")
        (torch.float32, torch.float64)
    """
    return torch.float64 if mode == "avg" or dtype == torch.float64 else torch.float32


def _choose_block(channels: int, views: int, compute_size: int) -> int:
    """Channels of a program, a power of two."""
    block = CHANNELS * 4 // compute_size
    if views * -(-channels // block) < FEW_PROGRAMS:
        block = FEW_CHANNELS
    return min(block, max(16, 1 << (channels - 1).bit_length()))
