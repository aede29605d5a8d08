"""Compares proposals with the objects of an image: which are positives, negatives or neither.

And the objects with the trunk: at which sizes images are convolved.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sppnet.config.detection import TARGET_SIDE, DetectionConfig
from sppnet.geometry import box_iou
from sppnet.geometry.boxes import box_area, box_intersection
from sppnet.images import LabelledImage

UNUSED = -1
# A proposal of which this share or more lies inside a crowd may hide an object.
CROWD_SHARE = 0.5
# The time of a trunk grows with the square of the short side: between these, by a factor of four.
SMALLEST_SIDE, LARGEST_SIDE = 400, 800
# Most objects are tiny where they would have less than half the target's side at the largest scale;
# there a larger one is worth its time.
TINY_SHARE, LARGEST_FOR_TINY = 0.5, 1200
# Two scales are used where small objects ask for one at least this many times that of large ones.
TWO_SCALES_FROM = 1.5
SMALL_SHARE, LARGE_SHARE = 0.8, 0.2
STEP = 16


@dataclass(frozen=True)
class SamplingConfig:
    """Which proposals are positives and negatives in fine-tuning, and how many make a batch.

    Args:
        batch: Proposals of an update.
        positive_share: Share of a batch that is positives.
        positive_from: A proposal whose IoU with an object is at least this is a positive.
        negative_from: A proposal is a negative if its largest IoU with any object is at least this
        negative_below: and below this.

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


def trainable_objects(image: LabelledImage, use_difficult: bool = False) -> Tensor:
    """Mark the objects that a model learns to find: no crowds, and difficult ones only if asked.

    Args:
        image: Holds the objects.
        use_difficult: Whether objects marked difficult count.

    Returns:
        (G,) bool, one for each object of the image.

    Example:
        >>> from pathlib import Path
        >>> yes, no = torch.tensor([True]), torch.tensor([False])
        >>> box, label = torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([0])
        >>> image = LabelledImage(Path("a"), 1, (20, 40), box, label, yes, no, no)
        >>> trainable_objects(image), trainable_objects(image, use_difficult=True)
        (tensor([False]), tensor([True]))
    """
    return ~image.crowd & (~image.difficult | use_difficult)


class Views(NamedTuple):
    """What is learnt from each photo besides itself.

    Args:
        mirror: Its mirror image.
        crops: A part of it that is cut out at random; with ``mirror``, that of the part, too.
    """

    mirror: bool = False
    crops: bool = False

    @property
    def each(self) -> int:
        """How many there are of each photo: 1, 2 or 4.

        Example:
            >>> Views().each, Views(mirror=True, crops=True).each
            (1, 4)
        """
        return (1 + self.mirror) * (1 + self.crops)

    def of(self, image: LabelledImage) -> Iterator[LabelledImage]:
        """Give an image and what is learnt beside it, one after the other."""
        for is_part in range(1 + self.crops):
            part = image.crop_at_random() if is_part else image
            yield part
            if self.mirror:
                yield part.mirror()

    def fix(self, config: DetectionConfig) -> DetectionConfig:
        """Give a configuration that asks for just these, however few labels there are."""
        mirror, crops = ("on" if each else "off" for each in self)
        return replace(config, mirror=mirror, crops=crops)


ITSELF = Views()


def choose_views(
    images: Sequence[LabelledImage], num_classes: int, config: DetectionConfig
) -> Views:
    """Decide whether mirror images and parts are learnt from, too: where labels are few.

    Args:
        images: The images to learn from; crowds do not count as objects.
        num_classes: K.
        config: Its ``mirror`` and ``crops`` are ``on``, ``off`` or ``auto``: where a class has
            fewer than ``few_objects``, or ``very_few_objects``, on average.

    Example:
        >>> choose_views([], 3, DetectionConfig(crops="off"))
        Views(mirror=True, crops=False)
    """
    objects = sum(int(trainable_objects(each, config.use_difficult).sum()) for each in images)

    def is_wanted(wish: str, few: int) -> bool:
        return wish == "on" or (wish == "auto" and objects < few * num_classes)

    return Views(
        is_wanted(config.mirror, config.few_objects),
        is_wanted(config.crops, config.very_few_objects),
    )


def label_proposals(
    boxes: Tensor,
    image: LabelledImage,
    num_classes: int,
    config: SamplingConfig | None = None,
    use_difficult: bool = False,
) -> Tensor:
    """Label each proposal of an image as a class, as background, or as neither.

    Crowds are never positives, and difficult objects only if asked for. Neither are they
    background: a proposal on a difficult object, or with half of its area inside a crowd, is not a
    negative. In an image without objects every proposal is a negative.

    Args:
        boxes: (W, 4) proposals, xyxy in pixels; the objects' own boxes should be among them.
        image: Holds the objects.
        num_classes: K.
        config: The thresholds; those of the 2014 code if None.
        use_difficult: Whether objects marked difficult are positives.

    Returns:
        (W,) int64: for a positive the class of the object that it overlaps most, K for a negative,
        -1 for a proposal that is neither.

    Example:
        >>> from pathlib import Path
        >>> no = torch.tensor([False])
        >>> box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
        >>> image = LabelledImage(Path("a"), 1, (20, 40), box, torch.tensor([2]), no, no, no)
        >>> proposals = torch.tensor([[0.0, 0, 8, 10], [0.0, 0, 4, 10], [20.0, 0, 30, 10]])
        >>> label_proposals(proposals, image, num_classes=3).tolist()
        [2, 3, -1]
    """
    config = config or SamplingConfig()
    labels = torch.full((len(boxes),), UNUSED)
    if not len(image.boxes):
        return labels.fill_(num_classes)
    overlaps = box_iou(boxes, image.boxes)
    best = _best(overlaps, ~image.crowd)[0]
    is_negative = (best >= config.negative_from) & (best < config.negative_below)
    labels[is_negative & ~inside_crowd(boxes, image)] = num_classes
    best, nearest = _best(overlaps, trainable_objects(image, use_difficult))
    return torch.where(best >= config.positive_from, image.labels[nearest], labels)


def target_boxes(
    boxes: Tensor, image: LabelledImage, labels: Tensor, use_difficult: bool = False
) -> Tensor:
    """Find the object of each positive proposal: one that teaches, never one that is left out.

    Args:
        boxes: (W, 4) xyxy.
        image: Holds the objects.
        labels: (W,) from :func:`label_proposals`.
        use_difficult: Whether objects marked difficult are positives, as for the labels.

    Returns:
        (W, 4) xyxy: the box of the object of its class that a positive overlaps most; other
        proposals keep their own box.
    """
    if not len(image.boxes):
        return boxes.clone()
    trainable = trainable_objects(image, use_difficult)
    of_class = (labels[:, None] == image.labels[None]) & trainable  # (W, G)
    best, nearest = _best(box_iou(boxes, image.boxes), of_class)
    return torch.where((best >= 0)[:, None], image.boxes[nearest], boxes)


def sample_proposals(
    labels: Tensor,
    num_classes: int,
    count: int,
    config: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw proposals for a batch: positives first, then negatives.

    Negatives replace positives that are missing. A proposal is drawn more than once only if there
    are too few negatives.

    Args:
        labels: (W,) from :func:`label_proposals`, of one image or of many.
        num_classes: K.
        count: Proposals to draw.
        config: Gives the share of the positives.
        generator: Source of the random numbers.

    Returns:
        (count,) int64 rows of ``labels``; (0,) if there are neither positives nor negatives.

    Example:
        >>> labels = torch.tensor([-1, 0, 1, 2, 2, 2, 2])
        >>> drawn = sample_proposals(labels, 2, 4, generator=torch.Generator().manual_seed(0))
        >>> labels[drawn].tolist().count(2)
        3
    """
    wanted = round(count * (config or SamplingConfig()).positive_share)
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
    """(W,) largest IoU of each proposal with a usable object, or -1, and (W,) which object."""
    return torch.where(usable, overlaps, -1.0).max(1)


def inside_crowd(boxes: Tensor, image: LabelledImage) -> Tensor:
    """Mark proposals that may show objects of a crowd, and so cannot be negatives.

    Args:
        boxes: (W, 4) xyxy.
        image: Holds the crowds.

    Returns:
        (W,) bool: whether at least half of the proposal's area lies inside one crowd.
    """
    if not bool(image.crowd.any()):
        return torch.zeros(len(boxes), dtype=torch.bool)
    hidden = box_intersection(boxes, image.boxes[image.crowd]).amax(1)
    return hidden >= CROWD_SHARE * box_area(boxes)


def _shuffled(rows: Tensor, generator: torch.Generator | None) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator)]


def choose_short_sides(
    images: Iterable[LabelledImage],
    target_side: float = TARGET_SIDE,
    smallest: int = SMALLEST_SIDE,
    largest: int | None = None,
    use_difficult: bool = False,
) -> tuple[int, ...]:
    """Choose one or two scales at which the objects come close to the size that the trunk expects.

    For each object there is a short side at which its area would be ``target_side`` squared, kept
    within ``smallest`` and ``largest``. If most objects agree, the median is the only scale; if
    small and large objects ask for very different ones, each group gets its own. All classes weigh
    the same, however rare, and so do the objects of one class.

    The largest short side is 800 if it is not given, and 1200 where most objects would be less than
    half as long as ``target_side`` at 800.

    Args:
        images: Labelled images; crowds do not count.
        target_side: In pixels of the convolved image.
        smallest: The least short side, in pixels.
        largest: The greatest short side, in pixels; 800 or 1200 if None.
        use_difficult: Whether objects marked difficult count.

    Returns:
        Short sides in pixels, multiples of 16, ascending. Without objects, the geometric mean of
        the two limits.

    Raises:
        ValueError: If ``smallest`` is below 16 or above ``largest``.

    Example:
        >>> from types import SimpleNamespace
        >>> boxes = torch.tensor([[0.0, 0.0, 120.0, 120.0], [0.0, 0.0, 20.0, 20.0]])
        >>> labels, no = torch.tensor([0, 0]), torch.tensor([False, False])
        >>> marks = {"labels": labels, "crowd": no, "difficult": no}
        >>> choose_short_sides([SimpleNamespace(boxes=boxes, size_hw=(240, 320), **marks)])
        (448, 800)

    Source:
        The size that a proposal should have at its scale: SPP-net, section 4.1.
    """
    if not STEP <= smallest <= (largest or smallest):
        raise ValueError(
            f"smallest and largest must be in order and at least {STEP}, "
            f"got {smallest} and {largest}"
        )
    wanted, weights = _wanted_sides(images, target_side, use_difficult)
    if not len(wanted):
        return (_round_to_step((smallest * (largest or LARGEST_SIDE)) ** 0.5),)
    if largest is None:
        are_tiny = _quantile(wanted, weights, 0.5) * TINY_SHARE >= LARGEST_SIDE
        largest = LARGEST_FOR_TINY if are_tiny else LARGEST_SIDE
    wanted = wanted.clamp(smallest, largest)
    low, middle, high = (
        _quantile(wanted, weights, share) for share in (LARGE_SHARE, 0.5, SMALL_SHARE)
    )
    sides = (low, high) if high >= TWO_SCALES_FROM * low else (middle,)
    return tuple(_round_to_step(side) for side in sides)


def _wanted_sides(
    images: Iterable[LabelledImage], target_side: float, use_difficult: bool
) -> tuple[Tensor, Tensor]:
    """(K,) the short side that suits each object, and (K,) the weights of the objects."""
    sides, labels = [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)]
    for image in images:
        trainable = trainable_objects(image, use_difficult)
        length = box_area(image.boxes[trainable]).clamp(min=1e-6).sqrt()
        sides.append(target_side * min(image.size_hw) / length)
        labels.append(image.labels[trainable])
    label_of = torch.cat(labels)
    return torch.cat(sides), 1 / label_of.bincount()[label_of].double()


def _quantile(values: Tensor, weights: Tensor, share: float) -> float:
    """The least value such that the values up to it hold at least this share of the weight."""
    order = values.argsort(stable=True)
    reached = weights[order].cumsum(0) >= share * weights.sum() * (1 - 1e-9)
    return float(values[order][reached][0])


def _round_to_step(side: float) -> int:
    return max(STEP, round(side / STEP) * STEP)
