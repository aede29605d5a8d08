"""Finds proposals in the pixels of an image: one function for all methods, which "+" joins.

Every method works on a copy of the image, no longer than ``WORKING_SIDE`` unless told otherwise.
For one image and seed it always gives the same proposals in the same order, whatever random numbers
a library draws.
"""

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.config.detection import split_methods
from sppnet.detection.proposals.graph import graph_proposals, grid_proposals
from sppnet.errors import MissingPackageError
from sppnet.geometry import clip_boxes
from sppnet.images import resize_image

# Standard deviation, in pixels, of the Gaussian that smooths the image before edges are found.
SMOOTHING = 2.0
# EdgeBoxes traces contours along edges above 0.1: edges are scaled so that a fifth of them is.
STRONG_SHARE, STRONG = 0.2, 0.1
# The R-CNN code searches at a width of 500; beyond it the time grows and the recall does not.
WORKING_SIDE = 500
SEARCHED_PIXELS = 2_000_000  # the most, whatever the side: beyond them some methods end
# Of the image's short side; thinner proposals cover less than a cell of the map.
SMALLEST_SIDE = 0.02
PROPOSALS_VERSION = 2  # part of cache keys: raise it whenever the proposals change


def propose(
    image: Tensor,
    method: str = "graph",
    limit: int = 2000,
    seed: int = 0,
    *,
    search_side: int = WORKING_SIDE,
    least_side: int = 0,
) -> Tensor:
    """Propose boxes that may show an object.

    Args:
        image: (3, H, W) float RGB 0..1.
        method: One of :data:`PROPOSERS`, or several joined by "+", which take turns.
        limit: The most proposals to return.
        seed: Seed of the order of proposals, for methods that do not rank them.
        search_side: Longest side of the copy that is searched, in pixels; 0 searches the image.
        least_side: The least side of a proposal, in pixels; 20 in the released code.

    Returns:
        (K, 4) float32 xyxy in pixels of the image, distinct, none thinner than 2 % of the short
        side or than asked for; the whole image comes first, then the best proposals.

    Raises:
        ValueError: If there is no such method (the message lists them), ``limit`` is below 1, or
            the image is not finite (3, H, W).
        MissingPackageError: If the method needs OpenCV's contrib modules or a compiled kernel that
            is not installed; the message names the command that installs it.

    Example:
        >>> propose(torch.rand(3, 40, 60, generator=torch.manual_seed(0)), "grid", limit=100).shape
        torch.Size([100, 4])
    """
    proposers = [PROPOSERS[name] for name in split_methods(method)]
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if image.ndim != 3 or len(image) != 3 or not image.numel():
        raise ValueError(f"image must be (3, H, W), got {tuple(image.shape)}")
    if not all(math.isfinite(end) for end in image.aminmax()):  # a table of them would be large
        raise ValueError("image must be finite, got NaN or infinity")
    height, width = image.shape[1:]
    small = shrink_to_search(image, search_side)
    proposals = take_turns([proposer(small, seed) for proposer in proposers])
    scale = torch.tensor([width / small.shape[2], height / small.shape[1]]).repeat(2)
    boxes = clip_boxes(proposals * scale, (height, width))
    thick = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= max(
        1.0, SMALLEST_SIDE * min(height, width), least_side
    )
    whole_image = torch.tensor([[0.0, 0.0, float(width), float(height)]])
    return keep_first(torch.cat([whole_image, boxes[thick]]))[:limit]


def shrink_to_search(image: Tensor, side: int = WORKING_SIDE) -> Tensor:
    """Make the copy of an image that is searched.

    Args:
        image: (3, H, W) float RGB 0..1.
        side: Its longest side, in pixels; 0 keeps the size, if it is of at most
            2 million pixels.

    Returns:
        (3, H', W') on the CPU, clamped to 0..1.

    Example:
        >>> shrink_to_search(torch.zeros(3, 30, 1000)).shape
        torch.Size([3, 15, 500])
    """
    height, width = image.shape[1:]
    shrink = min(1.0, (SEARCHED_PIXELS / (height * width)) ** 0.5)
    shrink = min(shrink, side / max(height, width)) if side else shrink
    size_hw = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    return resize_image(image, size_hw).cpu().clamp(0, 1)


def take_turns(ranked: list[Tensor]) -> Tensor:
    """Interleave lists of proposals: the best of each, the second of each, and so on.

    Args:
        ranked: One (K_i, 4) tensor per list, best first.

    Returns:
        (sum of K_i, 4).

    Example:
        >>> take_turns([torch.zeros(1, 4), torch.ones(3, 4)])[:, 0].tolist()
        [0.0, 1.0, 1.0, 1.0]
    """
    ranks = torch.cat([torch.arange(len(proposals)) for proposals in ranked])
    return torch.cat(ranked)[ranks.argsort(stable=True)]


def keep_first(boxes: Tensor) -> Tensor:
    """Drop boxes that are equal to an earlier one.

    Args:
        boxes: (K, 4).

    Returns:
        (L, 4) distinct boxes in the same order.

    Example:
        >>> keep_first(torch.tensor([[1.0, 1, 2, 2], [0, 0, 2, 2], [1, 1, 2, 2]])).tolist()
        [[1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]]
    """
    _, group = boxes.unique(dim=0, return_inverse=True)
    order = group.argsort(stable=True)
    is_first = torch.ones(len(order), dtype=torch.bool)
    is_first[1:] = group[order][1:] != group[order][:-1]
    return boxes[order[is_first].sort().values]


def selective_search(image: Tensor, seed: int = 0) -> Tensor:
    """Run selective search in its fast mode, as the paper does.

    OpenCV orders its proposals by the C library's random numbers. Here they are sorted, then
    shuffled by ``seed``, so that the first n of them are a fair sample for every n.

    Args:
        image: (3, H, W) float RGB 0..1.
        seed: Seed of the order.

    Returns:
        (K, 4) float32 xyxy, distinct.

    Raises:
        MissingPackageError: If OpenCV is not installed, or without its contrib modules.

    Source:
        Uijlings et al. 2013; SPP-net, section 4.1.
    """
    return _search_selectively(image, seed, "switchToSelectiveSearchFast")


def selective_search_quality(image: Tensor, seed: int = 0) -> Tensor:
    """Run selective search in its quality mode: more colour spaces, more proposals, far slower.

    Args:
        image: (3, H, W) float RGB 0..1.
        seed: Seed of the order.

    Returns:
        (K, 4) float32 xyxy, distinct.

    Raises:
        MissingPackageError: If OpenCV is not installed, or without its contrib modules.

    Source:
        Uijlings et al. 2013.
    """
    return _search_selectively(image, seed, "switchToSelectiveSearchQuality")


def _search_selectively(image: Tensor, seed: int, mode: str) -> Tensor:
    """Search in one of OpenCV's modes: (K, 4) distinct boxes, in an order that follows the seed."""
    search = _contrib("selective search").segmentation.createSelectiveSearchSegmentation()
    if min(image.shape[1:]) < 2:  # OpenCV's segmentation needs neighbours in both directions
        return torch.zeros(0, 4)
    search.setBaseImage(_blue_green_red(image))
    getattr(search, mode)()
    found = np.unique(np.asarray(search.process(), dtype=np.int64).reshape(-1, 4), axis=0)
    found[:, 2:] += found[:, :2]
    order = np.random.default_rng(seed).permutation(len(found))
    return torch.from_numpy(found[order]).to(torch.float32)


def edge_boxes(image: Tensor, seed: int = 0) -> Tensor:  # noqa: ARG001
    """Run EdgeBoxes: boxes that enclose many whole contours, on edges from image gradients.

    The edges are gradients of the smoothed image, thinned to the strongest along their direction.
    The original uses a learnt edge detector, which would need a file of weights.

    Args:
        image: (3, H, W) float RGB 0..1.
        seed: Not used; the order is by score.

    Returns:
        (K, 4) float32 xyxy, best first.

    Raises:
        MissingPackageError: If OpenCV is not installed, or without its contrib modules.

    Source:
        Zitnick and Dollar 2014.
    """
    search = _contrib("EdgeBoxes").createEdgeBoxes(maxBoxes=10_000, minBoxArea=400)
    if min(image.shape[1:]) < 8:  # thinner than the smallest box
        return torch.zeros(0, 4)
    strength, direction = _edges(image)
    found, _ = search.getBoundingBoxes(strength, direction)
    boxes = torch.as_tensor(np.asarray(found), dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _edges(image: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(H, W) thin edges, scaled for EdgeBoxes, and (H, W) the directions of their gradients."""
    import cv2

    smooth = cv2.GaussianBlur(image.permute(1, 2, 0).contiguous().numpy(), (0, 0), SMOOTHING)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0))
    strength = np.hypot(across, down)
    channel = strength.argmax(2)[..., None]
    across, down, strength = (
        np.take_along_axis(each, channel, 2)[..., 0] for each in (across, down, strength)
    )
    strength *= STRONG / max(float(np.quantile(strength, 1 - STRONG_SHARE)), 1e-6)
    direction = np.arctan2(down, across) % np.float32(np.pi)
    return np.minimum(_thin(strength, direction), 1), direction


def _thin(strength: NDArray[np.float32], direction: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep edges that are at least as strong as one pixel ahead and one pixel behind."""
    import cv2

    y, x = np.indices(strength.shape, np.float32)
    right, under = np.cos(direction), np.sin(direction)
    around = [
        cv2.remap(strength, x + side * right, y + side * under, cv2.INTER_LINEAR, borderValue=0)
        for side in (-1, 1)
    ]
    return np.where(strength >= np.maximum(*around), strength, np.float32(0))


def _blue_green_red(image: Tensor) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 in OpenCV's order of colours."""
    return (image * 255).round().to(torch.uint8).flip(0).permute(1, 2, 0).contiguous().numpy()


def _contrib(method: str) -> ModuleType:
    """Import OpenCV's ximgproc module; MissingPackageError names the command that installs it."""
    fix = "or choose --proposals grid, which needs no OpenCV"
    install = "pip install --force-reinstall opencv-contrib-python-headless"
    try:
        import cv2
    except ImportError as error:
        raise MissingPackageError(f"{method} needs OpenCV: run `{install}`, {fix}") from error
    if not hasattr(cv2, "ximgproc") or not hasattr(cv2.ximgproc, "segmentation"):
        raise MissingPackageError(
            f"{method} needs cv2.ximgproc.segmentation, which this OpenCV lacks "
            "(opencv-python beside opencv-contrib hides it): run "
            f"`pip uninstall -y opencv-python opencv-python-headless` and `{install}`, {fix}"
        )
    return cv2.ximgproc


PROPOSERS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "graph": graph_proposals,
    "selective_search": selective_search,
    "selective_search_quality": selective_search_quality,
    "edge_boxes": edge_boxes,
    "grid": grid_proposals,
}
