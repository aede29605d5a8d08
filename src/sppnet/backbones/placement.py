"""Follows a torch.fx graph node by node and says where on the image the cells of each map lie."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from sppnet.backbones.function_rules import through_function
from sppnet.backbones.layer_rules import through_module
from sppnet.backbones.placed import NoPlaceError, Placed, Value
from sppnet.backbones.receptive_field import Axis


def place_nodes(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, Value]:
    """Find for every node of a graph where on the image its cells lie.

    Args:
        model: The module that the graph was traced from.
        graph: Its graph, from images (N, 3, H, W).

    Returns:
        One value for each node; None for what has no place.

    Raises:
        NoPlaceError: A layer moves cells in a way that is not known here; it is named.

    Example:
        >>> trunk = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4))
        >>> values = place_nodes(trunk, fx.symbolic_trace(trunk).graph)
        >>> list(values.values())[-1].y.centre
        1.5
    """
    values: dict[fx.Node, Value] = {}
    for node in graph.nodes:
        values[node] = _place_node(model, node, values)
    return values


def _place_node(model: nn.Module, node: fx.Node, values: Mapping[fx.Node, Value]) -> Any:
    if node.op == "placeholder":
        return Placed(Axis(), Axis())
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
        raise NoPlaceError(f"layer {node.name!r} has no known place: {error}") from None


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
