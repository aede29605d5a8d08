"""Boxes: area, overlap, deltas, non-maximum suppression of one class and per class.

Boxes are float xyxy in pixels of the original image, x2 and y2 exclusive.
"""

import math
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

# exp(LARGEST_LOG_RATIO) is the most by which a regression may enlarge a side: 1000 px / 16 px.
LARGEST_LOG_RATIO = math.log(1000.0 / 16)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float = 0.3) -> Tensor:
    """Keep the best box, drop those that overlap it by more than the threshold, repeat.

    Convention:
        An overlap equal to the threshold is kept. Of equal scores the earlier row wins. Boxes
        without area overlap nothing, so they stay.

    Args:
        boxes: (K, 4) floating point, xyxy in pixels.
        scores: (K,) finite.
        iou_threshold: Overlap above which the worse box goes, in 0..1.

    Returns:
        (M,) int64 rows that stay, best first.

    Raises:
        TypeError: If ``boxes`` is not floating point.
        ValueError: If a box or a score is not finite, the counts differ, or the threshold is not
            in 0..1.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9]])
        >>> nms(boxes, torch.tensor([0.5, 0.9]))
        tensor([1])

    Source:
        SPP-net, section 4.1 (threshold 0.3).
    """
    check_boxes(boxes)
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores must have shape ({len(boxes)},), got {tuple(scores.shape)}")
    reject_rows(~scores.isfinite(), scores, "scores must be finite")
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in 0..1, got {iou_threshold}")
    order = scores.argsort(descending=True, stable=True)
    # torchvision sorts again; equal ranks cannot occur, so the order above decides.
    ranks = torch.arange(len(order), 0, -1, dtype=torch.float64, device=boxes.device)
    # double: in float32 an overlap of 3 / 10 is above 0.3; in half torchvision has no CPU kernel
    return order[_torchvision_nms()(boxes[order].double(), ranks, iou_threshold)]


@cache
def _torchvision_nms() -> Callable[[Tensor, Tensor, float], Tensor]:
    """Find torchvision's operator, without torchvision's Python where that is not there yet.

    Its Python imports torch's compiler, which takes as long as all that a prediction needs; a
    library that is loaded is not loaded again when somebody does import torchvision.
    """
    if "torchvision" not in sys.modules:
        spec = find_spec("torchvision")
        folders = (spec.submodule_search_locations if spec else None) or ()
        for path in (path for folder in folders for path in Path(folder).glob("_C*.so")):
            with suppress(OSError):
                torch.ops.load_library(path)
    if not hasattr(torch.ops.torchvision, "nms"):  # another system, or another layout
        import torchvision  # noqa: F401
    return cast(Callable[[Tensor, Tensor, float], Tensor], torch.ops.torchvision.nms)


def nms_per_class(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float = 0.3
) -> Tensor:
    """Suppress within each class only, as detectors do.

    Args:
        boxes: (K, 4) xyxy in pixels.
        scores: (K,) finite.
        labels: (K,) integers.
        iou_threshold: Overlap above which the worse box of the same class goes, in 0..1.

    Returns:
        (M,) int64 rows that stay, best score first over all classes; of equal scores the earlier
        row.

    Raises:
        TypeError: As :func:`nms`, or if labels are not integers.
        ValueError: As :func:`nms`, also for labels; rows in messages count within one class.

    Example:
        >>> same = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
        >>> nms_per_class(same, torch.tensor([0.5, 0.9]), torch.tensor([0, 1]))
        tensor([1, 0])
    """
    if labels.is_floating_point():  # a NaN equals nothing, not even itself: its box would vanish
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    for name, values in (("scores", scores), ("labels", labels)):
        if values.shape != boxes.shape[:1]:
            raise ValueError(f"{name} must have shape ({len(boxes)},), got {tuple(values.shape)}")
    kept = [
        rows[nms(boxes[rows], scores[rows], iou_threshold)]
        for label in labels.unique().tolist()
        for rows in [(labels == label).nonzero().flatten()]
    ]
    if not kept:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    rows = torch.cat(kept).sort().values
    return rows[scores[rows].argsort(descending=True, stable=True)]


def soft_nms(boxes: Tensor, shares: Tensor, sigma: float = 0.5, least: float = 1e-3) -> Tensor:
    """Take the best box, lower the scores of those that overlap it, repeat.

    A box that overlaps the taken one by ``iou`` keeps ``exp(-iou ** 2 / sigma)`` of its score.

    Args:
        boxes: (K, 4) floating point, xyxy in pixels.
        shares: (K,) scores from 0 to 1, such as probabilities; margins of an SVM would grow less
            negative instead of falling.
        sigma: The larger, the less the scores fall; above 0.
        least: Boxes whose score has fallen below this get 0, and lower nothing any more.

    Returns:
        (K,) the lowered scores, in the order of the boxes.

    Raises:
        TypeError: If ``boxes`` is not floating point.
        ValueError: If a box is not finite, a score is not in 0..1, the counts differ, or ``sigma``
            is not positive.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0], [8.0, 8.0, 9.0, 9.0]])
        >>> soft_nms(boxes, torch.tensor([0.8, 0.9, 0.5])).round(decimals=3)
        tensor([0.1080, 0.9000, 0.5000])

    Source:
        Bodla et al. 2017, the Gaussian rule.
    """
    check_boxes(boxes)
    if shares.shape != boxes.shape[:1]:
        raise ValueError(f"shares must have shape ({len(boxes)},), got {tuple(shares.shape)}")
    reject_rows(~((shares >= 0) & (shares <= 1)), shares, "shares must be in 0..1")
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    kept = torch.exp(-(box_iou(boxes.double(), boxes.double()) ** 2) / sigma)
    left = shares.double().clone()
    lowered = torch.zeros_like(left)
    for _ in range(len(left)):
        best = int(left.argmax())  # of equal scores the earlier row
        if left[best] < least:
            break
        lowered[best] = left[best]
        left *= kept[best]
        left[best] = -1.0
    return lowered.to(shares.dtype)


def soft_nms_per_class(
    boxes: Tensor, shares: Tensor, labels: Tensor, sigma: float = 0.5, least: float = 1e-3
) -> Tensor:
    """Lower scores within each class only.

    Args:
        boxes: (K, 4) xyxy in pixels.
        shares: (K,) from 0 to 1.
        labels: (K,) integers.
        sigma: As of :func:`soft_nms`.
        least: As of :func:`soft_nms`.

    Returns:
        (K,) the lowered scores, in the order of the boxes.

    Example:
        >>> same = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
        >>> soft_nms_per_class(same, torch.tensor([0.5, 0.9]), torch.tensor([0, 1])).tolist()
        [0.5, 0.8999999761581421]
    """
    lowered = torch.zeros_like(shares)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        lowered[rows] = soft_nms(boxes[rows], shares[rows], sigma, least)
    return lowered


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
