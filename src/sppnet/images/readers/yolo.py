"""YOLO: label files with a line for each box, the folders that they lie in, and the set of them."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sppnet.errors import (
    BOX_LEFT_OUT,
    Findings,
    InputError,
    NothingUsableError,
    UnusableFileError,
    count_of,
)
from sppnet.images.dataset import (
    DetectionDataset,
    LabelledImage,
    RawBox,
    keep_unless_emptied,
    make_dataset,
    make_labelled_image,
    read_names,
)
from sppnet.images.decode import read_image_size
from sppnet.images.listing import (
    has_image_suffix,
    list_images,
    path_parts,
    require_folder,
    unknown_split,
)
from sppnet.images.readers.yolo_yaml import (
    NAME_FILES,
    find_description,
    find_names_file,
    is_yaml_file,
    keypoint_columns,
    read_yolo_names,
    require_no_splits,
    require_one_place,
    yaml_texts,
)
from sppnet.progress import Track, no_tracking
from sppnet.storage.files import read_lines

KNOWN_SPLITS = ("train", "val", "valid", "validation", "test")
_SAME = ("val", "valid", "validation")
_ALIASES = {name: (name, *(other for other in _SAME if other != name)) for name in _SAME}
_NO_LABEL_FILES = {*NAME_FILES, "train.txt", "val.txt", "valid.txt", "test.txt"}
_MAX_LABEL_BYTES = 10_000_000


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
    counts as the box around it; key points, of which the YAML file must speak, are passed over. An
    image without a label file has no boxes, as YOLO means it; one of whose labels none can be used
    is left out.

    Args:
        root: The data set's folder, or its YAML file, which then goes before all other files.
        split: Which folder of images; None takes all.
        names: Class names; None takes ``names`` of ``data.yaml``, or the lines of ``classes.txt``.
        track: Shows progress.

    Returns:
        The data set; bad lines are in its ``problems`` with file and line.

    Raises:
        UsageError: If the folder or the split does not exist, or two YAML files of the folder
            describe different sets.
        UnusableFileError: If the class names are missing or cannot be read.
        NothingUsableError: If no image is usable.
        InputError: If the file of names that was passed cannot be read.
    """
    named = Path(root)
    root, description = split_root(named)
    require_folder(root)
    found = find_yolo_places(named) or find_lone_labels(root)
    if not found:
        raise NothingUsableError("looked for images/ and labels/, found none", path=root)
    places = choose_places(found, split)
    if not places:
        raise unknown_split(root, split or "", list_yolo_splits(named))
    findings = Findings()
    # Two splits may name the same folder; each image counts once.
    every = [pair for place in dict.fromkeys(places) for pair in place.pairs(findings)]
    pairs = list(dict.fromkeys(every))
    if not pairs:
        raise NothingUsableError(_count_labels(root, places), path=root)
    folders = [folder for place in places for folder in (place.images, place.labels)]
    own_names = read_yolo_names([root, *folders], description) or read_names(names)
    if own_names is None:
        raise UnusableFileError("no class names: needs data.yaml or classes.txt", path=root)
    class_names = read_names(names) or own_names
    lines_of = _Lines(own_names, keypoint_columns(description or find_description(root)))
    images = [
        image
        for path, label_path in track(pairs, "reading labels", total=len(pairs))
        if (image := _read_one(path, label_path, lines_of, class_names, findings)) is not None
    ]
    return make_dataset(images, class_names, findings, root=root, split=split, layout="yolo")


@dataclass(frozen=True)
class _Lines:
    """How the lines of a set's label files are read.

    Args:
        names: Its class names.
        keypoint_columns: Numbers that follow the box in each line.
    """

    names: Sequence[str]
    keypoint_columns: int = 0

    def read(self, line: str, number: int, size_hw: tuple[int, int]) -> RawBox:
        """One line: a class and a box or a polygon, in shares of the image."""
        words = line.split()
        try:
            label, *shares = (float(word) for word in words)
        except ValueError:
            raise ValueError(f"must hold numbers, is {line[:60]!r}") from None
        if not label.is_integer() or not 0 <= label < len(self.names):
            raise ValueError(f"the class must be in 0..{len(self.names) - 1}, is {words[0][:20]}")
        if not all(math.isfinite(share) for share in shares):
            raise ValueError(f"must hold finite numbers, is {line[:60]!r}")
        x1, y1, x2, y2 = self._corners(shares, words)
        height, width = size_hw
        corners = (x1 * width, y1 * height, x2 * width, y2 * height)
        return RawBox(*corners, self.names[int(label)], line=number)

    def _corners(self, shares: list[float], words: list[str]) -> Sequence[float]:
        """Corners of a box given by centre and size, or of the box around a polygon."""
        if len(shares) in (4, 4 + self.keypoint_columns):
            x, y, width, height = shares[:4]
            return x - width / 2, y - height / 2, x + width / 2, y + height / 2
        if self.keypoint_columns:
            rule = f"must have 5 numbers and {self.keypoint_columns} of key points (kpt_shape)"
            raise ValueError(f"{rule}, has {len(words)}")
        if len(shares) < 6 or len(shares) % 2:
            raise ValueError(f"must have 5 numbers or a class and a polygon, has {len(words)}")
        _require_polygon(shares, words)
        columns, rows = shares[::2], shares[1::2]
        return min(columns), min(rows), max(columns), max(rows)


def _require_polygon(shares: Sequence[float], words: Sequence[str]) -> None:
    """Refuse a line of as many numbers as a polygon whose numbers are something else."""
    if not all(-1 < share < 2 for share in shares):
        rule = (
            "cannot be a polygon in shares of the image; key points need kpt_shape in the YAML file"
        )
        raise ValueError(f"has {len(words)} numbers, which {rule}")
    if len(words) == 7 and words[-1].isdecimal():
        rule = "may be a polygon of 3 corners or a box, its score and the number of a track"
        raise ValueError(f"{rule}, has {' '.join(words)[:60]!r}")


def _read_one(
    path: Path, label_path: Path, lines_of: _Lines, class_names: Sequence[str], findings: Findings
) -> LabelledImage | None:
    """One image with its boxes, or None and a problem."""
    raw: list[RawBox] = []
    try:
        size_hw = read_image_size(path)
        lines = read_lines(label_path, _MAX_LABEL_BYTES) if label_path.exists() else []
    except InputError as error:
        findings.leave_out(error.path or path, error.message, error.code)
        return None
    all_read = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            raw.append(lines_of.read(line, number, size_hw))
        except ValueError as error:
            all_read = False
            findings.leave_out(label_path, str(error), "E_BOX", line=number, action=BOX_LEFT_OUT)
    image = make_labelled_image(path, path.stem, raw, class_names, label_path, findings)
    return image and keep_unless_emptied(image, raw, all_read, class_names, label_path, findings)


def _count_labels(root: Path, places: Sequence["YoloPlace"]) -> str:
    """What there is instead of images."""
    labels = {path for place in places for path in _label_files(place.labels)}
    where = " or ".join(os.path.relpath(place.list_file or place.images, root) for place in places)
    return f"{count_of(len(labels), 'label file')}, no images in {where}"


def split_root(root: Path) -> tuple[Path, Path | None]:
    """The folder of a set, and the YAML file if the set was named by it."""
    return (root.parent, root) if is_yaml_file(root) else (root, None)


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
        images: Folder of the images, or of the whole set if ``list_file`` is given.
        labels: Folder of the labels, which may be the same one.
        list_file: Only the images that this text file names.
    """

    images: Path
    labels: Path
    list_file: Path | None = None

    @property
    def name(self) -> str:
        """Name of the folder that tells it from others, as in ``SPLIT/images``."""
        return self.images.parent.name if self.images.name == "images" else self.images.name

    def pairs(self, findings: Findings) -> list[tuple[Path, Path]]:
        """Each image with its label file, which need not exist; orphans become problems."""
        if self.list_file is not None:
            listed = _listed(self.images, self.list_file, findings)
            return [(path, _label_of(path, self.images)) for path in listed]
        listing = list_images([self.images])
        findings.problems.extend(listing.problems)
        findings.notes.extend(listing.notes)
        pairs = [(path, self._label(path)) for path in listing.paths]
        if self.images.is_dir():
            self._report_labels(findings, {label for _, label in pairs})
        return pairs

    def _label(self, image: Path) -> Path:
        """The label file at the same place, or in ``labels`` for ``images`` below this folder."""
        label = (self.labels / image.relative_to(self.images)).with_suffix(".txt")
        return label if label.exists() else _label_of(image, self.images, label)

    def _report_labels(self, findings: Findings, wanted: set[Path]) -> None:
        """Name label files without image, and a folder of labels that is missing."""
        if not self.labels.is_dir():
            rule = f"there is no folder {self.labels.name!r} with labels for these images"
            findings.note(self.images, rule, action="all used as images without boxes")
        for path in _label_files(self.labels):
            if path not in wanted:
                rule = "there is no image for this label file"
                findings.leave_out(path, rule, "E_UNREADABLE", action="labels left out")


def _label_files(folder: Path) -> list[Path]:
    """The label files in a folder and below it."""
    found = sorted(folder.rglob("*.txt"), key=os.fsencode)
    return [path for path in found if path.name not in _NO_LABEL_FILES and path.is_file()]


def find_yolo_places(root: Path) -> dict[str, list[YoloPlace]]:
    """Find the places of each split; those of a set without splits are under "".

    What a YAML file says comes first: folders, or text files that list images, one or several a
    split. If the user named that file, nothing else is looked at. Otherwise folders that it does
    not speak of are splits by their own names: ``images/SPLIT`` with ``labels/SPLIT``
    (Ultralytics), ``SPLIT/images`` with ``SPLIT/labels`` (Roboflow). Failing both, labels beside
    the images in ``SPLIT`` or ``obj_SPLIT_data`` (CVAT), ``images`` with ``labels``, or labels and
    images in the folder itself (labelImg, darknet), where a file of names tells that they are
    labels.

    Args:
        root: The data set's folder, or its YAML file.

    Returns:
        Splits in the order train, val, test, then others; empty if nothing is recognised.

    Raises:
        UsageError: If two YAML files of the folder describe different sets.
        UnusableFileError: If the YAML file that was named cannot be read, or none of what it names
            is there.
    """
    root, named = split_root(root)
    description = named or find_description(root)
    splits = _yaml_splits(root, description) if description else {}
    if named and not splits:
        require_no_splits(named)
    if not (named and splits):
        _add_folders(splits, _folder_splits(root))
    splits = splits or _flat_splits(root) or _whole(root)
    first = [name for name in KNOWN_SPLITS if name in splits]
    return {name: splits[name] for name in (*first, *sorted(splits.keys() - set(first)))}


def _add_folders(splits: dict[str, list[YoloPlace]], folders: dict[str, list[YoloPlace]]) -> None:
    """Add the splits that folders make, but for those of which the YAML file spoke already."""
    spoken = [place for places in splits.values() for place in places]
    tops = [place.images for place in spoken if place.list_file is None]
    for name, places in folders.items():
        new = [one for one in places if not any(_overlap(one.images, top) for top in tops)]
        if new and not any(place.list_file for place in spoken):
            splits.setdefault(name, []).extend(new)


def _overlap(one: Path, other: Path) -> bool:
    """Whether a folder lies in the other, or is it."""
    return one.is_relative_to(other) or other.is_relative_to(one)


def _whole(root: Path) -> dict[str, list[YoloPlace]]:
    """A set that is not divided."""
    place = YoloPlace(root / "images", root / "labels")
    if place.images.is_dir() and place.labels.is_dir():
        return {"": [place]}
    beside = find_names_file([root]) and _has_labels_beside(root)
    return {"": [YoloPlace(root, root)]} if beside else {}


def find_lone_labels(root: Path) -> dict[str, list[YoloPlace]]:
    """Folders of labels whose images were left behind, so that reading can say so.

    Args:
        root: The data set's folder; in one of COCO's they are only a copy of its annotations.
    """
    places = {
        path.name: (root / "images" / path.name, path) for path in visible_folders(root / "labels")
    }
    places |= {path.name: (path / "images", path / "labels") for path in visible_folders(root)}
    places[""] = (root / "images", root / "labels")
    found = {
        name: [YoloPlace(images, labels)]
        for name, (images, labels) in places.items()
        if _label_files(labels) and not list_images([labels]).paths
    }
    return {name: found[name] for name in found if name} or found


def choose_places(places: dict[str, list[YoloPlace]], split: str | None) -> list[YoloPlace]:
    """Take the places of a split, of all without one.

    ``val`` and ``valid`` mean the same, and a folder to which the YAML file gives another name
    keeps its own, too.
    """
    if split is None:
        return [place for group in places.values() for place in group]
    names = _ALIASES.get(split, (split,))
    chosen = next((places[name] for name in names if name and name in places), [])
    if chosen or split in KNOWN_SPLITS:  # "train" never means a folder that the YAML calls val
        return chosen
    every = [place for group in places.values() for place in group if not place.list_file]
    return [place for place in every if place.name == split]


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


def _yaml_splits(root: Path, description: Path) -> dict[str, list[YoloPlace]]:
    """Splits that a YAML file names; one of which nothing is there is none."""
    values = yaml_texts(description)
    above = next(iter(values.get("path", [])), "")
    found = {}
    for name in ("train", "val", "test"):
        places = [_yaml_place(root, description, above, each) for each in values.get(name, [])]
        if any(place.images.is_dir() for place in places):
            found[name] = list(dict.fromkeys(places))
    return found


def _yaml_place(root: Path, description: Path, above: str, value: str) -> YoloPlace:
    """What one path of a YAML file means; a place that does not exist if it means nothing."""
    target = inside(root, f"{above}/{value}") or inside(root, value)
    require_one_place(description, above, value, target)
    if target and target.is_dir():
        images = target / "images" if (target / "images").is_dir() else target
        if swapped := _in_labels(images / "x", root):
            beside = not swapped.parent.is_dir() and _has_labels_beside(images)
            return YoloPlace(images, images if beside else swapped.parent)
        return YoloPlace(images, images)
    if target and target.suffix.lower() == ".txt":
        return YoloPlace(root, root, target)
    missing = root.joinpath(*(part for part in _parts(value) if "\0" not in part))
    return YoloPlace(missing, missing)


def _listed(root: Path, path: Path, findings: Findings) -> list[Path]:
    """Images that a text file names, one a line; a problem for all that are not there."""
    try:
        lines = [line.strip() for line in read_lines(path)]
    except InputError as error:
        findings.leave_out(path, error.message, error.code, action="list left out")
        return []
    pairs = [(line, inside(root, line)) for line in lines if line]
    found = [image for _, image in pairs if image is not None and has_image_suffix(image)]
    lost = [line for line, image in pairs if image is None]
    if lost:
        gone = count_of(len(lost), "image that is", "images that are")
        rule = f"lists {gone} not there, such as {lost[0][:60]!r}"
        findings.leave_out(path, rule, "E_UNREADABLE", action="images left out")
    return list(dict.fromkeys(found))


def inside(root: Path, text: str) -> Path | None:
    """Find what a path means below the root, wherever the set lay when it was written.

    Args:
        root: The data set.
        text: A path, absolute, from elsewhere or from the root; ``..`` never leads out.

    Returns:
        The longest ending of the path that exists below the root; None if none does.
    """
    parts = [] if "\0" in text else _parts(text)
    for first in range(len(parts)):
        path = root.joinpath(*parts[first:])
        if os.path.exists(path):  # noqa: PTH110 (False for names that pathlib raises on)
            return path
    return None


def _parts(text: str) -> list[str]:
    """The parts of a path of any system, without those that lead up."""
    return [part for part in path_parts(text) if part not in ("", ".", "..")]


def _label_of(image: Path, root: Path, default: Path | None = None) -> Path:
    """The label file: in ``labels`` for an image in ``images``, else beside it."""
    swapped = _in_labels(image, root)
    if swapped is not None and swapped.parent.is_dir():
        return swapped.with_suffix(".txt")
    return default or image.with_suffix(".txt")


def _in_labels(image: Path, root: Path) -> Path | None:
    """The path with ``labels`` for the last ``images`` in it; None if there is none."""
    parts = list(image.relative_to(root).parts)
    if "images" not in parts[:-1]:
        return None
    place = len(parts) - 2 - parts[-2::-1].index("images")
    return root.joinpath(*parts[:place], "labels", *parts[place + 1 :])


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
