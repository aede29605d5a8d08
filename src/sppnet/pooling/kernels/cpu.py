"""The compiled kernel for processors: loading it, and calling it on tensors.

``native/`` holds its source, which the installation compiles once for each generation of
processors; the best one that this processor runs is loaded on first use. Calls release the GIL and
work in as many threads as ``torch.get_num_threads()`` says, so that any number of Python threads
may call at once.
"""

import ctypes
import functools
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sppnet.pooling.bins import MODES
from sppnet.pooling.kernels.native_library import NativeLibrary

LIBRARY = NativeLibrary(Path(__file__).parent / "native", "pyramid_pool")
KINDS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
# Starting a thread costs about as much as reading this many bytes.
BYTES_PER_THREAD = 1 << 18
_NINE = struct.Struct("9q").pack
# Fewer winners than this are found again sooner than memory for them is there.
FEW_WINNERS = 1 << 10
# Cells whose numbers the memory for winners can hold.
MOST_CELLS = 1 << 16
# Images of fewer channels share vectors, if their planes lie one after the other.
FEW_CHANNELS = 16
# Fresh memory of this size is faulted in before it is written here and there.
LARGE_OUTPUT = 1 << 22


@functools.cache
def kernel_name() -> str | None:
    """Name of the kernel that this processor gets, None where none was compiled.

    Example:
        >>> kernel_name() in ("avx512", "avx2", "baseline", None)
        True
    """
    return LIBRARY.generation()


@functools.cache
def _function(name: str) -> Any:
    """Load a function of the library; one library serves all."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    maps, pyramid = [number, pointer, pointer, number], [pointer, number, number]
    signatures = {
        "sppnet_touch": [pointer, number, number],
        "sppnet_overwrites": [pointer, number],
        "sppnet_pool_maps": [*maps, *pyramid, pointer, pointer, number],
        "sppnet_pool_regions": [*maps, pointer, number, *pyramid, pointer, number],
        "sppnet_score_regions": [
            *(number, pointer, number),
            *(pointer, number),
            *(pointer, number),
            *(pointer, number, pointer, number),
        ],
    }
    return LIBRARY.functions(signatures)[name]


@functools.lru_cache(maxsize=256)
def _numbers(levels: tuple[int, ...]) -> bytes:
    """Levels as the library takes them."""
    return struct.pack(f"{len(levels)}q", *levels)


def serves(maps: Sequence[Tensor]) -> bool:
    """Whether the kernel can take these maps.

    Example:
        >>> serves([torch.zeros(1, 2, 3, 4, device="meta")])
        False
    """
    first = maps[0]
    return first.is_cpu and first.dtype in KINDS and kernel_name() is not None


def pool(
    maps: Sequence[Tensor],
    rows: Tensor | None,
    levels: Sequence[int],
    mode: str,
    out: Tensor,
    *,
    fresh: bool = False,
    winners: Tensor | None = None,
) -> None:
    """Pool whole maps, or checked regions (R, 5), into contiguous ``out``.

    Args:
        maps: (N_i, C, H_i, W_i) each.
        rows: (R, 5) int64; None for whole maps.
        levels: The pyramid.
        mode: "max" or "avg".
        out: (R, C * bins), or (images of all maps, C * bins).
        fresh: Whether ``out`` was never written.
        winners: Memory of :func:`empty_winners`, for the maxima of whole maps.

    Raises:
        MemoryError: If there is no memory for a copy of the map.
    """
    if rows is None:
        if len(maps) == 1 and maps[0].shape[1] < FEW_CHANNELS and len(maps[0]) > 1:
            maps = [maps[0].contiguous()]
    elif fresh and (size := out.numel() * out.element_size()) >= LARGE_OUTPUT:
        _function("sppnet_touch")(out.data_ptr(), size, torch.get_num_threads())
    _call(maps, None, rows, levels, mode, out, winners)


def score(maps: Sequence[Tensor], rows: Tensor, weights: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Multiply the maxima of checked regions by a few columns; no vector is ever written.

    Args:
        maps: (N_i, C, H_i, W_i) each.
        rows: (R, 5) int64.
        weights: (C * bins, K) of the same dtype.
        levels: The pyramid.

    Returns:
        (R, K). Half precision is added up in float32.

    Raises:
        MemoryError: If there is no memory for a copy of the map.
    """
    dtype = maps[0].dtype
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    weights, rows = weights.detach().to(exact).contiguous(), rows.contiguous()
    scores = torch.empty(len(rows), weights.shape[1], dtype=exact)
    work = max(len(rows) * len(weights), sum(each.numel() for each in maps)) * dtype.itemsize
    failed = _function("sppnet_score_regions")(
        KINDS[dtype],
        _describe(maps),
        len(maps),
        rows.data_ptr(),
        len(rows),
        _numbers(tuple(levels)),
        len(levels),
        weights.data_ptr(),
        weights.shape[1],
        scores.data_ptr(),
        _count_threads(work),
    )
    if failed:
        raise MemoryError(_no_memory(maps))
    return scores.to(dtype)


def empty_winners(maps: Sequence[Tensor], out: Tensor) -> Tensor | None:
    """Memory for the cells that hold the maxima of whole maps.

    None where they are too few to be worth it, or a number of a cell does not fit.

    Example:
        >>> empty_winners([torch.zeros(8, 256, 3, 4)], torch.zeros(8, 12800)).dtype
        torch.int16
    """
    if (
        out.numel() < FEW_WINNERS
        or max(each.shape[2] * each.shape[3] for each in maps) > MOST_CELLS
    ):
        return None
    return torch.empty(out.shape, dtype=torch.int16)


def backward(
    grad: Tensor,
    maps: Sequence[Tensor],
    rows: Tensor | None,
    levels: Sequence[int],
    mode: str,
    winners: Tensor | None = None,
) -> list[Tensor]:
    """Gradients of the maps, each in the layout of its map; arguments as for :func:`pool`.

    The winners are found again where they were not kept.
    """
    grads = None if winners is None else _overwritten_like(maps)
    grads = _zeros_like(maps) if grads is None else grads
    _call(maps, grads, rows, levels, mode, grad.contiguous(), winners)
    return grads


def _overwritten_like(maps: Sequence[Tensor]) -> list[Tensor] | None:
    """Memory in the layout of each map, if the library needs no zeros there."""
    if all(each.is_contiguous() for each in maps):
        return None
    grads = [torch.empty_like(each) for each in maps]
    return grads if _function("sppnet_overwrites")(_describe(grads), len(grads)) else None


def _zeros_like(maps: Sequence[Tensor]) -> list[Tensor]:
    """Zeros in the layout of each map. Those of many maps share memory: one page fault for all."""
    if len(maps) == 1 or not all(each.is_contiguous() for each in maps):
        return [torch.zeros_like(each) for each in maps]
    sizes = [each.numel() for each in maps]
    # NumPy asks the system for zeros, which fresh memory is, where torch writes them
    flat = torch.from_numpy(np.zeros(sum(sizes) * maps[0].element_size(), np.uint8))
    parts = flat.view(maps[0].dtype).split(sizes)
    return [part.view(each.shape) for part, each in zip(parts, maps, strict=True)]


def _call(
    maps: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    rows: Tensor | None,
    levels: Sequence[int],
    mode: str,
    pooled: Tensor,
    winners: Tensor | None,
) -> None:
    """Call the library; ``pooled`` is written, or is the gradient to send back to ``grads``."""
    if not pooled.numel():
        return
    function = "sppnet_pool_maps"
    regions: tuple[int, ...] = ()
    kept: tuple[int | None, ...] = (None if winners is None else winners.data_ptr(),)
    if rows is not None:
        rows = rows.contiguous()
        function, regions, kept = "sppnet_pool_regions", (rows.data_ptr(), len(rows)), ()
    cells = maps[0].numel() if len(maps) == 1 else sum(each.numel() for each in maps)
    work = max(pooled.numel(), cells) * pooled.element_size()
    failed = _function(function)(
        KINDS[pooled.dtype],
        _describe(maps),
        None if grads is None else _describe(grads),
        len(maps),
        *regions,
        _numbers(tuple(levels)),
        len(levels),
        MODES.index(mode),
        pooled.data_ptr(),
        *kept,
        _count_threads(work),
    )
    if failed:
        raise MemoryError(_no_memory(maps))


def _count_threads(work: int) -> int:
    """Threads that are worth starting for so many bytes."""
    return max(1, min(torch.get_num_threads(), work // BYTES_PER_THREAD))


def _no_memory(maps: Sequence[Tensor]) -> str:
    """What could not be done."""
    return f"not enough memory to pool maps of shape {[tuple(each.shape) for each in maps[:4]]}"


def _describe(maps: Sequence[Tensor]) -> bytes:
    """Address, shape and strides of each map, nine numbers."""
    if len(maps) == 1:  # the usual call, in half of the time: it counts where maps are tiny
        return _NINE(maps[0].data_ptr(), *maps[0].shape, *maps[0].stride())
    numbers = [n for each in maps for n in (each.data_ptr(), *each.shape, *each.stride())]
    return struct.pack(f"{len(numbers)}q", *numbers)  # a third of the time of an array of ctypes
