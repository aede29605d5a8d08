"""Windows that may hold a thing: selective search, and a built-in search that needs no OpenCV.

Both work on a copy of the image no longer than ``WORKING_SIDE``, always give the same windows in
the same order for the same image and seed, and never depend on the order of a library's random
numbers.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sppnet.errors import MissingPackageError
from sppnet.geometry import clip_boxes
from sppnet.images import resize_image

# The R-CNN code searches at a width of 500; beyond it the time grows and the recall does not.
WORKING_SIDE = 500
SMALLEST_SIDE = 0.02  # of the image's short side: thinner windows hold less than a cell of the map
PROPOSALS_VERSION = 1  # part of cache keys: raise it whenever the windows change


def propose(
    image: Tensor, method: str = "selective_search", limit: int = 2000, seed: int = 0
) -> Tensor:
    """Find windows that may hold a thing.

    Args:
        image: (3, H, W) float RGB 0..1.
        method: One of :data:`PROPOSERS`.
        limit: The most windows to return.
        seed: Of the order in which windows come, where the method does not rank them.

    Returns:
        (K, 4) float32 xyxy in pixels of the image, none thinner than 2 % of the short side; the
        whole image comes first.

    Raises:
        ValueError: If the method does not exist; lists those that do.
        MissingPackageError: If OpenCV's contrib modules are needed and not there; names the
            command that mends it.

    Example:
        >>> propose(torch.rand(3, 40, 60, generator=torch.manual_seed(0)), "grid", limit=100).shape
        torch.Size([100, 4])
    """
    if method not in PROPOSERS:
        raise ValueError(f"method must be one of {sorted(PROPOSERS)}, got {method!r}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    height, width = image.shape[1:]
    shrink = min(1.0, WORKING_SIDE / max(height, width))
    size_hw = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    small = image if shrink == 1.0 else resize_image(image, size_hw)
    windows = PROPOSERS[method](small.cpu(), seed)
    scale = torch.tensor([width / size_hw[1], height / size_hw[0]]).repeat(2)
    boxes = clip_boxes(windows * scale, (height, width))
    thick = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= max(1.0, SMALLEST_SIDE * min(height, width))
    whole_image = torch.tensor([[0.0, 0.0, float(width), float(height)]])
    return torch.cat([whole_image, boxes[thick][: limit - 1]])


def selective_search(image: Tensor, seed: int = 0) -> Tensor:
    """Run selective search in its fast mode, as the paper does.

    OpenCV orders its windows by the C library's random numbers; here they are put in a fixed order
    and shuffled by ``seed``, so that the first n of them are a fair sample at every n.

    Args:
        image: (3, H, W) float RGB 0..1.
        seed: Of the order.

    Returns:
        (K, 4) float32 xyxy, distinct.

    Raises:
        MissingPackageError: If OpenCV is not installed, or without its contrib modules.

    Source:
        Uijlings et al. 2013; SPP-net, section 4.1.
    """
    search = _opencv_segmentation().createSelectiveSearchSegmentation()
    pixels = (image * 255).round().to(torch.uint8).flip(0).permute(1, 2, 0).contiguous().numpy()
    if min(pixels.shape[:2]) < 2:  # OpenCV's segmentation needs neighbours in both directions
        return torch.zeros(0, 4)
    search.setBaseImage(pixels)
    search.switchToSelectiveSearchFast()
    found = np.unique(np.asarray(search.process(), dtype=np.int64).reshape(-1, 4), axis=0)
    found[:, 2:] += found[:, :2]
    order = np.random.default_rng(seed).permutation(len(found))
    return torch.from_numpy(found[order]).to(torch.float32)


def _opencv_segmentation():  # type: ignore[no-untyped-def]
    """OpenCV's segmentation module, or the command that installs it."""
    fix = "or choose --proposals grid, which needs no OpenCV"
    install = "pip install --force-reinstall opencv-contrib-python-headless"
    try:
        import cv2
    except ImportError as error:
        raise MissingPackageError(
            f"selective search needs OpenCV: run `{install}`, {fix}"
        ) from error
    if not hasattr(cv2, "ximgproc") or not hasattr(cv2.ximgproc, "segmentation"):
        raise MissingPackageError(
            "selective search needs cv2.ximgproc.segmentation, which this OpenCV lacks "
            "(opencv-python beside opencv-contrib hides it): run "
            f"`pip uninstall -y opencv-python opencv-python-headless` and `{install}`, {fix}"
        )
    return cv2.ximgproc.segmentation


def grid_windows(image: Tensor, seed: int = 0) -> Tensor:  # noqa: ARG001
    """Slide windows of many sizes and shapes, and put first those that enclose contours.

    The score of a window is the gradient magnitude inside it, less that in its middle, per length
    of its border to the power 1.5: contours near the border that the window holds whole speak for
    a thing. Windows of each size are ranked among themselves and the sizes take turns, so that
    large windows do not crowd out small ones.

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
    best = _enclosed_edges(image, windows).argsort(descending=True, stable=True)
    windows = windows[best]
    octave = (windows[:, 2:] - windows[:, :2]).double().prod(1).log2().round()
    return windows[_rank_within(octave).argsort(stable=True)].to(torch.float32)


def _rank_within(groups: Tensor) -> Tensor:
    """(K,) place of each row among the earlier rows of its group."""
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


def _enclosed_edges(image: Tensor, windows: Tensor) -> Tensor:
    """Gradient magnitude in the outer part of each window, per border length to the power 1.5."""
    edges = torch.zeros(image.shape[1:], dtype=torch.float64)
    edges[:, 1:] += (image[:, :, 1:] - image[:, :, :-1]).abs().amax(0)
    edges[1:, :] += (image[:, 1:, :] - image[:, :-1, :]).abs().amax(0)
    integral = torch.nn.functional.pad(edges.cumsum(0).cumsum(1), (1, 0, 1, 0))
    sides = windows[:, 2:] - windows[:, :2]
    quarter = sides // 4
    inner = torch.cat([windows[:, :2] + quarter, windows[:, 2:] - quarter], 1)
    enclosed = _box_sums(integral, windows) - _box_sums(integral, inner)
    return enclosed / (2 * sides.sum(1).double()) ** 1.5


def _box_sums(integral: Tensor, boxes: Tensor) -> Tensor:
    """Sum of an image over integer boxes, from its integral image."""
    x0, y0, x1, y1 = boxes.unbind(1)
    return integral[y1, x1] - integral[y0, x1] - integral[y1, x0] + integral[y0, x0]


def selective_search_and_grid(image: Tensor, seed: int = 0) -> Tensor:
    """Selective search first, then the built-in windows: for small, round or touching things."""
    return torch.cat([selective_search(image, seed), grid_windows(image, seed)])


PROPOSERS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "selective_search": selective_search,
    "grid": grid_windows,
    "both": selective_search_and_grid,
}
