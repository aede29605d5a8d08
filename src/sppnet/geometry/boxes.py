"""Boxes: float xyxy in pixels of the original image, x2 and y2 exclusive."""

import math

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

# exp(LARGEST_LOG_RATIO) is the most by which a regression may enlarge a side: 1000 px / 16 px.
LARGEST_LOG_RATIO = math.log(1000.0 / 16)


def check_boxes(boxes: Tensor, name: str = "boxes") -> Tensor:
    """Return the boxes as they are, or say which row breaks the convention.

    Every box is checked before any compiled code sees it: torchvision's operators crash or answer
    silently on non-finite boxes.

    Args:
        boxes: (K, 4) floating point, xyxy in pixels, x2 and y2 exclusive.
        name: What the error calls them.

    Returns:
        The same tensor.

    Raises:
        TypeError: If ``boxes`` is not a floating-point tensor.
        ValueError: If the shape is not (K, 4), a coordinate is not finite, or a box is reversed;
            names the row.

    Example:
        >>> check_boxes(torch.tensor([[0.0, 0.0, 4.0, 2.0]]))
        tensor([[0., 0., 4., 2.]])
        >>> check_boxes(torch.tensor([[0.0, 0.0, 4.0, 2.0], [5.0, 0.0, 4.0, 2.0]]))
        Traceback (most recent call last):
        ValueError: boxes must have x1 <= x2 and y1 <= y2, got [5.0, 0.0, 4.0, 2.0] in row 1
    """
    if not isinstance(boxes, Tensor) or not boxes.is_floating_point():
        kind = boxes.dtype if isinstance(boxes, Tensor) else type(boxes).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {kind}")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name} must have shape (K, 4), got {tuple(boxes.shape)}")
    reject_rows(~boxes.isfinite().all(1), boxes, f"{name} must be finite")
    reversed_rows = (boxes[:, 2:] < boxes[:, :2]).any(1)
    reject_rows(reversed_rows, boxes, f"{name} must have x1 <= x2 and y1 <= y2")
    return boxes


def reject_rows(bad: Tensor, rows: Tensor, rule: str) -> None:
    """Raise a ValueError that names the first bad row, if there is one.

    Nothing is raised while a program is compiled, exported or traced, nor for tensors without
    values.

    Args:
        bad: (K,) bool, true for rows that break the rule.
        rows: (K, ...) what the error shows.
        rule: Start of the error, "NAME must RULE".

    Raises:
        ValueError: If a row is bad.

    Example:
        >>> labels = torch.tensor([3, -1])
        >>> reject_rows(labels < 0, labels, "labels must be 0 or more")
        Traceback (most recent call last):
        ValueError: labels must be 0 or more, got -1 in row 1
    """
    # a program that is recorded, or runs on shapes alone, has no values to look at
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if recorded or bad.is_meta or isinstance(bad, FakeTensor):
        return
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise ValueError(f"{rule}, got {rows[row].tolist()} in row {row}")


def box_area(boxes: Tensor) -> Tensor:
    """Area of each box in square pixels.

    Args:
        boxes: (..., 4) xyxy in pixels, x2 and y2 exclusive.

    Returns:
        (...) areas.

    Example:
        >>> box_area(torch.tensor([[0.0, 0.0, 4.0, 2.0]]))
        tensor([8.])
    """
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def box_intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Area that each box shares with each other box.

    Args:
        boxes: (N, 4) xyxy.
        others: (M, 4) xyxy.

    Returns:
        (N, M) areas in square pixels.

    Example:
        >>> box_intersection(torch.tensor([[0.0, 0, 4, 2]]), torch.tensor([[2.0, 0, 6, 2]]))
        tensor([[4.]])
    """
    top_left = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    width, height = (bottom_right - top_left).clamp(min=0).unbind(-1)
    return width * height  # seven times as fast as prod(-1)


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each box with each other box.

    VOC's "+1" rule for inclusive corners gives the same number, because its boxes become half-open
    in the reader.

    Args:
        boxes: (N, 4) floating point xyxy.
        others: (M, 4) xyxy of the same dtype.

    Returns:
        (N, M) in 0..1; a pair without any area has overlap 0.

    Example:
        >>> box_iou(torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([[2.0, 0.0, 6.0, 2.0]]))
        tensor([[0.3333]])
    """
    intersection = box_intersection(boxes, others)
    union = box_area(boxes)[:, None] + box_area(others)[None, :] - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def clip_boxes(boxes: Tensor, image_size_hw: tuple[int, int]) -> Tensor:
    """Cut boxes at the borders of the image.

    Args:
        boxes: (..., 4) xyxy in pixels.
        image_size_hw: Height and width of the image.

    Returns:
        (..., 4) boxes inside [0, width] x [0, height].

    Example:
        >>> clip_boxes(torch.tensor([[-3.0, 1.0, 9.0, 5.0]]), (4, 8))
        tensor([[0., 1., 8., 4.]])
    """
    height, width = image_size_hw
    limits = torch.tensor([width, height, width, height], dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limits)


def flip_boxes(boxes: Tensor, image_width: int) -> Tensor:
    """Mirror boxes together with their image, left to right.

    Args:
        boxes: (K, 4) xyxy in pixels.
        image_width: Of the image.

    Returns:
        (K, 4); the left side of a mirrored box comes from the right side of the original.

    Example:
        >>> flip_boxes(torch.tensor([[0.0, 0.0, 4.0, 2.0]]), image_width=10)
        tensor([[ 6.,  0., 10.,  2.]])
    """
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack([image_width - x1, y0, image_width - x0, y1], -1)


def boxes_to_deltas(proposals: Tensor, targets: Tensor) -> Tensor:
    """Describe each target relative to its proposal: shift of the centre, logarithm of the growth.

    Args:
        proposals: (K, 4) xyxy of positive width and height.
        targets: (K, 4) xyxy of positive width and height.

    Returns:
        (K, 4): dx / width, dy / height, log(width ratio), log(height ratio).

    Example:
        >>> boxes_to_deltas(torch.tensor([[0.0, 0, 4, 2]]), torch.tensor([[2.0, 0, 6, 2]]))
        tensor([[0.5000, 0.0000, 0.0000, 0.0000]])

    Source:
        R-CNN (Girshick et al. 2014), appendix C; used by SPP-net, section 4.2.
    """
    sizes, centres = _sizes_and_centres(proposals)
    target_sizes, target_centres = _sizes_and_centres(targets)
    return torch.cat([(target_centres - centres) / sizes, (target_sizes / sizes).log()], dim=1)


def deltas_to_boxes(proposals: Tensor, deltas: Tensor) -> Tensor:
    """Move and stretch each proposal: the inverse of :func:`boxes_to_deltas`.

    Growth of a side beyond a factor of 62.5 is cut off, so that a wild prediction cannot overflow;
    up to there it is the exact inverse.

    Args:
        proposals: (K, 4) xyxy.
        deltas: (K, 4) as from :func:`boxes_to_deltas`.

    Returns:
        (K, 4) xyxy.

    Example:
        >>> deltas_to_boxes(torch.tensor([[0.0, 0, 4, 2]]), torch.tensor([[0.5, 0, 0, 0]]))
        tensor([[2., 0., 6., 2.]])
    """
    sizes, centres = _sizes_and_centres(proposals)
    new_centres = centres + deltas[:, :2] * sizes
    new_sizes = sizes * deltas[:, 2:].clamp(max=LARGEST_LOG_RATIO).exp()
    return torch.cat([new_centres - new_sizes / 2, new_centres + new_sizes / 2], dim=1)


def _sizes_and_centres(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height, and centre, of each box: two (K, 2) tensors."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    return sizes, boxes[:, :2] + sizes / 2
