"""Non-maximum suppression: hard and soft, of one class and per class."""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from sppnet.geometry.boxes import box_iou, check_boxes, reject_rows


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
