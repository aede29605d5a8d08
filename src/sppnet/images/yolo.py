"""YOLO layout: a text file of ``class x y width height`` for every image."""

import math
from collections.abc import Sequence
from pathlib import Path

from sppnet.errors import InputError, NothingUsableError, UnusableFileError
from sppnet.images.annotations import (
    Findings,
    make_dataset,
    read_names,
    require_folder,
    unknown_split,
)
from sppnet.images.datasets import DetectionDataset, LabelledImage
from sppnet.images.decode import read_image_size
from sppnet.images.raw_boxes import RawBox, make_labelled_image, note_if_emptied
from sppnet.images.regular_files import read_lines
from sppnet.images.yolo_names import read_yolo_names
from sppnet.images.yolo_places import choose_places, find_yolo_places
from sppnet.progress import Track, no_tracking

_BOX_LEFT_OUT = "box left out"
_MAX_LABEL_BYTES = 10_000_000


def list_yolo_splits(root: str | Path) -> list[str]:
    """Name the splits of a YOLO set.

    Args:
        root: The data set.

    Returns:
        In the order train, val, test, then others; empty if it is not divided.
    """
    return [name for name in find_yolo_places(Path(root)) if name]


def is_yolo_root(root: str | Path) -> bool:
    """Tell whether a folder looks like a YOLO set: images and labels in one of the known shapes.

    Args:
        root: The folder.

    Returns:
        Whether ``read_yolo`` should try it.
    """
    return bool(find_yolo_places(Path(root)))


def read_yolo(
    root: str | Path,
    split: str | None = None,
    names: Sequence[str] | str | Path | None = None,
    *,
    track: Track = no_tracking,
) -> DetectionDataset:
    """Read a data set in YOLO layout.

    Its shapes are those of ``find_yolo_places``. A label file holds ``class x y width height`` a
    line: the box's centre and size as shares of the image. A polygon of three or more corners
    counts as the box around it. An image without a label file has no boxes, as YOLO means it.

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
    found = find_yolo_places(root)
    if not found:
        raise NothingUsableError("looked for images/ and labels/, found none", path=root)
    places = choose_places(found, split)
    if not places:
        raise unknown_split(root, split or "", list_yolo_splits(root))
    folders = [folder for place in places for folder in (place.images, place.labels)]
    own_names = read_yolo_names([root, *folders]) or read_names(names)
    if own_names is None:
        raise UnusableFileError("no class names: needs data.yaml or classes.txt", path=root)
    class_names = read_names(names) or own_names
    findings = Findings()
    pairs = [pair for place in places for pair in place.pairs(findings)]
    images = [
        image
        for path, label_path in track(pairs, "reading labels", total=len(pairs))
        if (image := _read_one(path, label_path, own_names, class_names, findings)) is not None
    ]
    return make_dataset(images, class_names, findings, root=root, split=split, layout="yolo")


def _read_one(
    path: Path,
    label_path: Path,
    own_names: Sequence[str],
    class_names: Sequence[str],
    findings: Findings,
) -> LabelledImage | None:
    """One image with its boxes, or None and a problem."""
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
    image = make_labelled_image(path, path.stem, raw, class_names, label_path, findings)
    if image is not None:
        note_if_emptied(image, any(line.strip() for line in lines), label_path, findings)
    return image


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
