"""Where the cells of a map lie on the image after each kind of layer.

A value of a network is one of: `Placed` (a map whose cells have a place), `Shape` (its sizes),
`Length` (one size) or None: numbers without a place, such as parameters and the gates of
squeeze-and-excitation, which scale a map and move nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torchvision.ops import StochasticDepth

from sppnet.backbones.receptive_field import Axis, Window

IMAGE_DIMS = ("n", "c", "y", "x")


@dataclass(frozen=True)
class Placed:
    """A map: what its cell 0 sees down and across, and which dimension is which."""

    y: Axis
    x: Axis
    dims: tuple[str, ...] = IMAGE_DIMS

    def is_map(self) -> bool:
        """Tell whether the dimensions are (N, C, y, x)."""
        return self.dims == IMAGE_DIMS


@dataclass(frozen=True)
class Shape:
    """The sizes of a map, one for each of its dimensions."""

    dims: tuple[str, ...]


@dataclass(frozen=True)
class Length:
    """One size of a map: along which dimension."""

    dim: str


Value = Placed | Shape | Length | None
Handler = Callable[..., Any]

KEEPS_CELLS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
    *(nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.LocalResponseNorm),
    *(nn.Dropout, nn.Dropout2d, nn.Identity, StochasticDepth),
)


# ---------------------------------------------------------------------------------- modules


def through_module(module: nn.Module, value: Value) -> Value:
    """Place what a module makes of a value.

    Raises:
        ValueError: There is no rule for the module, or it mixes the cells of the whole map.

    Example:
        >>> through_module(nn.Conv2d(3, 8, 4, stride=4), Placed(Axis(), Axis())).x.centre
        1.5
    """
    if not isinstance(value, Placed):
        return value
    if isinstance(module, KEEPS_CELLS) or getattr(module, "keeps_cells", False):
        return value
    if isinstance(module, nn.LayerNorm):
        return _layer_norm(value, module.normalized_shape)
    if isinstance(module, nn.Linear):
        return _layer_norm(value, (module.in_features,))
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        return _adaptive_pool(value, module.output_size)
    if isinstance(module, nn.Conv2d):
        return _convolve(value, module)
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        dilation = getattr(module, "dilation", 1)
        shape = (module.kernel_size, module.stride, module.padding)
        return _pool(value, *shape, dilation, module.ceil_mode)
    if isinstance(
        module, nn.ZeroPad2d | nn.ConstantPad2d | nn.ReflectionPad2d | nn.ReplicationPad2d
    ):
        return _pad(value, module.padding)
    raise ValueError(f"no rule for modules of type {type(module).__name__}")


def _convolve(value: Placed, module: nn.Conv2d) -> Placed:
    windows = []
    for axis in (0, 1):
        kernel, dilation = module.kernel_size[axis], module.dilation[axis]
        before, after = _conv_padding(module.padding, axis, dilation * (kernel - 1))
        windows.append(Window(kernel, module.stride[axis], before, after, dilation))
    return _slide(value, *windows)


def _conv_padding(padding: str | tuple[int, ...], axis: int, reach: int) -> tuple[int, int]:
    """Say how many cells are added before and after; 'same' puts the odd one after."""
    if padding == "same":
        return reach // 2, reach - reach // 2
    if isinstance(padding, str):
        return 0, 0
    return padding[axis], padding[axis]


def _slide(value: Placed, window_y: Window, window_x: Window) -> Placed:
    if value.dims[-2:] != ("y", "x"):
        raise ValueError(f"convolution and pooling need dimensions (..., y, x), got {value.dims}")
    return replace(value, y=value.y.through(window_y), x=value.x.through(window_x))


# -------------------------------------------------------------------------------- functions


def _pool(
    value: Placed,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    **_other: Any,
) -> Placed:
    windows = []
    for axis in (0, 1):
        kernel, added = _side(kernel_size, axis), _side(padding, axis)
        step = _side(stride, axis) if stride else kernel
        windows.append(Window(kernel, step, added, added, _side(dilation, axis), bool(ceil_mode)))
    return _slide(value, *windows)


def _average_pool(
    value: Placed, kernel_size: Any, stride: Any = None, padding: Any = 0, *more: Any, **other: Any
) -> Placed:
    ceil_mode = more[0] if more else other.get("ceil_mode", False)
    return _pool(value, kernel_size, stride, padding, 1, ceil_mode)


def _side(size: Any, axis: int) -> int:
    return int(size[axis] if isinstance(size, tuple | list) else size)


def _adaptive_pool(_value: Placed, output_size: Any) -> Value:
    """Average the whole map to one cell: a gate, which has no place."""
    if output_size not in (1, (1, 1), [1, 1]):
        raise ValueError(f"adaptive pooling to {output_size} has another stride for every image")
    return None


def _pad(value: Placed, padding: Any, mode: str = "constant", fill: Any = None) -> Placed:  # noqa: ARG001
    left, right, top, bottom = (*padding, 0, 0)[:4]
    return _slide(value, Window(1, 1, top, bottom), Window(1, 1, left, right))


def _layer_norm(value: Placed, normalized_shape: Any, *_other: Any, **_more: Any) -> Placed:
    mixed = value.dims[len(value.dims) - len(normalized_shape) :]
    if "y" in mixed or "x" in mixed:
        raise ValueError("it mixes the cells of the whole map")
    return value


def _keep(*values: Any, **_other: Any) -> Placed:
    """Join the maps that an elementwise function reads."""
    placed = [value for value in values if isinstance(value, Placed)]
    return _join(placed)


def _join(placed: list[Placed]) -> Placed:
    first = placed[0]
    for other in placed[1:]:
        if other.dims != first.dims:
            raise ValueError(f"branches have dimensions {first.dims} and {other.dims}")
        first = replace(first, y=first.y.joined(other.y), x=first.x.joined(other.x))
    return first


def _concatenate(tensors: Any, dim: int = 0) -> Placed:
    placed = _join([value for value in tensors if isinstance(value, Placed)])
    _refuse_sides(placed, dim)
    return placed


def _refuse_sides(value: Placed, dim: int) -> None:
    if value.dims[dim] in ("y", "x"):
        raise ValueError("it joins or cuts a map along its height or width")


def _cut(value: Placed, _pieces: Any, dim: int = 0) -> Placed:
    """Cut a map into groups of channels, each of which is placed like the whole."""
    _refuse_sides(value, dim)
    return value


def _item(value: Any, index: Any) -> Any:
    if isinstance(value, Shape):
        return Length(value.dims[index])
    indices = index if isinstance(index, tuple) else (index,)
    if isinstance(index, tuple) and any(part != slice(None) for part in indices[2:]):
        raise ValueError("it cuts a map along its height or width")
    if isinstance(index, tuple) and not all(isinstance(part, slice) for part in indices):
        raise ValueError("it takes a single row, column or channel out of a map")
    return value


def _permute(value: Placed, *order: Any) -> Placed:
    places = order[0] if isinstance(order[0], tuple | list) else order
    return replace(value, dims=tuple(value.dims[place] for place in places))


def _transpose(value: Placed, first: int, second: int) -> Placed:
    dims = list(value.dims)
    dims[first], dims[second] = dims[second], dims[first]
    return replace(value, dims=tuple(dims))


def _view(value: Placed, *sizes: Any) -> Placed:
    """Regroup leading dimensions; rows and columns must stay the last two."""
    lengths = sizes[0] if isinstance(sizes[0], tuple | list) else sizes
    sides = [size.dim for size in lengths[-2:] if isinstance(size, Length)]
    if value.dims[-2:] != ("y", "x") or sides != ["y", "x"]:
        raise ValueError("it regroups the rows and columns of a map")
    leading = ("n", "c") if len(lengths) == len(IMAGE_DIMS) else ("-",) * (len(lengths) - 2)
    return replace(value, dims=(*leading, "y", "x"))


def _shape(value: Any, *dim: Any) -> Shape | Length:
    if dim and isinstance(dim[0], int):
        return Length(value.dims[dim[0]])
    return Shape(value.dims)


ELEMENTWISE = (
    *("add", "iadd", "add_", "sub", "mul", "imul", "mul_", "truediv", "div", "neg", "pow"),
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "sigmoid", "tanh"),
    *("hardtanh", "hardswish", "hardsigmoid", "softplus", "batch_norm", "dropout"),
    *("contiguous", "clone", "float", "stochastic_depth"),
)
FUNCTIONS: dict[str, Handler] = {
    **dict.fromkeys(ELEMENTWISE, _keep),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenate),
    **dict.fromkeys(("chunk", "split"), _cut),
    **dict.fromkeys(("view", "reshape"), _view),
    **dict.fromkeys(("size", "getattr"), _shape),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive_pool),
    "avg_pool2d": _average_pool,
    "getitem": _item,
    "layer_norm": _layer_norm,
    "max_pool2d": _pool,
    "pad": _pad,
    "permute": _permute,
    "transpose": _transpose,
}


def through_function(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Place what a function or method makes of its arguments, given by name.

    Raises:
        ValueError: There is no rule for the function, or it moves cells in an unknown way.

    Example:
        >>> image = Placed(Axis(), Axis())
        >>> through_function("max_pool2d", (image, 2), {}).x.stride
        2
    """
    if not _holds_map((*args, *kwargs.values())):
        shape_is_asked = name == "getitem" and isinstance(args[0], Shape)
        return _item(*args) if shape_is_asked else None  # sizes: arithmetic gives plain numbers
    if name not in FUNCTIONS:
        raise ValueError(f"no rule for the function {name}")
    return FUNCTIONS[name](*args, **kwargs)


def _holds_map(args: tuple[Any, ...]) -> bool:
    flat = [item for arg in args for item in (arg if isinstance(arg, tuple | list) else (arg,))]
    return any(isinstance(item, Placed) for item in flat)
