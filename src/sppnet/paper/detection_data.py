"""Images with boxes for tables 9 to 12: VOC 2007, or any detection data set in its place."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from sppnet.errors import Problem
from sppnet.images import (
    LabelledImage,
    find_layout,
    list_images,
    list_splits,
    open_detection_dataset,
)
from sppnet.paper.supplies import VOC07, Supplies

TRAIN_SPLITS, TEST_SPLITS = ("trainval", "train"), ("test", "val", "valid", "validation")
TEST_SHARE = 0.2  # held out where a data set has no split to score on
VOC07_IMAGES = (5011, 4952)
T = TypeVar("T")


@dataclass(frozen=True)
class DetectionImages:
    """What is learnt from and what is scored.

    Args:
        train: Images to learn from.
        test: Images to score on.
        names: Class names.
        problems: What was wrong with files.
        differs: What is not as in the paper.
    """

    train: tuple[LabelledImage, ...]
    test: tuple[LabelledImage, ...]
    names: tuple[str, ...]
    problems: tuple[Problem, ...]
    differs: str


def open_detection_images(supplies: Supplies) -> DetectionImages | str:
    """Open the images of the protocol, or say what is missing.

    Splits named as VOC's or like them are taken; without them a fifth is held out with the seed.

    Raises:
        UsageError: If the data set cannot be divided.
        NothingUsableError: If no image is usable.
    """
    root = find_detection_root(supplies)
    if root is None:
        return f"{supplies.missing_data(VOC07)}; or name any detection data set"
    train, test, names, problems = _divide(root, supplies.seed)
    train, test = (_draw(part, supplies.limit, supplies.seed) for part in (train, test))
    parts = [] if root != supplies.data else [f"{root.name}: {_count(len(names), 'class', 'es')}"]
    if (len(train), len(test)) != VOC07_IMAGES:
        parts.append(f"{len(train):,} images to learn from, {len(test):,} to score")
    return DetectionImages(tuple(train), tuple(test), names, problems, "; ".join(parts))


def find_detection_root(supplies: Supplies) -> Path | None:
    """Find VOC 2007 below the data folder, or take the folder itself if boxes are in it."""
    data = supplies.data
    if data is None or not data.exists():
        return None
    if (data / VOC07).is_dir():
        return data / VOC07
    return data if find_layout(data) is not None else None


def find_photos(supplies: Supplies) -> list[Path]:
    """Choose the images that are timed: of the scored ones, or of any folder; drawn with the seed.

    Example:
        >>> find_photos(Supplies(Path("out")))
        []
    """
    images = open_detection_images(supplies)
    if isinstance(images, DetectionImages):
        paths = [image.path for image in images.test]
    elif supplies.data is not None:
        paths = list(list_images([supplies.data]).paths)
    else:
        return []
    return _draw(paths, supplies.effort.timed, supplies.seed)


def _divide(
    root: Path, seed: int
) -> tuple[Sequence[LabelledImage], Sequence[LabelledImage], tuple[str, ...], tuple[Problem, ...]]:
    """Images to learn from, images to score, class names, problems."""
    splits = list_splits(root)
    learn = next((name for name in TRAIN_SPLITS if name in splits), None)
    score = next((name for name in TEST_SPLITS if name in splits), None)
    if learn is not None and score is not None:
        train = open_detection_dataset(root, learn)
        test = open_detection_dataset(root, score, names=train.names)
        return train.images, test.images, train.names, (*train.problems, *test.problems)
    every = open_detection_dataset(root)
    held_out = _draw(every.images, max(1, round(TEST_SHARE * len(every))), seed)
    train_images = [image for image in every.images if image not in held_out]
    return train_images, held_out, every.names, every.problems


def _draw(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """Keep at most ``limit`` items, drawn with a seed, in their order; None keeps all."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(items), generator=generator)[:limit]
    return [items[index] for index in drawn.sort().values.tolist()]


def _count(number: int, word: str, ending: str) -> str:
    """Write a number and its noun."""
    return f"{number} {word}{'' if number == 1 else ending}"
