"""A map together with the place of its cells on the image, and what windows do to that place.

A value of a network is one of: `Placed` (a map whose cells have a place), `Shape` (its sizes),
`Length` (one size) or None: numbers without a place, such as parameters and the gates of
squeeze-and-excitation, which scale a map and move nothing.
"""

from dataclasses import dataclass, replace
from typing import Any

from sppnet.backbones.receptive_field import Axis, Window


class NoPlaceError(ValueError):
    """The cells of a map have no place on the image that is known for every size."""


IMAGE_DIMS = ("n", "c", "y", "x")
CHANNELS_LAST = ("n", "y", "x", "c")


@dataclass(frozen=True)
class Placed:
    """A map: what its cell 0 sees down and across, and which dimension is which."""

    y: Axis
    x: Axis
    dims: tuple[str, ...] = IMAGE_DIMS

    def is_map(self) -> bool:
        """Tell whether the dimensions are (N, C, y, x) or (N, y, x, C)."""
        return self.dims in (IMAGE_DIMS, CHANNELS_LAST)


@dataclass(frozen=True)
class Shape:
    """The sizes of a map, one for each of its dimensions."""

    dims: tuple[str, ...]


@dataclass(frozen=True)
class Length:
    """One size of a map: along which dimension."""

    dim: str


Value = Placed | Shape | Length | None


def slide(value: Placed, window_y: Window, window_x: Window) -> Placed:
    """Move windows over a map (..., y, x).

    Raises:
        ValueError: Rows and columns are other dimensions.

    Example:
        >>> slide(Placed(Axis(), Axis()), Window(3, stride=2), Window(3, stride=2)).x.centre
        1.0
    """
    if value.dims[-2:] != ("y", "x"):
        raise ValueError(f"convolution and pooling need dimensions (..., y, x), got {value.dims}")
    return _move(value, window_y, window_x)


def _move(value: Placed, window_y: Window, window_x: Window) -> Placed:
    return replace(value, y=value.y.through(window_y), x=value.x.through(window_x))


def merge_patches(value: Placed) -> Placed:
    """Join every 2 x 2 cells of a map (..., y, x, C), which is filled up to even sides."""
    if value.dims[-3:] != ("y", "x", "c"):
        raise ValueError(f"joining patches needs dimensions (..., y, x, c), got {value.dims}")
    return _move(value, *(Window(2, 2, ceil_mode=True),) * 2)


def pool(
    value: Placed,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    **_other: Any,
) -> Placed:
    """Pool a map; arguments as of `torch.nn.functional.max_pool2d`."""
    windows = []
    for axis in (0, 1):
        kernel, added = _side(kernel_size, axis), _side(padding, axis)
        step = _side(stride, axis) if stride else kernel
        windows.append(Window(kernel, step, added, added, _side(dilation, axis), bool(ceil_mode)))
    return slide(value, *windows)


def _side(size: Any, axis: int) -> int:
    return int(size[axis] if isinstance(size, tuple | list) else size)


def average(_value: Placed, output_size: Any) -> Value:
    """Average the whole map to one cell: a gate, which has no place."""
    if output_size not in (1, (1, 1), [1, 1]):
        raise ValueError(f"adaptive pooling to {output_size} has another stride for every image")
    return None


def pad(value: Placed, padding: Any, /, *_how: Any, **_other: Any) -> Placed:
    """Add cells around a map, or cut some off; arguments as of `torch.nn.functional.pad`."""
    left, right, top, bottom = (*padding, 0, 0)[:4]
    return slide(value, Window(1, 1, top, bottom), Window(1, 1, left, right))


def check_norm(value: Placed, normalized_shape: Any, *_other: Any, **_more: Any) -> Placed:
    """Pass a map that is normalised, or mixed, over its last dimensions, unless those are sides."""
    mixed = value.dims[len(value.dims) - len(normalized_shape) :]
    if "y" in mixed or "x" in mixed:
        raise ValueError("it mixes the cells of the whole map")
    return value
