"""Traces a model with torch.fx, names its nodes, and cuts off what lies behind the wanted map."""

from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torchvision.ops import StochasticDepth

from sppnet.backbones.layer_rules import Placed
from sppnet.backbones.placement import function_name, place_nodes

LISTED_DEPTH = 2


class _TrunkTracer(fx.Tracer):
    """Keeps the modules whole that behave differently in training, and those that keep cells."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = isinstance(m, StochasticDepth) or getattr(m, "keeps_cells", False)
        return whole or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class Cut:
    """A trunk that ends in the wanted map, and where the cells of that map lie."""

    trunk: fx.GraphModule
    node: str
    map: Placed


def cut_model(model: nn.Module, default_layer: str, layer: str | None = None) -> Cut:
    """Keep of a model what leads from the image to one map.

    Args:
        model: A convolution network; its weights may lie on the meta device.
        default_layer: Name of the last map that may be chosen.
        layer: Name of an earlier node or module, such as "layer3" or "features.9", or the beginning
            of one: the last node inside it is taken. None takes `default_layer`.

    Returns:
        The trunk (its parameters are the model's own), the node's full name and its place.

    Raises:
        ValueError: No node has that name, or its output is not a map with a known place.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten())
        >>> cut = cut_model(model, default_layer="1")
        >>> cut.node, cut.map.x.stride
        ('1', 2)
    """
    tracer = _TrunkTracer()
    graph = tracer.trace(model)
    names = _name_nodes(graph, tracer)
    _end_graph(graph, _find_node(names, default_layer))
    names = {node: name for node, name in names.items() if node in set(graph.nodes)}
    chosen = _find_node(names, layer or default_layer)
    places = place_nodes(model, graph)
    place = places[chosen]
    if not isinstance(place, Placed) or not place.is_map():
        raise ValueError(f"layer must name a map (N, C, H, W), got {layer!r}: {_list_legal(names)}")
    _end_graph(graph, chosen)
    return Cut(fx.GraphModule(model, graph), names[chosen], place)


def _name_nodes(graph: fx.Graph, tracer: fx.Tracer) -> dict[fx.Node, str]:
    """Name every node by its module and what it calls; repeated names are numbered."""
    names: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op.startswith("call_"):
            path = tracer.node_name_to_scope[node.name][0]
            inner = [] if node.op == "call_module" else [function_name(node)]
            names[node] = _number(".".join([*([path] if path else []), *inner]), names)
    return names


def _number(name: str, taken: dict[fx.Node, str]) -> str:
    used, count = set(taken.values()), 1
    numbered = name
    while numbered in used:
        numbered, count = f"{name}_{count}", count + 1
    return numbered


def _find_node(names: dict[fx.Node, str], layer: str) -> fx.Node:
    """Take the last node of that name or inside the module of that name."""
    inside = [n for n, name in names.items() if name == layer or name.startswith(layer + ".")]
    if not inside:
        raise ValueError(
            f"layer must be one that the trunk has, got {layer!r}: {_list_legal(names)}"
        )
    return inside[-1]


def _list_legal(names: dict[fx.Node, str]) -> str:
    """List the names down to the second level, in the order of the network."""
    starts: dict[str, Any] = {}
    for name in names.values():
        parts = name.split(".")
        for depth in range(1, min(LISTED_DEPTH, len(parts)) + 1):
            starts.setdefault(".".join(parts[:depth]))
    return f"legal are {', '.join(starts)}, and the names inside them"


def _end_graph(graph: fx.Graph, last: fx.Node) -> None:
    """Let the graph return one node, and take out all that is not needed for it."""
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = (last,)
    for node in reversed(list(graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
