"""What a network does behind its last map, as layers for pooled rows (N, C)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from sppnet.backbones.registry import Trunk
from sppnet.backbones.tracing.cut import find_name, trace_model
from sppnet.backbones.tracing.propagate import function_name
from sppnet.backbones.tracing.tokens import has_tokens

SIDES = ((2, 3), [2, 3], (1, 2))  # of maps with channels first, with channels last
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU, nn.Tanh)
PASSED = ("flatten", "permute", "contiguous")


@dataclass(frozen=True)
class Head:
    """The classifier of a network that was made for one size of image.

    Args:
        grid: 1 when the map is averaged as a whole; n when the maxima of n x n bins go into fully
            connected layers, as they do at the network's own size.
        layers: From the pooled map (N, C * grid * grid) to logits; they share nothing with the
            network.
    """

    grid: int
    layers: tuple[nn.Module, ...]


def read_head(model: nn.Module, recipe: Trunk) -> Head:
    """Read the pooling of a network's last map and the layers behind it.

    Args:
        model: The whole network in evaluation mode, with its weights.
        recipe: What is known of it.

    Raises:
        ValueError: The network ends in other than one pooling and layers that treat every row by
            itself.

    Example:
        >>> from sppnet.backbones.registry import find_trunk
        >>> recipe = find_trunk("mobilenet_v2")
        >>> read_head(recipe.build().eval(), recipe).layers[-1]
        Linear(in_features=1280, out_features=1000, bias=True)
    """
    try:
        parts = [part for node in _head_nodes(model, recipe) for part in _translate(model, node)]
        pools = [part for part in parts if isinstance(part, int | nn.MaxPool2d)]
        grid = _read_grid(pools, parts[: len(pools)])
    except ValueError as error:
        raise ValueError(
            f"name must be a network with a head that pools once, got {recipe.name!r}: {error}"
        ) from None
    return Head(grid, tuple(parts[len(pools) :]))


def _head_nodes(model: nn.Module, recipe: Trunk) -> Iterator[fx.Node]:
    """Go from the pooled map to the logits, as long as every value is used once."""
    if has_tokens(model):
        raise ValueError("its head reads a row of tokens")
    if recipe.method == "forward_features":  # of timm, where the rest is another method
        graph, _ = trace_model(model, "forward_head")
        node = next(iter(graph.nodes))
    else:
        graph, names = trace_model(model, recipe.method)
        by_name = {name: node for node, name in names.items()}
        node = by_name[find_name(by_name, str(recipe.averaged or recipe.last_layer))]
    while True:
        if len(node.users) != 1:
            raise ValueError(f"{node.name!r} goes {len(node.users)} ways")
        (node,) = node.users
        if node.op == "output":
            return
        yield node


def _read_grid(pools: list[Any], first: list[Any]) -> int:
    """Take one averaging of the whole map, or of cells that a max pooling has brought to a grid."""
    averaged = pools == [1]
    maxima = [isinstance(part, nn.MaxPool2d) for part in pools] == [True, False]
    if pools != first or not (averaged or maxima):
        raise ValueError(f"it pools by {pools or 'nothing'}")
    return int(pools[-1])


def _translate(model: nn.Module, node: fx.Node) -> list[Any]:
    """Turn a call into layers for rows; a number is the side of the grid of a pooling."""
    if node.op == "call_module":
        return _translate_module(model.get_submodule(str(node.target)))
    name = function_name(node)
    arguments: list[Any] = [*node.args[1:], *node.kwargs.values()]
    if name == "mean" and arguments[0] in SIDES:
        return [1]
    if name == "adaptive_avg_pool2d":
        return [_side(arguments[0])]
    if name == "dropout":
        return [nn.Dropout(arguments[0])]
    if name in PASSED:
        return []
    raise ValueError(f"no rule for the function {name}")


def _translate_module(module: Any) -> list[Any]:
    if isinstance(module, nn.Identity | nn.Flatten):
        return []
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return [_side(module.output_size)]
    if isinstance(module, nn.MaxPool2d):
        return [module]
    if isinstance(module, nn.Dropout):
        return [nn.Dropout(module.p)]
    if isinstance(module, ACTIVATIONS):
        return [nn.GELU(module.approximate) if isinstance(module, nn.GELU) else type(module)()]
    if isinstance(module, nn.Linear) or _is_pointwise(module):
        return [_copy_linear(module.weight.flatten(1), module.bias)]
    if isinstance(module, nn.LayerNorm):
        return [_copy_values(nn.LayerNorm(module.normalized_shape, module.eps), module)]
    if isinstance(module, nn.BatchNorm2d):
        norm = _copy_values(nn.BatchNorm1d(module.num_features, module.eps), module)
        return [norm, *(part for inner in module.children() for part in _translate_module(inner))]
    raise ValueError(f"no rule for modules of type {type(module).__name__}")


def _side(size: Any) -> int:
    sides = set(size) if isinstance(size, tuple | list) else {size}
    if len(sides) != 1:
        raise ValueError(f"it pools to {size}")
    return int(sides.pop())


def _is_pointwise(module: Any) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1


@torch.no_grad()
def _copy_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    layer.weight.copy_(weight)
    layer.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return layer


def _copy_values(layer: nn.Module, source: nn.Module) -> nn.Module:
    """Give a layer the values of another with the same names."""
    values = source.state_dict()
    layer.load_state_dict({key: values[key] for key in layer.state_dict()})
    return layer
