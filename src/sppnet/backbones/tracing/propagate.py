"""Propagates receptive fields through a graph, by a rule for each kind of module and function.

The rules are looked up in three tables at the end: `FUNCTIONS` by name, `RULES` by the class of a
module, `NAMED` by its full name. Attention within windows leaves each cell on its patch: it weighs
other cells and moves none.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import fx, nn

from sppnet.backbones.tracing.receptive_field import (
    CHANNELS_LAST,
    IMAGE_DIMS,
    Axis,
    Length,
    NoReceptiveFieldError,
    ReceptiveField,
    Shape,
    Value,
    Window,
    apply_windows,
    average,
    check_norm,
    merge_patches,
    pad,
    pool,
    tile,
)

Handler = Callable[..., Any]
SIDES = {"y", "x"}
ELEMENTWISE = (
    *("add", "iadd", "add_", "sub", "mul", "imul", "mul_", "truediv", "div", "neg", "pow"),
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "sigmoid", "tanh"),
    *("hardtanh", "hardswish", "hardsigmoid", "softplus", "batch_norm", "dropout"),
    *("contiguous", "clone", "float", "stochastic_depth", "addcmul"),
)
KEEPS_CELLS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
    *(nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.LocalResponseNorm),
    *(nn.Dropout, nn.Dropout2d, nn.Identity),
)
# These are taken as one layer where a library has its own forms of them.
WHOLE = (
    *(nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d),
    *(nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm),
)
STOCHASTIC_DEPTH = "torchvision.ops.stochastic_depth.StochasticDepth"
PADDED_BY_SIZE = "Same"  # how timm ends the names of layers that pad as TensorFlow does
Rule = Callable[[Any, ReceptiveField], Value]


def propagate_receptive_fields(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, Value]:
    """Find the receptive field of every node of a graph: where on the image its cells lie.

    Args:
        model: The module that the graph was traced from.
        graph: Its graph, from images (N, 3, H, W).

    Returns:
        One value for each node; None for what has no receptive field.

    Raises:
        NoReceptiveFieldError: A layer moves cells in a way that is not known here; it is named.

    Example:
        >>> trunk = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4))
        >>> values = propagate_receptive_fields(trunk, fx.symbolic_trace(trunk).graph)
        >>> list(values.values())[-1].y.centre
        1.5
    """
    values: dict[fx.Node, Value] = {}
    for node in graph.nodes:
        values[node] = _propagate_node(model, node, values)
    return values


def _propagate_node(model: nn.Module, node: fx.Node, values: Mapping[fx.Node, Value]) -> Any:
    if node.op == "placeholder":
        return ReceptiveField(Axis(), Axis())
    if node.op == "get_attr":
        return None
    args, kwargs = (_fill_in(part, values) for part in (node.args, node.kwargs))
    if node.op == "output":
        return args[0]
    if not any(values[argument] is not None for argument in node.all_input_nodes):
        return None
    try:
        if node.op == "call_module":
            return through_module(model.get_submodule(str(node.target)), *args)
        return through_function(function_name(node), args, kwargs)
    except ValueError as error:
        raise NoReceptiveFieldError(
            f"layer {node.name!r} has no known receptive field: {error}"
        ) from None


def _fill_in(arguments: Any, values: Mapping[fx.Node, Value]) -> Any:
    """Put its value for every node among the arguments of a call."""
    look_up: Callable[[fx.Node], Any] = values.__getitem__
    return fx.map_arg(arguments, look_up)


def function_name(node: fx.Node) -> str:
    """Name the function or method that a node calls.

    Example:
        >>> function_name(fx.Graph().call_function(len, ("",)))
        'len'
    """
    return node.target if isinstance(node.target, str) else node.target.__name__


def through_function(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Find the receptive field of what a function or method, given by name, makes of its arguments.

    Raises:
        ValueError: There is no rule for the function, or it moves cells in an unknown way.

    Example:
        >>> from sppnet.backbones.tracing.receptive_field import Axis
        >>> image = ReceptiveField(Axis(), Axis())
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
    return any(isinstance(item, ReceptiveField) for item in flat)


def is_one_layer(module: nn.Module) -> bool:
    """Tell whether a module is followed as one layer, whatever it holds.

    Example:
        >>> is_one_layer(nn.Conv2d(3, 4, 1)), is_one_layer(nn.Sequential())
        (True, False)
    """
    own_rule = full_name(module) in NAMED or getattr(module, "keeps_cells", False)
    return own_rule or isinstance(module, WHOLE)


def through_module(module: nn.Module, value: Value) -> Value:
    """Find the receptive field of what a module makes of a value.

    Raises:
        ValueError: There is no rule for the module, or it mixes the cells of the whole map.

    Example:
        >>> from sppnet.backbones.tracing.receptive_field import Axis
        >>> through_module(nn.Conv2d(3, 8, 4, stride=4), ReceptiveField(Axis(), Axis())).x.centre
        1.5
    """
    if not isinstance(value, ReceptiveField):
        return value
    named = NAMED.get(full_name(module))
    if named:
        return named(module, value)
    if isinstance(module, KEEPS_CELLS) or getattr(module, "keeps_cells", False):
        return value
    for kind, rule in RULES.items():
        if isinstance(module, kind):
            return rule(module, value)
    raise ValueError(f"no rule for modules of type {type(module).__name__}")


def full_name(module: nn.Module) -> str:
    """Name the class of a layer, so that its library need not be imported to know it.

    Example:
        >>> full_name(nn.Identity())
        'torch.nn.modules.linear.Identity'
    """
    return f"{type(module).__module__}.{type(module).__name__}"


def _keep(*values: Any, **_other: Any) -> ReceptiveField:
    """Join the maps that an elementwise function reads."""
    fields = [value for value in values if isinstance(value, ReceptiveField)]
    return _join(fields)


def _join(fields: list[ReceptiveField]) -> ReceptiveField:
    first = fields[0]
    for other in fields[1:]:
        if other.dims != first.dims:
            raise ValueError(f"branches have dimensions {first.dims} and {other.dims}")
        first = replace(first, y=first.y.joined(other.y), x=first.x.joined(other.x))
    return first


def _concatenate(tensors: Any, dim: int = 0) -> ReceptiveField:
    joined = _join([value for value in tensors if isinstance(value, ReceptiveField)])
    _refuse_sides(joined, dim)
    return joined


def _refuse_sides(value: ReceptiveField, dim: int) -> None:
    if value.dims[dim] in ("y", "x"):
        raise ValueError("it joins or cuts a map along its height or width")


def _cut(value: ReceptiveField, _pieces: Any, dim: int = 0) -> ReceptiveField:
    """Cut a map into groups of channels, each of which has the receptive field of the whole."""
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


def _permute(value: ReceptiveField, *order: Any) -> ReceptiveField:
    dims = order[0] if isinstance(order[0], tuple | list) else order
    return replace(value, dims=tuple(value.dims[dim] for dim in dims))


def _transpose(value: ReceptiveField, first: int, second: int) -> ReceptiveField:
    dims = list(value.dims)
    dims[first], dims[second] = dims[second], dims[first]
    return replace(value, dims=tuple(dims))


def _stack(tensors: Any, dim: int = 0) -> ReceptiveField:
    joined = _join([value for value in tensors if isinstance(value, ReceptiveField)])
    if not 0 <= dim <= len(joined.dims) - len(SIDES):
        raise ValueError("it stacks maps behind their rows and columns")
    return replace(joined, dims=(*joined.dims[:dim], "-", *joined.dims[dim:]))


def _reduce(value: ReceptiveField, dim: Any, keepdim: bool = False, **_other: Any) -> Value:
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


def _view(value: ReceptiveField, *sizes: Any) -> ReceptiveField:
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


def _average_pool(
    value: ReceptiveField,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    *more: Any,
    **other: Any,
) -> ReceptiveField:
    ceil_mode = more[0] if more else other.get("ceil_mode", False)
    return pool(value, kernel_size, stride, padding, 1, ceil_mode)


def _through_norm(module: Any, value: ReceptiveField) -> ReceptiveField:
    """Follow a LayerNorm; those called 2d look across the channels of (N, C, y, x)."""
    if "2d" not in type(module).__name__:
        return check_norm(value, module.normalized_shape)
    if value.dims != IMAGE_DIMS:
        raise ValueError(f"it needs dimensions (n, c, y, x), got {value.dims}")
    return value


def _through_linear(module: Any, value: ReceptiveField) -> ReceptiveField:
    return check_norm(value, (module.in_features,))


def _through_convolution(module: Any, value: ReceptiveField) -> ReceptiveField:
    if is_padded_by_size(module):
        return _through_padded_by_size(module, value)
    windows = []
    for axis in (0, 1):
        kernel, dilation = module.kernel_size[axis], module.dilation[axis]
        before, after = _conv_padding(module.padding, axis, dilation * (kernel - 1))
        windows.append(Window(kernel, module.stride[axis], before, after, dilation))
    return apply_windows(value, *windows)


def is_padded_by_size(module: nn.Module) -> bool:
    """Tell TensorFlow's padding, which depends on the size when the stride is not 1.

    Example:
        >>> is_padded_by_size(nn.Conv2d(3, 3, 3, padding="same"))
        False
    """
    return type(module).__name__.endswith(PADDED_BY_SIZE) and getattr(module, "same_pad", True)


def _through_padded_by_size(module: Any, value: ReceptiveField) -> ReceptiveField:
    """Follow a layer that is padded by size, over a map that is a multiple of its stride."""
    shape = zip(*_shape_of(module), fixed_padding(module), strict=True)
    windows = [
        Window(kernel, stride, before, after, dilation)
        for kernel, stride, dilation, (before, after) in shape
    ]
    return apply_windows(tile(value, *_pair(module.stride)), *windows)


def fixed_padding(module: Any) -> tuple[tuple[int, int], ...]:
    """Say what TensorFlow's padding adds to a map that is a multiple of a layer's stride.

    At every size that is reach + 1 - stride cells, half of them before the first, the odd one at
    the end.

    Returns:
        Rows above and below, columns at the left and at the right.

    Example:
        >>> fixed_padding(nn.Conv2d(3, 3, (3, 5), stride=2))
        ((0, 1), (1, 2))
    """
    added = [
        max(dilation * (kernel - 1) + 1 - stride, 0)
        for kernel, stride, dilation in zip(*_shape_of(module), strict=True)
    ]
    return tuple((number // 2, number - number // 2) for number in added)


def _shape_of(module: Any) -> tuple[tuple[int, int], ...]:
    """Give kernel, stride and dilation, each of rows and columns."""
    shape = (module.kernel_size, module.stride, getattr(module, "dilation", 1))
    return tuple(_pair(size) for size in shape)


def _pair(size: Any) -> tuple[int, int]:
    rows, columns = size if isinstance(size, tuple | list) else (size, size)
    return rows, columns


def _conv_padding(padding: str | tuple[int, ...], axis: int, reach: int) -> tuple[int, int]:
    """Say how many cells are added before and after; 'same' puts the odd one after."""
    if padding == "same":
        return reach // 2, reach - reach // 2
    if isinstance(padding, str):
        return 0, 0
    return padding[axis], padding[axis]


def _through_pooling(module: Any, value: ReceptiveField) -> ReceptiveField:
    if is_padded_by_size(module):
        return _through_padded_by_size(module, value)
    shape = (module.kernel_size, module.stride, module.padding)
    return pool(value, *shape, getattr(module, "dilation", 1), module.ceil_mode)


def _through_adaptive(module: Any, value: ReceptiveField) -> Value:
    return average(value, module.output_size)


def _through_padding(module: Any, value: ReceptiveField) -> ReceptiveField:
    return pad(value, module.padding)


def _keep_layer(_module: Any, value: ReceptiveField) -> ReceptiveField:
    return value


def _embed_patches(module: Any, value: ReceptiveField) -> ReceptiveField:
    """Follow timm's cutting into patches: a convolution without overlap, filled up on request."""
    if module.flatten:
        raise ValueError("it lays the map out as a row, without height and width")
    rows, columns = module.patch_size
    filled = module.dynamic_img_pad
    if not filled:
        value = tile(value, rows, columns)
    patches = apply_windows(
        value, Window(rows, rows, ceil_mode=filled), Window(columns, columns, ceil_mode=filled)
    )
    return replace(patches, dims=CHANNELS_LAST) if module.output_fmt == "NHWC" else patches


def _to_tokens(_patches: ReceptiveField) -> None:
    """Leave the map: tokens lie nowhere until they are laid out."""


def _lay_out(_tokens: None, patches: ReceptiveField, _prefix: int) -> ReceptiveField:
    """Put the tokens of a transformer back on their patches, which cover the whole image."""
    return tile(replace(patches, dims=IMAGE_DIMS), 1, 1)


def _through_merging(_module: Any, value: ReceptiveField) -> ReceptiveField:
    return merge_patches(value)


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
    "as_tokens": _to_tokens,
    "avg_pool2d": _average_pool,
    "getitem": _item,
    "lay_out_tokens": _lay_out,
    "layer_norm": check_norm,
    "max_pool2d": pool,
    "pad": pad,
    "permute": _permute,
    "stack": _stack,
    "transpose": _transpose,
}
RULES: dict[Any, Rule] = {
    nn.LayerNorm: _through_norm,
    nn.Linear: _through_linear,
    nn.Conv2d: _through_convolution,
    (nn.MaxPool2d, nn.AvgPool2d): _through_pooling,
    (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d): _through_adaptive,
    (nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d): _through_padding,
}
NAMED: dict[str, Rule] = {
    "timm.layers.drop.DropPath": _keep_layer,
    STOCHASTIC_DEPTH: _keep_layer,
    "timm.layers.patch_embed.PatchEmbed": _embed_patches,
    "timm.models.swin_transformer.PatchMerging": _through_merging,
    "timm.models.swin_transformer.SwinTransformerBlock": _keep_layer,
    "timm.models.swin_transformer_v2.PatchMerging": _through_merging,
    "timm.models.swin_transformer_v2.SwinTransformerV2Block": _keep_layer,
}
