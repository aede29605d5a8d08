"""Labelled images, the set of them, and how readers make both of the boxes that they find.

A reader makes a ``RawBox`` of whatever its format says; here it is held against the image's real
size and the class names, clipped, or left out with a finding.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sppnet.errors import (
    BOX_LEFT_OUT,
    IMAGE_LEFT_OUT,
    Findings,
    InputError,
    NothingUsableError,
    Problem,
)
from sppnet.geometry import clip_boxes, flip_boxes
from sppnet.geometry.boxes import box_area
from sppnet.images.decode import content_number, load_image, read_image_size, read_stored_size
from sppnet.images.listing import distinct_ids, relative_names
from sppnet.images.transforms import flip_left_right
from sppnet.storage.files import read_lines

# Of the sides of an image, for a part of it; an object is seen if this share of its area is.
SMALLEST_PART, SEEN = 0.6, 0.9
MOST_DRAWS = 30


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image file and the true boxes on it.

    Args:
        path: The image file.
        image_id: Name of the image in results: the file's stem, its path where that is not enough,
            or the id in a COCO file.
        size_hw: (height, width) from the file's header, EXIF orientation applied.
        boxes: (K, 4) float32 xyxy pixels, half-open, inside the image, sides of at least 1 px.
        labels: (K,) int64, 0..len(names)-1.
        difficult: (K,) bool; VOC's mark, neither reward nor punishment in scoring.
        crowd: (K,) bool; COCO's ``iscrowd``.
        truncated: (K,) bool; VOC's mark that the object reaches beyond the image.
        areas: (K,) float64 square pixels as the file says, such as those of COCO's segments; None
            where it says nothing and the boxes' areas are meant.
        is_mirrored: Whether left and right are exchanged after decoding; the boxes are already.
        stated_boxes: (K, 4) float32 xyxy as the file says, which scores are measured by; None where
            no box reaches beyond the image.
        part_of: The whole image, if this is a part of it that is cut out after decoding, before it
            is mirrored. ``size_hw`` and all boxes are those of the part.
        corner_xy: (x, y) of the part's top left pixel in the whole image.
    """

    path: Path
    image_id: str | int
    size_hw: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    crowd: Tensor
    truncated: Tensor
    areas: Tensor | None = None
    is_mirrored: bool = False
    stated_boxes: Tensor | None = None
    part_of: "LabelledImage | None" = None
    corner_xy: tuple[int, int] = (0, 0)

    def load(self, *, compact: bool = False) -> Tensor:
        """Decode the image: (3, H, W) float32, RGB, 0..1; raises ``InputError``.

        With ``compact`` mostly uint8, 0..255, as :func:`load_image` says.
        """
        return self.show(load_image(self.path, compact=compact))

    def show(self, pixels: Tensor) -> Tensor:
        """Cut and mirror the (3, H, W) pixels of the whole file as this image has them."""
        (left, top), (height, width) = self.corner_xy, self.size_hw
        if self.part_of is not None:
            pixels = pixels[:, top : top + height, left : left + width].contiguous()
        return flip_left_right(pixels) if self.is_mirrored else pixels

    def mirror(self) -> "LabelledImage":
        """Give the same image with left and right exchanged; the boxes go along."""
        boxes, stated = flip_boxes(self.boxes, self.size_hw[1]), self.stated_boxes
        stated = None if stated is None else flip_boxes(stated, self.size_hw[1])
        return replace(self, boxes=boxes, stated_boxes=stated, is_mirrored=not self.is_mirrored)

    def clip(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Move boxes of the whole image into this part.

        Args:
            boxes: (W, 4) xyxy in pixels of the whole image.

        Returns:
            (W, 4) in pixels of the part, clipped, and (W,) the share of each that is seen.
        """
        inside = clip_boxes(boxes - boxes.new_tensor(self.corner_xy * 2), self.size_hw)
        return inside, box_area(inside) / box_area(boxes).clamp(min=1e-9)

    def crop(self, corner_xy: tuple[int, int], size_hw: tuple[int, int]) -> "LabelledImage":
        """Cut out a part of an image that is not mirrored; its boxes are clipped.

        An object of which less than nine tenths are seen is marked difficult there; one of which
        less than a pixel is left has no box any more.

        Args:
            corner_xy: (x, y) of the part's top left pixel.
            size_hw: (height, width) of the part, inside the image.
        """
        part = replace(self, size_hw=size_hw, part_of=self, corner_xy=corner_xy)
        boxes, seen = part.clip(self.boxes)
        left = (boxes[:, 2:] - boxes[:, :2] >= 1).all(1)
        return replace(
            part,
            boxes=boxes[left],
            labels=self.labels[left],
            difficult=(self.difficult | (seen < SEEN))[left],
            crowd=self.crowd[left],
            truncated=(self.truncated | (seen < 1))[left],
            areas=None,
            stated_boxes=None,
        )

    def crop_at_random(self) -> "LabelledImage":
        """Cut out a part with sides of 60 to 100 %, in which an object is seen if there is one.

        The file's name alone decides where to look first, so the part of a photo stays the same
        from run to run, and hardly ever changes with its labels.
        """
        seed = content_number(os.fsencode(self.path.name))
        draw, (height, width) = torch.Generator().manual_seed(seed), self.size_hw
        for _ in range(MOST_DRAWS):
            share, right, down = torch.rand(3, generator=draw, dtype=torch.float64).tolist()
            share = SMALLEST_PART + (1 - SMALLEST_PART) * share
            size = max(1, int(height * share)), max(1, int(width * share))
            corner = round(right * (width - size[1])), round(down * (height - size[0]))
            part = self.crop(corner, size)
            if not len(self.boxes) or not bool((part.difficult | part.crowd).all()):
                break
        return part


@dataclass(frozen=True, eq=False)
class DetectionDataset:
    """Images with boxes, whatever their layout on disk; the files are never changed.

    Args:
        images: In a fixed order; images without boxes are kept.
        names: Class names; the label is the place in here.
        problems: What was left out and why, one per image or box.
        root: Folder or index file that it was read from.
        split: The split, or None for all.
        layout: "voc", "coco", "yolo" or "labels".
        notes: What was used although it was not quite right, such as boxes clipped to the image.
        category_ids: The id of each class in a COCO file; 1..K elsewhere.
    """

    images: tuple[LabelledImage, ...]
    names: tuple[str, ...]
    problems: tuple[Problem, ...]
    root: Path
    split: str | None
    layout: str
    notes: tuple[Problem, ...] = ()
    category_ids: tuple[int | str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[LabelledImage]:
        return iter(self.images)

    def __getitem__(self, index: int) -> LabelledImage:
        return self.images[index]

    @property
    def box_count(self) -> int:
        """Number of boxes on all images."""
        return sum(len(image.labels) for image in self.images)

    @cached_property
    def files(self) -> dict[str | int, str]:
        """By image id, the image's path from the root, or from the folder of the index file.

        Where images lie outside, from the deepest folder that holds them and the root.
        """
        folder = self.root.parent if self.root.is_file() else self.root
        names = relative_names((image.path for image in self.images), [folder])
        return {image.image_id: names[image.path] for image in self.images}

    def boxes_per_class(self) -> dict[str, int]:
        """Number of boxes of each class, in the order of the names."""
        counts = torch.zeros(len(self.names), dtype=torch.int64)
        for image in self.images:
            counts += torch.bincount(image.labels, minlength=len(self.names))
        return dict(zip(self.names, counts.tolist(), strict=True))


def make_dataset(
    images: Sequence[LabelledImage],
    names: Sequence[str],
    findings: Findings,
    *,
    root: Path,
    split: str | None,
    layout: str,
    category_ids: Sequence[int | str] | None = None,
) -> DetectionDataset:
    """Put a data set together; one without a usable image is an error.

    Args:
        images: What could be read.
        names: Class names.
        findings: What was found on the way.
        root: Folder or index file that it was read from.
        split: The split, or None for all.
        layout: "voc", "coco", "yolo" or "labels".
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
        images=tuple(_with_own_ids(images, root)),
        names=tuple(names),
        problems=tuple(findings.problems),
        root=root,
        split=split,
        layout=layout,
        notes=tuple(findings.notes),
        category_ids=tuple(category_ids or range(1, len(names) + 1)),
    )


def _with_own_ids(images: Sequence[LabelledImage], root: Path) -> list[LabelledImage]:
    """Give images whose ids repeat, such as those of two folders, their paths for ids.

    Without the ending where that is enough, as in other tools; ``x.jpg`` and ``x.png`` need it.
    """
    ids = [image.image_id for image in images]
    if len(set(ids)) == len(ids):
        return list(images)
    files = [Path(os.path.relpath(image.path, root)).as_posix() for image in images]
    return [
        image if image.image_id == own else replace(image, image_id=own)
        for image, own in zip(images, distinct_ids(ids, files), strict=True)
    ]


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
    label_of = _labels_of(tuple(names))
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
        stated_boxes=_stated(kept),
    )


@lru_cache(maxsize=8)  # asked for every image, and there may be 50,000 names
def _labels_of(names: tuple[str, ...]) -> dict[str, int]:
    """Each name's place."""
    return {name: label for label, name in enumerate(names)}


def keep_unless_emptied(
    image: LabelledImage,
    raw_boxes: Sequence[RawBox],
    all_read: bool,
    names: Sequence[str],
    annotation_path: str | Path,
    findings: Findings,
) -> LabelledImage | None:
    """Leave out an image whose objects are all lost: training would take it for background.

    Args:
        image: As it was read.
        raw_boxes: What its annotation says, as far as it could be read.
        all_read: Whether that was the whole annotation.
        names: Class names that are asked for; objects of other classes are background indeed.
        annotation_path: Named in the finding.
        findings: Receives a problem, or a note where all objects are of other classes.

    Returns:
        The image, or None.
    """
    if len(image.labels) or (all_read and not raw_boxes):
        return image
    if all_read and not any(raw.class_name in names for raw in raw_boxes):
        rule = f"every box of {image.path.name!r} was left out"
        findings.note(annotation_path, rule, action="used as an image without boxes")
        return image
    rule = f"no box of {image.path.name!r} can be used, though it has some"
    findings.leave_out(annotation_path, rule, "E_BOX")
    return None


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


def _stated(kept: Sequence[tuple[RawBox, tuple[float, float, float, float]]]) -> Tensor | None:
    """(K, 4) boxes before they were clipped, if any was."""
    corners = [(raw.x1, raw.y1, raw.x2, raw.y2) for raw, _ in kept]
    if all(stated == box for stated, (_, box) in zip(corners, kept, strict=True)):
        return None
    return torch.tensor(corners, dtype=torch.float32)


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
