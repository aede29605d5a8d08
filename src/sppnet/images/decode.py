"""Decoding images that nobody vouches for: by content, within limits, upright, RGB."""

import io
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401  (imported to be registered)
from torch import Tensor

from sppnet.errors import InputError
from sppnet.images.image_formats import (
    FORMAT_NAMES,
    HEAD_BYTES,
    is_cut_short,
    is_start_of_signature,
    png_exif,
    sniff_format,
    webp_canvas,
)
from sppnet.images.pixels import (
    array_to_tensor,
    pixels_to_tensor,
    read_orientation,
    swaps_sides,
    tensor_to_tensor,
    turn_upright,
)
from sppnet.images.quiet_pillow import QUIET_PILLOW
from sppnet.images.regular_files import open_regular_file
from sppnet.images.tiff_header import check_tiff

MAX_PIXELS = 100_000_000
# Pillow refuses twice its own warning limit whatever is asked of it.
_PILLOW_MAX_PIXELS = 178_956_970
_ROW_FORMATS = ("JPEG", "PNG", "GIF", "BMP")

# What a caller may have in hand; `to_image` makes a tensor of it.
ImageSource = str | Path | Image.Image | np.ndarray | Tensor


def load_image(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, allow_truncated: bool = False
) -> Tensor:
    """Read an image file as RGB.

    The format is told by content (JPEG, PNG, WebP, GIF, BMP, TIFF, MPO), the size limit is decided
    from the header before pixels are allocated, EXIF orientation is applied, the first frame is
    taken. Colour profiles are not applied. Reading never blocks and never changes the file.

    Args:
        path: The file; a folder, pipe or device is refused.
        max_pixels: Largest width times height, at most 178,956,970.
        allow_truncated: Accept a JPEG, PNG, GIF or BMP that ends early; the missing rows are black
            or grey. Try without first: then the caller knows which images were cut.

    Returns:
        (3, H, W) float32, RGB, 0..1, finite.

    Raises:
        InputError: With code E_EMPTY, E_TRUNCATED, E_FORMAT, E_TOO_LARGE or E_UNREADABLE.
        ValueError: If ``max_pixels`` is out of range.

    Example:
        >>> load_image("no/such/file.jpg")
        Traceback (most recent call last):
        sppnet.errors.InputError: 'no/such/file.jpg': the file does not exist (E_UNREADABLE)
    """
    with open_regular_file(path) as file:
        return _decode(file, path, max_pixels, allow_truncated)


def decode_image(
    data: bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS, allow_truncated: bool = False
) -> Tensor:
    """Decode an image that is in memory or in an open file; otherwise as ``load_image``.

    Args:
        data: The file's bytes, or a seekable binary file.
        max_pixels: Largest width times height, at most 178,956,970.
        allow_truncated: Accept a JPEG, PNG, GIF or BMP that ends early.

    Returns:
        (3, H, W) float32, RGB, 0..1, finite.

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
    return _decode(file, None, max_pixels, allow_truncated)


def read_image_size(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Read height and width from an image's header; no pixel is decoded.

    Args:
        path: The file.
        max_pixels: Largest width times height, at most 178,956,970.

    Returns:
        (height, width) of what ``load_image`` returns, that is after EXIF orientation.

    Raises:
        InputError: As ``load_image``, as far as the header tells.
        ValueError: If ``max_pixels`` is out of range.
    """
    return _read_header(path, max_pixels)[0]


def read_stored_size(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Read height and width as stored, before EXIF orientation; otherwise as ``read_image_size``.

    Args:
        path: The file.
        max_pixels: Largest width times height, at most 178,956,970.

    Returns:
        (height, width) of the stored pixels.

    Raises:
        InputError: As ``read_image_size``.
        ValueError: If ``max_pixels`` is out of range.
    """
    (height, width), orientation = _read_header(path, max_pixels)
    return (width, height) if swaps_sides(orientation) else (height, width)


def to_image(source: ImageSource) -> Tensor:
    """Make the one image type of this package out of what a caller has.

    Args:
        source: A file's path; a Pillow image (its EXIF orientation is applied); a uint8 array
            (H, W, 3) in RGB order; a tensor (3, H, W), uint8 or floating point 0..1.

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
        return load_image(source)
    if isinstance(source, Image.Image):
        return _pillow_to_tensor(source)
    if isinstance(source, np.ndarray):
        return array_to_tensor(source)
    if isinstance(source, Tensor):
        return tensor_to_tensor(source)
    kinds = "a path, a Pillow image, a numpy array or a tensor"
    raise TypeError(f"image must be {kinds}, got {type(source).__name__}")


def _decode(file: BinaryIO, path: str | Path | None, max_pixels: int, allow_cut: bool) -> Tensor:
    """Decode from an open file; every failure becomes an InputError that names the path."""
    _check_limit(max_pixels)
    name = _require_format(file, path)
    try:
        with QUIET_PILLOW:
            image = _open(file, name, max_pixels)
            _load_pixels(image, name, allow_cut)
            # A TIFF is turned by Pillow itself while it loads.
            upright = image if name == "TIFF" else turn_upright(image, _orientation(image, file))
            return pixels_to_tensor(upright)
    except InputError as error:
        raise InputError(error.message, path=path, code=error.code) from None
    except Exception as error:  # decoders of hostile bytes raise anything
        raise _as_input_error(error, file, name, path) from None


def _read_header(path: str | Path, max_pixels: int) -> tuple[tuple[int, int], int]:
    """Upright size and EXIF orientation (1 for a TIFF, which Pillow turns unasked)."""
    _check_limit(max_pixels)
    with open_regular_file(path) as file:
        name = _require_format(file, path)
        try:
            with QUIET_PILLOW:
                image = _open(file, name, max_pixels)
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
    if name == "TIFF":
        check_tiff(file)
    image = Image.open(file, formats=(name,))
    _check_size(image.size, max_pixels)
    return image


def _check_limit(max_pixels: int) -> None:
    """Refuse a limit that could not be kept."""
    if not 1 <= max_pixels <= _PILLOW_MAX_PIXELS:
        raise ValueError(f"max_pixels must be in 1..{_PILLOW_MAX_PIXELS}, got {max_pixels}")


def _check_size(size_wh: tuple[int, int], max_pixels: int) -> None:
    """Refuse an image of more pixels than allowed, or of none."""
    width, height = size_wh
    if width * height > max_pixels:
        rule = f"must have at most {max_pixels:,} pixels, has {width} x {height}"
        raise InputError(rule, code="E_TOO_LARGE")
    if width < 1 or height < 1:
        raise InputError(f"the image is {width} x {height} pixels", code="E_UNREADABLE")


def _load_pixels(image: Image.Image, name: str, allow_cut: bool) -> None:
    """Decode the first frame; keep the rows that are there if a cut file is allowed."""
    try:
        image.load()
    except OSError:
        if not allow_cut or name not in _ROW_FORMATS:
            raise
        # Without tiles left to read, Pillow takes the rows decoded so far for the whole image.
        # (Its own switch for this is global: it would let other threads accept cut files.)
        image.tile = []  # type: ignore[attr-defined]
        image.load()


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
    return InputError("the image data is damaged", path=path, code="E_UNREADABLE")


def _pillow_to_tensor(image: Image.Image) -> Tensor:
    """A Pillow image of any mode, turned upright."""
    if 0 in image.size:
        raise ValueError(f"image must not be empty, got size {image.size}")
    with QUIET_PILLOW:
        image.load()
        block = image.info.get("exif")
        return pixels_to_tensor(turn_upright(image, read_orientation(block)))
