"""Soft non-maximum suppression: boxes that overlap a better one lose score instead of vanishing."""

import torch
from torch import Tensor

from sppnet.geometry.boxes import box_iou, check_boxes, reject_rows


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
