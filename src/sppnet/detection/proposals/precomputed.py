"""Proposals that another program computed: npz, COCO results JSON, or the MAT files of 2014."""

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sppnet.errors import InputError, UnusableFileError
from sppnet.geometry import clip_boxes
from sppnet.storage.files import read_bytes, read_json, sha256_bytes

MAX_BYTES = 2 << 30  # of a file, and of what is unpacked from it
# Proposals may reach this far beyond the image: rounding, or another convention of corners.
SLACK_PIXELS = 2.0
_MAT_FAULTS = (ValueError, TypeError, KeyError, IndexError, OSError, MemoryError, zlib.error)
Boxes = NDArray[np.float64]


class ExternalProposals:
    """Proposals of many images, in the order of their file.

    An image is found by its file name, with or without folders and suffix; in COCO files also by
    its number. A name that fits two entries finds neither.

    Args:
        path: The file, for messages.
        boxes: Name of the image -> (K, 4) xyxy, half-open, in pixels of the image.

    Raises:
        UnusableFileError: If proposals are not (K, 4), not finite or have no area; the message
            names the file and the image.

    Example:
        >>> external = ExternalProposals("a.npz", {"cat.jpg": np.array([[0.0, 0, 5, 9]])})
        >>> external.look_up("photos/cat.png", (10, 20)).tolist()
        [[0.0, 0.0, 5.0, 9.0]]
    """

    def __init__(self, path: str | Path, boxes: Mapping[str, NDArray[Any]]) -> None:
        self.path = Path(path)
        self._boxes = {name: self._checked(name, each) for name, each in boxes.items()}
        self._names: dict[str, str | None] = {}
        for name in boxes:
            for spelling in _spellings(name):
                taken = self._names.get(spelling, name)
                self._names[spelling] = name if taken == name else None
        self._names.update({name: name for name in boxes})

    @classmethod
    def open(cls, path: str | Path) -> "ExternalProposals":
        """Read a file; nothing in it is executed.

        Args:
            path: ``.npz``: arrays (K, 4) xyxy, half-open, by image name. ``.json``: a list of
                ``{"image_id", "bbox": [x, y, width, height], "score"}``, or an object with such a
                list under "annotations" and names of files under "images"; best score first.
                ``.mat``: cells ``images`` (names) and ``boxes`` ((K, 4) [y1 x1 y2 x2], counted
                from 1, inclusive), as published with R-CNN and SPP-net; not version 7.3.

        Returns:
            The proposals.

        Raises:
            UnusableFileError: If the file cannot be read, has another format, or holds a proposal
                that is not finite or has no area; the message names the file and the image.
        """
        path = Path(path)
        reader = PROPOSAL_READERS.get(path.suffix.lower())
        if reader is None:
            raise UnusableFileError(
                f"proposals must be in one of {sorted(PROPOSAL_READERS)}", path=path
            )
        return cls(path, reader(path))

    def __len__(self) -> int:
        return len(self._boxes)

    def look_up(self, image_path: str | Path, size_hw: tuple[int, int]) -> Tensor:
        """Look up the proposals of an image.

        Args:
            image_path: Path of the image; only its name counts.
            size_hw: Height and width of the image, in pixels.

        Returns:
            (K, 4) float32 xyxy, clipped to the image, in the file's order.

        Raises:
            InputError: If the file has no proposals of this image, or they are for another size.
        """
        name = self._find(image_path)
        if name is None:
            raise InputError(f"{self.path} has no proposals of this image", path=image_path)
        boxes, (height, width) = torch.from_numpy(self._boxes[name]), size_hw
        beyond = (boxes - clip_boxes(boxes, size_hw)).abs().amax() if len(boxes) else 0
        if beyond > SLACK_PIXELS:
            rule = (
                f"proposals in {self.path} reach beyond the {width} x {height} pixels of the image"
            )
            raise InputError(rule, path=image_path)
        return clip_boxes(boxes, size_hw).to(torch.float32)

    def digest(self, image_path: str | Path) -> str:
        """SHA-256 of the proposals of an image as the file has them; empty if it has none.

        Args:
            image_path: Path of the image; only its name counts.
        """
        name = self._find(image_path)
        return "" if name is None else sha256_bytes(self._boxes[name].tobytes())

    def _find(self, image_path: str | Path) -> str | None:
        """The name under which the file has an image."""
        tried = [str(image_path), PurePath(image_path).name, *_spellings(str(image_path))]
        return next((found for each in tried if (found := self._names.get(each))), None)

    def _checked(self, name: str, boxes: NDArray[Any]) -> Boxes:
        """(K, 4) float64 proposals, each of which is finite and has an area."""
        boxes = np.asarray(boxes)
        if boxes.dtype.kind not in "fiu" or boxes.shape[1:] != (4,) or boxes.ndim != 2:
            rule = f"proposals must be (K, 4) numbers, are {boxes.shape} {boxes.dtype}"
            raise UnusableFileError(f"image {name!r}: {rule}", path=self.path)
        boxes = boxes.astype(np.float64)
        # the negation also catches NaN
        bad = ~(np.isfinite(boxes).all(1) & (boxes[:, :2] < boxes[:, 2:]).all(1))
        if bad.any():
            row = int(bad.argmax())
            rule = (
                f"proposal {row} must be finite with x0 < x1 and y0 < y1, is {boxes[row].tolist()}"
            )
            raise UnusableFileError(f"image {name!r}: {rule}", path=self.path)
        return boxes


def _spellings(name: str) -> list[str]:
    """A name without folders, without suffix, and as a number without leading zeros."""
    path = PurePath(name.replace("\\", "/"))
    number = [str(int(path.stem))] if path.stem.isascii() and path.stem.isdecimal() else []
    return [path.name, path.stem, *number]


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Arrays by image name."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(each.file_size for each in archive.infolist()) > MAX_BYTES:
                raise UnusableFileError(f"holds more than {MAX_BYTES} bytes", path=path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError as error:
        raise UnusableFileError("the file does not exist", path=path, code="E_MISSING") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise UnusableFileError(f"is no npz of plain arrays: {error}", path=path) from error


def _read_coco(path: Path) -> dict[str, NDArray[Any]]:
    """Proposals of a COCO results file, best first."""
    content = read_json(path, MAX_BYTES)
    names: dict[Any, str] = {}
    if isinstance(content, dict):
        names = _image_names(content.get("images"), path)
        content = content.get("annotations")
    found: dict[str, list[tuple[float, list[float]]]] = {name: [] for name in names.values()}
    for number, entry in enumerate(_entries(content, path)):
        try:
            x, y, width, height = map(float, entry["bbox"])
            score = float(entry.get("score", 0))
            name = str(names.get(entry["image_id"], entry["image_id"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            rule = 'must have an "image_id", a "bbox" of four numbers and, if any, a "score"'
            raise UnusableFileError(f"entry {number} {rule}", path=path) from None
        if not math.isfinite(score):
            raise UnusableFileError(f"entry {number} must have a finite score", path=path)
        found.setdefault(name, []).append((-score, [x, y, x + width, y + height]))
    return {
        name: np.array([box for _, box in sorted(each, key=lambda pair: pair[0])]).reshape(-1, 4)
        for name, each in found.items()
    }


def _image_names(content: Any, path: Path) -> dict[Any, str]:
    """Image id -> file name."""
    try:
        return {each["id"]: str(each["file_name"]) for each in _entries(content, path)}
    except (KeyError, TypeError):
        rule = 'every image must have an "id" and a "file_name"'
        raise UnusableFileError(rule, path=path) from None


def _entries(content: Any, path: Path) -> Iterable[dict[str, Any]]:
    """The objects of a list."""
    if not isinstance(content, list) or not all(isinstance(each, dict) for each in content):
        raise UnusableFileError("must hold a list of objects", path=path)
    return content


def _read_mat(path: Path) -> dict[str, NDArray[Any]]:
    """Proposals of a MAT file, which counts rows and columns from 1, the last ones inclusive."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    data = read_bytes(path, MAX_BYTES)
    try:
        content = loadmat(io.BytesIO(data), variable_names=["boxes", "images"])
        cells = [content[key].ravel() for key in ("boxes", "images")]
        names = [str(cell.item()) for cell in cells[1]]
        boxes = [np.asarray(cell, np.float64).reshape(-1, 4) for cell in cells[0]]
    except NotImplementedError as error:  # version 7.3 is HDF5
        rule = "is of version 7.3: save it with -v7"
        raise UnusableFileError(rule, path=path) from error
    except (*_MAT_FAULTS, AttributeError, MatReadError) as error:
        rule = f"is no MAT file with cells of boxes (K, 4) and of images (names): {error}"
        raise UnusableFileError(rule, path=path) from error
    if len(names) != len(boxes) or len(set(names)) < len(names):
        rule = f"must have one cell of boxes for each name, has {len(boxes)} for {len(set(names))}"
        raise UnusableFileError(rule, path=path)
    return {
        name: each[:, [1, 0, 3, 2]] - [1, 1, 0, 0] for name, each in zip(names, boxes, strict=True)
    }


PROPOSAL_READERS: dict[str, Callable[[Path], dict[str, NDArray[Any]]]] = {
    ".npz": _read_npz,
    ".json": _read_coco,
    ".mat": _read_mat,
}  # a test compares the endings with those of the settings
