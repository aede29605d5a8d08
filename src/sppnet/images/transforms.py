"""Pixels: from any mode to RGB, to another size, into batches of one size.

A TIFF's directory of tags is read here, too: Pillow would allocate what a hostile one asks for.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from sppnet.errors import InputError

# Larger images are converted and resized band by band, so that no second copy of all is made.
_BAND_PIXELS = 1 << 18
# Float pixels may miss 0..1 by this much, as results of arithmetic do; they are clipped.
_FLOAT_SLACK = 1e-3
# Tensors may miss it by rounding.
_SLACK = 1e-4
# Modes whose pixels Pillow turns into 8 bits of red, green and blue.
_MODES_OF_BYTES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")
_MIN_IS_WHITE = 0  # TIFF's PhotometricInterpretation
# Pillow makes 0..255 of grey of 2 and 4 bits; its names of these pixels, and the steps.
_GREY_STEPS = {"L;2": 85, "L;4": 17}
_MPF_ENTRIES = 0xB002  # of the index of pictures that stand behind a JPEG in one file
_ORIENTATION_TAG = 0x0112


def pixels_to_tensor(image: Image.Image, orientation: int = 1, *, as_bytes: bool = False) -> Tensor:
    """Turn decoded pixels of any mode into RGB, upright.

    Grey of 16 bits is divided by 65535, of 12 bits by 4095; where a TIFF says that 0 is white, it
    is; alpha (or a transparent palette entry) is laid over white, except in a BMP in which all of
    it is 0; CMYK is converted without its colour profile, float pixels must lie in 0..1, integers
    of 32 bits in 0..65535. Worked band by band: beside the image and the result it takes 10 MB.

    Args:
        image: A loaded Pillow image; its first frame is taken.
        orientation: How it is stored, 1..8 as EXIF says it.
        as_bytes: Round to 8 bits a channel.

    Returns:
        (3, H, W) float32, RGB, 0..1, or uint8, RGB, 0..255.

    Raises:
        InputError: If the mode has no known range or colour (E_FORMAT).

    Example:
        >>> pixels_to_tensor(Image.new("LA", (1, 1), (0, 51))).flatten()
        tensor([0.8000, 0.8000, 0.8000])
    """
    read = None if as_bytes and has_bytes(image) else _reader_for(image)
    size_hw = image.size if swaps_sides(orientation) else image.size[::-1]
    upright = np.empty((3, *size_hw), np.uint8 if as_bytes else np.float32)
    stored = _as_stored(upright, orientation)
    for rows, band in _bands(image):
        if read is None:  # channel by channel: Pillow takes them apart faster than NumPy
            for plane, channel in zip(stored, band.convert("RGB").split(), strict=True):
                plane[rows] = channel
        else:
            pixels = read(band)
            stored[:, rows] = pixels.mul(255).round_() if as_bytes else pixels
    return torch.from_numpy(upright)


def has_bytes(image: Image.Image) -> bool:
    """Whether the colours of a loaded image are 8 bits a channel, which rounding does not change.

    Example:
        >>> has_bytes(Image.new("RGB", (1, 1))), has_bytes(Image.new("RGBA", (1, 1)))
        (True, False)
    """
    return image.mode in _MODES_OF_BYTES and not image.has_transparency_data


def swaps_sides(orientation: int) -> bool:
    """Tell whether turning upright makes height of width."""
    return 5 <= orientation <= 8


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Cut an image into bands of whole rows."""
    width, height = image.size
    step = max(1, _BAND_PIXELS // width)
    if step >= height:
        yield slice(0, height), image
        return
    for top in range(0, height, step):
        bottom = min(height, top + step)
        yield slice(top, bottom), image.crop((0, top, width, bottom))


def _as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """See (3, H, W) upright pixels in the order in which the camera stored them."""
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    view = upright[:, ::rows, ::columns]
    return view.transpose(0, 2, 1) if swaps_sides(orientation) else view


def _reader_for(image: Image.Image) -> Callable[[Image.Image], Tensor]:
    """How bands of an image become (3, h, w) float 0..1."""
    if image.mode.startswith("I;16"):
        return _grey_reader(image, 4095 if _tiff_tag(image, 258) == 12 else 65535)
    if image.mode in ("I", "F"):
        largest = 65535 if image.mode == "I" else 1
        _check_range(image, largest)
        return _grey_reader(image, largest)
    if image.mode == "La":
        return _premultiplied_over_white
    if image.has_transparency_data and not _is_alpha_unused(image):
        _fit_clear_colour(image)
        return _over_white
    if image.mode in ("LAB", "HSV"):
        raise InputError(f"pixels of mode {image.mode} are not supported", code="E_FORMAT")
    return lambda band: _bytes_to_tensor(np.array(band.convert("RGB")))


def _tiff_tag(image: Image.Image, number: int) -> Any:
    """The first value of a tag, if the image is a TIFF that has it."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) and value else value


def _grey_reader(image: Image.Image, largest: int) -> Callable[[Image.Image], Tensor]:
    """For grey of more than 8 bits; the value that a PNG names as transparent becomes white."""
    clear = image.info.get("transparency")
    # Pillow turns grey where 0 is white only up to 8 bits.
    is_inverted = _tiff_tag(image, 262) == _MIN_IS_WHITE

    def read(band: Image.Image) -> Tensor:
        stored = np.asarray(band, np.float64)
        grey = np.clip(stored / largest, 0, 1)
        grey = 1 - grey if is_inverted else grey
        grey = np.where(stored == clear, 1.0, grey) if isinstance(clear, int) else grey
        return torch.from_numpy(grey.astype(np.float32)).expand(3, -1, -1)

    return read


def _check_range(image: Image.Image, largest: int) -> None:
    """Refuse what would silently become black or white."""
    bands = (np.asarray(band) for _, band in _bands(image))
    lows, highs = zip(*((band.min(), band.max()) for band in bands), strict=True)
    low, high = float(np.min(lows)), float(np.max(highs))  # NaN if there is one
    slack = _FLOAT_SLACK * largest
    if not (low >= -slack and high <= largest + slack):  # False for NaN too
        rule = f"pixels must lie in 0..{largest}, are in {low:g}..{high:g}"
        raise InputError(rule, code="E_FORMAT")


def _is_alpha_unused(image: Image.Image) -> bool:
    """Tell whether a BMP has an alpha channel that its writer left at 0, as Windows does."""
    if image.format != "BMP" or image.mode != "RGBA":
        return False
    alpha: object = image.getextrema()[-1]
    return alpha == (0, 0)


def fit_clear_grey(image: Image.Image) -> None:
    """Scale the grey that a PNG of 2 or 4 bits names as transparent as its pixels will be."""
    clear, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    codec = tiles[0][3] if tiles else None
    kind = codec[0] if isinstance(codec, tuple) else codec
    if image.format == "PNG" and isinstance(clear, int) and kind in _GREY_STEPS:
        image.info["transparency"] = clear * _GREY_STEPS[kind] & 255


def _fit_clear_colour(image: Image.Image) -> None:
    """Bring the colour that a PNG names as transparent to the 8 bits of the decoded pixels."""
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and any(value > 255 for value in clear):
        # A 16-bit PNG names its transparent colour in 16 bits; its pixels were cut to 8.
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _over_white(image: Image.Image) -> Tensor:
    """Lay a picture with transparency over white."""
    rgba = _bytes_to_tensor(np.array(image.convert("RGBA")))
    alpha = rgba[3:]
    return rgba[:3] * alpha + (1 - alpha)


def _premultiplied_over_white(image: Image.Image) -> Tensor:
    """The same for grey that was multiplied with its alpha, which Pillow converts to nothing."""
    grey, alpha = _bytes_to_tensor(np.array(image))
    return (grey + (1 - alpha)).clamp(max=1).expand(3, -1, -1)


def _bytes_to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, C) uint8 to (C, H, W) float."""
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div_(255)


def array_to_tensor(array: np.ndarray) -> Tensor:
    """Turn a uint8 (H, W, 3) array into an image; raises TypeError or ValueError."""
    if array.dtype != np.uint8:
        raise TypeError(f"image must be a uint8 array, got {array.dtype}")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"image must have shape (H, W, 3), got {array.shape}")
    return _bytes_to_tensor(array.copy())


def tensor_to_tensor(image: Tensor) -> Tensor:
    """Check a (3, H, W) tensor of bytes or floats in 0..1; raises TypeError or ValueError."""
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"image must be uint8 or floating point, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"image must have shape (3, H, W), got {tuple(image.shape)}")
    if image.dtype == torch.uint8:
        return as_floats(image)
    low, high = float(image.min()), float(image.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # False for NaN too
        raise ValueError(f"image must have values in 0..1, got {low}..{high}")
    return image.float()


def as_floats(image: Tensor) -> Tensor:
    """Turn bytes 0..255 into float32 0..1; floats stay as they are.

    Example:
        >>> as_floats(torch.tensor([0, 255], dtype=torch.uint8))
        tensor([0., 1.])
    """
    return image.float().div_(255) if image.dtype == torch.uint8 else image


def resize_image(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize by bilinear interpolation with antialiasing, as Pillow's BILINEAR does.

    Bytes become floats band by band, so that a large photo never exists in floats; the result has
    the bits that the whole image in floats would give.

    Args:
        image: (C, H, W) or (N, C, H, W), floating point, or uint8 0..255.
        size_hw: New (height, width), each at least 1.

    Returns:
        The image in the new size, floating point; the same tensor if it has that size already.

    Raises:
        ValueError: If a side is below 1 or the image has another number of dimensions.

    Example:
        >>> resize_image(torch.ones(3, 5, 7), (2, 3)).shape
        torch.Size([3, 2, 3])
    """
    height, width = size_hw
    if height < 1 or width < 1:
        raise ValueError(f"size_hw must have sides of at least 1, got {tuple(size_hw)}")
    if image.ndim not in (3, 4):
        raise ValueError(f"image must have 3 or 4 dimensions, got {tuple(image.shape)}")
    if tuple(image.shape[-2:]) == (height, width):
        return as_floats(image)
    batch = image if image.ndim == 4 else image[None]
    if batch.dtype == torch.uint8:  # torch goes along x first, too
        step = max(1, _BAND_PIXELS // batch.shape[-1])
        narrow = torch.empty((*batch.shape[:3], width), device=batch.device)
        for band, part in zip(batch.split(step, 2), narrow.split(step, 2), strict=True):
            part.copy_(_interpolate(as_floats(band), (band.shape[2], width)))
        batch = narrow
    resized = _interpolate(batch, (height, width))
    return resized if image.ndim == 4 else resized[0]


def _interpolate(batch: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize (N, C, H, W)."""
    return functional.interpolate(
        batch, size_hw, mode="bilinear", align_corners=False, antialias=True
    )


def short_side_size(
    size_hw: tuple[int, int], short_side: int, max_long_side: int | None = None
) -> tuple[int, int]:
    """The size that an image gets when its short side is set and its aspect kept.

    Args:
        size_hw: (height, width) of the image.
        short_side: Length that the shorter side gets, in pixels.
        max_long_side: If the longer side would exceed this, the scale is taken from it instead.

    Returns:
        (height, width), rounded to the nearest, each at least 1.

    Raises:
        ValueError: If a length is below 1.

    Example:
        >>> short_side_size((300, 400), 600), short_side_size((300, 1200), 600, 1000)
        ((600, 800), (250, 1000))
        >>> short_side_size((1, 5000), 10, 1000)
        (1, 1000)
    """
    height, width = size_hw
    for name, value in (("size_hw", min(size_hw)), ("short_side", short_side)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    scale = short_side / min(height, width)
    if max_long_side is not None:
        if max_long_side < 1:
            raise ValueError(f"max_long_side must be at least 1, got {max_long_side}")
        scale = min(scale, max_long_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_short_side(
    image: Tensor, short_side: int, max_long_side: int | None = None
) -> tuple[Tensor, tuple[float, float]]:
    """Resize so that the shorter side has a given length, aspect kept.

    Args:
        image: (C, H, W), floating point.
        short_side: Length that the shorter side gets, in pixels.
        max_long_side: Longest that the other side may get.

    Returns:
        The resized image and the scales (scale_y, scale_x) that it really got, rounding included:
        a box of the original times these is the box in the result.

    Raises:
        ValueError: If a length is below 1.

    Example:
        >>> image, scales = resize_short_side(torch.zeros(3, 100, 150), 50)
        >>> image.shape, scales
        (torch.Size([3, 50, 75]), (0.5, 0.5))
    """
    height, width = image.shape[-2:]
    new_height, new_width = short_side_size((height, width), short_side, max_long_side)
    scales = (new_height / height, new_width / width)
    return resize_image(image, (new_height, new_width)), scales


def centre_crop(image: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Cut the middle out of an image.

    Args:
        image: (..., H, W).
        size_hw: (height, width) of the crop, at most the image's.

    Returns:
        A view of (..., height, width); of an odd rest, the larger part is left at the end.

    Raises:
        ValueError: If the crop is empty or larger than the image.

    Example:
        >>> centre_crop(torch.arange(25).reshape(1, 5, 5), (2, 1))
        tensor([[[ 7],
                 [12]]])
    """
    height, width = size_hw
    rows, columns = image.shape[-2:]
    if not (1 <= height <= rows and 1 <= width <= columns):
        rule = f"size_hw must be within 1 and the image's {rows} x {columns}"
        raise ValueError(f"{rule}, got {height} x {width}")
    top, left = (rows - height) // 2, (columns - width) // 2
    return image[..., top : top + height, left : left + width]


def flip_left_right(image: Tensor) -> Tensor:
    """Mirror an image.

    Args:
        image: (..., H, W).

    Returns:
        The same shape, columns reversed.
    """
    return image.flip(-1)


def group_equal_sizes(sizes_hw: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Put images of one size into batches, so that no batch needs padding.

    Args:
        sizes_hw: (height, width) of every image.
        batch_size: Most images in a batch, at least 1.

    Returns:
        Lists of indices; every index once, batches in the order of their first image.

    Raises:
        ValueError: If ``batch_size`` is below 1.

    Example:
        >>> group_equal_sizes([(2, 3), (4, 4), (2, 3), (2, 3)], batch_size=2)
        [[0, 2], [1], [3]]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    batches: list[list[int]] = []
    filling: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes_hw):
        batch = filling.get(size)
        if batch is None or len(batch) == batch_size:
            batch = filling[size] = []
            batches.append(batch)
        batch.append(index)
    return batches


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Stack images of one size into a batch.

    Args:
        images: (C, H, W) each, all alike, at least one.

    Returns:
        (N, C, H, W).

    Raises:
        ValueError: If there are none or their shapes differ.
    """
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) != 1:
        raise ValueError(f"images must have one shape, got {sorted(shapes)}")
    return torch.stack(list(images))


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


def has_more_frames(image: Image.Image) -> bool:
    """Whether an opened file holds frames behind the first; the thumbnails of a JPEG are none.

    Args:
        image: As Pillow opened it. Only the place behind its first frame is looked at.

    Example:
        >>> has_more_frames(Image.new("RGB", (3, 2)))
        False
    """
    entries = getattr(image, "mpinfo", {}).get(_MPF_ENTRIES)
    if entries is not None:
        kinds = [entry["Attribute"]["MPType"] for entry in entries[1:]]
        return any(kind.startswith("Multi-Frame") for kind in kinds)
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # Pillow's reader of GIF raises whatever stands behind the first frame
        return False
