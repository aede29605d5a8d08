"""Where the cells of a map lie on the image after each function or method that a network calls."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sppnet.backbones.placed import (
    IMAGE_DIMS,
    Length,
    Placed,
    Shape,
    Value,
    average,
    check_norm,
    merge_patches,
    pad,
    pool,
)

Handler = Callable[..., Any]
SIDES = {"y", "x"}


def _average_pool(
    value: Placed, kernel_size: Any, stride: Any = None, padding: Any = 0, *more: Any, **other: Any
) -> Placed:
    ceil_mode = more[0] if more else other.get("ceil_mode", False)
    return pool(value, kernel_size, stride, padding, 1, ceil_mode)


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


def _stack(tensors: Any, dim: int = 0) -> Placed:
    placed = _join([value for value in tensors if isinstance(value, Placed)])
    if not 0 <= dim <= len(placed.dims) - len(SIDES):
        raise ValueError("it stacks maps behind their rows and columns")
    return replace(placed, dims=(*placed.dims[:dim], "-", *placed.dims[dim:]))


def _reduce(value: Placed, dim: Any, keepdim: bool = False, **_other: Any) -> Value:
    """Sum up along some dimensions: both sides give a gate, none of them leaves a map."""
    numbers = dim if isinstance(dim, tuple | list) else (dim,)
    gone = {number % len(value.dims) for number in numbers}
    sides = SIDES & {value.dims[number] for number in gone}
    if sides:
        if sides != SIDES:
            raise ValueError("it sums a map up along one of its sides")
        return None
    if keepdim:
        return value
    left = tuple(name for number, name in enumerate(value.dims) if number not in gone)
    return replace(value, dims=_name_leading(left[:-2], left[-2:]))


def _name_leading(leading: tuple[Any, ...], sides: tuple[str, ...]) -> tuple[str, ...]:
    """Call two dimensions before rows and columns images and channels; others have no name."""
    return (*(IMAGE_DIMS[:2] if len(leading) == len(SIDES) else ("-",) * len(leading)), *sides)


def _first(value: Value, *_other: Any, **_more: Any) -> Value:
    return value


def _view(value: Placed, *sizes: Any) -> Placed:
    """Regroup leading dimensions; rows and columns must stay the last two."""
    lengths = sizes[0] if isinstance(sizes[0], tuple | list) else sizes
    sides = [size.dim for size in lengths[-2:] if isinstance(size, Length)]
    if value.dims[-2:] != ("y", "x") or sides != ["y", "x"]:
        raise ValueError("it regroups the rows and columns of a map")
    return replace(value, dims=_name_leading(tuple(lengths[:-2]), ("y", "x")))


def _shape(value: Any, *dim: Any) -> Shape | Length:
    if dim and isinstance(dim[0], int):
        return Length(value.dims[dim[0]])
    return Shape(value.dims)


ELEMENTWISE = (
    *("add", "iadd", "add_", "sub", "mul", "imul", "mul_", "truediv", "div", "neg", "pow"),
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "sigmoid", "tanh"),
    *("hardtanh", "hardswish", "hardsigmoid", "softplus", "batch_norm", "dropout"),
    *("contiguous", "clone", "float", "stochastic_depth", "addcmul"),
)
FUNCTIONS: dict[str, Handler] = {
    **dict.fromkeys(ELEMENTWISE, _keep),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenate),
    **dict.fromkeys(("chunk", "split"), _cut),
    **dict.fromkeys(("view", "reshape"), _view),
    **dict.fromkeys(("size", "getattr"), _shape),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), average),
    **dict.fromkeys(("mean", "sum", "norm"), _reduce),
    **dict.fromkeys(("expand_as", "shifted_window_attention"), _first),
    "_patch_merging_pad": merge_patches,  # of torchvision's swin, which joins the patches, too
    "avg_pool2d": _average_pool,
    "getitem": _item,
    "layer_norm": check_norm,
    "max_pool2d": pool,
    "pad": pad,
    "permute": _permute,
    "stack": _stack,
    "transpose": _transpose,
}


def through_function(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Place what a function or method makes of its arguments, given by name.

    Raises:
        ValueError: There is no rule for the function, or it moves cells in an unknown way.

    Example:
        >>> from sppnet.backbones.receptive_field import Axis
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
