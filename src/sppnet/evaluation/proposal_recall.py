"""Recall of proposals: how many objects they cover, by the number of proposals per image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.evaluation.overlaps import row_blocks
from sppnet.geometry import box_iou, check_boxes

if TYPE_CHECKING:
    from sppnet.images.dataset import LabelledImage

_STEPS = (1, 2, 5)


@dataclass(frozen=True)
class ProposalRecall:
    """Share of the objects that the first proposals cover.

    Args:
        num_proposals: (M,) numbers of proposals per image.
        recall: By overlap, (M,) shares 0..1; NaN without objects.
        num_truth: Number of objects.
        mean_proposals: Proposals per image, on average.
    """

    num_proposals: NDArray[np.int64]
    recall: dict[float, NDArray[np.float64]]
    num_truth: int
    mean_proposals: float


def proposal_recall_curve(
    truth: Sequence["LabelledImage"],
    proposals: Mapping[Any, Tensor],
    iou_thresholds: Sequence[float] = (0.5, 0.7),
    num_proposals: Sequence[int] | None = None,
) -> ProposalRecall:
    """Measure proposals: how many objects have one that overlaps them enough.

    Difficult objects and crowds are left out.

    Args:
        truth: Images with their objects.
        proposals: (K, 4) boxes by image id, the most promising first; a missing image has none.
        iou_thresholds: Overlaps that are enough.
        num_proposals: How many of each image's proposals to look at; default 1, 2, 5, 10, ... and
            the largest number there is.

    Returns:
        The recall for each number of proposals and each overlap.

    Raises:
        ValueError: If a box is not finite or reversed.

    Example:
        >>> from types import SimpleNamespace
        >>> no = torch.tensor([False])
        >>> box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
        >>> image = SimpleNamespace(image_id="a", boxes=box, difficult=no, crowd=no)
        >>> found = proposal_recall_curve([image], {"a": torch.cat([box + 9, box])})
        >>> found.num_proposals.tolist(), found.recall[0.5].tolist()
        ([1, 2], [0.0, 1.0])
    """
    counts = [len(proposals.get(image.image_id, ())) for image in truth]
    if num_proposals is None:
        num_proposals = _round_numbers(max(counts, default=0))
    numbers = np.asarray(num_proposals)
    ranks = [_first_ranks(image, proposals, iou_thresholds) for image in truth]
    joined = np.concatenate([np.zeros((0, len(iou_thresholds))), *ranks])
    recall = {
        threshold: _share_below(joined[:, column], numbers)
        for column, threshold in enumerate(iou_thresholds)
    }
    mean = float(np.mean(counts)) if counts else 0.0
    return ProposalRecall(numbers.astype(np.int64), recall, len(joined), mean)


def _first_ranks(
    image: "LabelledImage", proposals: Mapping[Any, Tensor], iou_thresholds: Sequence[float]
) -> NDArray[np.float64]:
    """Place of the first proposal that covers each object enough, infinite if none: (G, T)."""
    objects = image.boxes[~(image.difficult | image.crowd)]
    boxes = proposals.get(image.image_id)
    ranks = np.full((len(objects), len(iou_thresholds)), np.inf)
    if boxes is None or not len(boxes) or not len(objects):
        return ranks
    check_boxes(boxes, f"proposals of {image.image_id!r}")
    boxes = boxes.detach().cpu().to(torch.float64)
    for rows in row_blocks(np.arange(len(objects)), len(boxes)):
        overlaps = box_iou(objects[rows].to(torch.float64), boxes).numpy()
        for column, threshold in enumerate(iou_thresholds):
            enough = overlaps >= threshold
            ranks[rows, column] = np.where(enough.any(1), enough.argmax(1), np.inf)
    return ranks


def _share_below(ranks: NDArray[np.float64], numbers: NDArray[Any]) -> NDArray[np.float64]:
    """Share of the ranks that lie below each number."""
    if not len(ranks):
        return np.full(len(numbers), np.nan)
    return (ranks[:, None] < numbers).mean(0)


def _round_numbers(largest: int) -> list[int]:
    """1, 2, 5, 10, ... up to the largest, which is always in."""
    numbers = [step * 10**power for power in range(9) for step in _STEPS]
    return [*(number for number in numbers if number < largest), largest] if largest else []
