"""Where the cells of a map lie on the image after each kind of layer.

Attention within windows leaves each cell on its patch: it weighs other cells and moves none.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn
from torchvision.ops import StochasticDepth

from sppnet.backbones.placed import (
    CHANNELS_LAST,
    IMAGE_DIMS,
    Placed,
    Value,
    average,
    check_norm,
    merge_patches,
    pad,
    pool,
    slide,
)
from sppnet.backbones.receptive_field import Window

KEEPS_CELLS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU),
    *(nn.Mish, nn.Softplus, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
    *(nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.LocalResponseNorm),
    *(nn.Dropout, nn.Dropout2d, nn.Identity, StochasticDepth),
)
# These are taken as one layer where a library has its own forms of them.
WHOLE = (
    *(nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d),
    *(nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, StochasticDepth),
)
PADDED_BY_SIZE = "Same"  # how timm ends the names of layers that pad as TensorFlow does


def is_one_layer(module: nn.Module) -> bool:
    """Tell whether a module is followed as one layer, whatever it holds.

    Example:
        >>> is_one_layer(nn.Conv2d(3, 4, 1)), is_one_layer(nn.Sequential())
        (True, False)
    """
    own_rule = _full_name(module) in NAMED or getattr(module, "keeps_cells", False)
    return own_rule or isinstance(module, WHOLE)


def through_module(module: nn.Module, value: Value) -> Value:
    """Place what a module makes of a value.

    Raises:
        ValueError: There is no rule for the module, or it mixes the cells of the whole map.

    Example:
        >>> from sppnet.backbones.receptive_field import Axis
        >>> through_module(nn.Conv2d(3, 8, 4, stride=4), Placed(Axis(), Axis())).x.centre
        1.5
    """
    if not isinstance(value, Placed):
        return value
    named = NAMED.get(_full_name(module))
    if named:
        return named(module, value)
    if isinstance(module, KEEPS_CELLS) or getattr(module, "keeps_cells", False):
        return value
    for kind, rule in RULES.items():
        if isinstance(module, kind):
            return rule(module, value)
    raise ValueError(f"no rule for modules of type {type(module).__name__}")


def _full_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__name__}"


def _through_norm(module: Any, value: Placed) -> Placed:
    """Follow a LayerNorm; those called 2d look across the channels of (N, C, y, x)."""
    if "2d" not in type(module).__name__:
        return check_norm(value, module.normalized_shape)
    if value.dims != IMAGE_DIMS:
        raise ValueError(f"it needs dimensions (n, c, y, x), got {value.dims}")
    return value


def _through_linear(module: Any, value: Placed) -> Placed:
    return check_norm(value, (module.in_features,))


def _through_convolution(module: Any, value: Placed) -> Placed:
    _refuse_padding_by_size(module)
    windows = []
    for axis in (0, 1):
        kernel, dilation = module.kernel_size[axis], module.dilation[axis]
        before, after = _conv_padding(module.padding, axis, dilation * (kernel - 1))
        windows.append(Window(kernel, module.stride[axis], before, after, dilation))
    return slide(value, *windows)


def _refuse_padding_by_size(module: nn.Module) -> None:
    if type(module).__name__.endswith(PADDED_BY_SIZE):
        raise ValueError("its padding, and with it the place of its cells, changes with the image")


def _conv_padding(padding: str | tuple[int, ...], axis: int, reach: int) -> tuple[int, int]:
    """Say how many cells are added before and after; 'same' puts the odd one after."""
    if padding == "same":
        return reach // 2, reach - reach // 2
    if isinstance(padding, str):
        return 0, 0
    return padding[axis], padding[axis]


def _through_pooling(module: Any, value: Placed) -> Placed:
    _refuse_padding_by_size(module)
    shape = (module.kernel_size, module.stride, module.padding)
    return pool(value, *shape, getattr(module, "dilation", 1), module.ceil_mode)


def _through_adaptive(module: Any, value: Placed) -> Value:
    return average(value, module.output_size)


def _through_padding(module: Any, value: Placed) -> Placed:
    return pad(value, module.padding)


def _keep(_module: Any, value: Placed) -> Placed:
    return value


def _embed_patches(module: Any, value: Placed) -> Placed:
    """Follow timm's cutting into patches: a convolution without overlap, filled up on request."""
    if module.flatten:
        raise ValueError("it lays the map out as a row, without height and width")
    rows, columns = module.patch_size
    filled = module.dynamic_img_pad
    patches = slide(
        value, Window(rows, rows, ceil_mode=filled), Window(columns, columns, ceil_mode=filled)
    )
    return replace(patches, dims=CHANNELS_LAST) if module.output_fmt == "NHWC" else patches


def _through_merging(_module: Any, value: Placed) -> Placed:
    return merge_patches(value)


Rule = Callable[[Any, Placed], Value]
RULES: dict[Any, Rule] = {
    nn.LayerNorm: _through_norm,
    nn.Linear: _through_linear,
    nn.Conv2d: _through_convolution,
    (nn.MaxPool2d, nn.AvgPool2d): _through_pooling,
    (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d): _through_adaptive,
    (nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d): _through_padding,
}
NAMED: dict[str, Rule] = {
    "timm.layers.drop.DropPath": _keep,
    "timm.layers.patch_embed.PatchEmbed": _embed_patches,
    "timm.models.swin_transformer.PatchMerging": _through_merging,
    "timm.models.swin_transformer.SwinTransformerBlock": _keep,
    "timm.models.swin_transformer_v2.PatchMerging": _through_merging,
    "timm.models.swin_transformer_v2.SwinTransformerV2Block": _keep,
}
