"""The compiled segmentation and grouping: loading it, and calling it on an image.

``native/`` holds its source, which the installation compiles once for each generation of
processors. Every generation, any number of threads and any caller get the same windows: colours
are computed without the mathematical library, and everything that is compared is a whole number or
comes from the same operations in the same order.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.errors import MissingPackageError
from sppnet.pooling.kernels.native_library import NativeLibrary

LIBRARY = NativeLibrary(Path(__file__).parent / "native", "graph_windows")
SPACES = {"hsv": 0, "lab": 1, "rgb": 2}
MAX_PIXELS = 1 << 22  # numbers of regions have 22 bits, and there may be two of each pixel
MAX_RUNS = 64


@functools.cache
def kernel_name() -> str | None:
    """Name of the kernel that this processor gets, None where none was compiled.

    Example:
        >>> kernel_name() in ("avx512", "avx2", "baseline", None)
        True
    """
    return LIBRARY.generation()


def group_segments(
    pixels: Tensor, spaces: Sequence[str], ks: Sequence[float]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Segment an image in every colour space with every k, and group each result twice.

    Args:
        pixels: (3, H, W) uint8 RGB.
        spaces: Colour spaces, of :data:`SPACES`.
        ks: Felzenszwalb and Huttenlocher's k, rising; also the least pixels of a segment. Segments
            of the second and later ones are joined from those of the first.

    Returns:
        Of all regions, run after run (spaces, then ks, then with and without colour): boxes (R, 4)
        xyxy; the run of each (R,); how many regions its run made after it (R,).

    Raises:
        ValueError: If the image or the plan cannot be meant.
        MissingPackageError: If no kernel was compiled; names what to do.
        MemoryError: If there is no memory.

    Example:
        >>> grey = torch.full((3, 6, 9), 128, dtype=torch.uint8)
        >>> boxes, runs, places = group_segments(grey, ["rgb"], [30])
        >>> boxes.tolist(), runs.tolist(), places.tolist()
        ([[0, 0, 9, 6], [0, 0, 9, 6]], [0, 1], [0, 0])
    """
    _check(pixels, spaces, ks)
    pixels = pixels.cpu().contiguous()
    height, width = pixels.shape[1:]
    numbers = np.array([SPACES[space] for space in spaces], np.int64)
    sizes = np.array(ks, np.float32)
    runs = 2 * len(spaces) * len(ks)
    # no segment is smaller than the least k, and grouping n of them makes n - 1 more
    room = runs * 2 * max(1, height * width // max(1, int(min(ks))))
    windows = np.empty((room, 6), np.int32)
    count = _function()(
        pixels.data_ptr(),
        height,
        width,
        numbers.ctypes.data,
        len(numbers),
        sizes.ctypes.data,
        len(sizes),
        torch.get_num_threads(),
        windows.ctypes.data,
        room,
    )
    if count < 0:
        raise MemoryError(f"not enough memory to segment an image of {height} x {width}")
    found = windows[:count]
    return found[:, :4], found[:, 4], found[:, 5]


def _check(pixels: Tensor, spaces: Sequence[str], ks: Sequence[float]) -> None:
    """Refuse what the library would not survive."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or len(pixels) != 3 or not pixels.numel():
        raise ValueError(
            f"pixels must be (3, H, W) uint8, got {tuple(pixels.shape)} {pixels.dtype}"
        )
    if pixels[0].numel() * 2 > MAX_PIXELS:
        raise ValueError(f"pixels must be at most {MAX_PIXELS // 2}, got {pixels[0].numel()}")
    if not spaces or any(space not in SPACES for space in spaces):
        raise ValueError(f"spaces must be of {sorted(SPACES)}, got {list(spaces)}")
    if not ks or list(ks) != sorted(ks) or not all(1 <= k <= 1e6 for k in ks):
        raise ValueError(f"ks must rise from at least 1 to at most 1e6, got {list(ks)}")
    if 2 * len(spaces) * len(ks) > MAX_RUNS:
        raise ValueError(f"spaces times ks must be at most {MAX_RUNS // 2}")


@functools.cache
def _function() -> Any:
    """Load the library's one function."""
    if kernel_name() is None:
        raise MissingPackageError(
            "the graph windows need a compiled kernel, which this installation lacks: run "
            "`pip install --force-reinstall --no-deps sppnet` where pip can get ziglang, or choose "
            "--proposals selective_search or --proposals grid"
        )
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    arguments = [pointer, number, number, pointer, number, pointer, number, number, pointer, number]
    name = "sppnet_graph_windows"
    return LIBRARY.functions({name: arguments}, ctypes.c_int64)[name]
