"""The first folder of a TIFF, read before Pillow does: it tells bombs, gaps and cut files."""

import math
import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from sppnet.errors import InputError

MAX_STRIPS = 65_536
_MAX_TAGS = 4_096
# Bytes of one value of each type, 1 BYTE to 18 IFD8.
_TYPE_BYTES = dict(enumerate((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)))
# Unsigned integers by their number of bytes.
_CODES = {2: "H", 4: "I", 8: "Q"}
_HEIGHT, _ROWS_PER_STRIP, _SAMPLES, _PLANAR = 257, 278, 277, 284
# Offsets and sizes of strips and of tiles.
_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES = 273, 279, 324, 325
_LISTS = (_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES)


@dataclass(frozen=True)
class _Tag:
    """One entry: how many values, how long each, and the bytes that hold them or their place."""

    count: int
    width: int
    raw: bytes


@dataclass(frozen=True)
class _Folder:
    """The entries of a folder and how to read numbers in this file."""

    order: str
    tags: dict[int, _Tag]

    def value(self, tag: int, default: int) -> int:
        """The single integer of a tag."""
        found = self.tags.get(tag)
        if found is None or found.count != 1 or not 2 <= found.width <= len(found.raw):
            return default
        (value,) = struct.unpack_from(f"{self.order}{_CODES[found.width]}", found.raw)
        return int(value)


def check_tiff(file: BinaryIO) -> None:
    """Refuse a TIFF whose header alone is reason enough.

    A million strips would make Pillow build a million tiles before anybody can ask for the size;
    and where strips are missing, Pillow shows black without a word.

    Args:
        file: The file, at any position.

    Raises:
        InputError: E_TOO_LARGE for too many strips or tiles, E_UNREADABLE for too few.
    """
    folder = _read_folder(file)
    if folder is None:
        return
    strips = max((folder.tags[tag].count for tag in _LISTS if tag in folder.tags), default=0)
    if strips > MAX_STRIPS:
        rule = f"a TIFF must have at most {MAX_STRIPS:,} strips, has {strips:,}"
        raise InputError(rule, code="E_TOO_LARGE")
    if _STRIP_OFFSETS in folder.tags:
        height = folder.value(_HEIGHT, 0)
        planes = folder.value(_SAMPLES, 1) if folder.value(_PLANAR, 1) == 2 else 1
        needed = math.ceil(height / max(1, folder.value(_ROWS_PER_STRIP, height))) * planes
        if folder.tags[_STRIP_OFFSETS].count < needed:
            rule = f"the image data is damaged: {needed:,} strips are needed for {height:,} rows"
            raise InputError(rule, code="E_UNREADABLE")


def is_tiff_cut(file: BinaryIO) -> bool:
    """Tell whether a TIFF ends before what its first folder names.

    Args:
        file: The file, at any position.

    Returns:
        True if the folder, a list in it, or a strip or tile lies beyond the end.
    """
    size = file.seek(0, os.SEEK_END)
    folder = _read_folder(file)
    if folder is None:
        return True
    for tag in folder.tags.values():
        length = tag.count * tag.width
        if length > len(tag.raw):
            (offset,) = struct.unpack(f"{folder.order}{_CODES[len(tag.raw)]}", tag.raw)
            if offset + length > size:
                return True
    pairs = ((_STRIP_OFFSETS, _STRIP_SIZES), (_TILE_OFFSETS, _TILE_SIZES))
    return any(_last_end(file, folder, *pair) > size for pair in pairs)


def _read_folder(file: BinaryIO) -> _Folder | None:
    """The first folder of a classic or a big TIFF, or None if it is not there in full."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    is_big = head[2:4] in (b"+\x00", b"\x00+")
    try:
        file.seek(*struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", head, 8 if is_big else 4))
        (entries,) = struct.unpack(
            f"{order}{'Q' if is_big else 'H'}", file.read(8 if is_big else 2)
        )
        row_format = f"{order}HHQ8s" if is_big else f"{order}HHI4s"
        length = min(entries, _MAX_TAGS) * struct.calcsize(row_format)
        rows = file.read(length)
        if len(rows) < length:
            return None
        entry = struct.iter_unpack(row_format, rows)
        tags = {tag: _Tag(n, _TYPE_BYTES.get(kind, 0), raw) for tag, kind, n, raw in entry}
    except (struct.error, OSError, ValueError, OverflowError):
        return None
    return _Folder(order, tags)


def _last_end(file: BinaryIO, folder: _Folder, offsets: int, sizes: int) -> int:
    """Where the last strip or tile ends; 0 if there are none."""
    starts, lengths = _values(file, folder, offsets), _values(file, folder, sizes)
    ends = (start + length for start, length in zip(starts, lengths, strict=False))
    return max(ends, default=0)


def _values(file: BinaryIO, folder: _Folder, number: int) -> list[int]:
    """The integers of a tag."""
    tag = folder.tags.get(number)
    if tag is None or tag.width not in _CODES:
        return []
    data = tag.raw
    if tag.count * tag.width > len(data):
        file.seek(*struct.unpack(f"{folder.order}{_CODES[len(data)]}", data))
        data = file.read(min(tag.count, MAX_STRIPS) * tag.width)
    data = data[: min(tag.count, len(data) // tag.width) * tag.width]
    return [value for (value,) in struct.iter_unpack(f"{folder.order}{_CODES[tag.width]}", data)]
