"""Proposals by grouping the segments of an image: our own selective search, in C++.

Felzenszwalb and Huttenlocher's segmentation runs once per colour space; segmentations with larger k
are made from its segments instead of from pixels. The segments of each are grouped by closeness and
by the similarity of their colours and gradients, and once more without the colours. The proposals
of selective search are shuffled; ours are ranked.

The source is in ``native/``; the installation compiles it once for each generation of processors.
The proposals are the same on every generation, with any number of threads, and from any thread:
colours are computed without the mathematical library, and everything that is compared is an integer
or comes from the same operations in the same order.

The contours that a box encloses rank the proposals, and are all that the sliding windows of
``grid_proposals`` go by.
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
MAX_PIXELS = 1 << 22  # indices of regions have 22 bits, and there may be two regions per pixel
MAX_RUNS = 64
DEFAULT_SPACES = ("hsv", "lab")
KS = (30.0, 60.0, 120.0, 240.0, 480.0)
# Proposals whose sides and centres differ by less than 1 / FINENESS count as nearly the same.
FINENESS = 4


def grid_proposals(image: Tensor, seed: int = 0) -> Tensor:  # noqa: ARG001
    """Slide windows of many sizes and shapes over an image, and rank them by enclosed contours.

    The score of a window is the gradient magnitude inside it, without that in its middle, divided
    by the length of its border to the power 1.5: an object shows by contours near the border that
    do not cross it. Windows are ranked within their size, and the sizes take turns, so that large
    windows do not crowd out small ones.

    Args:
        image: (3, H, W) float RGB 0..1.
        seed: Not used; the order is by score.

    Returns:
        (K, 4) float32 xyxy, best first.

    Source:
        The score is that of EdgeBoxes (Zitnick and Dollar 2014) without its grouping of contours.
    """
    height, width = image.shape[1:]
    windows = torch.unique(
        torch.cat(
            [
                _slide(height, width, side * aspect**0.5, side / aspect**0.5)
                for side in _window_sides(height, width)
                for aspect in (0.5, 1.0, 2.0)
            ]
        ),
        dim=0,
    )
    best = enclosed_edges(image, windows).argsort(descending=True, stable=True)
    windows = windows[best]
    octave = (windows[:, 2:] - windows[:, :2]).double().prod(1).log2().round()
    return windows[rank_within(octave).argsort(stable=True)].to(torch.float32)


def rank_within(groups: Tensor) -> Tensor:
    """Count, for each row, the earlier rows of its group.

    Args:
        groups: (K,) group of each row.

    Returns:
        (K,) int64.

    Example:
        >>> rank_within(torch.tensor([7, 3, 7, 7])).tolist()
        [0, 0, 1, 2]
    """
    rank = torch.zeros(len(groups), dtype=torch.int64)
    for group in groups.unique():
        rows = (groups == group).nonzero().flatten()
        rank[rows] = torch.arange(len(rows))
    return rank


def _window_sides(height: int, width: int) -> list[float]:
    """Sides from a sixteenth of the short side to the long side, a factor 1.4 apart."""
    side, sides = min(height, width) / 16, []
    while side < max(height, width):
        sides.append(max(side, 4.0))
        side *= 1.4
    return sides or [float(max(height, width))]


def _slide(height: int, width: int, window_w: float, window_h: float) -> Tensor:
    """(K, 4) integer windows of one shape, a third of a side apart, the last at the borders."""
    w, h = min(round(window_w), width), min(round(window_h), height)
    step_x, step_y = max(1, round(window_w / 3)), max(1, round(window_h / 3))
    x0 = torch.tensor(sorted({*range(0, width - w + 1, step_x), width - w}))
    y0 = torch.tensor(sorted({*range(0, height - h + 1, step_y), height - h}))
    y0, x0 = (axis.flatten() for axis in torch.meshgrid(y0, x0, indexing="ij"))
    return torch.stack([x0, y0, x0 + w, y0 + h], 1)


def enclosed_edges(image: Tensor, boxes: Tensor) -> Tensor:
    """Score boxes by the gradient magnitude near their border, as :func:`grid_proposals` describes.

    Args:
        image: (3, H, W) float RGB 0..1.
        boxes: (K, 4) int64 xyxy in pixels.

    Returns:
        (K,) float64.
    """
    edges = torch.zeros(image.shape[1:], dtype=torch.float64)
    edges[:, 1:] += (image[:, :, 1:] - image[:, :, :-1]).abs().amax(0)
    edges[1:, :] += (image[:, 1:, :] - image[:, :-1, :]).abs().amax(0)
    integral = torch.nn.functional.pad(edges.cumsum(0).cumsum(1), (1, 0, 1, 0))
    sides = boxes[:, 2:] - boxes[:, :2]
    quarter = sides // 4
    inner = torch.cat([boxes[:, :2] + quarter, boxes[:, 2:] - quarter], 1)
    enclosed = _box_sums(integral, boxes) - _box_sums(integral, inner)
    return enclosed / (2 * sides.sum(1).double()) ** 1.5


def _box_sums(integral: Tensor, boxes: Tensor) -> Tensor:
    """(K,) sums of an image over integer boxes, from its integral image."""
    x0, y0, x1, y1 = boxes.unbind(1)
    return integral[y1, x1] - integral[y0, x1] - integral[y1, x0] + integral[y0, x0]


@functools.cache
def kernel_name() -> str | None:
    """Name of the kernel for this processor; None if none was compiled.

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
        ks: Felzenszwalb and Huttenlocher's k, rising; also the least number of pixels of a segment.
            The segments of the second and later ones are joined from those of the first.

    Returns:
        All regions, run after run (spaces, then ks, then with and without colour): (R, 4) boxes
        xyxy; (R,) the run of each; (R,) how many regions its run made after it.

    Raises:
        ValueError: If ``pixels`` are not (3, H, W) uint8 or too many, a space is unknown, or ``ks``
            do not rise or are too many.
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
    proposals = np.empty((room, 6), np.int32)
    count = _function()(
        pixels.data_ptr(),
        height,
        width,
        numbers.ctypes.data,
        len(numbers),
        sizes.ctypes.data,
        len(sizes),
        torch.get_num_threads(),
        proposals.ctypes.data,
        room,
    )
    if count < 0:
        raise MemoryError(f"not enough memory to segment an image of {height} x {width}")
    found = proposals[:count]
    return found[:, :4], found[:, 4], found[:, 5]


def _check(pixels: Tensor, spaces: Sequence[str], ks: Sequence[float]) -> None:
    """Raise ValueError for arguments that would crash the library."""
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
    """Load the only function of the library."""
    if kernel_name() is None:
        raise MissingPackageError(
            "the graph proposals need a compiled kernel, which this installation lacks: run "
            "`pip install --force-reinstall --no-deps sppnet` where pip can get ziglang, or choose "
            "--proposals selective_search or --proposals grid"
        )
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    arguments = [pointer, number, number, pointer, number, pointer, number, number, pointer, number]
    name = "sppnet_graph_windows"
    return LIBRARY.functions({name: arguments}, ctypes.c_int64)[name]


def graph_proposals(image: Tensor, seed: int = 0) -> Tensor:  # noqa: ARG001
    """Segment an image, merge its segments into larger and larger regions, and rank their boxes.

    The first proposals are those that many runs have found, that enclose whole contours, and that
    were merged late. Of several that are nearly the same, one is ranked as usual, and the others
    come after all proposals that are different.

    Args:
        image: (3, H, W) float RGB 0..1.
        seed: Not used; the order is by score.

    Returns:
        (K, 4) float32 xyxy, distinct, best first.

    Raises:
        MissingPackageError: If no kernel was compiled; names what to do.

    Source:
        Felzenszwalb and Huttenlocher 2004; Uijlings et al. 2013.
    """
    boxes, runs, places = group_segments((image * 255).round().to(torch.uint8), DEFAULT_SPACES, KS)
    proposals, which = _distinct(boxes.astype(np.int64))
    alike = _distinct(_round_boxes(proposals))[1]
    votes = np.bincount(_distinct(np.stack([alike[which], runs], 1))[0][:, 0])[alike]
    last = np.full(len(proposals), np.iinfo(np.int64).max)
    np.minimum.at(last, which, places)
    contours = enclosed_edges(image, torch.from_numpy(proposals)).numpy()
    best = np.argsort(-votes * contours / np.sqrt(last + 1.0), kind="stable")
    best = best[np.argsort(_seen_before(alike[best]), kind="stable")]
    return torch.from_numpy(proposals[best]).to(torch.float32)


def _distinct(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(U, C) distinct rows of integers, sorted, and (R,) the index among them of each row."""
    low = rows.min(0)
    sizes = rows.max(0) - low + 1
    keys = np.ravel_multi_index(tuple((rows - low).T), tuple(sizes))  # sorts 30 times as fast
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], which


def _round_boxes(proposals: NDArray[np.int64]) -> NDArray[np.int64]:
    """(K, 4) proposals rounded to steps of size and place: equal if they are nearly the same."""
    sides = np.rint(FINENESS * np.log2(proposals[:, 2:] - proposals[:, :2]))
    steps = np.exp2(sides / FINENESS) / FINENESS
    centres = np.rint((proposals[:, :2] + proposals[:, 2:]) / 2 / steps)
    return np.concatenate([centres, sides], 1).astype(np.int64)


def _seen_before(groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(K,) whether an earlier row has the same group."""
    earlier = np.ones(len(groups), bool)
    earlier[np.unique(groups, return_index=True)[1]] = False
    return earlier
