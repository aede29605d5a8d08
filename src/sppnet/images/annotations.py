"""From what an annotation file says to labelled images: boxes made to fit, findings collected."""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sppnet.errors import InputError, NothingUsableError, Problem, UsageError
from sppnet.images.datasets import DetectionDataset, LabelledImage
from sppnet.images.decode import read_image_size
from sppnet.images.regular_files import read_lines

_BOX_LEFT_OUT = "box left out"
IMAGE_LEFT_OUT = "image left out"


class RawBox(NamedTuple):
    """A box as a reader found it, half-open, not yet held against its image."""

    x1: float
    y1: float
    x2: float
    y2: float
    class_name: str
    difficult: bool = False
    crowd: bool = False
    truncated: bool = False
    line: int | None = None
    where: str = "box"


class Findings:
    """Collects what the readers find: problems (left out) and notes (used nevertheless)."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notes: list[Problem] = []

    def leave_out(
        self,
        path: str | Path,
        rule: str,
        code: str,
        *,
        line: int | None = None,
        action: str = IMAGE_LEFT_OUT,
    ) -> None:
        """Record something that training and scoring will not see."""
        self.problems.append(Problem(str(path), rule, code, line, action))

    def note(self, path: str | Path, rule: str, *, line: int | None = None, action: str) -> None:
        """Record something that was used although it was not quite right."""
        self.notes.append(Problem(str(path), rule, "W_DATA", line, action))


def make_labelled_image(
    path: Path,
    image_id: str | int,
    raw_boxes: Sequence[RawBox],
    names: Sequence[str],
    annotation_path: str | Path,
    findings: Findings,
) -> LabelledImage | None:
    """Hold an image's boxes against its real size and its classes against the names.

    Boxes are clipped to the image; one that is less than 1 px wide or high before or after that is
    left out.

    Args:
        path: The image file; its header is read.
        image_id: Name of the image in results.
        raw_boxes: What the annotation says.
        names: Class names.
        annotation_path: Named in findings about boxes.
        findings: Receives every box that is clipped or left out.

    Returns:
        The image, or None (and a problem) if its header cannot be read.
    """
    try:
        size_hw = read_image_size(path)
    except InputError as error:
        findings.problems.append(Problem.of(error, action=IMAGE_LEFT_OUT))
        return None
    label_of = {name: label for label, name in enumerate(names)}
    kept: list[tuple[RawBox, tuple[float, float, float, float]]] = []
    for raw in raw_boxes:
        clipped = _fit_box(raw, size_hw, label_of, annotation_path, findings)
        if clipped is not None:
            kept.append((raw, clipped))
    return LabelledImage(
        path=path,
        image_id=image_id,
        size_hw=size_hw,
        boxes=torch.tensor([box for _, box in kept], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([label_of[raw.class_name] for raw, _ in kept], dtype=torch.int64),
        difficult=_flags(raw.difficult for raw, _ in kept),
        crowd=_flags(raw.crowd for raw, _ in kept),
        truncated=_flags(raw.truncated for raw, _ in kept),
    )


def make_dataset(
    images: Sequence[LabelledImage],
    names: Sequence[str],
    findings: Findings,
    *,
    root: Path,
    split: str | None,
    layout: str,
    category_ids: Sequence[int] | None = None,
) -> DetectionDataset:
    """Put a data set together; one without a usable image is an error.

    Args:
        images: What could be read.
        names: Class names.
        findings: What was found on the way.
        root: Folder or index file that it was read from.
        split: The split, or None for all.
        layout: "voc", "coco" or "yolo".
        category_ids: Ids of the classes, 1..K if left out.

    Returns:
        The data set.

    Raises:
        NothingUsableError: If there is no image left.
    """
    if not images:
        asked = f" in split {split!r}" if split else ""
        reason = f"; the first problem: {findings.problems[0]}" if findings.problems else ""
        raise NothingUsableError(f"no usable image{asked}{reason}", path=root)
    return DetectionDataset(
        images=tuple(images),
        names=tuple(names),
        problems=tuple(findings.problems),
        root=root,
        split=split,
        layout=layout,
        notes=tuple(findings.notes),
        category_ids=tuple(category_ids or range(1, len(names) + 1)),
    )


def read_names(names: Sequence[str] | str | Path | None) -> tuple[str, ...] | None:
    """Take class names from the caller, or from a text file with one name a line.

    Args:
        names: The names, or a file's path, or None.

    Returns:
        The names, or None if None was given.

    Raises:
        ValueError: If there are none or one comes twice.
        InputError: If the file cannot be read.

    Example:
        >>> read_names(["cat", "dog"])
        ('cat', 'dog')
    """
    if names is None:
        return None
    if isinstance(names, str | Path):
        names = [line.strip() for line in read_lines(names, 1_000_000) if line.strip()]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"names must be given once each, got {list(names)}")
    return tuple(names)


def require_folder(root: Path) -> None:
    """Refuse a data-set root that is no readable folder.

    Args:
        root: What the user named.

    Raises:
        UsageError: If it does not exist, is no folder or cannot be read.
    """
    try:
        with os.scandir(root):
            return
    except FileNotFoundError:
        rule = "the data set's folder does not exist"
    except NotADirectoryError:
        rule = "the data set must be a folder"
    except (OSError, ValueError) as error:
        rule = f"the data set's folder cannot be read: {getattr(error, 'strerror', error)}"
    raise UsageError(rule, path=root)


def unknown_split(root: Path, split: str, known: Sequence[str]) -> UsageError:
    """Make the error for a split that does not exist.

    Args:
        root: The data set.
        split: What was asked for.
        known: The splits that exist.

    Returns:
        The error, which lists them.
    """
    choices = ", ".join(known) if known else "none"
    return UsageError(f"no split {split!r}; splits of this set: {choices}", path=root)


def _flags(values: Iterable[bool]) -> Tensor:
    """(K,) bool, also of nothing."""
    return torch.tensor(list(values), dtype=torch.bool)


def _fit_box(
    raw: RawBox,
    size_hw: tuple[int, int],
    label_of: dict[str, int],
    path: str | Path,
    findings: Findings,
) -> tuple[float, float, float, float] | None:
    """The box clipped to the image, or None and a problem."""
    rule = _broken_rule(raw, label_of)
    height, width = size_hw
    corners = [raw.x1, raw.y1, raw.x2, raw.y2]
    if rule is None:
        x1, x2 = (min(max(x, 0.0), float(width)) for x in (raw.x1, raw.x2))
        y1, y2 = (min(max(y, 0.0), float(height)) for y in (raw.y1, raw.y2))
        if x2 - x1 < 1 or y2 - y1 < 1:
            rule = f"less than 1 px of the {raw.where} lies in the image of {width} x {height}"
    if rule is not None:
        text = f"{rule}, has {_numbers(corners)}"
        findings.leave_out(path, text, "E_BOX", line=raw.line, action=_BOX_LEFT_OUT)
        return None
    # One pixel beyond the edge is the usual mix of counting from 0 and from 1: not worth a word.
    if max(abs(a - b) for a, b in zip(corners, (x1, y1, x2, y2), strict=True)) > 1:
        text = f"the {raw.where} reaches beyond the image of {width} x {height}"
        text = f"{text}, has {_numbers(corners)}"
        findings.note(path, text, line=raw.line, action="clipped to the image")
    return x1, y1, x2, y2


def _broken_rule(raw: RawBox, label_of: dict[str, int]) -> str | None:
    """What is wrong with a box before its image is looked at."""
    if raw.class_name not in label_of:
        return f"the {raw.where} is of class {raw.class_name!r}, which is not among the names"
    corners = (raw.x1, raw.y1, raw.x2, raw.y2)
    if not all(math.isfinite(value) for value in corners):
        return f"the {raw.where} must have finite corners"
    if raw.x2 < raw.x1 or raw.y2 < raw.y1:
        return f"the {raw.where} is reversed"
    if raw.x2 == raw.x1 or raw.y2 == raw.y1:
        return f"the {raw.where} has no area"
    return None


def _numbers(values: Sequence[float]) -> str:
    """Corners in few digits."""
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
