"""What the bytes of an image file say before any decoder sees them: format, size, cut short or not.

A TIFF's directory of tags is read here, too: Pillow would allocate what a hostile one asks for.
"""

import io
import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, BinaryIO

from PIL import Image, TiffImagePlugin

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
WEBP_SIDE = 16_383  # of the longest picture; only a spoilt header has a larger canvas for it
MAX_STRIPS = 65_536
# A progressive JPEG has 10 in practice, 20 at most; each goes over all pixels again.
MAX_SCANS = 50
_SCAN, _END = 0xDA, 0xD9
# What follows a scan's data: a byte FF and no 00 (a value), no D0 to D7 (restarts).
_JPEG_MARKER = re.compile(rb"\xff[^\xff\x00\xd0-\xd7]")
_BLOCK = 1 << 20
# Pillow refuses more than 1 MB of each; no pixel depends on them.
_PNG_TEXT = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")
_MAX_CHUNKS = 100_000  # as many as a picture of 100 MP has in practice
_MAX_TAGS = 4_096
# The rest is TIFF's. Bytes of one value of each type, 1 BYTE to 18 IFD8.
_TYPE_BYTES = dict(enumerate((0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)))
# Unsigned integers by their number of bytes.
_CODES = {2: "H", 4: "I", 8: "Q"}
_HEIGHT, _ROWS_PER_STRIP, _SAMPLES, _PLANAR = 257, 278, 277, 284
_BITS, _COMPRESSION, _COLOUR, _EXTRA, _SAMPLE_FORMAT = 258, 259, 262, 338, 339
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
    for kind, start, end in _png_chunks(file):
        if kind == b"eXIf":
            file.seek(start + 8)
            return file.read(min(end - start - 12, 1_000_000))
    return None


def without_text(file: BinaryIO) -> BinaryIO:
    """See a PNG without its texts and its colour profile, which hold no pixel.

    Args:
        file: The file, at any position; it must stay open.

    Returns:
        The file itself if there are none, else a view that leaves them out.
    """
    kept, start_of_next = [], 0
    for kind, start, end in _png_chunks(file):
        if kind in _PNG_TEXT:
            kept.append((start_of_next, start))
            start_of_next = end
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if not kept:
        return file
    return io.BufferedReader(_Parts(file, [*kept, (start_of_next, max(size, start_of_next))]))


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk; nothing but their heads is read."""
    start = 8
    for _ in range(_MAX_CHUNKS):
        file.seek(start)
        head = file.read(8)
        if len(head) < 8:
            return
        end = start + int.from_bytes(head[:4], "big") + 12
        yield head[4:], start, end
        start = end


class _Parts(io.RawIOBase):
    """Reads parts of a file as if they were one.

    Args:
        file: The file.
        parts: (start, end) of each.
    """

    def __init__(self, file: BinaryIO, parts: list[tuple[int, int]]) -> None:
        self._file = file
        self._parts = parts
        self._place = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    seekable = readable

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in what is seen."""
        size = sum(end - start for start, end in self._parts)
        self._place = max(0, offset + (0, self._place, size)[whence])
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer from the part at this place."""
        skipped = self._place
        for start, end in self._parts:
            if skipped < end - start:
                self._file.seek(start + skipped)
                data = self._file.read(min(len(buffer), end - start - skipped))
                buffer[: len(data)] = data
                self._place += len(data)
                return len(data)
            skipped -= end - start
        return 0


def check_jpeg(file: BinaryIO) -> None:
    """Refuse a JPEG of very many scans, which takes the decoder minutes.

    Args:
        file: The file, at any position.

    Raises:
        InputError: E_TOO_LARGE.
    """
    if _count_bytes(file, bytes([0xFF, _SCAN])) <= MAX_SCANS:
        return  # there cannot be more scans than that; a film behind the photo may hold any bytes
    scans = 0
    for kind, _ in _jpeg_markers(file):
        scans += kind == _SCAN
        if scans > MAX_SCANS:
            rule = f"a JPEG must have at most {MAX_SCANS} scans, has more"
            raise InputError(rule, code="E_TOO_LARGE")


def _count_bytes(file: BinaryIO, wanted: bytes) -> int:
    """How often two bytes stand in a file."""
    file.seek(0)
    count, tail = 0, b""
    while block := file.read(_BLOCK):
        count += (tail + block).count(wanted)
        tail = block[-1:]
    return count


def _jpeg_markers(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Each marker of the first picture and its place, found as the decoder does."""
    place = 2
    while True:
        file.seek(place)
        block = file.read(_BLOCK)
        found = _JPEG_MARKER.search(block)
        if found is None:
            if len(block) < _BLOCK:
                return
            place += len(block) - 1
            continue
        place += found.end()
        kind = block[found.end() - 1]
        yield kind, place
        if kind == _END:
            return
        file.seek(place)
        place += max(2, int.from_bytes(file.read(2), "big"))


def unsupported_kind(name: str, file: BinaryIO) -> str | None:
    """Say what a file is if it is sound as far as its header goes, and no decoder here reads it.

    Asked only after decoding failed, to say "not supported" instead of "damaged".

    Args:
        name: The format, as ``sniff_format`` names it.
        file: The file, at any position.

    Returns:
        Words such as "a TIFF of 24 bits a sample", or None.
    """
    looks = {"JPEG": _odd_jpeg, "TIFF": _odd_tiff}
    return looks[name](file) if name in looks else None


def _odd_jpeg(file: BinaryIO) -> str | None:
    """A JPEG of 12 bits, or one that is lossless, hierarchical or arithmetically coded."""
    for kind, place in _jpeg_markers(file):
        if kind == _SCAN:
            return None
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            file.seek(place + 2)
            bits = int.from_bytes(file.read(1), "big")
            if bits != 8 or kind not in (0xC0, 0xC1, 0xC2):
                return f"a JPEG of kind SOF{kind - 0xC0} and {bits} bits"
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
    _check_planes(file, folder)
    if _STRIP_OFFSETS in folder.tags:
        height = folder.value(_HEIGHT, 0)
        planes = folder.value(_SAMPLES, 1) if folder.value(_PLANAR, 1) == 2 else 1
        needed = math.ceil(height / max(1, folder.value(_ROWS_PER_STRIP, height))) * planes
        if folder.tags[_STRIP_OFFSETS].count < needed:
            rule = f"the image data is damaged: {needed:,} strips are needed for {height:,} rows"
            raise InputError(rule, code="E_UNREADABLE")


def _odd_tiff(file: BinaryIO) -> str | None:
    """A TIFF of samples, colours or a compression that Pillow lacks."""
    folder = _read_folder(file)
    if folder is None:
        return None
    compression, colour = folder.value(_COMPRESSION, 1), folder.value(_COLOUR, 0)
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        return f"a TIFF of compression {compression}"
    bits = tuple(_values(file, folder, _BITS)) or (1,)
    kinds = tuple(_values(file, folder, _SAMPLE_FORMAT)) or (1,)
    if not any(
        key[1] == colour and set(key[2]) == set(kinds) and set(key[4]) == set(bits)
        for key in TiffImagePlugin.OPEN_INFO
        if key[0] == (TiffImagePlugin.II if folder.order == "<" else TiffImagePlugin.MM)
        and len(key[4]) in (len(bits), folder.value(_SAMPLES, 1))
    ):
        samples = folder.value(_SAMPLES, 1)
        return f"a TIFF of {samples} samples of {bits[0]} bits, kind {kinds[0]}, colours {colour}"
    return None


def _check_planes(file: BinaryIO, folder: _Folder) -> None:
    """Refuse separate planes of which Pillow would take 16 bits for 8, or alpha for a colour."""
    bits = set(_values(file, folder, _BITS))
    is_simple = bits == {8} and not set(_values(file, folder, _EXTRA)) & {0, 1}
    if folder.value(_PLANAR, 1) == 2 and folder.value(_COMPRESSION, 1) == 1 and not is_simple:
        words = "/".join(map(str, sorted(bits))) or "1"
        rule = f"a TIFF of {words} bits in separate planes without compression is not supported"
        raise InputError(rule, code="E_FORMAT")


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
