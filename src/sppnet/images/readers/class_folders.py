"""Class folders: one folder per class with image files in it; splits are folders above them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sppnet.errors import NothingUsableError, Problem
from sppnet.images.listing import list_images, relative_names, require_folder, unknown_split

_SPLIT_NAMES = ("train", "val", "valid", "validation", "test")


@dataclass(frozen=True, eq=False)
class ClassificationDataset:
    """Image files and their classes.

    Args:
        paths: In a fixed order, class by class.
        labels: (N,) int64, 0..len(names)-1.
        names: Class names, which are the folders' names, sorted.
        problems: What was left out and why.
        root: Folder that it was read from.
        split: The split, or None for all.
        notes: Files beside the images that are none.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    names: tuple[str, ...]
    problems: tuple[Problem, ...]
    root: Path
    split: str | None = None
    notes: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[Path, int]]:
        return iter(zip(self.paths, self.labels.tolist(), strict=True))

    @cached_property
    def files(self) -> dict[Path, str]:
        """By image, its path from the root with ``/``, as results name it."""
        return relative_names(self.paths, [self.root])

    def images_per_class(self) -> dict[str, int]:
        """Number of images of each class, in the order of the names."""
        counts = torch.bincount(self.labels, minlength=len(self.names))
        return dict(zip(self.names, counts.tolist(), strict=True))


def list_class_splits(root: str | Path) -> list[str]:
    """Name the splits of a set of class folders.

    Args:
        root: Folder of class folders, or of ``train``, ``val``, ``test`` folders of these.

    Returns:
        The splits in the order train, val, test; empty if the folders are the classes themselves.
    """
    found = [path.name for path in _subfolders(Path(root))]
    splits = [name for name in _SPLIT_NAMES if name in found]
    return splits if splits and len(splits) == len(found) else []


def read_class_folders(root: str | Path, split: str | None = None) -> ClassificationDataset:
    """Read a data set of one folder per class.

    Files are listed, not opened: one that cannot be decoded shows when it is loaded. Hidden files
    and folders are skipped, folders below a class folder count to the class.

    Args:
        root: Folder of class folders, or of ``train``, ``val``, ``test`` folders of these.
        split: Which of the latter; None takes all of them.

    Returns:
        The data set; names are those of all splits together, so that labels agree.

    Raises:
        UsageError: If the folder or the split does not exist.
        NothingUsableError: If there is no image in any class folder.
    """
    root = Path(root)
    require_folder(root)
    splits = list_class_splits(root)
    if split is not None and split not in splits:
        raise unknown_split(root, split, splits)
    tops = [root / name for name in splits] or [root]
    names, empty = _class_names(tops)
    wanted = [root / split] if split is not None else tops
    paths: list[Path] = []
    labels: list[int] = []
    problems = empty
    notes: list[Problem] = []
    for label, name in enumerate(names):
        listing = list_images([top / name for top in wanted if (top / name).is_dir()])
        paths.extend(listing.paths)
        labels.extend([label] * len(listing.paths))
        problems.extend(problem for problem in listing.problems if problem.code != "E_NOTHING")
        notes.extend(listing.notes)
    if not paths:
        rule = "looked for a folder per class with images in it, found none"
        raise NothingUsableError(rule, path=root)
    all_labels = torch.tensor(labels, dtype=torch.int64)
    return ClassificationDataset(
        tuple(paths), all_labels, names, tuple(problems), root, split, tuple(notes)
    )


def split_per_class(
    labels: Tensor | Sequence[int],
    train_per_class: int,
    test_per_class: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Draw a fixed number of training images of every class, and test on the others.

    This is the protocol of Caltech-101: 30 for training, up to 50 of the others for testing. The
    draw of one class does not depend on the other classes.

    Args:
        labels: (N,) class of every image.
        train_per_class: Images of each class for training, at least 1.
        test_per_class: Most images of each class for testing; None takes all others.
        seed: Another seed, another draw.

    Returns:
        Indices for training and for testing, each sorted and disjoint.

    Raises:
        ValueError: If a number is below 1, or a class leaves no image for testing.

    Example:
        >>> train, test = split_per_class([0, 0, 0, 1, 1, 1], train_per_class=2, seed=0)
        >>> len(train), len(test)
        (4, 2)

    Source: spp-net.md; Fei-Fei et al. 2004.
    """
    if train_per_class < 1:
        raise ValueError(f"train_per_class must be at least 1, got {train_per_class}")
    if test_per_class is not None and test_per_class < 1:
        raise ValueError(f"test_per_class must be at least 1, got {test_per_class}")
    classes = np.asarray(labels)
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        if len(members) <= train_per_class:
            rule = f"train_per_class must leave an image of every class, got {train_per_class}"
            raise ValueError(f"{rule}, class {label} has {len(members)}")
        drawn = np.random.default_rng((seed, int(label))).permutation(members)
        train.append(drawn[:train_per_class])
        test.append(drawn[train_per_class:][:test_per_class])
    return _sorted_indices(train), _sorted_indices(test)


def _sorted_indices(parts: list[np.ndarray]) -> Tensor:
    """One sorted int64 tensor, also of nothing."""
    return torch.tensor(sorted(int(i) for part in parts for i in part), dtype=torch.int64)


def _subfolders(folder: Path) -> list[Path]:
    """Visible folders, sorted by the bytes of their names."""
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError:
        return []
    return sorted((path for path in found if path.is_dir()), key=os.fsencode)


def _class_names(tops: Sequence[Path]) -> tuple[tuple[str, ...], list[Problem]]:
    """Names of the class folders that hold an image in some split, and a problem for each other."""
    folders: dict[str, list[Path]] = {}
    for top in tops:
        for folder in _subfolders(top):
            folders.setdefault(folder.name, []).append(folder)
    names, empty = [], []
    for name, found in sorted(folders.items()):
        listing = list_images(found)
        if listing.paths:
            names.append(name)
        else:
            others = [problem.rule for problem in listing.problems if problem.code == "E_FORMAT"]
            rule = "; ".join(["holds no image", *others])
            empty.append(Problem(str(found[0]), rule, "E_NOTHING", action="class left out"))
    return tuple(names), empty
