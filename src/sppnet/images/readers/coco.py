"""COCO: a JSON file of images, annotations and categories, and the data set that it describes."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sppnet.errors import BOX_LEFT_OUT, Findings, InputError, UnusableFileError
from sppnet.images.dataset import (
    DetectionDataset,
    LabelledImage,
    RawBox,
    compare_sizes,
    keep_unless_emptied,
    make_dataset,
    make_labelled_image,
    read_names,
)
from sppnet.images.listing import ImageFinder, require_folder, shortened
from sppnet.progress import Track, no_tracking
from sppnet.storage.files import read_capped, refuse_hollow_json

MAX_JSON_BYTES = 1_000_000_000
CocoId = int | str


@dataclass
class CocoIndex:
    """The parts of a COCO file that are used, each checked for its type.

    Args:
        path: The JSON file.
        images: Image id to file name; 7, 7.0 and "7" are one id, which is 7 here.
        spelled: Image id to what the file writes for it, where that is text.
        sizes: Image id to (height, width), where the file says it.
        categories: Category id to name, by id.
        boxes: Image id to its boxes.
        faulty: Ids of images with an annotation that had to be left out.
        findings: What had to be left out.
    """

    path: Path
    images: dict[CocoId, str] = field(default_factory=dict)
    spelled: dict[CocoId, CocoId] = field(default_factory=dict)
    sizes: dict[CocoId, tuple[int, int]] = field(default_factory=dict)
    categories: dict[CocoId, str] = field(default_factory=dict)
    boxes: dict[CocoId, list[RawBox]] = field(default_factory=dict)
    faulty: set[CocoId] = field(default_factory=set)
    findings: Findings = field(default_factory=Findings)


def read_coco(
    json_path: str | Path,
    image_folder: str | Path | Sequence[Path] | None = None,
    names: Sequence[str] | str | Path | None = None,
    *,
    split: str | None = None,
    root: str | Path | None = None,
    track: Track = no_tracking,
) -> DetectionDataset:
    """Read a data set in COCO layout.

    Sizes are read from the images' own headers. ``iscrowd`` is kept. Boxes [x, y, width, height]
    are clipped to the image; where there is none, that of the segmentation counts. File names never
    lead out of the image folder.

    Args:
        json_path: The file of annotations.
        image_folder: Where ``file_name`` is looked up, or several such folders, the likeliest
            first; the JSON file's folder if left out.
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
    folders = _folders(index.path.parent if image_folder is None else image_folder)
    given = read_names(names)
    class_names = given or tuple(dict.fromkeys(index.categories.values()))
    paths = _find_images(index, folders)
    images = [
        image
        for image_id, path in track(paths.items(), "reading image sizes", total=len(paths))
        if (image := _read_one(index, image_id, path, class_names)) is not None
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


def _folders(given: str | Path | Sequence[Path]) -> list[Path]:
    """The folders to look in, each of which must exist."""
    folders = [Path(given)] if isinstance(given, str | Path) else list(dict.fromkeys(given))
    for folder in folders:
        require_folder(folder)
    return folders


def _read_one(
    index: CocoIndex, image_id: CocoId, path: Path, names: Sequence[str]
) -> LabelledImage | None:
    """One image with its boxes, or None and a problem."""
    raw = index.boxes.get(image_id, [])
    own_id = index.spelled.get(image_id, image_id)
    image = make_labelled_image(path, own_id, raw, names, index.path, index.findings)
    if image is None:
        return None
    what = f"image {image_id} ({shortened(index.images[image_id])})"
    compare_sizes(image, index.sizes.get(image_id), index.path, what, index.findings)
    all_read = image_id not in index.faulty
    return keep_unless_emptied(image, raw, all_read, names, index.path, index.findings)


def _find_images(index: CocoIndex, folders: Sequence[Path]) -> dict[CocoId, Path]:
    """The file of each image; a problem for each that is not there or is not the only one."""
    finder = ImageFinder(folders)
    found: dict[CocoId, tuple[Path, bool]] = {}
    for image_id, name in index.images.items():
        try:
            found[image_id] = finder.find(name)
        except ValueError as error:
            index.findings.leave_out(index.path, str(error), "E_UNREADABLE")
    names = {path: index.images[image_id] for image_id, (path, _) in found.items()}
    taken = Counter(path for path, _ in found.values())
    for image_id, (path, is_exact) in list(found.items()):
        if taken[path] > 1 and not is_exact:
            rule = f"image {shortened(index.images[image_id])} may be {path.name!r}"
            rule = f"{rule}, and so may {taken[path] - 1} other, such as {shortened(names[path])}"
            index.findings.leave_out(index.path, rule, "E_UNREADABLE")
            del found[image_id]
    return {image_id: path for image_id, (path, _) in found.items()}


def _ids_of(names: Sequence[str], categories: dict[CocoId, str]) -> list[CocoId]:
    """The file's id of each class; classes that the file lacks get the next free ones."""
    known = {name: number for number, name in categories.items()}
    free = max((number for number in categories if isinstance(number, int)), default=0) + 1
    ids: list[CocoId] = []
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
    for entry in content["annotations"]:
        _read_annotation(index, entry)
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
    index.categories = dict(
        sorted(index.categories.items(), key=lambda pair: (isinstance(pair[0], str), pair[0]))
    )


def _drop_groups(index: CocoIndex, entries: list[Any]) -> None:
    """Leave out categories that only group others, as some exporters write them first."""
    groups = [entry.get("supercategory") for entry in entries]
    used = {box.class_name for boxes in index.boxes.values() for box in boxes}
    for number, name in list(index.categories.items()):
        if name in groups and name not in used and len(index.categories) > 1:
            own = next(entry for entry in entries if read_id(entry["id"]) == number)
            if own.get("supercategory") in (None, "", "none"):
                rule = f"category {shortened(name)} only groups others"
                index.findings.note(index.path, rule, action="no class of its own")
                del index.categories[number]


def _read_image_entry(index: CocoIndex, entry: Any) -> None:
    """One image: an id and a file name."""
    number, name = _id_and_text(entry, "file_name")
    if number is None or not name:
        rule = f"an image must have an id and a file_name, is {shortened(entry)}"
        index.findings.leave_out(index.path, rule, "E_JSON")
    elif number in index.images:
        rule = f"image id {number} comes twice; {shortened(name)} is the second"
        index.findings.leave_out(index.path, rule, "E_JSON")
    else:
        index.images[number] = name
        if isinstance(entry["id"], str):
            index.spelled[number] = entry["id"]
        height, width = read_id(entry.get("height")), read_id(entry.get("width"))
        if isinstance(height, int) and isinstance(width, int):
            index.sizes[number] = (height, width)


def _read_annotation(index: CocoIndex, entry: Any) -> None:
    """One annotation: a box on a known image, of a known category; its own id is not needed."""
    image_id = read_id(entry.get("image_id")) if isinstance(entry, dict) else None
    try:
        raw = _read_box(index, entry)
    except ValueError as error:
        index.findings.leave_out(index.path, str(error), "E_BOX", action=BOX_LEFT_OUT)
        if image_id is not None:
            index.faulty.add(image_id)
        return
    if image_id is not None:
        index.boxes.setdefault(image_id, []).append(raw)


def _read_box(index: CocoIndex, entry: Any) -> RawBox:
    """The box of an annotation; a ValueError says what is wrong with it."""
    if not isinstance(entry, dict):
        raise ValueError(f"an annotation must be an object, is {shortened(entry)}")  # noqa: TRY004
    where = f"annotation {shortened(entry.get('id'))}"
    for key, known in (("image_id", index.images), ("category_id", index.categories)):
        if read_id(entry.get(key)) not in known:
            raise ValueError(f"{where} has an unknown {key}, {shortened(entry.get(key))}")
    try:
        x, y, width, height = _corner_and_size(entry)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from None
    return RawBox(
        x,
        y,
        x + width,
        y + height,
        index.categories[read_id(entry["category_id"]) or 0],
        crowd=entry.get("iscrowd") in (1, True),
        where=f"box of {where}",
        area=_area_of(entry),
    )


def _corner_and_size(entry: dict[str, Any]) -> Sequence[float]:
    """The bbox, or that of the segmentation where there is none."""
    box, segmentation = entry.get("bbox"), entry.get("segmentation")
    if not box and segmentation:
        try:
            return _mask_box(segmentation)
        except ValueError as error:
            raise ValueError(f"has no bbox and a segmentation that {error}") from None
    if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(value) for value in box):
        raise ValueError(f"must have a bbox of 4 finite numbers, has {shortened(box)}")
    return [float(value) for value in box]


def _mask_box(segmentation: Any) -> Sequence[float]:
    """Corner and size of the box around polygons or a run-length code."""
    if isinstance(segmentation, dict):
        return _run_box(*_runs_of(segmentation))
    rings = segmentation if isinstance(segmentation, list) else [segmentation]
    rings = rings if all(isinstance(ring, list) for ring in rings) else [rings]
    for ring in rings:
        if len(ring) < 6 or len(ring) % 2 or not all(_is_finite(value) for value in ring):
            raise ValueError(f"is no polygon of 3 corners or more: {shortened(ring)}")
    columns = [float(value) for ring in rings for value in ring[::2]]
    rows = [float(value) for ring in rings for value in ring[1::2]]
    return min(columns), min(rows), max(columns) - min(columns), max(rows) - min(rows)


def _runs_of(code: dict[str, Any]) -> tuple[list[int], int]:
    """Lengths of the runs of a code, column by column, and the height of its columns."""
    size, counts = code.get("size"), code.get("counts")
    runs: list[int] = _unpacked(counts) if isinstance(counts, str) else counts or []
    good = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    if not good or not isinstance(size, list) or [type(side) for side in size] != [int, int]:
        raise ValueError(f"is no run-length code: {shortened(code)}")
    if min(size) < 1 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"has {sum(runs)} pixels in its runs, for a mask of {size[1]} x {size[0]}")
    return runs, size[0]


def _unpacked(text: str) -> list[int]:
    """The runs of COCO's text: 5 bits a character, from the third on the change since two before.

    Source: pycocotools, maskApi.c, rleFrString.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return [-1]
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            value -= (1 << shift) if bits & 0x10 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs if not shift else [-1]


def _run_box(runs: Sequence[int], height: int) -> Sequence[float]:
    """Corner and size of the box around the second, the fourth ... run."""
    start, columns, rows = 0, [], []
    for number, run in enumerate(runs):
        if number % 2 and run:
            first, last = divmod(start, height), divmod(start + run - 1, height)
            columns += [first[0], last[0]]
            rows += [first[1], last[1]] if first[0] == last[0] else [0, height - 1]
        start += run
    if not columns:
        raise ValueError("is empty")
    x, y = min(columns), min(rows)
    return float(x), float(y), float(max(columns) + 1 - x), float(max(rows) + 1 - y)


def _area_of(entry: Any) -> float | None:
    """The area of an annotation's segment; none if it makes no sense."""
    area = entry.get("area")
    return float(area) if _is_finite(area) and area > 0 else None


def _id_and_text(entry: Any, key: str) -> tuple[CocoId | None, str]:
    """The id and a text of an entry, None and "" where they are missing or of another type."""
    if not isinstance(entry, dict):
        return None, ""
    text = entry.get(key)
    return read_id(entry.get("id")), (text if isinstance(text, str) else "")


def read_id(value: Any) -> CocoId | None:
    """Read an id as the many writers of COCO files mean it.

    Args:
        value: Whatever stands there.

    Returns:
        An integer for integers, for floats without a fraction, and for the text of an integer;
        other text as it is; None for anything else, True and False too.

    Example:
        >>> read_id(7.0), read_id("7"), read_id("000007"), read_id(True)
        (7, 7, '000007', None)
    """
    if isinstance(value, str):
        is_number = value.isascii() and value.isdecimal() and len(value) < 19
        return int(value) if is_number and str(int(value)) == value else value or None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_finite(value: Any) -> bool:
    """A finite number; an integer beyond the range of floats is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
