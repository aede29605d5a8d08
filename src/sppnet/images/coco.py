"""COCO layout: one JSON file of images, annotations and categories, and a folder of images."""

import os
from collections.abc import Sequence
from pathlib import Path

from sppnet.images.annotations import make_dataset, read_names, require_folder
from sppnet.images.coco_index import CocoIndex, read_coco_index, shortened
from sppnet.images.datasets import DetectionDataset, LabelledImage
from sppnet.images.raw_boxes import compare_sizes, make_labelled_image, note_if_emptied
from sppnet.progress import Track, no_tracking


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
