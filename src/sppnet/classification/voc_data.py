"""Images of a Pascal VOC set for the classification protocol: trainval to fit, test to score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sppnet.classification.class_data import TEST_FOLDERS
from sppnet.classification.protocol import Split
from sppnet.classification.scoring import Task, presence_task
from sppnet.errors import NothingUsableError, Problem, UsageError
from sppnet.images import list_voc_splits
from sppnet.images.readers.voc_classes import common_names, read_voc_classes

FIT_SPLITS = ("trainval", "train")


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

    def task(self, kept: Tensor) -> Task:
        """What is to be told of the images that could be read."""
        return presence_task(self.targets[kept], self.names)

    def rule_words(self) -> str:
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
    used = (_first(FIT_SPLITS, present, root), _first(TEST_FOLDERS, present, root))
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
