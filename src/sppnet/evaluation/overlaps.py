"""Which boxes of an image overlap, and how much, in blocks that stay small however many there are.

Boxes that lie apart are not looked at: detections are taken a few neighbours at a time, together
with the objects that reach into their surroundings. Recall of proposals needs nothing but
overlaps: how many objects the first of them cover.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.geometry import box_iou, check_boxes

if TYPE_CHECKING:
    from sppnet.images.dataset import LabelledImage

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
# Overlaps are worked out for so many pairs at a time: 1 MB, which a core's cache holds.
BLOCK_PAIRS = 1 << 17
NEIGHBOURS = 64  # detections that share their surroundings
_STEPS = (1, 2, 5)  # of round numbers of proposals


class Truth(NamedTuple):
    """All objects, one a row, image by image."""

    image: Ints  # (G,) number of the image
    label: Ints  # (G,)
    boxes: Floats  # (G, 4) xyxy
    ignored: Mask  # (G,) difficult or crowd
    crowd: Mask  # (G,)


class Found(NamedTuple):
    """All detections, one a row, image by image in the order given."""

    image: Ints  # (D,) number of the image
    label: Ints  # (D,)
    scores: Floats  # (D,)
    boxes: Floats  # (D, 4) xyxy


class Block(NamedTuple):
    """Some detections of an image, and the objects that any of them may overlap."""

    detected: Ints  # (B,) rows of detections
    objects: Ints  # (M,) rows of objects, in their order
    overlaps: Floats  # (B, M)


def each_image(truth: Truth, found: Found) -> Iterator[tuple[Ints, Ints]]:
    """Row numbers of the detections and of the objects of each image that has both."""
    images = np.intersect1d(truth.image, found.image)
    detected = np.searchsorted(found.image, [images, images + 1]).T.tolist()
    objects = np.searchsorted(truth.image, [images, images + 1]).T.tolist()
    for (first, last), (begin, end) in zip(detected, objects, strict=True):
        yield np.arange(first, last), np.arange(begin, end)


def row_blocks(rows: Ints, columns: int) -> Iterator[Ints]:
    """Cut rows into blocks, so that a table of these rows and some columns stays small.

    Args:
        rows: (N,) row numbers.
        columns: Width of the table.

    Example:
        >>> [len(block) for block in row_blocks(np.arange(30_000), 30_000)][:2]
        [4, 4]
    """
    step = max(1, BLOCK_PAIRS // max(1, columns))
    return (rows[start : start + step] for start in range(0, len(rows), step))


def any_overlaps(truth: Truth, found: Found, detected: Ints, objects: Ints) -> Floats:
    """Overlap of detections and objects of one image (D, G); in a crowd, the detection's share."""
    x0, y0, x1, y1 = found.boxes[detected].T[..., None]  # (D, 1) each
    left, top, right, bottom = truth.boxes[objects].T
    shared = np.minimum(x1, right)
    shared -= np.maximum(x0, left)
    np.maximum(shared, 0, out=shared)
    whole = np.minimum(y1, bottom)  # the height first, in the same memory
    whole -= np.maximum(y0, top)
    np.maximum(whole, 0, out=whole)
    shared *= whole
    area = (x1 - x0) * (y1 - y0)
    np.add(area, (right - left) * (bottom - top), out=whole)
    whole -= shared
    crowd = truth.crowd[objects]
    if crowd.any():
        np.copyto(whole, area, where=crowd)
    np.maximum(whole, np.finfo(np.float64).tiny, out=whole)  # boxes without area share nothing
    return np.divide(shared, whole, out=shared)


def class_overlaps(truth: Truth, found: Found, detected: Ints, objects: Ints) -> Floats:
    """Overlap of detections and objects of one image (D, G); -1 where the classes differ."""
    overlaps = any_overlaps(truth, found, detected, objects)
    overlaps[found.label[detected, None] != truth.label[objects]] = -1.0
    return overlaps


def touching_blocks(truth: Truth, found: Found, detected: Ints, objects: Ints) -> Iterator[Block]:
    """Overlaps of one image, block by block.

    Args:
        truth: All objects.
        found: All detections.
        detected: Rows of detections of one image.
        objects: Rows of objects of the same image, in their order.

    Yields:
        Blocks; a detection is in one at most, with all objects that it overlaps.
    """
    if len(detected) * len(objects) <= BLOCK_PAIRS:
        if len(detected) and len(objects):
            yield Block(detected, objects, any_overlaps(truth, found, detected, objects))
        return
    left, top, right, bottom = truth.boxes[objects].T
    ordered = detected[_neighbours_first(found.boxes[detected])]
    for start in range(0, len(ordered), NEIGHBOURS):
        group = ordered[start : start + NEIGHBOURS]
        x0, y0 = found.boxes[group, :2].min(0)
        x1, y1 = found.boxes[group, 2:].max(0)
        near = objects[(left < x1) & (right > x0) & (top < y1) & (bottom > y0)]
        for block in row_blocks(group, len(near)) if len(near) else ():
            yield Block(block, near, any_overlaps(truth, found, block, near))


def class_blocks(
    truth: Truth, found: Found, detected: Ints, objects: Ints, *, same: bool = True
) -> Iterator[Block]:
    """Overlaps with objects of the same class, or of all other ones; -1 for the rest.

    Args:
        truth: As for :func:`touching_blocks`, and the other tables and rows, too.
        found: All detections.
        detected: Rows of detections of one image.
        objects: Rows of objects of the same image, in their order.
        same: Of the same class.

    Yields:
        Blocks; a detection is in one at most, with all such objects that it overlaps.
    """
    own, others = found.label[detected], truth.label[objects]
    if len(detected) * len(objects) <= BLOCK_PAIRS:
        for block in touching_blocks(truth, found, detected, objects):
            block.overlaps[(own[:, None] == others) != same] = -1.0
            yield block
        return
    for label in np.unique(own):
        meant = objects[(others == label) == same]
        yield from touching_blocks(truth, found, detected[own == label], meant)


def _neighbours_first(boxes: Floats) -> Ints:
    """An order in which boxes come with their neighbours: in strips, from left to right in each."""
    centres = boxes[:, :2] + boxes[:, 2:]
    strips = max(1, round(np.sqrt(len(boxes) / NEIGHBOURS)))
    rank = np.argsort(np.argsort(centres[:, 1], kind="stable"), kind="stable")
    return np.lexsort((centres[:, 0], rank * strips // len(boxes)))


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
