"""An image file's bytes: read once, known again by their hash, decoded."""

import hashlib
from pathlib import Path

from torch import Tensor

from sppnet.errors import InputError
from sppnet.images import decode_image
from sppnet.storage.files import read_capped

MAX_FILE_BYTES = 1 << 30


def read_content(path: str | Path) -> bytes:
    """Read an image file whole, without ever waiting on a pipe.

    Raises:
        InputError: If it is missing, empty, too large or no regular file.
    """
    return read_capped(path, MAX_FILE_BYTES)


def decode_content(data: bytes, path: str | Path) -> Tensor:
    """Decode an image file's content; errors name the file.

    Raises:
        InputError: If it is not an image, damaged or too large.
    """
    try:
        return decode_image(data)
    except InputError as error:
        raise InputError(error.message, path=path, code=error.code) from None


def content_number(data: bytes) -> int:
    """The first 8 bytes of a file's SHA-256 as a signed number, to know the file again."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big", signed=True)
