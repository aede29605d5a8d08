"""From what an annotation file says to a labelled image: boxes are made to fit it."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sppnet.errors import InputError, Problem
from sppnet.images.annotations import BOX_LEFT_OUT, IMAGE_LEFT_OUT, Findings
from sppnet.images.datasets import LabelledImage
from sppnet.images.decode import read_image_size, read_stored_size


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
    area: float | None = None


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
    _note_repeated(kept, annotation_path, findings)
    return LabelledImage(
        path=path,
        image_id=image_id,
        size_hw=size_hw,
        boxes=torch.tensor([box for _, box in kept], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([label_of[raw.class_name] for raw, _ in kept], dtype=torch.int64),
        difficult=_flags(raw.difficult for raw, _ in kept),
        crowd=_flags(raw.crowd for raw, _ in kept),
        truncated=_flags(raw.truncated for raw, _ in kept),
        areas=_areas([raw.area for raw, _ in kept]),
    )


def note_if_emptied(
    image: LabelledImage, had_boxes: bool, annotation_path: str | Path, findings: Findings
) -> None:
    """Note an image of which every box was left out: training will take it for background.

    Args:
        image: As it was read.
        had_boxes: Whether its annotation names any object, however broken.
        annotation_path: Named in the note.
        findings: Receives the note.
    """
    if had_boxes and not len(image.labels):
        rule = f"every box of {image.path.name!r} was left out"
        findings.note(annotation_path, rule, action="used as an image without boxes")


def compare_sizes(
    image: LabelledImage,
    claimed_hw: tuple[int, int] | None,
    annotation_path: str | Path,
    what: str,
    findings: Findings,
) -> None:
    """Note a size that disagrees with the image, which rules.

    Args:
        image: With its real size.
        claimed_hw: (height, width) as the annotation says; None if it does not say.
        annotation_path: Named in the note.
        what: What says so, such as "<size>".
        findings: Receives the note.
    """
    if claimed_hw is None or claimed_hw == image.size_hw:
        return
    (height, width), (claimed_height, claimed_width) = image.size_hw, claimed_hw
    rule = f"{what} says {claimed_width} x {claimed_height}, the image is {width} x {height}"
    if claimed_hw == read_stored_size(image.path):
        rule = f"{rule} after its EXIF rotation; the boxes may have been drawn before it"
    findings.note(annotation_path, rule, action="the image's own size is used")


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
        findings.leave_out(path, text, "E_BOX", line=raw.line, action=BOX_LEFT_OUT)
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


def _note_repeated(
    kept: Sequence[tuple[RawBox, tuple[float, float, float, float]]],
    path: str | Path,
    findings: Findings,
) -> None:
    """Note boxes that stand there more than once: same class, same corners."""
    seen: Counter[tuple[object, ...]] = Counter()
    for raw, box in kept:
        seen[raw.class_name, box] += 1
        if seen[raw.class_name, box] == 2:
            rule = f"the {raw.where} repeats another of class {raw.class_name!r}"
            findings.note(path, f"{rule}, has {_numbers(box)}", line=raw.line, action="both kept")


def _areas(areas: Sequence[float | None]) -> Tensor | None:
    """(K,) areas if the file gives that of every box."""
    known = [area for area in areas if area is not None]
    return torch.tensor(known, dtype=torch.float64) if known and len(known) == len(areas) else None
