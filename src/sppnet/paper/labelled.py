"""Class folders divided into images to train on and images to score."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sppnet.classification import SplitRule, open_class_data
from sppnet.classification.data import scoring_split
from sppnet.images import ClassificationDataset, list_class_splits, read_class_folders


def images_to_score(root: Path, seed: int) -> ClassificationDataset:
    """List the validation images.

    Args:
        root: Folder with a ``val`` or ``test`` folder of class folders, or plain class folders, of
            which a fifth is held out.
        seed: Decides which fifth.

    Raises:
        UsageError: If there is no such folder.
        NothingUsableError: If there is no image in it.
    """
    part = scoring_split(list_class_splits(root))
    return _divided(root, seed)[1] if part is None else read_class_folders(root, part)


def images_to_train(root: Path, seed: int) -> ClassificationDataset:
    """List the training images: the ``train`` folder, or what :func:`images_to_score` leaves.

    Raises:
        UsageError: If there is no such folder.
        NothingUsableError: If there is no image in it.
    """
    return _divided(root, seed)[0]


def draw_images(
    dataset: ClassificationDataset, limit: int | None, seed: int
) -> ClassificationDataset:
    """Keep at most ``limit`` images, drawn with a seed, in their order; None keeps all."""
    if limit is None or limit >= len(dataset):
        return dataset
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(dataset), generator=generator)[:limit]
    return _take(dataset, drawn.sort().values)


def _divided(root: Path, seed: int) -> tuple[ClassificationDataset, ClassificationDataset]:
    """The images to train on and those to score."""
    data = open_class_data(root, SplitRule(seed=seed))
    every = ClassificationDataset(data.paths, data.labels, data.names, data.problems, root)
    split = data.splits()[0]
    return _take(every, split.train), _take(every, split.test)


def _take(dataset: ClassificationDataset, positions: Tensor) -> ClassificationDataset:
    """Keep the images at some positions."""
    paths = tuple(dataset.paths[index] for index in positions.tolist())
    return replace(dataset, paths=paths, labels=dataset.labels[positions])
