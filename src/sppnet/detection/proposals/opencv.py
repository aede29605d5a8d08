"""Proposals by OpenCV's contrib modules: selective search, and EdgeBoxes on image gradients."""

from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.errors import MissingPackageError

# Standard deviation, in pixels, of the Gaussian that smooths the image before edges are found.
SMOOTHING = 2.0
# EdgeBoxes traces contours along edges above 0.1: edges are scaled so that a fifth of them is.
STRONG_SHARE, STRONG = 0.2, 0.1


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
