"""Which classes an image of a Pascal VOC set shows: VOC's lists of classes, or its annotations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sppnet.errors import Findings, InputError, NothingUsableError, Problem, UsageError
from sppnet.images.readers.voc import read_voc
from sppnet.images.readers.voc_layout import (
    VocFolders,
    find_voc_folders,
    list_image_files,
    read_split,
)
from sppnet.storage.files import read_lines

MARKS = {"1": 1, "-1": -1, "0": 0}


@dataclass(frozen=True, eq=False)
class PresenceDataset:
    """Image files and the classes that each shows.

    Args:
        paths: N files, in the split's order.
        targets: (N, K) int8: 1 shows the class, -1 does not, 0 shows only difficult ones, which
            count neither way.
        names: K class names, sorted.
        problems: What was left out and why.
        root: Folder that it was read from.
        split: The split.
    """

    paths: tuple[Path, ...]
    targets: Tensor
    names: tuple[str, ...]
    problems: tuple[Problem, ...]
    root: Path
    split: str

    def __len__(self) -> int:
        return len(self.paths)


def read_voc_classes(root: str | Path, split: str) -> PresenceDataset:
    """Read which classes the images of a split show.

    VOC's own lists ``ImageSets/Main/CLASS_SPLIT.txt`` say it where there are any. Otherwise the
    annotations do, by the rule that made those lists: an image shows a class if one object of it is
    not difficult; if all are difficult, the image counts neither way.

    Args:
        root: The set, or a folder above it (``VOCdevkit``).
        split: Name of a list in ``ImageSets/Main``.

    Returns:
        The data set; names are those of the lists of this split, or of all annotations.

    Raises:
        UsageError: If the folder or the split does not exist, or a list cannot be read.
        NothingUsableError: If no image is usable, or this is no VOC set.

    Source:
        The development kit of VOC 2007, sections 4.1 and 8.1.
    """
    folders = find_voc_folders(root)
    if folders is None:
        raise NothingUsableError("looked for Annotations/*.xml, found none", path=root)
    lists = _class_lists(folders, split)
    if lists:
        return _read_lists(folders, split, lists, Path(root))
    dataset = read_voc(root, split)
    targets = [_targets_of(i.labels, i.difficult, len(dataset.names)) for i in dataset.images]
    return PresenceDataset(
        tuple(image.path for image in dataset.images),
        torch.stack(targets),
        dataset.names,
        dataset.problems,
        Path(root),
        split,
    )


def _targets_of(labels: Tensor, difficult: Tensor, num_classes: int) -> Tensor:
    """One image's row: labels and marks of its K objects -> (num_classes,) int8."""
    targets = torch.full((num_classes,), -1, dtype=torch.int8)
    targets[labels] = 0
    targets[labels[~difficult]] = 1
    return targets


def _class_lists(folders: VocFolders, split: str) -> dict[str, Path]:
    """Name of the class -> its list for a split, sorted."""
    ending = f"_{split}.txt"
    found = sorted(path for path in folders.lists.glob(f"*{ending}") if path.name[0] != ".")
    return {path.name.removesuffix(ending): path for path in found}


def _read_lists(
    folders: VocFolders, split: str, lists: dict[str, Path], root: Path
) -> PresenceDataset:
    """Put the lists of all classes together, in the order of the split's own list."""
    images, findings = list_image_files(folders.images), Findings()
    stems = read_split(folders, split, set(images), findings)
    marks = {name: _read_marks(path) for name, path in lists.items()}
    for stem in stems:
        fits = images.get(stem, [])
        rule = "there is no image of this name"
        if len(fits) > 1:
            rule = f"is {fits[0].name!r} or {fits[1].name!r}: a list must mean one image"
        if len(fits) != 1:
            findings.leave_out(folders.images / f"{stem}.jpg", rule, "E_UNREADABLE")
    known = [stem for stem in stems if len(images.get(stem, [])) == 1]
    if not known:
        raise NothingUsableError(f"no image of split {split!r} is there", path=root)
    rows = [[marks[name].get(stem, -1) for name in lists] for stem in known]
    return PresenceDataset(
        tuple(images[stem][0] for stem in known),
        torch.tensor(rows, dtype=torch.int8),
        tuple(lists),
        tuple(findings.problems),
        root,
        split,
    )


def _read_marks(path: Path) -> dict[str, int]:
    """Image -> 1, 0 or -1, as a list of one class says."""
    try:
        lines = [line.split() for line in read_lines(path)]
    except InputError as error:
        raise UsageError(error.message, path=path) from None
    for number, words in enumerate(lines, start=1):
        if words and (len(words) != 2 or words[1] not in MARKS):
            rule = f"line {number} must be an image and 1, 0 or -1, is {' '.join(words)!r}"
            raise UsageError(rule, path=path)
    return {words[0]: MARKS[words[1]] for words in lines if words}


def common_names(parts: Sequence[PresenceDataset]) -> tuple[str, ...]:
    """Class names that all splits have.

    Raises:
        UsageError: If they differ: the lists of a class are missing for a split.
    """
    for part in parts[1:]:
        if part.names != parts[0].names:
            odd = sorted(set(part.names) ^ set(parts[0].names))
            rule = f"splits must list the same classes; {odd[0]!r} is missing in one"
            raise UsageError(rule, path=part.root)
    return parts[0].names
