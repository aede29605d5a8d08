"""A doctor for data sets: what is there, what is wrong and where, and what training will do."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sppnet.errors import InputError, Problem, Track, no_tracking, printable
from sppnet.images.class_folders import ClassificationDataset, read_class_folders
from sppnet.images.datasets import DetectionDataset
from sppnet.images.decode import load_image, read_image_size
from sppnet.images.layouts import find_layout, list_splits, open_detection_dataset


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Args:
        root: The data set.
        layout: "voc", "coco", "yolo" or "class folders".
        splits: Names of its splits.
        counts: "images", "boxes" (detection), "images without boxes" (detection), "classes".
        per_class: Boxes, or images, of each class.
        problems: What will be left out, each with file, line if known, and action.
        notes: What will be used although it is not quite right.
    """

    root: Path
    layout: str
    splits: tuple[str, ...]
    counts: dict[str, int]
    per_class: dict[str, int]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON; names are escaped where needed."""
        return {
            "root": printable(str(self.root)),
            "layout": self.layout,
            "splits": [printable(split) for split in self.splits],
            "counts": self.counts,
            "per_class": {printable(name): count for name, count in self.per_class.items()},
            "problems": [_as_dict(problem) for problem in self.problems],
            "notes": [_as_dict(note) for note in self.notes],
        }


def check_dataset(
    root: str | Path,
    split: str | None = None,
    *,
    deep: bool = False,
    track: Track = no_tracking,
) -> CheckReport:
    """Check a data set of any layout.

    Args:
        root: The data set: VOC, COCO, YOLO or class folders.
        split: Check this part only.
        deep: Decode every image, which also finds those that are cut or damaged behind the header.
        track: Shows progress.

    Returns:
        The report.

    Raises:
        UsageError: If the folder or the split does not exist.
        NothingUsableError: If there is no image to use in it.
        UnusableFileError: If a COCO file or the names of a YOLO set cannot be read.
    """
    root = Path(root)
    if find_layout(root) is None:
        return _check_class_folders(root, split, deep, track)
    return _check_detection(root, split, deep, track)


def _check_detection(root: Path, split: str | None, deep: bool, track: Track) -> CheckReport:
    """Report on images with boxes."""
    dataset: DetectionDataset = open_detection_dataset(root, split, track=track)
    damaged = _decode_all([image.path for image in dataset], track) if deep else []
    empty = sum(len(image.labels) == 0 for image in dataset)
    counts = {
        "images": len(dataset),
        "boxes": dataset.box_count,
        "images without boxes": empty,
        "classes": len(dataset.names),
    }
    return CheckReport(
        root=root,
        layout=dataset.layout,
        splits=tuple(list_splits(root)),
        counts=counts,
        per_class=dataset.boxes_per_class(),
        problems=(*dataset.problems, *damaged),
        notes=dataset.notes,
    )


def _check_class_folders(root: Path, split: str | None, deep: bool, track: Track) -> CheckReport:
    """Report on class folders; headers are read even without ``deep``."""
    dataset: ClassificationDataset = read_class_folders(root, split)
    damaged = _decode_all(dataset.paths, track) if deep else _read_headers(dataset.paths, track)
    return CheckReport(
        root=root,
        layout="class folders",
        splits=tuple(list_splits(root)),
        counts={"images": len(dataset), "classes": len(dataset.names)},
        per_class=dataset.images_per_class(),
        problems=(*dataset.problems, *damaged),
        notes=(),
    )


def _decode_all(paths: Iterable[Path], track: Track) -> list[Problem]:
    """A problem for every image whose pixels cannot be decoded."""
    return [found for path in _each(paths, "decoding images", track) if (found := _try(path, True))]


def _read_headers(paths: Iterable[Path], track: Track) -> list[Problem]:
    """A problem for every image whose header cannot be read."""
    return [
        found for path in _each(paths, "reading headers", track) if (found := _try(path, False))
    ]


def _each(paths: Iterable[Path], description: str, track: Track) -> Iterable[Path]:
    """The paths, with progress shown."""
    listed = list(paths)
    return track(listed, description, total=len(listed))


def _try(path: Path, decode: bool) -> Problem | None:
    """What is wrong with one image, if anything."""
    try:
        if decode:
            load_image(path)
        else:
            read_image_size(path)
    except InputError as error:
        return Problem.of(error, action="image left out")
    return None


def _as_dict(problem: Problem) -> dict[str, Any]:
    """One finding as plain values."""
    return {
        "path": printable(problem.path),
        "line": problem.line,
        "rule": printable(problem.rule),
        "code": problem.code,
        "action": problem.action,
    }
