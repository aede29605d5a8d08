"""COCO: a JSON file of images, annotations and categories, and the data set that it describes."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sppnet.errors import InputError, UnusableFileError
from sppnet.images.dataset import (
    DetectionDataset,
    LabelledImage,
    RawBox,
    compare_sizes,
    make_dataset,
    make_labelled_image,
    note_if_emptied,
    read_names,
)
from sppnet.images.findings import BOX_LEFT_OUT, Findings, require_folder
from sppnet.progress import Track, no_tracking
from sppnet.storage.files import read_capped, refuse_hollow_json

MAX_JSON_BYTES = 1_000_000_000


@dataclass
class CocoIndex:
    """The parts of a COCO file that are used, each checked for its type.

    Args:
        path: The JSON file.
        images: Image id to file name.
        sizes: Image id to (height, width), where the file says it.
        categories: Category id to name, by id.
        boxes: Image id to its boxes.
        faulty: Ids of images with an annotation that had to be left out.
        findings: What had to be left out.
    """

    path: Path
    images: dict[int, str] = field(default_factory=dict)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    boxes: dict[int, list[RawBox]] = field(default_factory=dict)
    faulty: set[int] = field(default_factory=set)
    findings: Findings = field(default_factory=Findings)


def read_coco(
    json_path: str | Path,
    image_folder: str | Path | None = None,
    names: Sequence[str] | str | Path | None = None,
    *,
    split: str | None = None,
    root: str | Path | None = None,
    track: Track = no_tracking,
) -> DetectionDataset:
    """Read a data set in COCO layout.

    Sizes are read from the images' own headers. ``iscrowd`` is kept. Boxes [x, y, width, height]
    are clipped to the image. File names never lead out of the image folder.

    Args:
        json_path: The file of annotations.
        image_folder: Where ``file_name`` is looked up; the JSON file's folder if left out.
        names: Class names, or a text file of them; None takes the categories, by id.
        split: Recorded in the result.
        root: Recorded in the result; the JSON file if left out.
        track: Shows progress.

    Returns:
        The data set; ``image_id`` is the id in the file, and ``category_ids`` are the file's.

    Raises:
        UnusableFileError: If the JSON file cannot be read or lacks one of its lists.
        UsageError: If the image folder does not exist.
        NothingUsableError: If no image is usable.
        InputError: If the file of names cannot be read.
    """
    index = read_coco_index(json_path)
    folder = Path(image_folder) if image_folder is not None else index.path.parent
    require_folder(folder)
    given = read_names(names)
    class_names = given or tuple(dict.fromkeys(index.categories.values()))
    images = [
        image
        for image_id in track(index.images, "reading image sizes", total=len(index.images))
        if (image := _read_one(index, image_id, folder, class_names)) is not None
    ]
    return make_dataset(
        images,
        class_names,
        index.findings,
        root=Path(root) if root is not None else index.path,
        split=split,
        layout="coco",
        category_ids=_ids_of(class_names, index.categories),
    )


def _read_one(
    index: CocoIndex, image_id: int, folder: Path, names: Sequence[str]
) -> LabelledImage | None:
    """One image with its boxes, or None and a problem."""
    name = index.images[image_id]
    path = _find_image(folder, name)
    if path is None:
        rule = f"there is no image {shortened(name)} in {folder.name}"
        index.findings.leave_out(index.path, rule, "E_UNREADABLE")
        return None
    raw = index.boxes.get(image_id, [])
    image = make_labelled_image(path, image_id, raw, names, index.path, index.findings)
    if image is not None:
        what = f"image {image_id} ({shortened(name)})"
        compare_sizes(image, index.sizes.get(image_id), index.path, what, index.findings)
        had_boxes = bool(raw) or image_id in index.faulty
        note_if_emptied(image, had_boxes, index.path, index.findings)
    return image


def _find_image(folder: Path, name: str) -> Path | None:
    """The file below the folder, by its relative path or its base name; never outside."""
    # os.path answers False to names that pathlib raises on, such as ones of 300 characters.
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if "\0" in name or not parts or parts[-1] == "..":
        return None
    if ".." not in parts and os.path.isfile(path := folder.joinpath(*parts)):  # noqa: PTH113
        return path
    base = folder / parts[-1]
    return base if os.path.isfile(base) else None  # noqa: PTH113


def _ids_of(names: Sequence[str], categories: dict[int, str]) -> list[int]:
    """The file's id of each class; classes that the file lacks get the next free ones."""
    known = {name: number for number, name in categories.items()}
    free = max(categories, default=0) + 1
    ids = []
    for name in names:
        ids.append(known.get(name, free))
        free += name not in known
    return ids


def read_coco_index(json_path: str | Path) -> CocoIndex:
    """Read and check a COCO annotation file, without looking at images.

    Args:
        json_path: The file.

    Returns:
        Its images, categories and boxes; entries that make no sense are problems in ``findings``.

    Raises:
        UnusableFileError: If it cannot be read, is no JSON, or lacks one of the three lists.
    """
    path = Path(json_path)
    index = CocoIndex(path)
    content = _load_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UnusableFileError(f"must hold a list {key!r}", path=path)
    _read_categories(index, content["categories"])
    for entry in content["images"]:
        _read_image_entry(index, entry)
    seen: set[int] = set()
    for entry in content["annotations"]:
        _read_annotation(index, entry, seen)
    _drop_groups(index, content["categories"])
    return index


def is_coco_file(path: str | Path) -> bool:
    """Tell whether a small look at a JSON file finds the lists of a COCO file.

    Args:
        path: The file; one that cannot be read counts as none.

    Returns:
        Whether ``read_coco`` should try it.
    """
    try:
        content = _load_json(Path(path))
    except UnusableFileError:
        return False
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _load_json(path: Path) -> Any:
    """The file's content, or one line on why it has none."""
    try:
        data = read_capped(path, MAX_JSON_BYTES)
        refuse_hollow_json(data, path)
        return json.loads(data)
    except InputError as error:
        raise UnusableFileError(error.message, path=path) from None
    except RecursionError:
        raise UnusableFileError("is nested too deep", path=path) from None
    except ValueError as error:  # not JSON, not UTF-8, or an integer of thousands of digits
        raise UnusableFileError(f"is not JSON: {error}", path=path) from None


def _read_categories(index: CocoIndex, entries: list[Any]) -> None:
    """Categories by id; without a clean list of them no label means anything."""
    for entry in entries:
        number, name = _id_and_text(entry, "name")
        if number is None or not name:
            raise UnusableFileError(f"bad category {shortened(entry)}", path=index.path)
        if number in index.categories:
            raise UnusableFileError(f"category id {number} comes twice", path=index.path)
        if name in index.categories.values():  # as some exporters write a super-category
            rule = f"category {shortened(name)} comes twice"
            index.findings.note(index.path, rule, action="taken as one class")
        index.categories[number] = name
    if not index.categories:
        raise UnusableFileError("has no category", path=index.path)
    index.categories = dict(sorted(index.categories.items()))


def _drop_groups(index: CocoIndex, entries: list[Any]) -> None:
    """Leave out categories that only group others, as some exporters write them first."""
    groups = [entry.get("supercategory") for entry in entries]
    used = {box.class_name for boxes in index.boxes.values() for box in boxes}
    for number, name in list(index.categories.items()):
        if name in groups and name not in used and len(index.categories) > 1:
            own = next(entry for entry in entries if entry["id"] == number)
            if own.get("supercategory") in (None, "", "none"):
                rule = f"category {shortened(name)} only groups others"
                index.findings.note(index.path, rule, action="no class of its own")
                del index.categories[number]


def _read_image_entry(index: CocoIndex, entry: Any) -> None:
    """One image: an id and a file name."""
    number, name = _id_and_text(entry, "file_name")
    if number is None or not name:
        rule = f"an image must have an integer id and a file_name, is {shortened(entry)}"
        index.findings.leave_out(index.path, rule, "E_JSON")
    elif number in index.images:
        rule = f"image id {number} comes twice; {shortened(name)} is the second"
        index.findings.leave_out(index.path, rule, "E_JSON")
    else:
        index.images[number] = name
        height, width = entry.get("height"), entry.get("width")
        if _is_id(height) and _is_id(width):
            index.sizes[number] = (height, width)


def _read_annotation(index: CocoIndex, entry: Any, seen: set[int]) -> None:
    """One annotation: a box on a known image, of a known category."""
    rule = _annotation_fault(index, entry, seen)
    if rule is not None:
        index.findings.leave_out(index.path, rule, "E_BOX", action=BOX_LEFT_OUT)
        if isinstance(entry, dict) and _is_id(entry.get("image_id")):
            index.faulty.add(entry["image_id"])
        return
    x, y, width, height = (float(value) for value in entry["bbox"])
    raw = RawBox(
        x,
        y,
        x + width,
        y + height,
        index.categories[entry["category_id"]],
        crowd=entry.get("iscrowd") in (1, True),
        where=f"box of annotation {shortened(entry.get('id'))}",
        area=_area_of(entry),
    )
    index.boxes.setdefault(entry["image_id"], []).append(raw)


def _annotation_fault(index: CocoIndex, entry: Any, seen: set[int]) -> str | None:
    """What is wrong with an annotation, if anything."""
    if not isinstance(entry, dict):
        return f"an annotation must be an object, is {shortened(entry)}"
    number = entry.get("id")
    where = f"annotation {shortened(number)}"
    if isinstance(number, int):
        if number in seen:
            return f"{where} comes twice"
        seen.add(number)
    for key, known in (("image_id", index.images), ("category_id", index.categories)):
        if not _is_id(entry.get(key)) or entry[key] not in known:
            return f"{where} has an unknown {key}, {shortened(entry.get(key))}"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(value) for value in box):
        return f"{where} must have a bbox of 4 finite numbers, has {shortened(box)}"
    return None


def _area_of(entry: Any) -> float | None:
    """The area of an annotation's segment; none if it makes no sense."""
    area = entry.get("area")
    return float(area) if _is_finite(area) and area > 0 else None


def _id_and_text(entry: Any, key: str) -> tuple[int | None, str]:
    """The id and a text of an entry, None and "" where they are missing or of another type."""
    if not isinstance(entry, dict):
        return None, ""
    number, text = entry.get("id"), entry.get(key)
    return (number if _is_id(number) else None), (text if isinstance(text, str) else "")


def _is_id(value: Any) -> bool:
    """An integer; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    """A finite number; an integer beyond the range of floats is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def shortened(value: Any) -> str:
    """A value in at most 60 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; deep nesting
        return "a value too long to show"
    return text if len(text) <= 60 else f"{text[:57]}..."
