"""Where a YOLO set keeps its images and labels, in the shapes that usual tools write."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sppnet.errors import InputError
from sppnet.images.annotations import Findings
from sppnet.images.listing import has_image_suffix, list_images
from sppnet.images.regular_files import read_lines
from sppnet.images.yolo_names import NAME_FILES, find_names_file, yaml_files, yaml_values

KNOWN_SPLITS = ("train", "val", "valid", "validation", "test")
_ALIASES = {"val": ("val", "valid", "validation"), "valid": ("valid", "val", "validation")}
_NO_LABEL_FILES = {*NAME_FILES, "train.txt", "val.txt", "valid.txt", "test.txt"}


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
        values = yaml_values(path)
        above = values.get("path", [""])[0]
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
