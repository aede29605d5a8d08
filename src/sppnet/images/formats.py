"""What the bytes of an image file say before any decoder sees them: format, size, cut short or not.

A TIFF's directory of tags is read here, too: Pillow would allocate what a hostile one asks for.
"""

import io
import math
import os
import struct
from dataclasses import dataclass
from importlib import import_module
from typing import BinaryIO

from PIL import Image

from sppnet.errors import InputError

# A name of Pillow's decoder for each signature; nothing outside this table reaches a decoder.
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
)
_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
# Kinds of HEIF with HEVC inside, as phones write them (.heic), and what they may call themselves.
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, MPO or PPM"
HEIF_MODULE = "pillow_heif"
HEAD_BYTES = 32
_ORIENTATION_TAG = 0x0112
MAX_STRIPS = 65_536
_MAX_TAGS = 4_096
# The rest is TIFF's. Bytes of one value of each type, 1 BYTE to 18 IFD8.
_TYPE_BYTES = dict(enumerate((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)))
# Unsigned integers by their number of bytes.
_CODES = {2: "H", 4: "I", 8: "Q"}
_HEIGHT, _ROWS_PER_STRIP, _SAMPLES, _PLANAR = 257, 278, 277, 284
# Offsets and sizes of strips and of tiles.
_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES = 273, 279, 324, 325
_LISTS = (_STRIP_OFFSETS, _STRIP_SIZES, _TILE_OFFSETS, _TILE_SIZES)


def sniff_format(head: bytes) -> str | None:
    """Tell the format by content; a file's name never counts.

    Args:
        head: The first 32 bytes, fewer if the file is shorter.

    Returns:
        Pillow's name of the format, or None if it is not one of the allowed ones.

    Example:
        >>> sniff_format(b"GIF89a...."), sniff_format(b"%!PS-Adobe"), sniff_format(b"hello")
        ('GIF', None, None)
    """
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "HEIF"
    if (
        head[:1] == b"P"
        and head[1:2] in tuple(b"%d" % n for n in range(1, 7))
        and head[2:3] in (b" ", b"\t", b"\n", b"\r", b"#")
    ):
        return "PPM"
    return None


def require_decoder(name: str) -> None:
    """Make Pillow know a format that is an extra of this package.

    Args:
        name: The format, as ``sniff_format`` names it.

    Raises:
        InputError: If the extra is not installed (E_FORMAT).
    """
    if name != "HEIF" or name in Image.OPEN:
        return
    try:
        module = import_module(HEIF_MODULE)
    except ImportError:
        rule = "is HEIC, which needs an extra: pip install 'sppnet[heif]'"
        raise InputError(rule, code="E_FORMAT") from None
    module.register_heif_opener()


def is_start_of_signature(head: bytes) -> bool:
    """Tell whether so few bytes are there that they could be a format's signature, cut.

    Example:
        >>> is_start_of_signature(b"GIF8"), is_start_of_signature(b"GIF9")
        (True, False)
    """
    if len(head) < 12 and b"RIFF".startswith(head[:4]) and b"WEBP".startswith(head[8:]):
        return True
    if len(head) < 18 and b"BM".startswith(head[:2]):
        return True
    return any(signature.startswith(head) for signature, _ in _SIGNATURES)


def webp_canvas(head: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP image, which Pillow's decoder only tells after allocating them.

    Args:
        head: The first 30 bytes of the file.

    Returns:
        (width, height), or None if the header is none of the three kinds.

    Example:
        >>> webp_canvas(b"RIFF....WEBPVP8X" + bytes(8) + bytes([9, 0, 0, 4, 0, 0]))
        (10, 5)
    """
    kind, rest = head[12:16], head[20:30]
    if len(rest) < 10:
        return None
    if kind == b"VP8X":
        width = int.from_bytes(rest[4:7], "little") + 1
        return width, int.from_bytes(rest[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(rest[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", rest[6:10])
        return width & 0x3FFF, height & 0x3FFF
    return None


def png_exif(file: BinaryIO) -> bytes | None:
    """The eXIf chunk of a PNG, which may stand behind the pixels, found without reading these.

    Args:
        file: The file, at any position; read from its start.

    Returns:
        The chunk's bytes, or None.
    """
    file.seek(8)
    for _ in range(100_000):  # as many chunks as a picture of 100 MP has in practice
        head = file.read(8)
        if len(head) < 8:
            return None
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            return file.read(min(length, 1_000_000))
        file.seek(length + 4, io.SEEK_CUR)
    return None


def is_cut_short(name: str, file: BinaryIO) -> bool:
    """Tell whether a file ends before its format says that it does.

    Asked only after decoding failed, to say "truncated" instead of "damaged".

    Args:
        name: The format, as ``sniff_format`` names it.
        file: The file, at any position.

    Returns:
        True if bytes are missing at the end.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(HEAD_BYTES)
    file.seek(max(0, size - 64))
    tail = file.read(64)
    if name == "JPEG":
        return b"\xff\xd9" not in tail
    if name == "PNG":
        return b"IEND\xaeB`\x82" not in tail
    if name == "GIF":
        return not tail.endswith(b"\x00;")  # the end of a frame, and the trailer
    if name == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 > size
    if name == "BMP":
        return int.from_bytes(head[2:6], "little") > size
    return name == "TIFF" and is_tiff_cut(file)


def read_orientation(exif_block: bytes | None) -> int:
    r"""Read the orientation out of an EXIF block; a damaged block counts as none.

    Args:
        exif_block: The block with or without its ``Exif`` prefix, or None.

    Returns:
        1..8; 1 is upright.

    Example:
        >>> read_orientation(b"Exif\0\0damaged"), read_orientation(None)
        (1, 1)
    """
    if not exif_block:
        return 1
    exif = Image.Exif()
    try:
        exif.load(exif_block)
        value = exif.get(_ORIENTATION_TAG)
    except Exception:  # Pillow's parser raises whatever a hostile block makes it trip over
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def swaps_sides(orientation: int) -> bool:
    """Tell whether turning upright makes height of width."""
    return 5 <= orientation <= 8


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
