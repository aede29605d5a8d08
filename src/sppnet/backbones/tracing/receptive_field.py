"""The receptive field of the cells of a map: along one axis, and in both directions.

Pixel i has its centre at coordinate i. Along one side of the image every cell of a map sees an
interval of pixels; cell k sees the interval of cell 0 moved by k strides. Padding moves the
interval to the left, below 0 even: the zeros that are added count as pixels with negative numbers.

What flows through a network is one of: `ReceptiveField` (a map whose cells lie somewhere on the
image), `Shape` (its sizes), `Length` (one size) or None: numbers that lie nowhere, such as
parameters and the gates of squeeze-and-excitation, which scale a map and move nothing.

Maps of several layers are joined on the cells of the finest: an early layer knows where an object
ends, a late one what it is, and a joined map knows both. It is made inside the trunk, so that
pooling, anchors, caches and exporters see one map of more channels.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

IMAGE_DIMS = ("n", "c", "y", "x")
CHANNELS_LAST = ("n", "y", "x", "c")
JOIN = "+"  # between the names of layers whose maps are joined
TRIED = 8  # multiples of a side; from some length on every stride gives one more cell
Place = tuple[float, float]  # of a cell on another map, and the step to the next; in its cells


def round_up(number: int, step: int) -> int:
    """Round up to a multiple of `step`.

    Example:
        >>> round_up(225, 32)
        256
    """
    return (number + step - 1) // step * step


@dataclass(frozen=True)
class Window:
    """One convolution or pooling along one side of a map.

    Args:
        kernel: Taps of the window.
        stride: Cells from one window to the next.
        before: Cells added at the left or top; negative when cells are cut off.
        after: Cells added at the right or bottom.
        dilation: Cells from one tap to the next.
        ceil_mode: The last window may hang over the end, as Caffe's poolings do.

    Example:
        >>> Window(kernel=7, stride=2, before=1, after=1).count(224)
        110
    """

    kernel: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    ceil_mode: bool = False

    @property
    def reach(self) -> int:
        """Cells from the first tap to the last."""
        return self.dilation * (self.kernel - 1)

    def count(self, length: int) -> int:
        """Count the windows on a side of `length` cells; 0 when not even one fits.

        The rule is PyTorch's: in ceil mode a window that would begin in the right padding is left
        out.

        Example:
            >>> Window(kernel=3, stride=2, ceil_mode=True).count(110)
            55
        """
        room = length + self.before + self.after - self.reach - 1
        if not self.ceil_mode:
            return max(0, room // self.stride + 1)
        cells = -(-room // self.stride) + 1
        begins_in_padding = (cells - 1) * self.stride >= length + self.before
        return max(0, cells - begins_in_padding)


@dataclass(frozen=True)
class Axis:
    """What cell 0 of a map sees along one side of the image, and where the next cells look.

    Args:
        stride: Pixels from one cell to the next.
        first: First pixel that cell 0 sees; negative in the padding.
        last: Last pixel that cell 0 sees.
        windows: The convolutions and poolings from the image to this map.
        multiple: Sides must be a multiple of so many pixels for all of this to hold.

    Example:
        >>> Axis().through(Window(3, stride=2, before=1, after=1)).centre
        0.0
    """

    stride: int = 1
    first: int = 0
    last: int = 0
    windows: tuple[Window, ...] = ()
    multiple: int = 1

    @property
    def centre(self) -> float:
        """Pixel on which cell 0 is centred; half a pixel for even extents."""
        return (self.first + self.last) / 2

    @property
    def extent(self) -> int:
        """Pixels that one cell sees."""
        return self.last - self.first + 1

    def through(self, window: Window) -> "Axis":
        """Put one more convolution or pooling behind.

        Example:
            >>> axis = Axis().through(Window(11, stride=4, before=2, after=2))
            >>> axis.stride, axis.centre, axis.extent
            (4, 3.0, 11)
        """
        trivial = window == Window(kernel=1)
        return replace(
            self,
            stride=self.stride * window.stride,
            first=self.first - window.before * self.stride,
            last=self.last + (window.reach - window.before) * self.stride,
            windows=self.windows if trivial else (*self.windows, window),
        )

    def tiled(self, cells: int) -> "Axis":
        """Ask for sides that give a multiple of `cells` cells.

        What comes next then needs no regard to a remainder: patches of `cells` cells cover the
        map, and TensorFlow's padding of a layer with that stride is the same at every size.

        Raises:
            ValueError: There are no such sides: the map has cells more, or fewer, at every size.

        Example:
            >>> Axis().through(Window(3, stride=2, before=0, after=1)).tiled(2).multiple
            4
        """
        multiple = math.lcm(self.multiple, self.stride * cells)
        sides = range(multiple, (TRIED + 1) * multiple, multiple)
        if any(self.cells(side) % cells for side in sides):
            raise ValueError(f"its map is no multiple of {cells} cells at any multiple of pixels")
        return replace(self, multiple=multiple)

    def joined(self, other: "Axis") -> "Axis":
        """Put two branches together that are added or concatenated cell by cell.

        A cell then sees what it sees through either. The branches may lie half a cell apart, as the
        average pooling beside a convolution does in ResNet-D.

        Raises:
            ValueError: The branches have different strides, or give different numbers of cells.

        Example:
            >>> Axis(1, 0, 0).joined(Axis(1, -1, 1)).extent
            3
        """
        if self.stride != other.stride or not self._gives_cells_of(other):
            raise ValueError(
                f"branches must agree in stride and number of cells, got {self.stride} at "
                f"{self.centre} and {other.stride} at {other.centre}"
            )
        wider = max(self, other, key=lambda axis: (axis.extent, len(axis.windows)))
        first, last = min(self.first, other.first), max(self.last, other.last)
        multiple = math.lcm(self.multiple, other.multiple)
        return Axis(self.stride, first, last, wider.windows, multiple)

    def _gives_cells_of(self, other: "Axis") -> bool:
        """Tell whether two branches give equally many cells, for sides of every remainder."""
        if self.centre == other.centre:
            return True
        step = math.lcm(self.multiple, other.multiple)
        shortest = round_up(max(self.shortest_side(), other.shortest_side()), step)
        sides = range(shortest, shortest + math.lcm(step, self.stride), step)
        return all(self.cells(side) == other.cells(side) for side in sides)

    def cells(self, pixels: int) -> int:
        """Count the cells that a side of `pixels` pixels gives; 0 when it is too short.

        Example:
            >>> Axis().through(Window(3, stride=2)).cells(224)
            111
        """
        return count_cells(self.windows, pixels)

    def shortest_side(self) -> int:
        """Find the fewest pixels that give one cell, whether `multiple` allows them or not.

        Example:
            >>> Axis().through(Window(7, stride=2, before=1, after=1)).shortest_side()
            5
        """
        return next(side for side in range(1, self.extent + 1) if self.cells(side) > 0)


def count_cells(windows: Iterable[Window], pixels: int) -> int:
    """Follow the length of one side through a chain of windows; 0 when it does not get through.

    Example:
        >>> count_cells([Window(7, 2, 1, 1), Window(3, 2, ceil_mode=True)], 224)
        55
    """
    length = pixels
    for window in windows:
        length = window.count(length)
        if length == 0:
            return 0
    return length


class NoReceptiveFieldError(ValueError):
    """Where the cells of a map lie on the image is not known for every size."""


@dataclass(frozen=True)
class ReceptiveField:
    """What cell 0 of a map sees down and across, and which dimension of the map is which."""

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


Value = ReceptiveField | Shape | Length | None


def apply_windows(value: ReceptiveField, window_y: Window, window_x: Window) -> ReceptiveField:
    """Move windows over a map (..., y, x).

    Raises:
        ValueError: Rows and columns are other dimensions.

    Example:
        >>> image, window = ReceptiveField(Axis(), Axis()), Window(3, stride=2)
        >>> apply_windows(image, window, window).x.centre
        1.0
    """
    if value.dims[-2:] != ("y", "x"):
        raise ValueError(f"convolution and pooling need dimensions (..., y, x), got {value.dims}")
    return _move(value, window_y, window_x)


def _move(value: ReceptiveField, window_y: Window, window_x: Window) -> ReceptiveField:
    return replace(value, y=value.y.through(window_y), x=value.x.through(window_x))


def tile(value: ReceptiveField, cells_y: int, cells_x: int) -> ReceptiveField:
    """Ask for images whose map has multiples of so many rows and columns.

    Raises:
        ValueError: There are none.
    """
    return replace(value, y=value.y.tiled(cells_y), x=value.x.tiled(cells_x))


def merge_patches(value: ReceptiveField) -> ReceptiveField:
    """Join every 2 x 2 cells of a map (..., y, x, C), which is filled up to even sides."""
    if value.dims[-3:] != ("y", "x", "c"):
        raise ValueError(f"joining patches needs dimensions (..., y, x, c), got {value.dims}")
    return _move(value, *(Window(2, 2, ceil_mode=True),) * 2)


def pool(
    value: ReceptiveField,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    **_other: Any,
) -> ReceptiveField:
    """Pool a map; arguments as of `torch.nn.functional.max_pool2d`."""
    windows = []
    for axis in (0, 1):
        kernel, added = _side(kernel_size, axis), _side(padding, axis)
        step = _side(stride, axis) if stride else kernel
        windows.append(Window(kernel, step, added, added, _side(dilation, axis), bool(ceil_mode)))
    return apply_windows(value, *windows)


def _side(size: Any, axis: int) -> int:
    return int(size[axis] if isinstance(size, tuple | list) else size)


def average(_value: ReceptiveField, output_size: Any) -> Value:
    """Average the whole map to one cell: a gate, which has no receptive field."""
    if output_size not in (1, (1, 1), [1, 1]):
        raise ValueError(f"adaptive pooling to {output_size} has another stride for every image")
    return None


def pad(value: ReceptiveField, padding: Any, /, *_how: Any, **_other: Any) -> ReceptiveField:
    """Add cells around a map, or cut some off; arguments as of `torch.nn.functional.pad`."""
    left, right, top, bottom = (*padding, 0, 0)[:4]
    return apply_windows(value, Window(1, 1, top, bottom), Window(1, 1, left, right))


def check_norm(
    value: ReceptiveField, normalized_shape: Any, *_other: Any, **_more: Any
) -> ReceptiveField:
    """Pass a map that is normalised, or mixed, over its last dimensions, unless those are sides."""
    mixed = value.dims[len(value.dims) - len(normalized_shape) :]
    if "y" in mixed or "x" in mixed:
        raise ValueError("it mixes the cells of the whole map")
    return value


def join_places(fields: Sequence[ReceptiveField]) -> tuple[tuple[Place, Place], ...]:
    """Say where cell 0 of the finest map lies on each of the maps, and how far its next cells do.

    Args:
        fields: Where the cells of each map lie.

    Returns:
        For each map, down and across, the place of cell 0 of the finest map and the step to its
        next cell, both in cells of the map: (0.0, 1.0) for the finest itself.

    Raises:
        ValueError: There is no map that is the finest both down and across.

    Example:
        >>> fine = Axis().through(Window(3, stride=2, before=0, after=1))
        >>> coarse = fine.through(Window(3, stride=2, before=0, after=1))
        >>> join_places([ReceptiveField(fine, fine), ReceptiveField(coarse, coarse)])
        (((0.0, 1.0), (0.0, 1.0)), ((-0.5, 0.5), (-0.5, 0.5)))
    """
    finest = _find_finest(fields)
    return tuple(
        (_place(finest.y, field.y), _place(finest.x, field.x))  # down, across
        for field in fields
    )


def _place(fine: Axis, axis: Axis) -> Place:
    return (fine.centre - axis.centre) / axis.stride, fine.stride / axis.stride


def _find_finest(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    finest = min(fields, key=lambda field: (field.y.stride, field.x.stride))
    if any(field.x.stride < finest.x.stride for field in fields):
        raise ValueError("maps that are joined must have one that is the finest along both sides")
    return finest


def join_fields(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    """Work out where the cells of a joined map lie: where those of the finest do.

    A cell sees what the finest map sees there, and as much as the widest of them around it.

    Example:
        >>> fine = Axis().through(Window(2, stride=2))
        >>> coarse = fine.through(Window(2, stride=2))
        >>> side = join_fields([ReceptiveField(fine, fine), ReceptiveField(coarse, coarse)]).x
        >>> side.stride, side.centre, side.extent
        (2, 0.5, 8)
    """
    finest = _find_finest(fields)
    return ReceptiveField(
        _widen(finest.y, [field.y for field in fields]),
        _widen(finest.x, [field.x for field in fields]),
    )


def _widen(fine: Axis, axes: Sequence[Axis]) -> Axis:
    """Let a cell see as much on both sides as the widest map shows it, and keep its centre."""
    # a cell between two coarse ones sees both of these
    seen = [a.extent + (a.stride if a.stride > fine.stride else 0) for a in axes]
    more = -((fine.extent - max(*seen, fine.extent)) // 2)
    return replace(fine, first=fine.first - more, last=fine.last + more)


def join_maps(maps: Sequence[Tensor], places: Sequence[tuple[Place, Place]]) -> Tensor:
    """Put maps side by side; coarse ones are interpolated at the cells of the finest.

    Args:
        maps: Each (N, C, h, w).
        places: From :func:`join_places`.

    Returns:
        (N, the sum of all C, h, w) with the h and w of the finest map.

    Example:
        >>> fine, coarse = torch.zeros(1, 2, 4, 4), torch.tensor([[[[0.0, 2.0]]]])
        >>> same, half = ((0.0, 1.0), (0.0, 1.0)), ((-0.5, 0.5), (-0.5, 0.5))
        >>> join_maps([fine, coarse], [same, half])[0, 2]
        tensor([[0., 0., 1., 2.],
                [0., 0., 1., 2.],
                [0., 0., 1., 2.],
                [0., 0., 1., 2.]])
    """
    finest = next(i for i, place in enumerate(places) if all(step == 1 for _, step in place))
    size = maps[finest].shape[2:]
    found = [
        features if index == finest else _look_up(features, place, (size[0], size[1]))
        for index, (features, place) in enumerate(zip(maps, places, strict=True))
    ]
    return torch.cat(found, 1)


def _look_up(features: Tensor, places: tuple[Place, Place], size: tuple[int, int]) -> Tensor:
    """Interpolate a map linearly at so many places down and across; beyond its edges it goes on."""
    for dim, (first, step), count in zip((2, 3), places, size, strict=True):
        cells = features.shape[dim]
        at = first + step * torch.arange(count, device=features.device, dtype=torch.float32)
        at = at.clamp(min=0, max=cells - 1)  # a tensor of it would be a constant of an export
        before = at.floor()
        share = (at - before).to(features.dtype)
        share = share[:, None] if dim == 2 else share
        below = before.long()
        above = (below + 1).clamp(max=cells - 1)
        left, right = features.index_select(dim, below), features.index_select(dim, above)
        features = left + (right - left) * share
    return features
