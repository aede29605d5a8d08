"""At which sizes images are convolved: chosen from the labelled objects."""

from collections.abc import Iterable

import torch
from torch import Tensor

from sppnet.config.detection import TARGET_SIDE
from sppnet.detection.assign import trainable_objects
from sppnet.geometry import box_area
from sppnet.images import LabelledImage

# The time of a trunk grows with the square of the short side: between these, by a factor of four.
SMALLEST_SIDE, LARGEST_SIDE = 400, 800
# Most objects are tiny where they would have less than half the target's side at the largest scale;
# there a larger one is worth its time.
TINY_SHARE, LARGEST_FOR_TINY = 0.5, 1200
# Two scales are used where small objects ask for one at least this many times that of large ones.
TWO_SCALES_FROM = 1.5
SMALL_SHARE, LARGE_SHARE = 0.8, 0.2
STEP = 16


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
        return (_round((smallest * (largest or LARGEST_SIDE)) ** 0.5),)
    if largest is None:
        are_tiny = _quantile(wanted, weights, 0.5) * TINY_SHARE >= LARGEST_SIDE
        largest = LARGEST_FOR_TINY if are_tiny else LARGEST_SIDE
    wanted = wanted.clamp(smallest, largest)
    low, middle, high = (
        _quantile(wanted, weights, share) for share in (LARGE_SHARE, 0.5, SMALL_SHARE)
    )
    sides = (low, high) if high >= TWO_SCALES_FROM * low else (middle,)
    return tuple(_round(side) for side in sides)


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


def _round(side: float) -> int:
    return max(STEP, round(side / STEP) * STEP)
