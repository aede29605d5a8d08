"""From a decoded Pillow image of any mode to one float tensor, RGB, the right way up."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sppnet.errors import InputError

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112
# Float pixels may miss 0..1 by this much, as results of arithmetic do; they are clipped.
_FLOAT_SLACK = 1e-3
# Tensors may miss it by rounding.
_SLACK = 1e-4


def pixels_to_tensor(image: Image.Image) -> Tensor:
    """Turn decoded pixels of any mode into RGB.

    16-bit grey is divided by 65535, alpha (or a transparent palette entry) is laid over white, CMYK
    is converted without its colour profile, float pixels must lie in 0..1, integers of 32 bits in
    0..65535.

    Args:
        image: A loaded Pillow image; its first frame is taken.

    Returns:
        (3, H, W) float32, RGB, 0..1.

    Raises:
        InputError: If the mode has no known range or colour (E_FORMAT).

    Example:
        >>> pixels_to_tensor(Image.new("LA", (1, 1), (0, 51))).flatten()
        tensor([0.8000, 0.8000, 0.8000])
    """
    if image.mode.startswith("I;16"):
        return _grey_to_tensor(_sixteen_bit_grey(image))
    if image.mode == "I":
        return _grey_to_tensor(_in_range(np.asarray(image, np.float64), 65535))
    if image.mode == "F":
        return _grey_to_tensor(_in_range(np.asarray(image, np.float64), 1))
    if image.has_transparency_data:
        return _over_white(image)
    if image.mode in ("LAB", "HSV"):
        raise InputError(f"pixels of mode {image.mode} are not supported", code="E_FORMAT")
    return _bytes_to_tensor(np.array(image.convert("RGB")))


def array_to_tensor(array: np.ndarray) -> Tensor:
    """Turn a uint8 (H, W, 3) array into an image; raises TypeError or ValueError."""
    if array.dtype != np.uint8:
        raise TypeError(f"image must be a uint8 array, got {array.dtype}")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"image must have shape (H, W, 3), got {array.shape}")
    return torch.from_numpy(array.copy()).permute(2, 0, 1).contiguous().float().div_(255)


def tensor_to_tensor(image: Tensor) -> Tensor:
    """Check a (3, H, W) tensor of bytes or floats in 0..1; raises TypeError or ValueError."""
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"image must be uint8 or floating point, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"image must have shape (3, H, W), got {tuple(image.shape)}")
    if image.dtype == torch.uint8:
        return image.float() / 255
    low, high = float(image.min()), float(image.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # False for NaN too
        raise ValueError(f"image must have values in 0..1, got {low}..{high}")
    return image.float()


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Undo the camera's rotation; no pixel value changes.

    Args:
        image: As stored.
        orientation: EXIF orientation; anything but 2..8 leaves the image as it is.

    Returns:
        As it is to be seen.
    """
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


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


def _bytes_to_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 to (3, H, W) float."""
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div_(255)


def _grey_to_tensor(grey: np.ndarray) -> Tensor:
    """(H, W) float 0..1 to three equal channels."""
    return torch.from_numpy(grey.astype(np.float32)).expand(3, -1, -1).contiguous()


def _sixteen_bit_grey(image: Image.Image) -> np.ndarray:
    """Grey of the full 16 bits; the value that a PNG names as transparent becomes white."""
    stored = np.asarray(image)
    clear = image.info.get("transparency")
    grey = stored / 65535
    return np.where(stored == clear, 1.0, grey) if isinstance(clear, int) else grey


def _in_range(values: np.ndarray, largest: int) -> np.ndarray:
    """Scale to 0..1; refuse what would silently become black or white."""
    low, high = float(values.min()), float(values.max())
    slack = _FLOAT_SLACK * largest
    if not (low >= -slack and high <= largest + slack):  # False for NaN too
        rule = f"pixels must lie in 0..{largest}, are in {low:g}..{high:g}"
        raise InputError(rule, code="E_FORMAT")
    return np.clip(values / largest, 0, 1)


def _over_white(image: Image.Image) -> Tensor:
    """Lay a picture with transparency over white."""
    clear = image.info.get("transparency")
    if isinstance(clear, tuple) and any(value > 255 for value in clear):
        # A 16-bit PNG names its transparent colour in 16 bits; its pixels were cut to 8.
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    rgba = _bytes_to_tensor(np.array(image.convert("RGBA")))
    alpha = rgba[3:]
    return rgba[:3] * alpha + (1 - alpha)
