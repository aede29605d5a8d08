"""Labelled images to fit on: class folders, VOC sets, and images in memory.

And their division into those that a classifier is fitted on and those that it is scored on.
"""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sppnet.classification.scoring import Task, class_task, presence_task
from sppnet.errors import NothingUsableError, Problem, UsageError, count_of
from sppnet.images import (
    ClassificationDataset,
    list_class_splits,
    list_voc_splits,
    read_class_folders,
    split_per_class,
    to_image,
)
from sppnet.images.decode import content_number, read_content
from sppnet.images.readers.voc_classes import common_names, read_voc_classes

HOLDOUT = 0.2
TEST_SPLITS = ("test", "val", "valid", "validation")
TRAIN_SPLITS = ("trainval", "train")


@dataclass(frozen=True)
class Split:
    """Positions of the images to fit on and of those to score on; no image is in both.

    Args:
        train: (M,) int64, sorted.
        test: (N,) int64, sorted; empty where nothing is left to score on.
    """

    train: Tensor
    test: Tensor


@dataclass(frozen=True)
class SplitConfig:
    """How the images of a plain folder, without a test part, are divided.

    Args:
        train_per_class: Images of each class to fit on; None keeps 20 % of each class for scoring.
        test_per_class: Most images of each class to score on; None takes all that are left.
        splits: How many random splits; more than 1 needs ``train_per_class``.
        seed: Seed of the draw.

    Raises:
        ValueError: If a number is below 1, or one is given without ``train_per_class``.
    """

    train_per_class: int | None = None
    test_per_class: int | None = None
    splits: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.train_per_class is None and (self.test_per_class is not None or self.splits > 1):
            raise ValueError("test_per_class and splits must come with train_per_class")
        numbers = (self.train_per_class, self.test_per_class, self.splits)
        if any(number is not None and number < 1 for number in numbers):
            raise ValueError(
                f"train_per_class, test_per_class, splits must be at least 1, got {numbers}"
            )

    @property
    def is_protocol(self) -> bool:
        """Whether splits of given sizes are drawn, as in the paper's Caltech-101 runs."""
        return self.train_per_class is not None

    def draw(self, labels: Tensor) -> list[Split]:
        """Divide images by their labels."""
        if self.train_per_class is None:
            return [holdout_split(labels, HOLDOUT, self.seed)]
        return protocol_splits(
            labels, self.train_per_class, self.test_per_class, self.splits, self.seed
        )


def protocol_splits(
    labels: Tensor, train_per_class: int, test_per_class: int | None, splits: int, seed: int
) -> list[Split]:
    """Draw the splits of the Caltech-101 protocol.

    Args:
        labels: (N,) int64.
        train_per_class: Images of each class to fit on, at least 1.
        test_per_class: Most images of each class to score on, out of those left; None takes all of
            them.
        splits: How many random splits, at least 1.
        seed: Split i is drawn with ``seed + i``.

    Returns:
        The splits.

    Raises:
        ValueError: If a number is below 1, or a class leaves no image to score on.

    Source:
        SPP-net, section 3.3: 30 images per category to train, up to 50 to test, 10 random splits.
    """
    if train_per_class < 1 or splits < 1 or (test_per_class is not None and test_per_class < 1):
        raise ValueError(
            "train_per_class, test_per_class and splits must be at least 1, got "
            f"{train_per_class}, {test_per_class} and {splits}"
        )
    return [
        Split(*split_per_class(labels, train_per_class, test_per_class, seed + i))
        for i in range(splits)
    ]


def holdout_split(labels: Tensor, share: float = HOLDOUT, seed: int = 0) -> Split:
    """Keep a share of every class for scoring.

    A class of one image goes to the fitting side; a class of two or more keeps at least one image
    on each side.

    Args:
        labels: (N,) int64.
        share: Share of each class to score on, 0..1.
        seed: Decides which.

    Returns:
        The split.

    Raises:
        ValueError: If ``share`` is not between 0 and 1.

    Example:
        >>> split = holdout_split(torch.tensor([0] * 5 + [1] * 10), 0.2)
        >>> len(split.train), len(split.test)
        (12, 3)
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    generator = torch.Generator().manual_seed(seed)
    train, test = [torch.zeros(0, dtype=torch.int64)], [torch.zeros(0, dtype=torch.int64)]
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        held = min(max(1, round(share * len(members))), len(members) - 1)
        test.append(members[:held])
        train.append(members[held:])
    return Split(torch.cat(train).sort().values, torch.cat(test).sort().values)


def draw_sample(count: int, most: int | None, seed: int) -> Tensor:
    """Draw at most so many of ``count`` items: their positions, (n,) int64, sorted.

    Args:
        count: How many items there are.
        most: How many to keep; None keeps all.
        seed: Decides which.

    Example:
        >>> draw_sample(5, 3, seed=0), draw_sample(2, None, seed=0)
        (tensor([0, 1, 4]), tensor([0, 1]))
    """
    if most is None or most >= count:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:most].sort().values


@dataclass(frozen=True)
class ClassData:
    """Images with their classes, and how they are to be divided.

    Args:
        paths: N files.
        labels: (N,) int64.
        names: K class names.
        problems: What was wrong with the folders.
        given: (N,) bool, True for the images of the test folder; None if the data set has no such
            folders.
        split_config: How to divide them otherwise.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    names: tuple[str, ...]
    problems: tuple[Problem, ...]
    given: Tensor | None
    split_config: SplitConfig

    def splits(self, kept: Tensor | None = None) -> list[Split]:
        """Divide the images, or those that could be read.

        Args:
            kept: (M,) int64, positions of the images that are there; positions in the splits count
                in these.

        Returns:
            One split, or as many as the configuration asks for.

        Raises:
            UsageError: If a class is too small for the number of training images.
            NothingUsableError: If a split has no image to fit on, or only one class.
        """
        kept = torch.arange(len(self.paths)) if kept is None else kept
        labels = self.labels[kept]
        if self.given is None:
            self._check_counts(labels)
            splits = self.split_config.draw(labels) if len(labels) else []
        else:
            is_test = self.given[kept]
            splits = [Split((~is_test).nonzero().flatten(), is_test.nonzero().flatten())]
        for split in splits:
            if len(labels[split.train].unique()) < 2:
                raise NothingUsableError("fewer than two classes have images to fit on")
        if not splits:
            raise NothingUsableError("no image can be used")
        return splits

    def label_text(self, index: int) -> str:
        """The label of an image as text."""
        return self.names[self.labels[index]]

    def task(self, kept: Tensor) -> Task:
        """The task of the images that could be read: (M,) int64 positions of these."""
        return class_task(self.labels[kept], self.names)

    def _check_counts(self, labels: Tensor) -> None:
        """Name the class that leaves nothing to score on."""
        counts = torch.bincount(labels, minlength=len(self.names)).tolist()
        for name, count in zip(self.names, counts, strict=True):
            wanted = self.split_config.train_per_class or 0
            if 0 < count <= wanted:
                raise UsageError(
                    f"class {name!r} has {count_of(count, 'image')}; "
                    f"--train-per-class {wanted} leaves none to score on",
                )

    def describe_split(self) -> str:
        """Say in words which images the figures are from."""
        if self.given is not None:
            return "images of the test folder"
        config = self.split_config
        if not config.is_protocol:
            return f"{HOLDOUT:.0%} of each class held out, seed {config.seed}"
        return (
            f"{count_of(config.train_per_class or 0, 'image')} of each class to fit, "
            f"up to {config.test_per_class or 'all left'} to score, "
            f"{count_of(config.splits, 'random split')}, seed {config.seed}"
        )


def open_class_data(root: str | Path, split_config: SplitConfig) -> ClassData:
    """Find the images of a data set for fitting.

    Args:
        root: Folder of class folders, or of ``train`` and ``test`` (or ``val``) folders of class
            folders.
        split_config: How to divide the images of a plain folder.

    Returns:
        The images of all parts.

    Raises:
        UsageError: If splits are to be drawn and the folder brings its own, or there is no such
            folder.
        NothingUsableError: If there are no images.
    """
    root = Path(root)
    splits = list_class_splits(root)
    if "train" not in splits:
        return _join([read_class_folders(root)], split_config)
    if split_config.is_protocol:
        raise UsageError(
            "--train-per-class draws its own splits, but the folder has one named 'train'; "
            f"give {str(root / 'train')!r} to draw from",
            path=root,
        )
    test = scoring_split(splits)
    parts = ["train"] if test is None else ["train", test]
    return _join([read_class_folders(root, split=part) for part in parts], split_config)


def training_split(splits: Sequence[str]) -> str | None:
    """Choose the split to learn from: trainval, else train, else None.

    Example:
        >>> training_split(["test", "train"])
        'train'
    """
    return next((name for name in TRAIN_SPLITS if name in splits), None)


def scoring_split(splits: Sequence[str]) -> str | None:
    """Choose the split to score on: test, else a validation split, else None.

    Example:
        >>> scoring_split(["train", "val"])
        'val'
    """
    return next((name for name in TEST_SPLITS if name in splits), None)


def match_classes(dataset: ClassificationDataset, names: Sequence[str]) -> Tensor:
    """Number the labels of a data set by another list of names.

    Args:
        dataset: Images of some of the classes.
        names: The K names that count.

    Returns:
        (N,) int64.

    Raises:
        UsageError: If an image is of a class that is not among the names.
    """
    position = {name: number for number, name in enumerate(names)}
    numbers = torch.tensor([position.get(name, -1) for name in dataset.names], dtype=torch.int64)
    labels = numbers[dataset.labels]
    for label in dataset.labels[labels < 0].tolist():
        raise UsageError(
            f"class folder {dataset.names[label]!r} is none of the model's {len(names)} classes",
            path=dataset.root,
        )
    return labels


def _join(parts: list[ClassificationDataset], split_config: SplitConfig) -> ClassData:
    """Put the training and the test folder together; the reader gave both the same names."""
    given = [torch.full((len(part.paths),), index > 0) for index, part in enumerate(parts)]
    problems = {problem: None for part in parts for problem in part.problems}  # each once
    return ClassData(
        tuple(path for part in parts for path in part.paths),
        torch.cat([part.labels for part in parts]),
        parts[0].names,
        tuple(problems),
        torch.cat(given) if len(parts) > 1 else None,
        split_config,
    )


@dataclass(frozen=True)
class VocData:
    """Images, the classes that they show, and which are to score on.

    Args:
        paths: N files.
        targets: (N, K) int8, as of ``read_voc_classes``.
        names: K class names.
        problems: What was wrong with the set.
        given: (N,) bool, True for the images to score on.
        splits_used: Names of the splits to fit and to score on.
    """

    paths: tuple[Path, ...]
    targets: Tensor
    names: tuple[str, ...]
    problems: tuple[Problem, ...]
    given: Tensor
    splits_used: tuple[str, str]

    def splits(self, kept: Tensor | None = None) -> list[Split]:
        """Divide the images, or those that could be read: one split.

        Args:
            kept: (M,) int64, positions of the images that are there; positions in the split count
                in these.

        Raises:
            NothingUsableError: If no image is left to fit on.
        """
        is_test = self.given if kept is None else self.given[kept]
        split = Split((~is_test).nonzero().flatten(), is_test.nonzero().flatten())
        if not len(split.train):
            raise NothingUsableError(f"no image of split {self.splits_used[0]!r} can be used")
        return [split]

    def label_text(self, index: int) -> str:
        """The labels of an image as text."""
        return repr(self.targets[index].tolist())

    def task(self, kept: Tensor) -> Task:
        """The task of the images that could be read: (M,) int64 positions of these."""
        return presence_task(self.targets[kept], self.names)

    def describe_split(self) -> str:
        """Say in words which images the figures are from."""
        fit, score = self.splits_used
        return f"split {score!r} after fitting on {fit!r}, VOC07 average precision at 11 recalls"


def open_voc_data(root: str | Path) -> VocData:
    """Find the images of a VOC set: those of trainval (else train) and of test (else val).

    Args:
        root: The set, or a folder above it.

    Returns:
        The images of both splits.

    Raises:
        UsageError: If a split is missing, or the two list other classes.
        NothingUsableError: If a split has no usable image.
    """
    present = list_voc_splits(root)
    used = (_first(TRAIN_SPLITS, present, root), _first(TEST_SPLITS, present, root))
    parts = [read_voc_classes(root, split) for split in used]
    return VocData(
        tuple(path for part in parts for path in part.paths),
        torch.cat([part.targets for part in parts]),
        common_names(parts),
        tuple(problem for part in parts for problem in part.problems),
        torch.cat([torch.full((len(part),), number > 0) for number, part in enumerate(parts)]),
        used,
    )


def _first(wanted: Sequence[str], present: Sequence[str], root: str | Path) -> str:
    """The first of some splits that is there."""
    found = next((name for name in wanted if name in present), None)
    if found is None:
        legal = " or ".join(repr(name) for name in wanted[:2])
        have = ", ".join(present) or "none"
        raise UsageError(f"the protocol needs a split {legal}; there are {have}", path=root)
    return found


def read_labelled(folder: Any, part: str) -> tuple[list[Path], list[str]]:
    """Find the images of class folders and their classes' names.

    Args:
        folder: Folder of class folders, or of ``train`` and ``test`` (or ``val``) folders of them.
        part: ``"train"`` or ``"test"``: which of these to take.

    Returns:
        Paths and labels.

    Raises:
        TypeError: If it is no folder.
    """
    if not isinstance(folder, str | Path):
        raise TypeError(f"y must be given unless images is a folder, got {type(folder).__name__}")
    data = open_class_data(folder, SplitConfig())
    for problem in data.problems:
        warnings.warn(str(problem), stacklevel=3)
    chosen = list(range(len(data.paths)))
    if data.given is not None:
        chosen = (data.given == (part == "test")).nonzero().flatten().tolist()
    return [data.paths[i] for i in chosen], [data.names[data.labels[i]] for i in chosen]


def content_numbers(images: list[Any]) -> Tensor:
    """Numbers that identify files that were fitted on, (n,) int64; images in memory have none."""
    files = [image for image in images if isinstance(image, str | Path)]
    return torch.tensor([content_number(read_content(file)) for file in files], dtype=torch.int64)


@contextmanager
def as_files(images: list[Any]) -> Iterator[list[str | Path]]:
    """Give paths of all images; what is only in memory is written to a temporary folder."""
    from torchvision.transforms.functional import to_pil_image  # here: it takes long to import

    with tempfile.TemporaryDirectory(prefix="sppnet-") as folder:
        paths: list[str | Path] = []
        for number, image in enumerate(images):
            if isinstance(image, str | Path):
                paths.append(image)
                continue
            paths.append(Path(folder) / f"{number}.png")
            to_pil_image(to_image(image)).save(paths[-1])
        yield paths
