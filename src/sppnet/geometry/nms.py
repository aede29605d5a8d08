"""Non-maximum suppression: of detections that overlap, the best stays."""

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from sppnet.geometry.boxes import check_boxes


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float = 0.3) -> Tensor:
    """Greedy suppression: keep the best box, drop those that overlap it by more than the threshold, repeat.

    Convention:
        An overlap equal to the threshold is kept. Of equal scores the earlier row wins.

    Args:
        boxes: (K, 4) xyxy in pixels.
        scores: (K,) finite.
        iou_threshold: Overlap above which the worse box goes, in 0..1.

    Returns:
        (M,) int64 rows that stay, best first.

    Raises:
        ValueError: If a box or a score is not finite, or the counts differ.

    Example:
        >>> nms(torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9]]), torch.tensor([0.5, 0.9]))
        tensor([1])

    Source:
        SPP-net, section 4.1 (threshold 0.3).
    """
    check_boxes(boxes)
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"scores must have shape ({len(boxes)},), got {tuple(scores.shape)}")
    if not bool(scores.isfinite().all()):
        raise ValueError("scores must be finite")
    order = scores.argsort(descending=True, stable=True)
    # torchvision sorts again; equal ranks cannot occur, so the order above decides.
    ranks = torch.arange(len(order), 0, -1, dtype=boxes.dtype, device=boxes.device)
    return order[torchvision_nms(boxes[order], ranks, iou_threshold)]


def nms_per_class(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float = 0.3
) -> Tensor:
    """Suppress within each class only, as detectors do.

    Args:
        boxes: (K, 4) xyxy in pixels.
        scores: (K,) finite.
        labels: (K,) integers.
        iou_threshold: Overlap above which the worse box of the same class goes.

    Returns:
        (M,) int64 rows that stay, best score first over all classes.

    Raises:
        ValueError: As :func:`nms`.

    Example:
        >>> same = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]])
        >>> nms_per_class(same, torch.tensor([0.5, 0.9]), torch.tensor([0, 1]))
        tensor([1, 0])
    """
    kept = [
        rows[nms(boxes[rows], scores[rows], iou_threshold)]
        for label in labels.unique().tolist()
        for rows in [(labels == label).nonzero().flatten()]
    ]
    if not kept:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    rows = torch.cat(kept).sort().values
    return rows[scores[rows].argsort(descending=True, stable=True)]
