"""What a file's first bytes say before any decoder runs: format, size of canvas, cut or whole."""

import io
import os
import struct
from typing import BinaryIO

from sppnet.images.tiff_header import is_tiff_cut

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
    return is_tiff_cut(file)
