"""Traces a model with torch.fx, names its nodes, and cuts off what lies behind the wanted map."""

import copy
import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch.nn.functional as F  # noqa: N812
from torch import fx, nn

from sppnet.backbones.tracing.propagate import (
    fixed_padding,
    function_name,
    is_one_layer,
    is_padded_by_size,
    propagate_receptive_fields,
)
from sppnet.backbones.tracing.receptive_field import (
    CHANNELS_LAST,
    JOIN,
    NoReceptiveFieldError,
    ReceptiveField,
    Value,
    join_fields,
    join_maps,
    join_places,
)
from sppnet.backbones.tracing.tokens import (
    TokenTracer,
    has_tokens,
    is_layout,
    lay_out_blocks,
    rotations_as_layer,
)

LISTED_DEPTH = 2
TO_CHANNELS_FIRST = (0, 3, 1, 2)


class _TrunkTracer(fx.Tracer):
    """Keeps the modules whole that behave differently in training, and those with their own rule.

    Args:
        method: The method of the model to follow.
    """

    def __init__(self, method: str) -> None:
        super().__init__()
        self.traced_func_name = method

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_one_layer(m) or super().is_leaf_module(m, module_qualified_name)


class TrunkModule(fx.GraphModule):
    """A traced trunk whose copies from a pickle have the same nodes, layers and names.

    torch would trace the program of the graph once more: nodes get other names then, and functions
    that are one step here are taken apart.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        own = nn.Module().__dict__.keys()
        state = {name: value for name, value in self.__dict__.items() if name in own}
        return restore_trunk, (_write_graph(self.graph), state)


@dataclass(frozen=True)
class _NodeName:
    """A node of a graph, among the arguments of another."""

    name: str


def _name_node(node: fx.Node) -> Any:
    return _NodeName(node.name)


GraphRow = tuple[str, str, Any, Any, Any]


def _write_graph(graph: fx.Graph) -> list[GraphRow]:
    """Write every node down: what it does, its name, what it calls and its arguments."""
    rows: list[GraphRow] = []
    for node in graph.nodes:
        both: Any = (node.args, node.kwargs)
        inputs: Any = fx.node.map_arg(both, _name_node)
        rows.append((node.op, node.name, node.target, *inputs))
    return rows


def restore_trunk(rows: Sequence[GraphRow], state: dict[str, Any]) -> TrunkModule:
    """Make a trunk of its graph, as a pickle holds it, and of the state of its module.

    Example:
        >>> image = ("placeholder", "x", "x", (), {})
        >>> rows = [image, ("output", "output", "output", (_NodeName("x"),), {})]
        >>> restore_trunk(rows, {})("unchanged")
        'unchanged'
    """
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def find(value: Any) -> Any:
        return nodes[value.name] if isinstance(value, _NodeName) else value

    for op, name, target, *inputs in rows:
        args, kwargs = fx.node.map_aggregate(tuple(inputs), find)
        nodes[name] = graph.create_node(op, target, args, kwargs, name=name)
    root = nn.Module()
    root.__dict__.update(state)
    trunk = TrunkModule(root, graph)
    trunk.__dict__.update(state)
    return trunk


@dataclass(frozen=True)
class Cut:
    """A trunk that ends in the wanted map, and where the cells of that map lie.

    Args:
        trunk: From images to the map, (N, C, h, w).
        node: Full name of the map's node.
        map: Where its cells lie.
        names: Every node of the trunk by its full name, in order.
        maps: The names in the graph of those nodes that are maps, with the order of their
            dimensions.
        joined: Where the cells of each layer lie that the map was joined of; empty for one layer.
    """

    trunk: fx.GraphModule
    node: str
    map: ReceptiveField
    names: Mapping[str, str]
    maps: Mapping[str, tuple[str, ...]]
    joined: tuple[ReceptiveField, ...] = ()


def cut_model(
    model: nn.Module,
    default_layer: str | None,
    layer: str | None = None,
    *,
    end: str | None = None,
    method: str = "forward",
) -> Cut:
    """Keep of a model what leads from the image to one map.

    Args:
        model: A convolution network; its weights may lie on the meta device.
        default_layer: Name of the usual last map; None is what `method` returns.
        layer: Name of another node or module, such as "layer3" or "features.9", or the beginning
            of one: the last node inside it is taken. Several names with "+" between them join
            their maps. None takes `default_layer`.
        end: Name of the last map that may be chosen, where it is not `default_layer`.
        method: The method of the model to follow.

    Returns:
        The trunk (its parameters are the model's own), the node's full name and its field.

    Raises:
        ValueError: No node has that name, or its output is not a map.
        NoReceptiveFieldError: The model moves cells in a way that is not known.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten())
        >>> cut = cut_model(model, default_layer="1")
        >>> cut.node, cut.map.x.stride
        ('1', 2)
    """
    graph, names = trace_model(model, method)
    _end_graph(graph, _choose_node(graph, names, end or default_layer))
    names = {node: name for node, name in names.items() if node in set(graph.nodes)}
    parts = layer.split(JOIN) if layer else [default_layer]
    chosen = [_choose_node(graph, names, part) for part in parts]
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"layer must join different maps, got {layer!r}")
    fields = propagate_receptive_fields(model, graph)
    found = [_check_map(fields[node], layer, names) for node in chosen]
    last = max(chosen, key=list(graph.nodes).index)
    maps = _maps_before(last, fields)
    _end_graph(graph, *chosen)
    maps_first = [
        _permute(graph, node) if field.dims == CHANNELS_LAST else node
        for node, field in zip(chosen, found, strict=True)
    ]
    joined = len(chosen) > 1
    output_of(graph).args = (_join(graph, maps_first, found) if joined else maps_first[0],)
    in_graph = {name: node.name for node, name in names.items() if node in set(graph.nodes)}
    node = JOIN.join(names[each] for each in chosen)
    field = join_fields(found) if joined else found[0]
    of_layers = tuple(found) if joined else ()
    trunk = TrunkModule(model, graph)
    _fix_paddings(trunk)
    return Cut(trunk, node, field, in_graph, maps, of_layers)


def _check_map(value: Value, layer: str | None, names: Mapping[fx.Node, str]) -> ReceptiveField:
    """Refuse what is not a map."""
    if not isinstance(value, ReceptiveField) or not value.is_map():
        legal = _list_legal(names.values())
        raise ValueError(f"layer must name a map (N, C, H, W), got {layer!r}: {legal}")
    return value


def _fix_paddings(trunk: fx.GraphModule) -> None:
    """Pad before layers with TensorFlow's padding, which is the same at every size of a trunk.

    The layers themselves work it out from the size of each map, which exporters cannot follow.
    """
    found = [(node, _module_of(trunk, node)) for node in trunk.graph.nodes]
    for node, module in found:
        if module is None or not is_padded_by_size(module):
            continue
        (top, bottom), (left, right) = fixed_padding(module)
        value = -math.inf if isinstance(module, nn.MaxPool2d) else 0.0
        with trunk.graph.inserting_before(node):
            arguments = (node.args[0], [left, right, top, bottom], "constant", value)
            node.args = (trunk.graph.call_function(F.pad, arguments), *node.args[1:])
        trunk.set_submodule(str(node.target), _without_padding(module))
    trunk.recompile()


def _module_of(trunk: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return trunk.get_submodule(str(node.target)) if node.op == "call_module" else None


def _without_padding(module: Any) -> nn.Module:
    """Copy a layer with TensorFlow's padding, without it; the weights are the same tensors."""
    if hasattr(module, "same_pad"):
        layer = copy.copy(module)
        layer.same_pad = False
        return layer
    shape = (module.kernel_size, module.stride)
    if isinstance(module, nn.MaxPool2d):
        return nn.MaxPool2d(*shape, dilation=module.dilation)
    if isinstance(module, nn.AvgPool2d):
        return nn.AvgPool2d(*shape, count_include_pad=module.count_include_pad)
    channels = (module.in_channels, module.out_channels)
    dilation, groups = module.dilation, module.groups
    layer = nn.Conv2d(*channels, *shape, 0, dilation, groups, bias=False, device="meta")
    layer.weight, layer.bias = module.weight, module.bias
    return layer


def trace_model(model: nn.Module, method: str) -> tuple[fx.Graph, dict[fx.Node, str]]:
    """Follow a method of a model, and name every call by its module and what it calls.

    Repeated names are numbered. Arguments with a default value keep it.

    Raises:
        NoReceptiveFieldError: The way through the model depends on the size of the image.

    Example:
        >>> graph, names = trace_model(nn.Sequential(nn.ReLU(), nn.Flatten()), "forward")
        >>> list(names.values())
        ['0', '1']
    """
    tokens = method == "forward_features" and has_tokens(model)
    tracer = TokenTracer(model) if tokens else _TrunkTracer(method)
    parameters = inspect.signature(getattr(model, method)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    try:
        with rotations_as_layer(model) if tokens else nullcontext():
            graph = tracer.trace(model, concrete_args=defaults or None)
    except fx.proxy.TraceError as error:
        raise NoReceptiveFieldError(f"it cannot be followed layer by layer: {error}") from error
    _erase_unused(graph)
    names = _name_nodes(graph, tracer)
    if tokens:
        names = lay_out_blocks(graph, names, int(cast(int, model.num_prefix_tokens)))
    return graph, names


def _maps_before(last: fx.Node, fields: Mapping[fx.Node, Value]) -> dict[str, tuple[str, ...]]:
    """Say which nodes up to one are maps, and which dimension is which."""
    nodes = list(fields)
    until = nodes[: nodes.index(last) + 1]
    fields_by_name = {node.name: fields[node] for node in until if node.op.startswith("call_")}
    return {
        name: field.dims
        for name, field in fields_by_name.items()
        if isinstance(field, ReceptiveField) and field.is_map()
    }


def _name_nodes(graph: fx.Graph, tracer: fx.Tracer) -> dict[fx.Node, str]:
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


def _choose_node(graph: fx.Graph, names: dict[fx.Node, str], layer: str | None) -> fx.Node:
    """Take the last node of that name or inside the module of that name; None is the output."""
    if layer is None:
        return output_of(graph).all_input_nodes[0]
    by_name = {name: node for node, name in names.items()}
    return by_name[find_name(by_name, layer)]


def find_name(names: Iterable[str], layer: str) -> str:
    """Take the last name that is a layer's, or lies inside the module of that name.

    Raises:
        ValueError: There is none; the legal ones are listed.

    Example:
        >>> find_name(["conv1", "layer1.0.conv1", "layer1.0.relu"], "layer1")
        'layer1.0.relu'
    """
    inside = [name for name in names if name == layer or name.startswith(layer + ".")]
    if not inside:
        raise ValueError(
            f"layer must be one that the trunk has, got {layer!r}: {_list_legal(names)}"
        )
    return inside[-1]


def output_of(graph: fx.Graph) -> fx.Node:
    """Return the node that ends a graph.

    Example:
        >>> output_of(fx.symbolic_trace(nn.ReLU()).graph).op
        'output'
    """
    return next(node for node in reversed(graph.nodes) if node.op == "output")


def _list_legal(names: Iterable[str]) -> str:
    """List the names down to the second level, in the order of the network."""
    starts: dict[str, Any] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, min(LISTED_DEPTH, len(parts)) + 1):
            starts.setdefault(".".join(parts[:depth]))
    return f"legal are {', '.join(starts)}, and the names inside them"


def _end_graph(graph: fx.Graph, *last: fx.Node) -> None:
    """Let the graph return some nodes, and take out all that is not needed for them."""
    output_of(graph).args = last if len(last) == 1 else (tuple(last),)
    for node in reversed(list(graph.nodes)):
        if node in last:
            break
        if node.op != "output":
            graph.erase_node(node)
    _erase_unused(graph)


def _erase_unused(graph: fx.Graph) -> None:
    """Take out what no result depends on: checks of sizes, arguments left at their default."""
    images = next(iter(graph.nodes))
    for node in reversed(list(graph.nodes)):
        needed = node.users or node is images or node.op == "output"
        if not (needed or is_layout(node) or _is_in_place(node)):
            graph.erase_node(node)


def _is_in_place(node: fx.Node) -> bool:
    """Tell a call that changes what it is given: it counts although nobody reads its result."""
    called = node.op in ("call_function", "call_method") and function_name(node)
    return bool(called) and str(called).endswith("_") and not str(called).endswith("__")


def _permute(graph: fx.Graph, last: fx.Node) -> fx.Node:
    """Bring the channels of a channels-last map to the front."""
    with graph.inserting_before(output_of(graph)):
        return graph.call_method("permute", (last, *TO_CHANNELS_FIRST))


def _join(graph: fx.Graph, maps: list[fx.Node], fields: list[ReceptiveField]) -> fx.Node:
    """Put maps side by side, on the cells of the finest of them."""
    with graph.inserting_before(output_of(graph)):
        return graph.call_function(join_maps, (tuple(maps), join_places(fields)))
