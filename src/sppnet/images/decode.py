"""Decoding images that nobody vouches for: by content, within limits, upright, RGB.

A file's format is told by its first bytes and its size is held against the limit before Pillow
allocates a pixel; whatever a decoder of hostile bytes raises becomes one ``InputError``. What
comes out is the one image type of this package: (3, H, W) float32, RGB, 0..1.
"""

import ctypes
import hashlib
import io
import logging
import os
import re
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from sppnet.errors import InputError, quote_path
from sppnet.images.formats import (
    FORMAT_NAMES,
    HEAD_BYTES,
    WEBP_SIDE,
    check_jpeg,
    check_tiff,
    is_cut_short,
    is_start_of_signature,
    png_exif,
    require_decoder,
    sniff_format,
    unsupported_kind,
    webp_canvas,
    without_text,
)
from sppnet.images.transforms import (
    array_to_tensor,
    fit_clear_grey,
    has_bytes,
    has_more_frames,
    pixels_to_tensor,
    read_orientation,
    swaps_sides,
    tensor_to_tensor,
)
from sppnet.storage.files import open_regular_file, read_capped

MAX_PIXELS = 100_000_000
MAX_PIXELS_VARIABLE = "SPPNET_MAX_PIXELS"  # set by --max-pixels, for child processes, too
# Up to here pixels of more than 8 bits are floats; larger photos may be rounded to bytes.
LARGE_PIXELS = 25_000_000
MAX_FILE_BYTES = 1 << 30
# Pillow refuses twice its own warning limit whatever is asked of it.
PILLOW_MAX_PIXELS = 178_956_970
# These are decoded row by row: what comes before a cut can be shown.
_ROW_FORMATS = ("JPEG", "PNG", "GIF", "BMP")
# Pillow's names of samples with the high byte first, and in the order of this machine.
_NATIVE = {"F;32BF": "F;32NF", "I;32B": "I;32N", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}
LOGGER = logging.getLogger("sppnet.images")
MOST_TOLD = 20  # files whose further frames are told of
_told: set[str] = set()
ImageSource = str | Path | Image.Image | np.ndarray | Tensor


def load_image(
    path: str | Path,
    *,
    max_pixels: int | None = None,
    allow_truncated: bool = False,
    compact: bool = False,
) -> Tensor:
    """Read an image file as RGB.

    The format is told by content (JPEG, PNG, WebP, GIF, BMP, TIFF, MPO, PPM, and HEIC with the
    extra ``sppnet[heif]``), the size limit is decided from the header before pixels are
    allocated, EXIF orientation is applied, the first frame is taken (the logger ``sppnet.images``
    says once that a file has more). Colour profiles are not applied. Reading never blocks and
    never changes the file.

    Args:
        path: The file; a folder, pipe or device is refused.
        max_pixels: Largest width times height, at most 178,956,970; by default 100,000,000, or
            what the variable SPPNET_MAX_PIXELS says.
        allow_truncated: Accept a JPEG, PNG, GIF or BMP that ends early; the missing rows are black
            or grey. Try without first: then the caller knows which images were cut.
        compact: Leave what is 8 bits a channel in bytes, and more than 25,000,000 pixels of any
            kind, for a caller that resizes it (:func:`resize_image` gives what floats would give).

    Returns:
        (3, H, W) float32, RGB, 0..1, finite; if ``compact``, mostly uint8, 0..255.

    Raises:
        InputError: With code E_EMPTY, E_TRUNCATED, E_FORMAT, E_TOO_LARGE or E_UNREADABLE.
        ValueError: If ``max_pixels`` is out of range.

    Example:
        >>> load_image("no/such/file.jpg")
        Traceback (most recent call last):
        sppnet.errors.InputError: 'no/such/file.jpg': the file does not exist (E_UNREADABLE)
    """
    with open_regular_file(path) as file:
        return _decode(file, path, max_pixels, allow_truncated, compact)


def load_compact(path: str | Path) -> Tensor:
    """Read an image to be resized or drawn: ``load_image`` with ``compact``."""
    return load_image(path, compact=True)


def decode_image(
    data: bytes | BinaryIO,
    *,
    max_pixels: int | None = None,
    allow_truncated: bool = False,
    compact: bool = False,
) -> Tensor:
    """Decode an image that is in memory or in an open file; otherwise as ``load_image``.

    Args:
        data: The file's bytes, or a seekable binary file.
        max_pixels: As for ``load_image``.
        allow_truncated: Accept a JPEG, PNG, GIF or BMP that ends early.
        compact: Leave what is 8 bits a channel in bytes.

    Returns:
        As ``load_image``.

    Raises:
        InputError: As ``load_image``.
        ValueError: If ``max_pixels`` is out of range.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("RGB", (3, 2), "red").save(buffer, "PNG")
        >>> decode_image(buffer)[:, 0, 0]
        tensor([1., 0., 0.])
    """
    file = io.BytesIO(data) if isinstance(data, bytes | bytearray | memoryview) else data
    return _decode(file, None, max_pixels, allow_truncated, compact)


def read_content(path: str | Path) -> bytes:
    """Read an image file whole, without ever waiting on a pipe.

    Raises:
        InputError: If it is missing, empty, too large or no regular file.
    """
    return read_capped(path, MAX_FILE_BYTES)


def decode_content(data: bytes, path: str | Path) -> Tensor:
    """Decode an image file's content, to be resized; errors name the file; bytes stay bytes.

    Raises:
        InputError: If it is not an image, damaged or too large.
    """
    return _decode(io.BytesIO(data), path, None, False, True)


def content_number(data: bytes) -> int:
    """The first 8 bytes of a file's SHA-256 as a signed number, to know the file again."""
    return number_of(hashlib.sha256(data).hexdigest())


def number_of(digest: str) -> int:
    """The same number from a SHA-256 in hexadecimal digits that is known already."""
    return int.from_bytes(bytes.fromhex(digest[:16]), "big", signed=True)


def read_image_size(path: str | Path, *, max_pixels: int | None = None) -> tuple[int, int]:
    """Read height and width from an image's header; no pixel is decoded.

    Args:
        path: The file.
        max_pixels: As for ``load_image``.

    Returns:
        (height, width) of what ``load_image`` returns, that is after EXIF orientation.

    Raises:
        InputError: As ``load_image``, as far as the header tells.
        ValueError: If ``max_pixels`` is out of range.
    """
    with open_regular_file(path) as file:
        return _read_header(file, path, max_pixels)[0]


def read_stored_size(path: str | Path, *, max_pixels: int | None = None) -> tuple[int, int]:
    """Read height and width as stored, before EXIF orientation; otherwise as ``read_image_size``.

    Args:
        path: The file.
        max_pixels: As for ``load_image``.

    Returns:
        (height, width) of the stored pixels.

    Raises:
        InputError: As ``read_image_size``.
        ValueError: If ``max_pixels`` is out of range.
    """
    with open_regular_file(path) as file:
        (height, width), orientation = _read_header(file, path, max_pixels)
    return (width, height) if swaps_sides(orientation) else (height, width)


def is_large(data: bytes) -> bool:
    """Whether an image file's header says that it has very many pixels; False without one.

    Example:
        >>> is_large(b"no image")
        False
    """
    try:
        height, width = _read_header(io.BytesIO(data), None, None)[0]
    except InputError:
        return False
    return height * width > LARGE_PIXELS


def to_image(source: ImageSource, *, compact: bool = False) -> Tensor:
    """Make the one image type of this package out of what a caller has.

    Args:
        source: A file's path; a Pillow image (its EXIF orientation is applied); a uint8 array
            (H, W, 3) in RGB order; a tensor (3, H, W), uint8 or floating point 0..1.
        compact: Leave the pixels of a file in bytes, as :func:`load_image` does.

    Returns:
        (3, H, W) float32, RGB, 0..1. A float32 tensor is returned as it is.

    Raises:
        TypeError: If it is something else, or of another dtype.
        ValueError: If the shape or the range is wrong or a value is not finite.
        InputError: If it is a file that cannot be used.

    Example:
        >>> to_image(np.zeros((4, 6, 3), np.uint8)).shape
        torch.Size([3, 4, 6])
        >>> to_image(Tensor([[[255.0]]] * 3))
        Traceback (most recent call last):
        ValueError: image must have values in 0..1, got 255.0..255.0
    """
    if isinstance(source, str | Path):
        return load_image(source, compact=compact)
    if isinstance(source, Image.Image):
        return _pillow_to_tensor(source)
    if isinstance(source, np.ndarray):
        return array_to_tensor(source)
    if isinstance(source, Tensor):
        return tensor_to_tensor(source)
    kinds = "a path, a Pillow image, a numpy array or a tensor"
    raise TypeError(f"image must be {kinds}, got {type(source).__name__}")


def _decode(
    file: BinaryIO,
    path: str | Path | None,
    max_pixels: int | None,
    allow_cut: bool,
    compact: bool,
) -> Tensor:
    """Decode from an open file; every failure becomes an InputError that names the path."""
    limit = _pixel_limit(max_pixels)
    name = _require_format(file, path)
    try:
        with QUIET_PILLOW:
            opened = _open(file, name, limit)
            if name == "JPEG":
                check_jpeg(file)
            image = _load_pixels(opened, name, allow_cut)
            # A TIFF is turned by Pillow itself while it loads.
            orientation = 1 if name == "TIFF" else _orientation(image, file)
            keep = has_bytes(image) or image.width * image.height > LARGE_PIXELS
            pixels = pixels_to_tensor(image, orientation, as_bytes=compact and keep)
            if path and has_more_frames(opened):
                _tell_frames(str(path))
            return pixels
    except InputError as error:
        raise InputError(error.message, path=path, code=error.code) from None
    except Exception as error:  # decoders of hostile bytes raise anything
        raise _as_input_error(error, file, name, path) from None


def _tell_frames(path: str) -> None:
    """Say once of a file, and of so many files at most, that frames were passed over."""
    if path not in _told and len(_told) < MOST_TOLD:
        _told.add(path)
        rest = "" if len(_told) < MOST_TOLD else "; further files are not named"
        LOGGER.warning("%sonly the first of its frames is used%s", quote_path(path), rest)


def _read_header(
    file: BinaryIO, path: str | Path | None, max_pixels: int | None
) -> tuple[tuple[int, int], int]:
    """Upright size and EXIF orientation (1 for a TIFF, which Pillow turns unasked)."""
    limit = _pixel_limit(max_pixels)
    name = _require_format(file, path)
    try:
        with QUIET_PILLOW:
            image = _open(file, name, limit)
            orientation = 1 if name == "TIFF" else _orientation(image, file)
    except InputError as error:
        raise InputError(error.message, path=path, code=error.code) from None
    except Exception as error:
        raise _as_input_error(error, file, name, path) from None
    width, height = image.size
    return ((width, height) if swaps_sides(orientation) else (height, width)), orientation


def _require_format(file: BinaryIO, path: str | Path | None) -> str:
    """The format by content, or an error that says what is wrong with the first bytes."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if not head:
        raise InputError("the file is empty", path=path, code="E_EMPTY")
    name = sniff_format(head)
    if name is None and is_start_of_signature(head):
        raise InputError("the file ends within its header", path=path, code="E_TRUNCATED")
    if name is None:
        raise InputError(f"is not {FORMAT_NAMES} by content", path=path, code="E_FORMAT")
    return name


def _open(file: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    """Read the header with the one decoder for this format and hold the size against the limit."""
    file.seek(0)
    if name == "WEBP" and (canvas := webp_canvas(file.read(HEAD_BYTES))):
        _check_size(canvas, max_pixels)
        if max(canvas) > WEBP_SIDE:
            rule = f"its sides must be at most {WEBP_SIDE:,} pixels, are {canvas}"
            raise InputError(rule, code="E_TOO_LARGE")
    if name == "TIFF":
        check_tiff(file)
    require_decoder(name)
    if name == "PNG":
        file = without_text(file)
    image = Image.open(file, formats=(name,))
    _check_size(image.size, max_pixels)
    return image


def _pixel_limit(max_pixels: int | None) -> int:
    """The limit that holds; refuse one that could not be kept."""
    if max_pixels is None:
        text = os.environ.get(MAX_PIXELS_VARIABLE, "")
        max_pixels = int(text) if text.isdecimal() else MAX_PIXELS
    if not 1 <= max_pixels <= PILLOW_MAX_PIXELS:
        raise ValueError(f"max_pixels must be in 1..{PILLOW_MAX_PIXELS}, got {max_pixels}")
    return max_pixels


def _check_size(size_wh: tuple[int, int], max_pixels: int) -> None:
    """Refuse an image of more pixels than allowed, or of none."""
    width, height = size_wh
    if width * height > max_pixels:
        rule = f"must have at most {max_pixels:,} pixels, has {width} x {height}"
        raise InputError(rule, code="E_TOO_LARGE")
    if width < 1 or height < 1:
        raise InputError(f"the image is {width} x {height} pixels", code="E_UNREADABLE")


def _load_pixels(image: Image.Image, name: str, allow_cut: bool) -> Image.Image:
    """Decode the first frame, which must be as large as the header said (a HEIC's may be not)."""
    announced = sorted(image.size)
    image = _load_frame(image, name, allow_cut)
    if sorted(image.size) != announced:
        raise InputError("the image data is damaged", code="E_UNREADABLE")
    return image


def _load_frame(image: Image.Image, name: str, allow_cut: bool) -> Image.Image:
    """Decode the first frame; keep the rows that are there if a cut file is allowed."""
    if name == "WEBP" and image.width * image.height > LARGE_PIXELS:
        return _load_large_webp(image)
    fit_clear_grey(image)
    _take_native_order(image)
    try:
        image.load()
    except OSError:
        if not allow_cut or name not in _ROW_FORMATS:
            raise
        # Without tiles left to read, Pillow takes the rows decoded so far for the whole image.
        # (Its own switch for this is global: it would let other threads accept cut files.)
        image.tile = []  # type: ignore[attr-defined]
        image.load()
    return image


def _load_large_webp(image: Any) -> Image.Image:
    """Decode a WebP without the third and fourth copy that Pillow makes of its pixels."""
    data, *_ = image._get_next()
    image._decoder = None  # frees both of its canvases
    return Image.frombuffer(image.rawmode, image.size, data, "raw", image.rawmode, 0, 1)


def _take_native_order(image: Image.Image) -> None:
    """Tell Pillow that libtiff has swapped the bytes of samples already, as it knows of 16 bits."""
    tiles = getattr(image, "tile", [])
    if sys.byteorder == "little" and tiles and tiles[0][0] == "libtiff":
        kind, *rest = tiles[0].args
        image.tile = [tiles[0]._replace(args=(_NATIVE.get(kind, kind), *rest))]  # type: ignore[attr-defined]


def _orientation(image: Image.Image, file: BinaryIO) -> int:
    """EXIF orientation from the header alone."""
    block = image.info.get("exif")
    if block is None and image.format == "PNG":
        place = file.tell()
        block = png_exif(file)
        file.seek(place)
    return read_orientation(block)


def _as_input_error(
    error: Exception, file: BinaryIO, name: str, path: str | Path | None
) -> InputError:
    """Name what went wrong; Pillow's own text may hold addresses and is not passed on."""
    text = str(error)
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"(\d+) pixels", text)
        count = f", has {int(pixels[1]):,}" if pixels else ""
        return InputError(f"has more pixels than allowed{count}", path=path, code="E_TOO_LARGE")
    if isinstance(error, MemoryError) or "too large" in text.lower():
        rule = "the image needs more memory than it may have"
        return InputError(rule, path=path, code="E_TOO_LARGE")
    if "truncated" in text.lower() or is_cut_short(name, file):
        return InputError("the image data ends early", path=path, code="E_TRUNCATED")
    if text.startswith("Unsupported BMP"):
        rule = f"this {text.removeprefix('Unsupported ')} is not supported"
        return InputError(rule, path=path, code="E_FORMAT")
    if kind := unsupported_kind(name, file):
        return InputError(f"{kind} is not supported", path=path, code="E_FORMAT")
    return InputError("the image data is damaged", path=path, code="E_UNREADABLE")


def _pillow_to_tensor(image: Image.Image) -> Tensor:
    """A Pillow image of any mode, turned upright."""
    if 0 in image.size:
        raise ValueError(f"image must not be empty, got size {image.size}")
    with QUIET_PILLOW:
        fit_clear_grey(image)
        _take_native_order(image)
        image.load()
        block = image.info.get("exif")
        return pixels_to_tensor(image, read_orientation(block))


class _Quiet:
    """Keeps Pillow's warnings from leaking while any thread decodes.

    ``warnings.catch_warnings`` swaps a global list: threads that overlap would restore each
    other's. So the first one in swaps it and the last one out restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catcher: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._catcher.__exit__(None, None, None)


QUIET_PILLOW = _Quiet()


def silence_libtiff() -> None:
    """Keep libtiff from writing to the process's stderr, once and for all.

    Its messages do not name the file, cannot be caught in Python, and every failure reaches us as
    an exception anyway. Where the library cannot be reached (Windows), they stay.
    """
    try:
        set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
    except (OSError, AttributeError):
        return
    set_handler.argtypes = [ctypes.c_void_p]
    set_handler.restype = ctypes.c_void_p
    set_handler(None)


silence_libtiff()
# With a handler of its own, Pillow's logger no longer falls back to stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())
