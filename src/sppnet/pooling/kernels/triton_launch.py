"""Launches the Triton kernels: checks the tensors, plans the blocks, and makes views of the maps.

A view is a rectangle of cells of any map; the cells of all maps are the rows of one matrix, so that
one launch pools maps and regions of any sizes. The compiler runs at the first call for each set of
levels, mode, dtype and number of channels, for one to three seconds on one core, and keeps the
result on disk; nothing is tuned at run time.

Not yet run on a GPU. Results are tested in Triton's interpreter and machine code is compiled for
compute capability 8.0 and 9.0; ``sppnet benchmark pooling`` measures them where there is one.
"""

import contextlib
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sppnet.pooling.bins import check_levels, check_out, num_bins
from sppnet.pooling.kernels.torch_reference import whole_maps

try:
    import triton
except ImportError as error:
    raise ImportError("pooling on CUDA needs triton: pip install triton") from error
if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 4):
    raise ImportError(
        f"pooling on CUDA needs triton 3.4 or newer (torch 2.8), got {triton.__version__}: "
        "pip install -U torch"
    )
import triton.language as tl

from sppnet.pooling.kernels.triton_kernels import pool_views, prepare_cells, scatter_views

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
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def pool(
    maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[int], mode: str, out: Tensor
) -> None:
    """Pool whole maps, or checked regions (R, 5), into ``out``."""
    rows = whole_maps(maps) if rows is None else rows
    pool_cells(_cells_of(maps), _views_of(maps, rows), levels, mode, out=out)


def backward(
    grad: Tensor, maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[int], mode: str
) -> list[Tensor]:
    """Gradients of the maps, channels last. The order of sums is not fixed on CUDA."""
    rows = whole_maps(maps) if rows is None else rows
    views = _views_of(maps, rows)
    cells = pool_cells_backward(grad.contiguous(), _cells_of(maps), views, levels, mode)
    split = cells.split([each.numel() // max(1, each.shape[1]) for each in maps])
    shapes = [(each.shape[0], *each.shape[2:], each.shape[1]) for each in maps]
    return [
        part.reshape(shape).permute(0, 3, 1, 2) for part, shape in zip(split, shapes, strict=True)
    ]


def pool_cells(
    cells: Tensor,
    views: Tensor,
    levels: Sequence[int],
    mode: str = "max",
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Pool views of feature maps into vectors of one length.

    Each row of maxima equals ``adaptive_max_pool2d`` of the cropped view at every level, also in
    the sign of zero. Maps that hold -0.0 or NaN take longer: the order of cells matters there. A
    gradient is sent back by :func:`pool_cells_backward`; autograd knows nothing of either.

    Convention:
        Order of the vector, bins, NaN and ties as in :func:`sppnet.pooling.spatial_pyramid_pool`.
        Averages are summed in float64, cell after cell in row-major order, and rounded once.

    Args:
        cells: (M, C) cells of all maps, row-major map after map; the channels of a cell lie side by
            side, rows at any distance. On a CUDA device, or on the CPU in Triton's interpreter.
        views: (K, 4) int64 [first cell, width of its map, height, width]: cell (y, x) of a view is
            row first + y * map_width + x. Every side is at least 1 and every cell is among the
            rows: this is not checked, for the numbers would have to be waited for.
        levels: Bins along each side, one number per level.
        mode: "max" or "avg".
        out: Contiguous (K, C * sum(n * n)) to write into.

    Returns:
        (K, C * sum(n * n)) of the dtype of the cells, contiguous.

    Raises:
        TypeError: If the cells are not of a floating-point type, views not int64, or a level is
            not an integer.
        ValueError: If a shape, a layout, a device, the mode or a level is wrong, or ``out`` does
            not fit.

    Source:
        SPP-net, sections 2.2 and 4.1.
    """
    levels = _check(cells, views, levels, mode)
    shape = (len(views), cells.shape[1] * num_bins(levels))
    if out is None:
        out = cells.new_empty(shape)
    check_out(out, cells, shape)
    if 0 in shape:
        return out
    plan = make_plan(cells, len(views), levels, mode)
    with _on_device(cells):
        source = _prepare(cells, plan, winners=False)
        pool_views[_grid(len(views), cells, plan)](
            source.cells,
            source.stride,
            source.plane,
            source.unusual,
            views.contiguous(),
            out,
            cells.shape[1],
            shape[1],
            plan,
            **_options(plan),
        )
    return out


def pool_cells_backward(
    grad: Tensor, cells: Tensor, views: Tensor, levels: Sequence[int], mode: str = "max"
) -> Tensor:
    """Send the gradient of :func:`pool_cells` back to the cells.

    A maximum's goes to its cell, found once more; an average's to all cells in equal shares. Sums
    are taken in float32 (float64 for float64) by atomic additions, whose order is not fixed on
    CUDA: the last bits differ between runs. Where ``torch.are_deterministic_algorithms_enabled()``
    use another way.

    Convention:
        On ties the gradient goes to the first cell in row-major order, with NaN to the last NaN.

    Args:
        grad: (K, C * sum(n * n)) gradient of the pooled vectors.
        cells: (M, C), as for the forward pass.
        views: (K, 4) int64, as for the forward pass.
        levels: Bins along each side, one number per level.
        mode: "max" or "avg".

    Returns:
        (M, C) gradient of the dtype of the cells, contiguous.

    Raises:
        TypeError: As :func:`pool_cells`.
        ValueError: As :func:`pool_cells`, or if the gradient does not fit.

    Source:
        SPP-net, section 2.3.
    """
    levels = _check(cells, views, levels, mode)
    shape = (len(views), cells.shape[1] * num_bins(levels))
    if grad.shape != shape or grad.device != cells.device:
        raise ValueError(
            f"grad must have shape {shape} on {cells.device}, "
            f"got {tuple(grad.shape)} on {grad.device}"
        )
    exact = compute_dtype(cells.dtype, mode)
    sums = torch.zeros(cells.shape, dtype=exact, device=cells.device)
    if 0 not in shape:
        plan = make_plan(cells, len(views), levels, mode)
        with _on_device(cells):
            source = _prepare(cells, plan, winners=True)
            scatter_views[_grid(len(views), cells, plan)](
                source.cells,
                source.offsets,
                source.stride,
                source.plane,
                views.contiguous(),
                grad.contiguous(),
                sums,
                cells.shape[1],
                shape[1],
                plan,
                **_options(plan),
            )
    return sums.to(cells.dtype)


def _cells_of(maps: Sequence[Tensor]) -> Tensor:
    """(cells of all maps, C); not copied where one map has its channels last already."""
    flat = [each.permute(0, 2, 3, 1).flatten(0, 2) for each in maps]
    cells = flat[0] if len(flat) == 1 else torch.cat(flat)
    return cells if cells.stride(1) == 1 else cells.contiguous()


def _views_of(maps: Sequence[Tensor], rows: Tensor) -> Tensor:
    """(R, 4) first cell, width of the map, height and width of each region."""
    first, table = 0, []
    for each in maps:
        height, width = each.shape[2:]
        for _ in range(len(each)):
            table.append([first, width])
            first += height * width
    starts, widths = torch.tensor(table, device=rows.device).reshape(-1, 2)[rows[:, 0]].unbind(1)
    _, x0, y0, x1, y1 = rows.unbind(1)
    return torch.stack([starts + y0 * widths + x0, widths, y1 - y0, x1 - x0], 1)


def _check(cells: Tensor, views: Tensor, levels: Sequence[int], mode: str) -> tuple[int, ...]:
    """Refuse what the kernels cannot read; return the levels."""
    if cells.dtype not in DTYPES:
        raise TypeError(f"cells must be of one of {DTYPES}, got {cells.dtype}")
    if cells.ndim != 2 or (cells.shape[1] > 1 and cells.stride(1) != 1):
        raise ValueError(
            "cells must have shape (M, C) with the channels side by side, "
            f"got {tuple(cells.shape)} with strides {cells.stride()}"
        )
    if views.dtype != torch.int64:
        raise TypeError(f"views must be int64, got {views.dtype}")
    if views.ndim != 2 or views.shape[1] != 4 or views.device != cells.device:
        raise ValueError(
            f"views must have shape (K, 4) on {cells.device}, "
            f"got {tuple(views.shape)} on {views.device}"
        )
    _check_device(cells)
    if mode not in ("max", "avg"):
        raise ValueError(f"mode must be 'max' or 'avg', got {mode!r}")
    return check_levels(levels)


def _check_device(cells: Tensor) -> None:
    """Refuse a CPU, unless the kernels are run by Triton's interpreter."""
    if not cells.is_cuda and isinstance(pool_views, triton.JITFunction):
        raise ValueError(f"cells must be on a CUDA device, got {cells.device}")


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


class Source(NamedTuple):
    """What the kernels read: cells as they are, or tables of windows of them.

    Args:
        cells: (M, C), or (tables, M, C).
        stride: From a row to the next.
        plane: From a table to the next.
        offsets: Which cell of each window is its maximum, if asked for.
        unusual: Whether there is a -0.0 or a NaN; where the maximum is asked for.
    """

    cells: Tensor
    stride: int
    plane: int
    offsets: Tensor | None
    unusual: Tensor | None


def _prepare(cells: Tensor, plan: Plan, *, winners: bool) -> Source:
    """Build the tables of the plan, and find out whether the order of cells matters."""
    if plan.mode == "avg" or (winners and not plan.tables):
        return Source(cells, cells.stride(0), 0, None, None)
    plan, shape = plan._replace(levels=()), cells.shape
    planes = (1 + plan.tables, *shape) if plan.tables else (0,)
    tables = cells.new_empty(planes)
    offsets = torch.empty(planes, dtype=torch.int8, device=cells.device) if winners else None
    unusual = torch.zeros(1, dtype=torch.int32, device=cells.device)
    plane = cells.numel()
    prepare_cells[_grid(triton.cdiv(shape[0], ROWS), cells, plan)](
        cells,
        cells.stride(0),
        tables,
        plane,
        offsets,
        unusual,
        *shape,
        plan,
        **_options(plan),
    )
    if plan.tables:
        return Source(tables, shape[1], plane, offsets, unusual)
    return Source(cells, cells.stride(0), 0, None, unusual)


def _on_device(cells: Tensor) -> contextlib.AbstractContextManager[object]:
    """Make the device of the cells the one that kernels start on."""
    return torch.cuda.device(cells.device) if cells.is_cuda else contextlib.nullcontext()


def _grid(rows: int, cells: Tensor, plan: Plan) -> tuple[int, int]:
    """Programs along rows and along channels."""
    return rows, triton.cdiv(cells.shape[1], plan.block)


def _options(plan: Plan) -> dict[str, int | bool]:
    """Options of a launch."""
    return {"num_warps": plan.warps, "enable_fp_fusion": False}
