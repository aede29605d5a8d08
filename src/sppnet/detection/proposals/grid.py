"""Sliding windows of many sizes and shapes, ranked by the contours that they enclose."""

import torch
from torch import Tensor


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
