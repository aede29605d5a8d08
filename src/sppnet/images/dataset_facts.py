"""What is worth knowing about a detection set before training on it."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch

from sppnet.images.datasets import LabelledImage

FEW_OBJECTS = 10
MANY_SMALL = 0.3


def summarise_boxes(images: Sequence[LabelledImage]) -> dict[str, Any]:
    """Sizes of images and boxes, in plain numbers.

    Args:
        images: The set.

    Returns:
        ``short_side_of_images`` and ``short_side_of_boxes`` (smallest, middle and largest, pixels),
        ``boxes_per_image`` (the same), ``share_of_image`` (middle share of the area of its image
        that a box takes) and ``sizes``: the shares of boxes that COCO calls small (up to 32 x 32
        pixels), medium and large (from 96 x 96). Empty without images.
    """
    if not images:
        return {}
    sides = torch.cat([(image.boxes[:, 2:] - image.boxes[:, :2]).double() for image in images])
    areas = sides.prod(1)
    whole = torch.cat([
        torch.full((len(image.boxes),), float(image.size_hw[0] * image.size_hw[1]))
        for image in images
    ])  # fmt: skip
    summary: dict[str, Any] = {
        "short_side_of_images": _spread(torch.tensor([min(image.size_hw) for image in images])),
        "boxes_per_image": _spread(torch.tensor([len(image.boxes) for image in images])),
    }
    if len(areas):
        small, large = areas <= 32**2, areas >= 96**2
        summary |= {
            "short_side_of_boxes": _spread(sides.min(1).values),
            "share_of_image": round(float((areas / whole).median()), 4),
            "sizes": {
                "small": _share(small),
                "medium": _share(~small & ~large),
                "large": _share(large & ~small),
            },
        }
    return summary


def give_hints(
    names: Sequence[str],
    counts: Mapping[str, int],
    by_split: Mapping[str, Mapping[str, int]],
    summary: Mapping[str, Any],
) -> list[str]:
    """Say what a user may want to do before training.

    Args:
        names: Class names.
        counts: "images without boxes" and others, as ``CheckReport.counts``.
        by_split: Objects by class, by split.
        summary: As :func:`summarise_boxes` gives it.

    Returns:
        One sentence each.
    """
    hints = []
    empty = counts["images without boxes"]
    if empty:
        have = "image has" if empty == 1 else "images have"
        hints.append(f"{empty} {have} no boxes: used as negatives")
    if not by_split:
        hints.append("there are no splits: hold some images back, or the score is that of training")
    hints += _class_hints(names, by_split)
    small = summary.get("sizes", {}).get("small", 0.0)
    if small >= MANY_SMALL:
        hints.append(f"{small:.0%} of the boxes are at most 32 x 32 pixels: try a larger --imgsz")
    for one, other in combinations(names, 2):
        if one.casefold().split() == other.casefold().split():
            hints.append(f"classes {one!r} and {other!r} differ in spelling only")
    return hints


def _class_hints(names: Sequence[str], by_split: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Classes that have too few objects to learn, or none to learn from."""
    train = next((by_split[name] for name in by_split if name.startswith("train")), None)
    if train is None:
        return []
    lone = [name for name in names if not train.get(name)]
    few = [name for name in names if 0 < train.get(name, 0) < FEW_OBJECTS]
    hints = []
    if lone:
        hints.append(f"no objects to train on: {_listed(lone)}")
    if few:
        hints.append(f"fewer than {FEW_OBJECTS} objects to train on: {_listed(few)}")
    return hints


def _listed(names: Sequence[str], most: int = 8) -> str:
    """Names in quotes, cut after some."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _spread(values: torch.Tensor) -> list[float]:
    """Smallest, middle and largest."""
    numbers = values.double()
    return [round(float(n), 1) for n in (numbers.min(), numbers.median(), numbers.max())]


def _share(mask: torch.Tensor) -> float:
    """Share of True."""
    return round(float(mask.double().mean()), 4)
