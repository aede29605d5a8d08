"""YOLO layout: a text file of ``class x y width height`` beside or parallel to every image."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sppnet.errors import InputError, NothingUsableError, Track, UnusableFileError, no_tracking
from sppnet.images.annotations import (
    Findings,
    RawBox,
    make_dataset,
    make_labelled_image,
    read_names,
    require_folder,
    unknown_split,
)
from sppnet.images.datasets import DetectionDataset, LabelledImage
from sppnet.images.decode import read_image_size
from sppnet.images.listing import list_images
from sppnet.images.regular_files import read_lines
from sppnet.images.yolo_names import read_yolo_names

_SPLIT_ALIASES = {"val": ("val", "valid", "validation"), "valid": ("valid", "val")}
_KNOWN_SPLITS = ("train", "val", "valid", "validation", "test")
_BOX_LEFT_OUT = "box left out"
_MAX_LABEL_BYTES = 10_000_000


@dataclass(frozen=True)
class _Place:
    """A folder of images and the folder of its labels."""

    images: Path
    labels: Path


def list_yolo_splits(root: str | Path) -> list[str]:
    """Name the splits of a YOLO set: folders below ``images``, or folders that hold ``images``.

    Args:
        root: The data set.

    Returns:
        In the order train, val, test, then others; empty if there is only one folder of images.
    """
    root = Path(root)
    found = {
        path.name for path in _folders(root / "images") if (root / "labels" / path.name).is_dir()
    }
    found |= {path.name for path in _folders(root) if (path / "images").is_dir()}
    first = [name for name in _KNOWN_SPLITS if name in found]
    return first + sorted(found - set(first))


def is_yolo_root(root: str | Path) -> bool:
    """Tell whether a folder looks like a YOLO set: images and labels, with names beside them.

    Args:
        root: The folder.

    Returns:
        Whether ``read_yolo`` should try it.
    """
    return any(place.labels.is_dir() for place in _places(Path(root), None))


def read_yolo(
    root: str | Path,
    split: str | None = None,
    names: Sequence[str] | str | Path | None = None,
    *,
    track: Track = no_tracking,
) -> DetectionDataset:
    """Read a data set in YOLO layout.

    Understands ``images/SPLIT`` with ``labels/SPLIT``, ``SPLIT/images`` with ``SPLIT/labels``, and
    ``images`` with ``labels``. A label file holds ``class x y width height`` a line: the box's
    centre and size as shares of the image. A polygon of three or more corners counts as the box
    around it. An image without a label file has no boxes, as YOLO means it.

    Args:
        root: The data set.
        split: Which folder of images; None takes all.
        names: Class names; None takes ``names`` of ``data.yaml``, or the lines of ``classes.txt``.
        track: Shows progress.

    Returns:
        The data set; bad lines are in its ``problems`` with file and line.

    Raises:
        UsageError: If the folder or the split does not exist.
        UnusableFileError: If the class names are missing or cannot be read.
        NothingUsableError: If no image is usable.
        InputError: If the file of names that was passed cannot be read.
    """
    root = Path(root)
    require_folder(root)
    places = _places(root, split)
    if split is not None and not places:
        raise unknown_split(root, split, list_yolo_splits(root))
    if not places:
        raise NothingUsableError("looked for images/ and labels/, found none", path=root)
    own_names = read_yolo_names(root) or read_names(names)
    if own_names is None:
        raise UnusableFileError("no class names: needs data.yaml or classes.txt", path=root)
    class_names = read_names(names) or own_names
    findings = Findings()
    jobs = [(path, place) for place in places for path in _list(place, findings)]
    images = [
        image
        for path, place in track(jobs, "reading labels", total=len(jobs))
        if (image := _read_one(path, place, own_names, class_names, findings)) is not None
    ]
    return make_dataset(images, class_names, findings, root=root, split=split, layout="yolo")


def _folders(folder: Path) -> list[Path]:
    """Visible folders in a folder, sorted."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=os.fsencode,
    )


def _places(root: Path, split: str | None) -> list[_Place]:
    """Pairs of folders that hold a split's images and labels; of all splits without one."""
    if split is None:
        splits = list_yolo_splits(root)
        if splits:
            return [place for name in splits for place in _places_of(root, name)]
        whole = _Place(root / "images", root / "labels")
        return [whole] if whole.images.is_dir() and whole.labels.is_dir() else []
    for name in _SPLIT_ALIASES.get(split, (split,)):
        if name in list_yolo_splits(root):
            return _places_of(root, name)
    return []


def _places_of(root: Path, split: str) -> list[_Place]:
    """Both ways to lay out a split."""
    ways = (
        _Place(root / "images" / split, root / "labels" / split),
        _Place(root / split / "images", root / split / "labels"),
    )
    return [place for place in ways if place.images.is_dir()]


def _list(place: _Place, findings: Findings) -> tuple[Path, ...]:
    """The images of a place."""
    listing = list_images([place.images])
    findings.problems.extend(listing.problems)
    return listing.paths


def _read_one(
    path: Path,
    place: _Place,
    own_names: Sequence[str],
    class_names: Sequence[str],
    findings: Findings,
) -> LabelledImage | None:
    """One image with its boxes, or None and a problem."""
    label_path = place.labels / path.relative_to(place.images).with_suffix(".txt")
    raw: list[RawBox] = []
    try:
        height, width = read_image_size(path)
        lines = read_lines(label_path, _MAX_LABEL_BYTES) if label_path.exists() else []
    except InputError as error:
        findings.leave_out(error.path or path, error.message, error.code)
        return None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            raw.append(_read_line(line, number, (height, width), own_names))
        except ValueError as error:
            findings.leave_out(label_path, str(error), "E_BOX", line=number, action=_BOX_LEFT_OUT)
    return make_labelled_image(path, path.stem, raw, class_names, label_path, findings)


def _read_line(line: str, number: int, size_hw: tuple[int, int], names: Sequence[str]) -> RawBox:
    """One line: a class and a box or a polygon, in shares of the image."""
    words = line.split()
    try:
        label, *shares = int(words[0]), *(float(word) for word in words[1:])
    except ValueError:
        raise ValueError(f"must hold numbers, is {line[:60]!r}") from None
    if not 0 <= label < len(names):
        raise ValueError(f"the class must be in 0..{len(names) - 1}, is {label}")
    if not all(math.isfinite(share) for share in shares):
        raise ValueError(f"must hold finite numbers, is {line[:60]!r}")
    x1, y1, x2, y2 = _corners(shares)
    height, width = size_hw
    corners = (x1 * width, y1 * height, x2 * width, y2 * height)
    return RawBox(*corners, names[label], line=number)


def _corners(shares: Sequence[float]) -> tuple[float, float, float, float]:
    """Corners of a box given by centre and size, or of the box around a polygon."""
    if len(shares) == 4:
        x, y, width, height = shares
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if len(shares) >= 6 and len(shares) % 2 == 0:
        columns, rows = shares[::2], shares[1::2]
        return min(columns), min(rows), max(columns), max(rows)
    raise ValueError(f"must have 5 numbers or a class and a polygon, has {len(shares) + 1}")
