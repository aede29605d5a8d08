"""``sppnet check``: what is wrong or odd with a data set, its statistics, and repeated images."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sppnet.errors import (
    InputError,
    NothingUsableError,
    Problem,
    UnusableFileError,
    count_of,
    printable,
)
from sppnet.images.dataset import DetectionDataset, LabelledImage
from sppnet.images.decode import load_compact, read_image_size
from sppnet.images.listing import has_image_suffix
from sppnet.images.readers.class_folders import ClassificationDataset, read_class_folders
from sppnet.images.readers.layouts import find_layout, list_splits, open_detection_dataset
from sppnet.progress import Track, no_tracking
from sppnet.storage.files import sha256_file

FEW_OBJECTS = 10
MANY_SMALL = 0.3
LEAK = "E_LEAK"


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Args:
        root: The data set.
        layout: "voc", "coco", "yolo", "labels" or "class folders".
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
        root: The data set: VOC, COCO, YOLO, class folders or a label store.
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
        names = parts[""].names or None  # of a set without any box
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
            rule = count_of(len(lone), "image is", "images are")
            rule = f"{rule} in no annotation file, such as {lone[0].name!r}"
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
        notes=dataset.notes,
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
            load_compact(path)
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


def _spread(values: torch.Tensor) -> list[float]:
    """Smallest, middle and largest."""
    numbers = values.double()
    return [round(float(n), 1) for n in (numbers.min(), numbers.median(), numbers.max())]


def _share(mask: torch.Tensor) -> float:
    """Share of True."""
    return round(float(mask.double().mean()), 4)


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
        have = count_of(empty, "image has", "images have")
        hints.append(f"{have} no boxes: used as negatives")
    if not by_split:
        hints.append("there are no splits: hold some images back, or the score is that of training")
    hints += _class_hints(names, by_split)
    small = summary.get("sizes", {}).get("small", 0.0)
    if small >= MANY_SMALL:
        hints.append(f"{small:.0%} of the boxes are at most 32 x 32 pixels: try a larger --imgsz")
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        alike.setdefault(tuple(name.casefold().split()), []).append(name)
    hints += [
        f"classes {first!r} and {other!r} differ in spelling only"
        for first, *others in alike.values()
        for other in others
    ]
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


def find_repeated(paths: Iterable[Path]) -> list[list[Path]]:
    """Group files of the same bytes.

    Args:
        paths: Files; those that cannot be read are passed over.

    Returns:
        The groups of two or more, each in the order given.
    """
    by_size = _grouped((path, _size(path)) for path in dict.fromkeys(paths))
    return [group for files in by_size for group in _grouped((path, _hash(path)) for path in files)]


def report_repeated(
    paths: Iterable[Path], members: Mapping[str, set[Path]]
) -> tuple[list[Problem], list[Problem]]:
    """Name pictures that come twice.

    Args:
        paths: All image files.
        members: Image files by split.

    Returns:
        Problems (a picture is in two splits that should have none in common) and notes (the same
        bytes in two files of a split).
    """
    every = list(dict.fromkeys(paths))
    splits_of = {path: [name for name, files in members.items() if path in files] for path in every}
    problems = [problem for path in every for problem in _listed_twice(path, splits_of[path])]
    notes: list[Problem] = []
    for first, *others in find_repeated(every):
        for other in others:
            pair = next(_clashes(splits_of[first], splits_of[other]), None)
            rule = f"holds the same bytes as {str(first)!r}"
            if pair is None:
                notes.append(Problem(str(other), rule, "W_DATA", None, "both used"))
            else:
                text = f"{rule}: one is in split {pair[0]!r}, one in {pair[1]!r}"
                problems.append(Problem(str(other), text, LEAK, None, _effect(pair)))
    return problems, notes


def _listed_twice(path: Path, splits: list[str]) -> Iterator[Problem]:
    """A finding if a file is in two splits that should have none in common."""
    pair = next(_clashes(splits, splits), None)
    if pair is not None:
        rule = f"is in split {pair[0]!r} and in split {pair[1]!r}"
        yield Problem(str(path), rule, LEAK, None, _effect(pair))


def _effect(pair: tuple[str, str]) -> str:
    """What it does to the score."""
    scored = next((name for name in pair if "test" in _roles(name)), pair[1])
    return f"used in both; scores on {scored!r} come out too high"


def _clashes(first: list[str], second: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of splits that serve different ends."""
    for one in first:
        for other in second:
            roles, others = _roles(one), _roles(other)
            if roles and others and not roles & others:
                yield one, other


def _roles(split: str) -> set[str]:
    """What a split is for, by its name; nothing is known of other names.

    Example:
        >>> [sorted(_roles(name)) for name in ("trainval", "val2017", "minibatch")]
        [['train', 'val'], ['val'], []]
    """
    if split.startswith("trainval"):
        return {"train", "val"}
    return {role for role in ("train", "val", "test") if split.startswith(role)}


def _grouped(pairs: Iterable[tuple[Path, object]]) -> list[list[Path]]:
    """Paths of equal keys, where there are two or more; those without a key are left out."""
    groups: dict[object, list[Path]] = {}
    for path, key in pairs:
        if key is not None:
            groups.setdefault(key, []).append(path)
    return [group for group in groups.values() if len(group) > 1]


def _size(path: Path) -> int | None:
    """Bytes in the file, None if it cannot be asked."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return None


def _hash(path: Path) -> str | None:
    """Hash of the file, None if it cannot be read."""
    try:
        return sha256_file(path)
    except UnusableFileError:
        return None
