"""What a file's first bytes say before any decoder runs: format, size of canvas, cut or whole."""

import io
import os
import struct
from typing import BinaryIO

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
FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF or MPO"
HEAD_BYTES = 32


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
    return None


def is_start_of_signature(head: bytes) -> bool:
    """Tell whether so few bytes are there that they could be a format's signature, cut.

    Example:
        >>> is_start_of_signature(b"GIF8"), is_start_of_signature(b"GIF9")
        (True, False)
    """
    if len(head) < 12 and b"RIFF".startswith(head[:4]) and b"WEBP".startswith(head[8:]):
        return True
    if len(head) < 18 and head[:2] == b"BM":
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


def tiff_tag_counts(file: BinaryIO) -> dict[int, int]:
    """How many values each tag of the first TIFF folder announces.

    A million strips would make Pillow build a million tiles before anybody can ask for the size.

    Args:
        file: The file, at any position; read from its start.

    Returns:
        Tag to count; empty if the folder cannot be read.
    """
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\x00", b"\x00+")
    try:
        file.seek(*struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, 8 if big else 4))
        (entries,) = struct.unpack(f"{order}{'Q' if big else 'H'}", file.read(8 if big else 2))
        rows = file.read(min(entries, 4096) * (20 if big else 12))
        layout = f"{order}HHQ8x" if big else f"{order}HHI4x"
        return {tag: count for tag, _, count in struct.iter_unpack(layout, rows)}
    except (struct.error, OSError, ValueError, OverflowError):
        return {}


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
        return not tail.endswith(b";")
    if name == "WEBP":
        return int.from_bytes(head[4:8], "little") + 8 > size
    if name == "BMP":
        return int.from_bytes(head[2:6], "little") > size
    try:
        return _tiff_is_cut(file, head, size)
    except struct.error:  # the folder itself is cut
        return True


def _tiff_is_cut(file: BinaryIO, head: bytes, size: int) -> bool:
    """A TIFF is cut if its folder, or a strip that the folder names, lies beyond the end."""
    if not (counts := tiff_tag_counts(file)):
        return True
    if head[2:4] in (b"+\x00", b"\x00+"):  # BigTIFF: offsets of 8 bytes, not followed here
        return False
    order = "<" if head[:2] == b"II" else ">"
    ends: list[int] = []
    for offsets, lengths in ((273, 279), (324, 325)):
        if offsets in counts:
            pairs = zip(
                _tiff_values(file, order, offsets), _tiff_values(file, order, lengths), strict=False
            )
            ends.extend(start + length for start, length in pairs)
    return not ends or max(ends) > size


def _tiff_values(file: BinaryIO, order: str, wanted: int) -> list[int]:
    """Integers of one tag of a classic TIFF's first folder; cut ones count as beyond the end."""
    file.seek(4)
    file.seek(*struct.unpack(f"{order}I", file.read(4)))
    (entries,) = struct.unpack(f"{order}H", file.read(2))
    for tag, kind, count, raw in struct.iter_unpack(f"{order}HHI4s", file.read(entries * 12)):
        if tag == wanted and kind in (3, 4):
            code, width = ("H", 2) if kind == 3 else ("I", 4)
            if count * width > 4:
                file.seek(*struct.unpack(f"{order}I", raw))
                raw = file.read(min(count, 1 << 20) * width)
            whole = raw[: min(count, len(raw) // width) * width]
            values = [value for (value,) in struct.iter_unpack(f"{order}{code}", whole)]
            return values if len(values) == count else [*values, 1 << 40]
    return []
