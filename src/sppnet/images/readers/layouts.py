"""Finding out by looking how a data set is laid out, and reading it."""

import os
from collections.abc import Sequence
from pathlib import Path

from sppnet.errors import NothingUsableError, UsageError, as_path
from sppnet.images.dataset import DetectionDataset
from sppnet.images.listing import require_folder, unknown_split
from sppnet.images.readers.class_folders import list_class_splits
from sppnet.images.readers.coco import is_coco_file, read_coco
from sppnet.images.readers.labels import read_labels
from sppnet.images.readers.voc import read_voc
from sppnet.images.readers.voc_layout import find_voc_folders, find_voc_parts, list_voc_splits
from sppnet.images.readers.yolo import (
    find_lone_labels,
    is_yolo_root,
    list_yolo_splits,
    read_yolo,
)
from sppnet.images.readers.yolo_yaml import is_yaml_file
from sppnet.progress import Track, no_tracking
from sppnet.storage.label_store import find_store

_LOOKED_FOR = (
    "VOC (Annotations/*.xml, or *.xml beside the images), YOLO (images/ and labels/, or *.txt "
    "beside the images and a file of names) "
    "or COCO (a .json with images, annotations and categories), or a label store (.sppnet)"
)
# COCO's own; any file there or in the root; one per split (Roboflow, FiftyOne and others).
_COCO_PATTERNS = (
    "annotations/instances_*.json",
    "annotations/*.json",
    "*.json",
    *(f"*/{name}.json" for name in ("_annotations.coco", "annotations", "labels", "result")),
)


def open_detection_dataset(
    root: str | Path,
    split: str | None = None,
    names: Sequence[str] | str | Path | None = None,
    *,
    track: Track = no_tracking,
) -> DetectionDataset:
    """Read a detection data set of any supported layout.

    Args:
        root: A folder in VOC, YOLO or COCO layout, a COCO JSON file, the YAML file of a YOLO set,
            or a label store: its own folder, or the folder of photos that has it in ``.sppnet``.
        split: Which part; None takes everything.
        names: Class names to label by, such as a model's; None takes the set's own.
        track: Shows progress.

    Returns:
        The data set; what had to be left out is in its ``problems``.

    Raises:
        UsageError: If the folder or the split does not exist.
        NothingUsableError: If no layout is recognised or no image is usable.
        UnusableFileError: If a COCO file or the names of a YOLO set cannot be read.
        InputError: If the file of names that was passed cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from sppnet.images import draw_detection_set
        >>> with TemporaryDirectory() as folder:
        ...     dataset = open_detection_dataset(draw_detection_set(folder, 2, seed=0))
        >>> len(dataset), dataset.layout
        (2, 'voc')

    Source:
        The layouts of PASCAL VOC, COCO and Ultralytics' YOLO; docs/evaluation.md lists the shapes.
    """
    root = as_path(root, "root")
    layout = find_layout(root)
    if layout == "voc":
        return read_voc(root, split, names, track=track)
    if layout == "yolo":
        return read_yolo(root, split, names, track=track)
    if layout == "coco":
        return _open_coco(root, split, names, track)
    if layout == "labels":
        return read_labels(root, split, names, track=track)
    raise NothingUsableError(f"no annotated images: looked for {_LOOKED_FOR}", path=root)


def find_layout(root: str | Path) -> str | None:
    """Recognise a detection layout.

    A folder that has annotations of its own beside ``.sppnet`` is read by these: whoever means the
    label store names ``.sppnet``.

    Args:
        root: A folder, a COCO JSON file, or the YAML file of a YOLO set.

    Returns:
        "voc", "yolo", "coco", "labels" or None.

    Raises:
        UsageError: If it does not exist.
    """
    root = as_path(root, "root")
    if is_yaml_file(root):
        return "yolo"
    if root.suffix.lower() == ".json" and os.path.isfile(root):  # noqa: PTH113 (never raises)
        return "coco"
    require_folder(root)
    if find_store(root) == root:
        return "labels"
    if find_voc_folders(root) is not None or find_voc_parts(root):
        return "voc"
    if is_yolo_root(root):
        return "yolo"
    if _coco_files(root):
        return "coco"
    if find_store(root) is not None:
        return "labels"
    return "yolo" if find_lone_labels(root) else None


def list_splits(root: str | Path) -> list[str]:
    """Name the splits of a data set of any layout, class folders included.

    Args:
        root: The data set.

    Returns:
        Their names; empty if it has none.

    Raises:
        UsageError: If it does not exist.
    """
    root = as_path(root, "root")
    layout = find_layout(root)
    if layout == "voc":
        return list_voc_splits(root)
    if layout == "yolo":
        return list_yolo_splits(root)
    if layout == "coco":
        return sorted(_coco_files(root))
    if layout == "labels":
        return []
    return list_class_splits(root)


def usual_split(
    root: str | Path, given: str | None = None, preferred: Sequence[str] = ("train", "trainval")
) -> str | None:
    """Take the split that is given, else the usual one, else the whole of an undivided set.

    Args:
        root: The data set.
        given: Name of a split; None to choose.
        preferred: Names to look for, the best first.

    Returns:
        Name of the split; None for all images of a data set without splits.

    Raises:
        UsageError: If the data set does not exist, or has only splits of other names.
    """
    if given is not None:
        return given
    splits = list_splits(root)
    usual = next((name for name in preferred if name in splits), None)
    if usual is None and splits:
        raise UsageError(f"choose one with --split: {', '.join(splits)}", path=Path(root))
    return usual


def _coco_files(root: Path) -> dict[str, Path]:
    """Split to COCO file, of the usual places and names."""
    if root.is_file():
        return {root.stem: root}
    found: dict[str, Path] = {}
    for pattern in _COCO_PATTERNS:
        for path in sorted(root.glob(pattern)):
            name = path.parent.name if pattern.startswith("*/") else path.stem
            name = name.removeprefix("instances_")
            if name not in found and is_coco_file(path):
                found[name] = path
        if found and pattern == _COCO_PATTERNS[0]:
            break  # beside them lie captions and keypoints of the same images
    return found


def _open_coco(
    root: Path, split: str | None, names: Sequence[str] | str | Path | None, track: Track
) -> DetectionDataset:
    """Choose the file of the split, and the folder of its images."""
    files = _coco_files(root)
    if root.is_file():
        if split is not None and split not in files:
            raise unknown_split(root, split, sorted(files))
        places = (_coco_images(root, root.parent), root.parent)
        return read_coco(root, places, names, track=track)
    matching = [
        name for name in files if split is None or name in (split, _with_year(files, split))
    ]
    if not matching:
        raise unknown_split(root, split or "", sorted(files))
    if len(matching) > 1:
        raise UsageError(f"name a split; this set has {', '.join(sorted(matching))}", path=root)
    path = files[matching[0]]
    places = (_coco_images(path, root), root)
    return read_coco(path, places, names, split=split, root=root, track=track)


def _with_year(files: dict[str, Path], split: str) -> str:
    """``val`` also means ``val2017``, if that is the only such file."""
    years = [name for name in files if name.startswith(split) and name[len(split) :].isdigit()]
    return years[0] if len(years) == 1 and split not in files else split


def _coco_images(path: Path, root: Path) -> Path:
    """The folder of the images: named like the split, or ``images``, or the file's own."""
    name = path.stem.removeprefix("instances_")
    in_annotations = path.parent.name == "annotations"
    top = path.parent.parent if in_annotations else path.parent
    tops = (root, top) if in_annotations or top == root else (top,)
    choices = [
        place / part for place in tops for part in (f"images/{name}", name, "images", "data")
    ]
    return next((choice for choice in choices if choice.is_dir()), top)
