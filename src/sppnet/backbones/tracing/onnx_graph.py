"""Writes a traced trunk of convolutions as ONNX: one operator for each of its layers.

torch's own exporters take seconds, need onnxscript, and know far more than a trunk has; this one
takes milliseconds, so that a model can be opened anew in every process. A layer without a rule here
is refused, never guessed.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn

from sppnet.backbones.tracing.propagate import STOCHASTIC_DEPTH, full_name

if TYPE_CHECKING:
    import onnx

OPSET = 17
IR_VERSION = 8  # of that opset; every onnxruntime since 1.12 reads it
IMAGES = "images"
SIX = torch.tensor(6.0, device="cpu")


class UnknownLayerError(ValueError):
    """A trunk has a layer that this writer has no rule for."""


@dataclass
class TrunkGraph:
    """The operators of a trunk, and the tensors that they need; nothing is copied yet.

    Args:
        wanted: Names, in the traced graph, of the maps that it gives.
        nodes: Operators in the order in which they run.
        constants: Weights by name.
        outputs: For each wanted map the name that it has in ONNX.
    """

    wanted: tuple[str, ...]
    nodes: list["onnx.NodeProto"] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, *inputs: "str | Tensor | None", **attributes: Any) -> str:
        """Append an operator; returns the name of what it gives.

        Args:
            kind: Of ONNX.
            inputs: Names of values, weights, or None for one at the end that is left out.
            attributes: Of the operator.
        """
        from onnx import helper

        # an empty name in place of a bias would keep onnxruntime from folding normalisations
        names = [self._name(value) for value in inputs if value is not None]
        result = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [result], **attributes))
        return result

    def _name(self, value: "str | Tensor") -> str:
        if isinstance(value, str):
            return value
        name = f"c{len(self.constants)}"
        self.constants[name] = value
        return name

    def to_bytes(self) -> bytes:
        """Write the file, with the weights in it.

        Returns:
            An ONNX model from ``images`` (N, 3, H, W) to the wanted maps, N, H and W free.
        """
        from onnx import TensorProto, helper, numpy_helper

        kept = list(dict.fromkeys(self.outputs[name] for name in self.wanted))
        graph = helper.make_graph(
            self.nodes,
            "trunk",
            [helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, ["n", 3, "h", "w"])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in kept],
            [
                numpy_helper.from_array(tensor.detach().contiguous().numpy(), name)
                for name, tensor in self.constants.items()
            ],
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
        data: bytes = model.SerializeToString()
        return data


def write_trunk(
    trunk: fx.GraphModule, wanted: Sequence[str], *, as_made: bool = True
) -> TrunkGraph:
    """Translate a trunk, up to the maps that are wanted.

    Layers that work in place are followed: who reads a map after one of them gets the new values,
    as in torch.

    Args:
        trunk: As :func:`sppnet.backbones.tracing.cut.cut_model` makes it.
        wanted: Names of nodes of its graph.
        as_made: Whether a wanted map is given as it was made, or else as it is at the end.

    Returns:
        The graph; its weights are the trunk's own until it is written.

    Raises:
        UnknownLayerError: A layer has no rule here, or is used in a way that has none.

    Example:
        >>> trunk = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
        >>> [node.op_type for node in write_trunk(trunk, ["_1"]).nodes]
        ['Conv', 'Relu']
    """
    graph = TrunkGraph(tuple(wanted))
    names: dict[fx.Node, str] = {}
    for node in _needed(trunk.graph, wanted):
        if node.op == "placeholder":
            names[node] = IMAGES
            continue
        layer, rule = _find_rule(trunk, node)
        names[node] = _apply(rule, graph, layer, node, names)
        graph.outputs[node.name] = names[node]
        if _in_place(layer, node):
            before = names[node.all_input_nodes[0]]
            names = {key: names[node] if name == before else name for key, name in names.items()}
    if not as_made:
        graph.outputs = {node.name: name for node, name in names.items()}
    return graph


def _needed(graph: fx.Graph, wanted: Sequence[str]) -> list[fx.Node]:
    """The nodes up to the last wanted one, in order."""
    nodes = [node for node in graph.nodes if node.op != "output"]
    last = max(index for index, node in enumerate(nodes) if node.name in wanted)
    return nodes[: last + 1]


def _find_rule(trunk: fx.GraphModule, node: fx.Node) -> tuple[Any, "Rule"]:
    """Find the layer or function of a node, and its rule."""
    if node.op == "call_module":
        layer: Any = trunk.get_submodule(str(node.target))
        rule = LAYERS.get(type(layer)) or NAMED_LAYERS.get(full_name(layer))
        called = type(layer).__name__
    else:
        layer = node.target
        rule = FUNCTIONS.get(layer) if node.op == "call_function" else None
        called = getattr(layer, "__name__", str(layer))
    if rule is None:
        raise UnknownLayerError(f"there is no rule for {called}")
    return layer, rule


def _apply(
    rule: "Rule", graph: TrunkGraph, layer: Any, node: fx.Node, names: dict[fx.Node, str]
) -> str:
    """Run a rule on the arguments of a node, with names in place of nodes."""
    arguments = fx.map_arg(node.args, names.__getitem__)
    options = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    try:
        return rule(graph, layer, *arguments, **options)
    except TypeError as error:
        raise UnknownLayerError(f"there is no rule for this use of {node.name}") from error


def _in_place(layer: Any, node: fx.Node) -> bool:
    """Tell a layer that changes what it is given."""
    inplace = node.kwargs.get("inplace", getattr(layer, "inplace", False))
    return bool(inplace) or layer in (operator.iadd, operator.imul)


def _require(fits: bool, layer: nn.Module) -> None:
    if not fits:
        raise UnknownLayerError(f"there is no rule for {layer}")


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _convolution(graph: TrunkGraph, layer: nn.Conv2d, x: str) -> str:
    _require(layer.padding_mode == "zeros" and not isinstance(layer.padding, str), layer)
    return graph.add(
        "Conv",
        *(x, layer.weight, layer.bias),
        strides=list(layer.stride),
        pads=2 * list(layer.padding),
        dilations=list(layer.dilation),
        group=layer.groups,
    )


def _normalisation(graph: TrunkGraph, layer: nn.BatchNorm2d, x: str) -> str:
    learnt = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    _require(all(each is not None for each in learnt), layer)
    return graph.add("BatchNormalization", x, *learnt, epsilon=layer.eps)


def _max_pooling(graph: TrunkGraph, layer: nn.MaxPool2d, x: str) -> str:
    _require(not layer.return_indices, layer)
    window = {"dilations": _pair(layer.dilation), "ceil_mode": int(layer.ceil_mode)}
    return graph.add("MaxPool", x, **_window(layer), **window)


def _mean_pooling(graph: TrunkGraph, layer: nn.AvgPool2d, x: str) -> str:
    _require(not layer.ceil_mode and layer.divisor_override is None, layer)
    count = {"count_include_pad": int(layer.count_include_pad)}
    return graph.add("AveragePool", x, **_window(layer), **count)


def _window(layer: Any) -> dict[str, list[int]]:
    kernel, stride, padding = map(_pair, (layer.kernel_size, layer.stride, layer.padding))
    return {"kernel_shape": kernel, "strides": stride, "pads": 2 * padding}


def _global_mean(graph: TrunkGraph, layer: nn.AdaptiveAvgPool2d, x: str) -> str:
    _require(layer.output_size in (1, (1, 1)), layer)
    return graph.add("GlobalAveragePool", x)


def _pad_zeros(graph: TrunkGraph, layer: nn.ZeroPad2d, x: str) -> str:
    return _pad(graph, F.pad, x, layer.padding, "constant", 0.0)


def _pad(
    graph: TrunkGraph, _: Any, x: str, sides: Sequence[int], mode: str, value: float | None = None
) -> str:
    if mode != "constant":
        raise UnknownLayerError(f"there is no rule for padding by {mode}")
    left, right, top, bottom = sides
    pads = torch.tensor([0, 0, top, left, 0, 0, bottom, right], device="cpu")
    return graph.add("Pad", x, pads, torch.tensor(float(value or 0), device="cpu"), mode="constant")


def _silu(graph: TrunkGraph, _: Any, x: str) -> str:
    return graph.add("Mul", x, graph.add("Sigmoid", x))


def _join(graph: TrunkGraph, _: Any, maps: Iterable[str], dim: int = 0) -> str:
    return graph.add("Concat", *maps, axis=dim)


def _same(graph: TrunkGraph, _: Any, x: str) -> str:  # noqa: ARG001 - every rule is called alike
    return x


def _of(kind: str, *constants: Tensor | None, **attributes: Any) -> "Rule":
    """A rule for a layer that is one operator of one map."""
    return lambda graph, _, x: graph.add(kind, x, *constants, **attributes)


def _of_two(kind: str) -> "Rule":
    """A rule for a function that is one operator of two maps."""

    def rule(graph: TrunkGraph, _: Any, a: Any, b: Any) -> str:
        if not (isinstance(a, str) and isinstance(b, str)):
            raise UnknownLayerError(f"there is no rule for {kind} with a number")
        return graph.add(kind, a, b)

    return rule


Rule = Callable[..., str]
RELU = _of("Relu")
LAYERS: dict[type, Rule] = {
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _normalisation,
    nn.ReLU: RELU,
    nn.ReLU6: _of("Clip", torch.zeros((), device="cpu"), SIX),
    nn.SiLU: _silu,
    nn.Sigmoid: _of("Sigmoid"),
    nn.Hardswish: _of("HardSwish"),
    nn.Hardsigmoid: _of("HardSigmoid", alpha=1 / 6, beta=0.5),
    nn.MaxPool2d: _max_pooling,
    nn.AvgPool2d: _mean_pooling,
    nn.AdaptiveAvgPool2d: _global_mean,
    nn.ZeroPad2d: _pad_zeros,
    nn.Identity: _same,
    nn.Dropout: _same,
}
NAMED_LAYERS: dict[str, Rule] = {STOCHASTIC_DEPTH: _same}
FUNCTIONS: dict[Any, Rule] = {
    operator.add: _of_two("Add"),
    operator.iadd: _of_two("Add"),
    torch.add: _of_two("Add"),
    operator.mul: _of_two("Mul"),
    operator.imul: _of_two("Mul"),
    torch.mul: _of_two("Mul"),
    torch.cat: _join,
    torch.relu: RELU,
    F.relu: RELU,
    F.pad: _pad,
}
