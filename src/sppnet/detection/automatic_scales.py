"""Scales of the image that suit the sizes of the labelled objects."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sppnet.detection.scales import TARGET_SIDE
from sppnet.geometry import box_area
from sppnet.images import LabelledImage

# The time of a trunk grows with the square of the short side: between these, by a factor of four.
SMALLEST_SIDE, LARGEST_SIDE = 400, 800
# Two scales where the one that small things want is larger by this than what large things want.
TWO_SCALES_FROM = 1.5
SMALL_SHARE, LARGE_SHARE = 0.8, 0.2
STEP = 16


def choose_short_sides(
    images: Iterable[LabelledImage],
    target_side: float = TARGET_SIDE,
    smallest: int = SMALLEST_SIDE,
    largest: int = LARGEST_SIDE,
) -> tuple[int, ...]:
    """Pick one or two scales at which the objects come near the size that a trunk sees best.

    Each object wants the short side at which its area would be ``target_side`` squared, kept
    within ``smallest`` and ``largest``. Where most want about the same, their median is the only
    scale; where small and large ones disagree, each group has its own. All classes weigh the same,
    however rare, and so do the objects of one class.

    Args:
        images: Labelled images; crowds are not looked at.
        target_side: In pixels of the convolved image.
        smallest: The least short side, in pixels.
        largest: The greatest short side, in pixels.

    Returns:
        Short sides in pixels, multiples of 16, ascending; the middle between the limits, on a
        logarithmic scale, if there is no object.

    Raises:
        ValueError: If the limits are not in order or below 16.

    Example:
        >>> from types import SimpleNamespace
        >>> boxes = torch.tensor([[0.0, 0.0, 120.0, 120.0], [0.0, 0.0, 20.0, 20.0]])
        >>> labels, crowd = torch.tensor([0, 0]), torch.tensor([False, False])
        >>> image = SimpleNamespace(boxes=boxes, labels=labels, crowd=crowd, size_hw=(240, 320))
        >>> choose_short_sides([image])
        (448, 800)

    Source:
        The size that a window should have: SPP-net, section 4.1.
    """
    if not STEP <= smallest <= largest:
        raise ValueError(
            f"smallest and largest must be in order and at least {STEP}, "
            f"got {smallest} and {largest}"
        )
    wanted, weights = _wanted_sides(images, target_side)
    if not len(wanted):
        return (_round((smallest * largest) ** 0.5),)
    wanted = wanted.clamp(smallest, largest)
    low, middle, high = (
        _quantile(wanted, weights, share) for share in (LARGE_SHARE, 0.5, SMALL_SHARE)
    )
    sides = (low, high) if high >= TWO_SCALES_FROM * low else (middle,)
    return tuple(_round(side) for side in sides)


def _wanted_sides(images: Iterable[LabelledImage], target_side: float) -> tuple[Tensor, Tensor]:
    """(K,) short side that suits each object, and what each weighs."""
    sides, labels = [torch.zeros(0)], [torch.zeros(0, dtype=torch.int64)]
    for image in images:
        length = box_area(image.boxes[~image.crowd]).clamp(min=1e-6).sqrt()
        sides.append(target_side * min(image.size_hw) / length)
        labels.append(image.labels[~image.crowd])
    label_of = torch.cat(labels)
    return torch.cat(sides), 1 / label_of.bincount()[label_of].double()


def _quantile(values: Tensor, weights: Tensor, share: float) -> float:
    """The least value such that values up to it have at least this share of the weight."""
    order = values.argsort(stable=True)
    reached = weights[order].cumsum(0) >= share * weights.sum() * (1 - 1e-9)
    return float(values[order][reached][0])


def _round(side: float) -> int:
    return max(STEP, round(side / STEP) * STEP)
