"""A doctor for data sets: what is there, what is wrong and where, and what training will do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sppnet.errors import InputError, NothingUsableError, Problem, printable
from sppnet.images.class_folders import ClassificationDataset, read_class_folders
from sppnet.images.dataset_facts import give_hints, summarise_boxes
from sppnet.images.datasets import DetectionDataset, LabelledImage
from sppnet.images.decode import load_image, read_image_size
from sppnet.images.layouts import find_layout, list_splits, open_detection_dataset
from sppnet.images.listing import has_image_suffix
from sppnet.images.repeated_images import report_repeated
from sppnet.progress import Track, no_tracking


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Args:
        root: The data set.
        layout: "voc", "coco", "yolo" or "class folders".
        splits: Names of its splits.
        counts: "images", "boxes" (detection), "images without boxes" (detection), "classes".
        per_class: Boxes, or images, of each class.
        problems: What will be left out, and what spoils a score, each with file, line if known, and
            what training does about it.
        notes: What will be used although it is not quite right.
        by_split: Boxes of each class by split (detection).
        summary: Sizes of images and boxes (detection), as ``summarise_boxes`` gives them.
        hints: What to do before training, one sentence each (detection).
    """

    root: Path
    layout: str
    splits: tuple[str, ...]
    counts: dict[str, int]
    per_class: dict[str, int]
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    by_split: dict[str, dict[str, int]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    hints: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values, ready for JSON; names are escaped where needed."""
        return {
            "root": printable(str(self.root)),
            "layout": self.layout,
            "splits": [printable(split) for split in self.splits],
            "counts": self.counts,
            "per_class": _printable_keys(self.per_class),
            "by_split": {printable(k): _printable_keys(v) for k, v in self.by_split.items()},
            "summary": self.summary,
            "hints": [printable(hint) for hint in self.hints],
            "problems": [_as_dict(problem) for problem in self.problems],
            "notes": [_as_dict(note) for note in self.notes],
        }


def check_dataset(
    root: str | Path,
    split: str | None = None,
    *,
    quick: bool = False,
    track: Track = no_tracking,
) -> CheckReport:
    """Check a data set of any layout, all of its splits and what they have in common.

    Args:
        root: The data set: VOC, COCO, YOLO or class folders.
        split: Check this part only.
        quick: Do not decode the images; those that are cut or damaged behind the header stay
            unnoticed.
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
        return _check_class_folders(root, split, quick, track)
    return _check_detection(root, split, quick, track)


def _check_detection(root: Path, split: str | None, quick: bool, track: Track) -> CheckReport:
    """Report on images with boxes."""
    splits = list_splits(root)
    parts, problems = _read_parts(root, splits, split, track)
    images = {image.path: image for part in parts.values() for image in part}
    members = {name: {image.path for image in part} for name, part in parts.items() if name}
    names = list(dict.fromkeys(name for part in parts.values() for name in part.names))
    clashes, repeats = report_repeated(images, members)
    damaged = [] if quick else _decode_all(images, track)
    by_split = {name: part.boxes_per_class() for name, part in parts.items() if name}
    summary = summarise_boxes(list(images.values()))
    counts = _count(list(images.values()), len(names))
    found = [problem for part in parts.values() for problem in part.problems]
    notes = [note for part in parts.values() for note in part.notes]
    notes += repeats + _unlisted(next(iter(parts.values())), images, found, split)
    return CheckReport(
        root=root,
        layout=next(iter(parts.values())).layout,
        splits=tuple(splits),
        counts=counts,
        per_class=_per_class(parts, names),
        problems=tuple(dict.fromkeys([*problems, *found, *damaged, *clashes])),
        notes=tuple(dict.fromkeys(notes)),
        by_split=by_split,
        summary=summary,
        hints=tuple(give_hints(names, counts, by_split, summary)),
    )


def _read_parts(
    root: Path, splits: list[str], split: str | None, track: Track
) -> tuple[dict[str, DetectionDataset], list[Problem]]:
    """Each split; a VOC set as a whole, too, under "", for what is in no list.

    A split of which nothing can be used is a problem, unless none is left.
    """
    wanted = [split] if split is not None else splits
    parts: dict[str, DetectionDataset] = {}
    problems: list[Problem] = []
    names = None
    if split is None and (not splits or find_layout(root) == "voc"):
        parts[""] = open_detection_dataset(root, track=track)
        names = parts[""].names
    for name in wanted:
        try:
            parts[name] = open_detection_dataset(root, name, names, track=track)
        except NothingUsableError as error:
            problems.append(Problem.of(error, action="split left out"))
            if not parts and name == wanted[-1]:
                raise
    return parts, problems


def _count(images: list[LabelledImage], num_classes: int) -> dict[str, int]:
    """What there is, in four numbers."""
    return {
        "images": len(images),
        "boxes": sum(len(image.labels) for image in images),
        "images without boxes": sum(len(image.labels) == 0 for image in images),
        "classes": num_classes,
    }


def _per_class(parts: Mapping[str, DetectionDataset], names: list[str]) -> dict[str, int]:
    """Boxes of each class, those of an image in several splits once."""
    counts = dict.fromkeys(names, 0)
    seen: set[Path] = set()
    for part in parts.values():
        for image in part:
            if image.path not in seen:
                seen.add(image.path)
                for label in image.labels.tolist():
                    counts[part.names[label]] += 1
    return counts


def _unlisted(
    part: DetectionDataset,
    images: Iterable[Path],
    problems: list[Problem],
    split: str | None,
) -> list[Problem]:
    """A note for each folder of a COCO set with image files that no annotation file names."""
    if part.layout != "coco" or split is not None:
        return []
    known = {*images, *(Path(problem.path) for problem in problems)}
    notes = []
    for folder in sorted({path.parent for path in images}):
        lone = [path for path in sorted(folder.iterdir()) if has_image_suffix(path)]
        lone = [path for path in lone if path not in known]
        if lone:
            rule = f"{len(lone)} images are in no annotation file, such as {lone[0].name!r}"
            notes.append(Problem(str(folder), rule, "W_DATA", None, "not used"))
    return notes


def _check_class_folders(root: Path, split: str | None, quick: bool, track: Track) -> CheckReport:
    """Report on class folders; headers are read in any case."""
    dataset: ClassificationDataset = read_class_folders(root, split)
    read = _read_headers if quick else _decode_all
    damaged = read(dataset.paths, track)
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


def _printable_keys(counts: Mapping[str, int]) -> dict[str, int]:
    """Names escaped where needed."""
    return {printable(name): count for name, count in counts.items()}


def _as_dict(problem: Problem) -> dict[str, Any]:
    """One finding as plain values."""
    return {
        "path": printable(problem.path),
        "line": problem.line,
        "rule": printable(problem.rule),
        "code": problem.code,
        "action": problem.action,
    }
