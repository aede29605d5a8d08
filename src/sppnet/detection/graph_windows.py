"""Windows from our own segmentation and grouping: selective search, redone to be fast and ranked.

Felzenszwalb and Huttenlocher's segmentation runs once per colour space; segmentations with larger k
are made from its segments instead of from pixels. Every one is grouped by likeness of colours and
gradients and by closeness, and once more without the colours. Where selective search draws its
order by lot, ours is ranked.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.detection.graph_kernel import group_segments
from sppnet.detection.grid_windows import enclosed_edges

SPACES = ("hsv", "lab")
KS = (30.0, 60.0, 120.0, 240.0, 480.0)
# Windows whose sides and centres differ by less than a part of this many are about the same.
FINENESS = 4


def graph_windows(image: Tensor, seed: int = 0) -> Tensor:  # noqa: ARG001
    """Segment the image and join its segments to ever larger regions; their boxes are windows.

    First come windows that many runs have found, that hold whole contours, and that were among the
    last to be made. Of windows that are about the same, the second comes after all first ones.

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
    boxes, runs, places = group_segments((image * 255).round().to(torch.uint8), SPACES, KS)
    windows, which = _distinct(boxes.astype(np.int64))
    alike = _distinct(_rough(windows))[1]
    votes = np.bincount(_distinct(np.stack([alike[which], runs], 1))[0][:, 0])[alike]
    last = np.full(len(windows), np.iinfo(np.int64).max)
    np.minimum.at(last, which, places)
    contours = enclosed_edges(image, torch.from_numpy(windows)).numpy()
    best = np.argsort(-votes * contours / np.sqrt(last + 1.0), kind="stable")
    best = best[np.argsort(_was_there(alike[best]), kind="stable")]
    return torch.from_numpy(windows[best]).to(torch.float32)


def _distinct(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct rows of whole numbers, in order; and which of them each row is."""
    low = rows.min(0)
    sizes = rows.max(0) - low + 1
    keys = np.ravel_multi_index(tuple((rows - low).T), tuple(sizes))  # sorts 30 times as fast
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    return rows[first], which


def _rough(windows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Windows (K, 4) as steps of size and place, the same for those that are about the same."""
    sides = np.rint(FINENESS * np.log2(windows[:, 2:] - windows[:, :2]))
    steps = np.exp2(sides / FINENESS) / FINENESS
    centres = np.rint((windows[:, :2] + windows[:, 2:]) / 2 / steps)
    return np.concatenate([centres, sides], 1).astype(np.int64)


def _was_there(groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a row's group has an earlier row."""
    earlier = np.ones(len(groups), bool)
    earlier[np.unique(groups, return_index=True)[1]] = False
    return earlier
