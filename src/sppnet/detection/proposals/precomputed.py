"""Proposals that another program computed: npz, COCO results JSON, or the MAT files of 2014."""

import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.format import (
    read_array,
    read_array_header_1_0,
    read_array_header_2_0,
    read_magic,
)
from numpy.typing import NDArray
from torch import Tensor

from sppnet.errors import InputError, UnusableFileError
from sppnet.geometry import clip_boxes
from sppnet.images.listing import count_shared_ending, path_parts
from sppnet.storage.files import read_bytes, read_json, sha256_bytes

MAX_BYTES = 2 << 30  # of a file, and of what is unpacked from it
# Proposals may reach this far beyond the image: rounding, or another convention of corners.
SLACK_PIXELS = 2.0
NPZ_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # those that NumPy writes
# zipfile: NotImplementedError for versions, RuntimeError for passwords; ast, tokenize: for headers
_NPZ_FAULTS = (
    OSError, ValueError, EOFError, KeyError, TypeError, OverflowError, MemoryError, RuntimeError,
    SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip
MAT_HEADER, MAT_START = 128, 4096
MOST_RATIO = 250  # of unpacked to packed bytes; boxes come to about 10
MAT_MATRIX, MAT_COMPRESSED, MAT_COMPLEX = 14, 15, 0x0800
MAT_CELL, MAT_CHAR, MAT_NUMBERS = 1, 4, range(6, 16)
MAT_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
MAT_WIDE = (3, 4, 17)  # types whose texts have two bytes to a letter
MAT_VARIABLES = ("boxes", "images")
Boxes = NDArray[np.float64]


class ExternalProposals:
    """Proposals of many images, in the order of their file.

    An image is found by its file name, with or without folders and suffix; in COCO files also by
    its number. An entry such as ``cam1/x.jpg`` is of the image whose path ends so, and of no other;
    of absolute ones, which may be of another machine, that which agrees with most folders is taken.
    A name that fits two entries finds neither.

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
        self._names: dict[str, list[str]] = {}
        for name in boxes:
            for spelling in dict.fromkeys(_spellings(name)):
                self._names.setdefault(spelling, []).append(name)

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
            image_path: Path of the image.
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
            image_path: Path of the image.
        """
        name = self._find(image_path)
        return "" if name is None else sha256_bytes(self._boxes[name].tobytes())

    def _find(self, image_path: str | Path) -> str | None:
        """The name under which the file has an image."""
        is_bare = len(PurePath(image_path).parts) == 1
        own = () if is_bare else PurePath(os.path.abspath(image_path)).parts[:-1]  # noqa: PTH100 (links stay)
        for spelling in (str(image_path), *_spellings(str(image_path))):
            if spelling in self._boxes:
                return spelling
            agreement = {name: _shared_folders(name, own) for name in self._names.get(spelling, ())}
            best = max(agreement.values(), default=-1)
            fits = [name for name, shared in agreement.items() if shared == best >= 0]
            if len(fits) == 1:
                return fits[0]
        return None

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


def _shared_folders(name: str, folders: Sequence[str]) -> int:
    """How many folders before a name are an image's; -1 if it names others than are known."""
    first, *_ = parts = path_parts(name)[:-1] or [""]
    shared = count_shared_ending(parts, folders)
    is_absolute = first == "" or first.endswith(":")
    return shared if is_absolute or shared == len(parts) or not folders else -1


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
            return {
                each.filename.removesuffix(".npy"): _read_npy(archive, each)
                for each in archive.infolist()
            }
    except FileNotFoundError as error:
        raise UnusableFileError("the file does not exist", path=path, code="E_MISSING") from error
    except _NPZ_FAULTS as error:
        raise UnusableFileError(f"is no npz of plain arrays: {error}", path=path) from error


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One array; its header must announce as many bytes as there are before they are read."""
    if member.compress_type not in NPZ_METHODS:
        raise ValueError(f"{member.filename!r} is packed by method {member.compress_type}")
    with archive.open(member) as file:
        version = read_magic(file)
        read_header = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}[version]
        shape, _, dtype = read_header(file)
        announced, there = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
        if dtype.hasobject or min(shape, default=1) < 0 or announced != there:
            raise ValueError(f"{member.filename!r} announces {shape} {dtype}, holds {there} bytes")
    with archive.open(member) as file:
        return np.asarray(read_array(file, allow_pickle=False))


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
    data = read_bytes(path, MAX_BYTES)
    try:
        content = dict(_mat_cells(memoryview(data)))
        names = [str(cell) for cell in content["images"]]
        boxes = [np.asarray(cell, np.float64).reshape(-1, 4) for cell in content["boxes"]]
    except (ValueError, KeyError, OverflowError, struct.error, zlib.error) as error:
        rule = f"is no MAT file with cells of boxes (K, 4) and of images (names): {error}"
        raise UnusableFileError(rule, path=path) from error
    if len(names) != len(boxes) or len(set(names)) < len(names):
        rule = f"must have one cell of boxes for each name, has {len(boxes)} for {len(set(names))}"
        raise UnusableFileError(rule, path=path)
    return {
        name: each[:, [1, 0, 3, 2]] - [1, 1, 0, 0] for name, each in zip(names, boxes, strict=True)
    }


def _mat_cells(data: memoryview) -> Iterator[tuple[str, list[Any]]]:
    """Name and cells of the variables of a MAT file that hold proposals.

    SciPy's reader crashes the process on some damaged files. Of the format (MAT-file level 5) only
    what such files are made of is read: cells of numbers and of texts, compressed or not.
    """
    if len(data) < MAT_HEADER or bytes(data[126:128]) not in (b"IM", b"MI"):
        raise ValueError("it has no header of level 5; save it with -v7")
    order = "<" if bytes(data[126:128]) == b"IM" else ">"
    if struct.unpack_from(order + "H", data, 124) != (0x0100,):
        raise ValueError("it is of version 7.3 or unknown; save it with -v7")
    for kind, payload in _mat_elements(data[MAT_HEADER:], order):
        if kind == MAT_COMPRESSED:
            unpacked = memoryview(_unpack(payload))
            kind, payload = next(_mat_elements(unpacked, order), (0, unpacked))
        if kind == MAT_MATRIX:
            head, parts = _mat_head(payload, order)
            if head.name in MAT_VARIABLES:
                yield head.name, _mat_items(head, parts, order)


def _unpack(payload: memoryview) -> bytes:
    """Unpack a compressed variable; of one that is not needed no more than its beginning."""
    start = zlib.decompressobj().decompress(payload, MAT_START)
    if not any(name.encode() in start for name in MAT_VARIABLES):
        return b""
    most = min(MAX_BYTES, MOST_RATIO * len(payload) + MAT_START)
    stream = zlib.decompressobj()
    unpacked = stream.decompress(payload, most)
    if not stream.eof:
        raise ValueError(f"a variable is cut, or unpacks to more than {most} bytes")
    return unpacked


def _mat_elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of the elements that follow each other in some bytes."""
    place = 0
    while place + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, place)
        begin = place + 8
        if kind >> 16:  # a small element: its length in the upper half, its content in the tag
            kind, size, begin = kind & 0xFFFF, kind >> 16, place + 4
            place += 8
        else:
            place = begin + size + (-size % 8 if kind != MAT_COMPRESSED else 0)
        if size > len(data) - begin:
            raise ValueError("it ends inside an element")
        yield kind, data[begin : begin + size]


class _MatHead(NamedTuple):
    """What an array of a MAT file says of itself."""

    kind: int
    shape: tuple[int, ...]
    name: str


def _mat_head(payload: memoryview, order: str) -> tuple[_MatHead, Iterator[tuple[int, memoryview]]]:
    """Class, shape and name of an array, and the elements after them."""
    parts = _mat_elements(payload, order)
    try:
        (_, flags), (_, shape), (_, name) = next(parts), next(parts), next(parts)
    except StopIteration:
        raise ValueError("an array has no header") from None
    (word,) = struct.unpack_from(order + "I", flags)
    sides = tuple(np.frombuffer(shape, order + "i4").tolist())
    if word & MAT_COMPLEX or not 1 <= len(sides) <= 8 or min(sides) < 0:
        raise ValueError("an array is complex or has an impossible shape")
    return _MatHead(word & 0xFF, sides, bytes(name).decode("latin-1")), parts


def _mat_items(head: _MatHead, parts: Iterator[tuple[int, memoryview]], order: str) -> list[Any]:
    """Arrays and texts in the cells of a variable."""
    if head.kind != MAT_CELL:
        raise ValueError(f"{head.name} is no cell array")
    items = [_mat_value(kind, payload, order) for kind, payload in parts]
    if len(items) != math.prod(head.shape):
        raise ValueError(f"{head.name} must have {math.prod(head.shape)} cells, has {len(items)}")
    return items


def _mat_encoding(stored: int, order: str) -> str:
    """Encoding of a text that is stored as a type: bytes, or units of two bytes."""
    if stored in MAT_WIDE:
        return "utf-16-le" if order == "<" else "utf-16-be"
    return "utf-8"


def _mat_value(kind: int, payload: memoryview, order: str) -> NDArray[Any] | str:
    """A text or the (K, 4) numbers of a cell."""
    if kind != MAT_MATRIX:
        raise ValueError(f"a cell must be an array, is of type {kind}")
    if not len(payload):
        return np.zeros((0, 4))
    head, parts = _mat_head(payload, order)
    stored, content = next(parts, (0, memoryview(b"")))
    if head.kind == MAT_CHAR:
        text = bytes(content).decode(_mat_encoding(stored, order))
        if math.prod(head.shape) != max(head.shape) or not text:
            raise ValueError("a name must be one line of text")
        return text
    if head.kind not in MAT_NUMBERS:
        raise ValueError(f"a cell must hold numbers or text, is of class {head.kind}")
    if stored not in MAT_TYPES and len(content):
        raise ValueError(f"numbers are stored as the unknown type {stored}")
    numbers = np.frombuffer(content, order + MAT_TYPES.get(stored, "f8"))
    return numbers.reshape(head.shape, order="F")


PROPOSAL_READERS: dict[str, Callable[[Path], dict[str, NDArray[Any]]]] = {
    ".npz": _read_npz,
    ".json": _read_coco,
    ".mat": _read_mat,
}  # a test compares the endings with those of the settings
