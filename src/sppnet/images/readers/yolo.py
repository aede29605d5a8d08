"""YOLO: label files, the folders that they lie in, and the class names of ``data.yaml``."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from sppnet.errors import InputError, NothingUsableError, UnusableFileError
from sppnet.images.dataset import (
    DetectionDataset,
    LabelledImage,
    RawBox,
    make_dataset,
    make_labelled_image,
    note_if_emptied,
    read_names,
)
from sppnet.images.decode import read_image_size
from sppnet.images.findings import Findings, require_folder, unknown_split
from sppnet.images.listing import has_image_suffix, list_images
from sppnet.progress import Track, no_tracking
from sppnet.storage.files import read_lines

# Text files with a name a line: labelImg's, Roboflow's for darknet, CVAT's.
NAME_FILES = ("classes.txt", "_darknet.labels", "obj.names", "predefined_classes.txt")
KNOWN_SPLITS = ("train", "val", "valid", "validation", "test")
_ALIASES = {"val": ("val", "valid", "validation"), "valid": ("valid", "val", "validation")}
_NO_LABEL_FILES = {*NAME_FILES, "train.txt", "val.txt", "valid.txt", "test.txt"}
_BOX_LEFT_OUT = "box left out"
_MAX_LABEL_BYTES = 10_000_000
_MAX_NAMES_BYTES = 1_000_000


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


@dataclass(frozen=True)
class YoloPlace:
    """A folder of images and the folder of their labels.

    Args:
        images: Folder of the images, or of the whole set if ``listed`` is given.
        labels: Folder of the labels, which may be the same one.
        listed: Only these images, where a text file names them.
    """

    images: Path
    labels: Path
    listed: tuple[Path, ...] | None = None

    def pairs(self, findings: Findings) -> list[tuple[Path, Path]]:
        """Each image with its label file, which need not exist; orphans become problems."""
        if self.listed is not None:
            return [(path, _label_of(path, self.images)) for path in self.listed]
        listing = list_images([self.images])
        findings.problems.extend(listing.problems)
        pairs = [
            (path, (self.labels / path.relative_to(self.images)).with_suffix(".txt"))
            for path in listing.paths
        ]
        self._report_labels(findings, {label for _, label in pairs})
        return pairs

    def _report_labels(self, findings: Findings, wanted: set[Path]) -> None:
        """Name label files without image, and a folder of labels that is missing."""
        if not self.labels.is_dir():
            rule = f"there is no folder {self.labels.name!r} with labels for these images"
            findings.note(self.images, rule, action="all used as images without boxes")
        for path in sorted(self.labels.rglob("*.txt"), key=os.fsencode):
            if path not in wanted and path.name not in _NO_LABEL_FILES and path.is_file():
                rule = "there is no image for this label file"
                findings.leave_out(path, rule, "E_UNREADABLE", action="labels left out")


def find_yolo_places(root: Path) -> dict[str, list[YoloPlace]]:
    """Find the places of each split; those of a set without splits are under "".

    Known shapes: ``images/SPLIT`` with ``labels/SPLIT`` (Ultralytics), ``SPLIT/images`` with
    ``SPLIT/labels`` (Roboflow), ``images`` with ``labels``, folders or lists that a ``data.yaml``
    names, and labels beside the images in the folder or in ``SPLIT`` or ``obj_SPLIT_data`` below it
    (labelImg, darknet, CVAT), where a file of names tells that they are labels.

    Args:
        root: The data set.

    Returns:
        Splits in the order train, val, test, then others; empty if nothing is recognised.
    """
    splits = _folder_splits(root)
    known = {place.images for places in splits.values() for place in places}
    for name, place in _yaml_splits(root):
        if place.images not in known or place.listed:
            splits.setdefault(name, [place])
    if not splits:
        splits = _flat_splits(root)
    if not splits:
        whole = YoloPlace(root / "images", root / "labels")
        is_whole = whole.images.is_dir() and whole.labels.is_dir()
        splits = {"": [whole]} if is_whole else {}
    if not splits and find_names_file([root]) and _has_labels_beside(root):
        splits = {"": [YoloPlace(root, root)]}
    first = [name for name in KNOWN_SPLITS if name in splits]
    return {name: splits[name] for name in (*first, *sorted(splits.keys() - set(first)))}


def choose_places(places: dict[str, list[YoloPlace]], split: str | None) -> list[YoloPlace]:
    """Take the places of a split, of all without one; ``val`` and ``valid`` mean the same."""
    if split is None:
        return [place for group in places.values() for place in group]
    names = _ALIASES.get(split, (split,))
    return next((places[name] for name in names if name and name in places), [])


def _folder_splits(root: Path) -> dict[str, list[YoloPlace]]:
    """``images/SPLIT`` and ``SPLIT/images``."""
    found: dict[str, list[YoloPlace]] = {}
    for path in visible_folders(root / "images"):
        if (root / "labels" / path.name).is_dir():
            found.setdefault(path.name, []).append(YoloPlace(path, root / "labels" / path.name))
    for path in visible_folders(root):
        if (path / "images").is_dir():
            found.setdefault(path.name, []).append(YoloPlace(path / "images", path / "labels"))
    has_labels = any(place.labels.is_dir() for group in found.values() for place in group)
    return found if has_labels else {}


def _yaml_splits(root: Path) -> Iterator[tuple[str, YoloPlace]]:
    """Splits that a data.yaml names: folders, or text files that list images."""
    for path in yaml_files(root)[:1]:
        values = _yaml_texts(path)
        above = next(iter(values.get("path", [])), "")
        for name in ("train", "val", "test"):
            for value in values.get(name, []):
                target = inside(root, f"{above}/{value}") or inside(root, value)
                if target and target.is_dir() and target != root:
                    yield name, YoloPlace(target, _label_of(target / "x", root).parent)
                elif target and target.suffix.lower() == ".txt":
                    yield name, YoloPlace(root, root, tuple(_listed(root, target)))


def _listed(root: Path, path: Path) -> Iterator[Path]:
    """Images that a text file names, one a line; those that are not there are left to others."""
    try:
        lines = read_lines(path)
    except InputError:
        return
    for line in lines:
        image = inside(root, line.strip())
        if image is not None and has_image_suffix(image):
            yield image


def inside(root: Path, text: str) -> Path | None:
    """Find what a path means below the root, wherever the set lay when it was written.

    Args:
        root: The data set.
        text: A path, absolute, from elsewhere or from the root; ``..`` never leads out.

    Returns:
        The longest ending of the path that exists below the root; None if none does.
    """
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if "\0" in text:
        return None
    for first in range(len(parts)):
        path = root.joinpath(*parts[first:])
        if os.path.exists(path):  # noqa: PTH110 (False for names that pathlib raises on)
            return path
    return None


def _label_of(image: Path, root: Path) -> Path:
    """The label file: in ``labels`` for an image in ``images``, else beside it."""
    parts = list(image.relative_to(root).parts)
    if "images" in parts[:-1]:
        place = len(parts) - 2 - parts[-2::-1].index("images")
        other = root.joinpath(*parts[:place], "labels", *parts[place + 1 :])
        if other.parent.is_dir():
            return other.with_suffix(".txt")
    return image.with_suffix(".txt")


def _flat_splits(root: Path) -> dict[str, list[YoloPlace]]:
    """Folders that hold images and labels side by side, with a file of names there or above."""
    found = {}
    for path in visible_folders(root):
        if find_names_file([root, path]) and _has_labels_beside(path):
            match = re.fullmatch(r"obj_(\w+)_data", path.name)
            found[match[1] if match else path.name] = [YoloPlace(path, path)]
    return found


def _has_labels_beside(folder: Path) -> bool:
    """Whether some image directly in the folder has a text file of its name."""
    names = [path for path in folder.iterdir() if not path.name.startswith(".")]
    texts = {path.stem for path in names if path.suffix == ".txt"}
    return any(path.stem in texts for path in names if has_image_suffix(path))


def visible_folders(folder: Path) -> list[Path]:
    """Visible folders in a folder, sorted."""
    if not folder.is_dir():
        return []
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=os.fsencode,
    )


def read_yolo_names(folders: Sequence[Path]) -> tuple[str, ...] | None:
    """Read the class names of a YOLO set.

    Args:
        folders: Where to look: the data set's, then those of its images and labels.

    Returns:
        The names in the first file of names, ``data.yaml`` (or another ``*.yaml``) before the text
        files of other tools; None if there is no such file.

    Raises:
        UnusableFileError: If a file is there but its names cannot be read or are misnumbered.
    """
    path = find_names_file(folders)
    if path is None:
        return None
    names = _names_in(path)
    if not names or len(set(names)) != len(names):
        shown = [name[:60] for name in names[:20]]
        raise UnusableFileError(f"names must be given once each, are {shown}", path=path)
    return tuple(names)


def find_names_file(folders: Sequence[Path]) -> Path | None:
    """Find the file of names, in the first folder that has one.

    Args:
        folders: Where to look.
    """
    for folder in folders:
        candidates = [*yaml_files(folder), *(folder / name for name in NAME_FILES)]
        candidates.append(folder / "labels" / "classes.txt")
        for path in candidates:
            if path.is_file():
                return path
    return None


def yaml_files(folder: Path) -> list[Path]:
    """The YAML files of a folder, ``data.yaml`` first."""
    return sorted(folder.glob("*.y*ml"), key=lambda path: (path.name != "data.yaml", path.name))


def parse_yaml_names(text: str) -> list[str]:
    r"""Find ``names`` in the text of a data.yaml: a list, or a mapping from numbers.

    Every name is the text that stands there: ``no`` and ``7`` are names, not False and a number.

    Args:
        text: The file's content.

    Returns:
        The names in order.

    Raises:
        ValueError: If it is not YAML (names the line), or there is no such key, or its value is
            neither.

    Example:
        >>> parse_yaml_names("nc: 2\nnames: ['cat', dog]  # two")
        ['cat', 'dog']
        >>> parse_yaml_names("names:\n  0: cat\n  1: dog\npath: x")
        ['cat', 'dog']
    """
    names = _top_level(text).get("names")
    if isinstance(names, yaml.SequenceNode):
        return [_name_in(node) for node in names.value]
    if isinstance(names, yaml.MappingNode):
        numbered = {_name_in(key): _name_in(value) for key, value in names.value}
        numbers = [str(number) for number in range(len(names.value))]
        if numbered.keys() != set(numbers):
            raise ValueError(f"names must be numbered 0..{len(names.value) - 1}")
        return [numbered[number] for number in numbers]
    raise ValueError("must hold names as a list or a numbered mapping")


def _names_in(path: Path) -> list[str]:
    """The names in one of the two kinds of files."""
    try:
        lines = read_lines(path, _MAX_NAMES_BYTES)
        if path.name in NAME_FILES:
            return [line.strip() for line in lines if line.strip()]
        return parse_yaml_names("\n".join(lines))
    except InputError as error:
        raise UnusableFileError(error.message, path=path) from None
    except ValueError as error:
        raise UnusableFileError(str(error), path=path) from None


class _TextLoader(yaml.SafeLoader):
    """Takes characters, too, that YAML does not allow, such as those of other encodings."""

    def check_printable(self, data: str) -> None:
        """Refuse none."""


def _top_level(text: str) -> dict[str, yaml.Node]:
    """Parse YAML, as far as the nodes of its top level: nothing is constructed or expanded."""
    try:
        root = yaml.compose(text, Loader=_TextLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"line {line} cannot be read as YAML: {error.problem}") from None
    except RecursionError:
        raise ValueError("cannot be read as YAML: it is nested too deep") from None
    except (ValueError, OverflowError) as error:  # an escape beyond Unicode
        raise ValueError(f"cannot be read as YAML: {error}") from None
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}


def _name_in(node: yaml.Node) -> str:
    """The text of a node that must be nothing else."""
    if not isinstance(node, yaml.ScalarNode) or not node.value:
        raise ValueError(f"line {node.start_mark.line + 1} must hold a name")
    return str(node.value)


def _yaml_texts(path: Path) -> dict[str, list[str]]:
    """The texts and lists of texts at the top of a YAML file; none if it cannot be read."""
    try:
        top = _top_level("\n".join(read_lines(path, _MAX_NAMES_BYTES)))
    except (InputError, ValueError):
        return {}
    nodes = {
        key: value.value if isinstance(value, yaml.SequenceNode) else [value]
        for key, value in top.items()
    }
    return {
        key: [node.value for node in each if isinstance(node, yaml.ScalarNode) and node.value]
        for key, each in nodes.items()
    }
