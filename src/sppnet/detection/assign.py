"""Which windows of an image teach a softmax, and which of them make a batch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sppnet.geometry import box_iou
from sppnet.geometry.boxes import box_area, box_intersection
from sppnet.images import LabelledImage

UNUSED = -1
# A window is hidden in a crowd when this part of it or more lies inside.
CROWD_SHARE = 0.5


@dataclass(frozen=True)
class SamplingConfig:
    """Constants of the fine-tuning.

    Args:
        batch: Windows of an update.
        positive_share: Part of a batch that shows objects.
        positive_from: A window that overlaps an object by this or more is a positive.
        negative_from: A window that overlaps its best object by this or more, ...
        negative_below: ... and by less than this, is a negative.

    Raises:
        ValueError: If a number is out of range, or positives and negatives would overlap.

    Source:
        SPP-net, section 4.1; spp_finetune_voc.m of the authors' code.
    """

    batch: int = 128
    positive_share: float = 0.25
    positive_from: float = 0.5
    negative_from: float = 0.1
    negative_below: float = 0.5

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"batch must be at least 1, got {self.batch}")
        if not 0 < self.positive_share < 1:
            raise ValueError(f"positive_share must lie inside 0..1, got {self.positive_share}")
        bounds = (self.negative_from, self.negative_below, self.positive_from)
        if not 0 <= bounds[0] < bounds[1] <= bounds[2] <= 1:
            raise ValueError(
                "negative_from, negative_below and positive_from must rise within 0..1, "
                f"got {bounds}"
            )


def label_windows(
    boxes: Tensor,
    image: LabelledImage,
    num_classes: int,
    rule: SamplingConfig | None = None,
    use_difficult: bool = False,
) -> Tensor:
    """Say what each window of an image shows.

    Crowds are never positives, nor are difficult objects unless asked for; but both are things, so
    a window on a difficult object or half inside a crowd is no negative either. In an image without
    any object every window is a negative.

    Args:
        boxes: (W, 4) xyxy in pixels; the objects themselves belong here, too.
        image: Holds the objects.
        num_classes: K.
        rule: The constants.
        use_difficult: Whether objects marked difficult are positives.

    Returns:
        (W,) int64: the class of a positive (of the object that it overlaps most), K for a negative,
        -1 for a window that is neither.

    Example:
        >>> from pathlib import Path
        >>> no = torch.tensor([False])
        >>> thing = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> image = LabelledImage(Path("a"), 1, (20, 40), thing, torch.tensor([2]), no, no, no)
        >>> windows = torch.tensor([[0.0, 0, 8, 10], [0.0, 0, 4, 10], [20.0, 0, 30, 10]])
        >>> label_windows(windows, image, num_classes=3).tolist()
        [2, 3, -1]
    """
    rule = rule or SamplingConfig()
    labels = torch.full((len(boxes),), UNUSED)
    if not len(image.boxes):
        return labels.fill_(num_classes)
    overlaps = box_iou(boxes, image.boxes)
    best = _best(overlaps, ~image.crowd)[0]
    is_negative = (best >= rule.negative_from) & (best < rule.negative_below)
    labels[is_negative & ~inside_crowd(boxes, image)] = num_classes
    wanted = ~image.crowd & (~image.difficult | use_difficult)
    best, nearest = _best(overlaps, wanted)
    return torch.where(best >= rule.positive_from, image.labels[nearest], labels)


def target_boxes(boxes: Tensor, image: LabelledImage, labels: Tensor) -> Tensor:
    """Find the object of each positive window.

    Args:
        boxes: (W, 4) xyxy.
        image: Holds the objects.
        labels: (W,) from :func:`label_windows`.

    Returns:
        (W, 4): the object of the window's class that it overlaps most; the window itself where it
        is no positive.
    """
    if not len(image.boxes):
        return boxes.clone()
    of_class = (labels[:, None] == image.labels[None]) & ~image.crowd  # (W, G)
    best, nearest = _best(box_iou(boxes, image.boxes), of_class)
    return torch.where((best >= 0)[:, None], image.boxes[nearest], boxes)


def draw_windows(
    labels: Tensor,
    num_classes: int,
    count: int,
    rule: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a part of a batch: positives first, then negatives.

    No window comes twice as long as there are enough; missing positives are replaced by negatives.
    Only where negatives are too few is a window drawn again.

    Args:
        labels: (W,) from :func:`label_windows`, of one image or of many.
        num_classes: K.
        count: Windows to draw.
        rule: Gives the share of the positives.
        generator: Source of the random numbers.

    Returns:
        (count,) int64 positions in ``labels``; none if no window can be used.

    Example:
        >>> labels = torch.tensor([-1, 0, 1, 2, 2, 2, 2])
        >>> drawn = draw_windows(labels, 2, 4, generator=torch.Generator().manual_seed(0))
        >>> labels[drawn].tolist().count(2)
        3
    """
    wanted = round(count * (rule or SamplingConfig()).positive_share)
    is_positive = (labels >= 0) & (labels < num_classes)
    positives = _shuffled(is_positive.nonzero().flatten(), generator)
    negatives = _shuffled((labels == num_classes).nonzero().flatten(), generator)
    drawn = torch.cat([positives[:wanted], negatives])[:count]
    pool = negatives if len(negatives) else positives
    if not len(pool):
        return pool
    again = torch.randint(len(pool), (count - len(drawn),), generator=generator)
    return torch.cat([drawn, pool[again]])


def _best(overlaps: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Largest overlap of each window with a usable object, -1 if there is none, and which it is."""
    return torch.where(usable, overlaps, -1.0).max(1)


def inside_crowd(boxes: Tensor, image: LabelledImage) -> Tensor:
    """Say which windows may hide objects of a crowd, so that they are no negatives.

    Args:
        boxes: (W, 4) xyxy.
        image: Holds the crowds.

    Returns:
        (W,) whether half of each window lies inside a crowd.
    """
    if not bool(image.crowd.any()):
        return torch.zeros(len(boxes), dtype=torch.bool)
    hidden = box_intersection(boxes, image.boxes[image.crowd]).amax(1)
    return hidden >= CROWD_SHARE * box_area(boxes)


def _shuffled(rows: Tensor, generator: torch.Generator | None) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]
