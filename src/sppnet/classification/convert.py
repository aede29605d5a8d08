"""Makes a trained classifier into one with a pyramid that at first gives the same logits.

What the old network does behind its last map is read from its graph, as layers for pooled rows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from sppnet.backbones.build import build_whole_network, wrap_network
from sppnet.backbones.registry import OWN, Trunk, find_trunk
from sppnet.backbones.tracing.cut import find_name, trace_model
from sppnet.backbones.tracing.propagate import function_name
from sppnet.backbones.tracing.tokens import has_tokens
from sppnet.classification.network import (
    MOST_LAYERS,
    AverageAndPyramid,
    SppNet,
    build_head,
    build_pool,
)
from sppnet.config.fields import LARGEST, Count, restore_fields
from sppnet.pooling import check_levels, num_bins
from sppnet.pooling.bins import DEFAULT_LEVELS

SIDES = ((2, 3), [2, 3], (1, 2))  # of maps with channels first, with channels last
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU, nn.Tanh)
PASSED = ("flatten", "permute", "contiguous")
# Layers that an old classifier may be made of, with the settings that make them again.
LAYERS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "BatchNorm1d": (nn.BatchNorm1d, ("num_features", "eps")),
    "Dropout": (nn.Dropout, ("p",)),
    "GELU": (nn.GELU, ("approximate",)),
    "Hardswish": (nn.Hardswish, ()),
    "LayerNorm": (nn.LayerNorm, ("normalized_shape", "eps")),
    "Linear": (nn.Linear, ("in_features", "out_features")),
    "ReLU": (nn.ReLU, ()),
    "ReLU6": (nn.ReLU6, ()),
    "SiLU": (nn.SiLU, ()),
    "Tanh": (nn.Tanh, ()),
}


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


@dataclass(frozen=True)
class SavedCarriedHead:
    """What `PretrainedPlusPyramidHead.config` writes."""

    kind: str
    carried: list[dict[str, Any]]
    channels: Count
    added_features: Count
    num_classes: Count


class PretrainedPlusPyramidHead(nn.Module):
    """An old classifier for the average of a map, and what the maxima of a pyramid add to it.

    The added weights start at zero, so that at first the logits are those of the old classifier.

    Args:
        carried: From averages (N, channels) to logits.
        channels: Channels of the map.
        added_features: Length of the maxima of all levels.
        num_classes: Outputs.

    Example:
        >>> import torch
        >>> head = PretrainedPlusPyramidHead(nn.Sequential(nn.Linear(8, 3)), 8, 40, 3)
        >>> rows = torch.rand(2, 48)
        >>> torch.equal(head(rows), head.carried(rows[:, :8]))
        True
    """

    def __init__(
        self, carried: nn.Sequential, channels: int, added_features: int, num_classes: int
    ) -> None:
        super().__init__()
        self.channels = channels
        self.carried = carried
        device = torch.get_default_device()  # "meta" while a saved head is restored
        self.added = nn.utils.skip_init(
            nn.Linear, added_features, num_classes, bias=False, device=device
        )
        nn.init.zeros_(self.added.weight)

    def forward(self, rows: Tensor) -> Tensor:
        """Turn rows of `AverageAndPyramid` into (N, num_classes) logits."""
        average, maxima = rows.split([self.channels, self.added.in_features], dim=1)
        logits: Tensor = self.carried(average) + self.added(maxima)
        return logits

    def config(self) -> dict[str, Any]:
        """Describe the head in JSON values.

        Raises:
            TypeError: A layer of the old classifier is none of `LAYERS`.

        Example:
            >>> head = PretrainedPlusPyramidHead(nn.Sequential(nn.Dropout(0.2)), 3, 12, 3)
            >>> head.config()["carried"]
            [{'layer': 'Dropout', 'p': 0.2}]
        """
        return {
            "kind": "carried",
            "carried": [_describe_layer(layer) for layer in self.carried],
            "channels": self.channels,
            "added_features": self.added.in_features,
            "num_classes": self.added.out_features,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PretrainedPlusPyramidHead":
        """Make the head that was described; the weights of the old classifier are new ones.

        Raises:
            ValueError: The description is not one of `config`.
        """
        saved = restore_fields(SavedCarriedHead, config, "head")
        if len(saved.carried) > MOST_LAYERS:
            raise ValueError(f"head.carried must be at most {MOST_LAYERS} layers")
        layers = [_restore_layer(layer) for layer in saved.carried]
        return cls(nn.Sequential(*layers), saved.channels, saved.added_features, saved.num_classes)


def _describe_layer(layer: nn.Module) -> dict[str, Any]:
    name = type(layer).__name__
    if LAYERS.get(name, (None,))[0] is not type(layer):
        raise TypeError(f"layers must be of {', '.join(LAYERS)}, got {name}")
    values = {key: getattr(layer, key) for key in LAYERS[name][1]}
    return {"layer": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}


def _restore_layer(settings: dict[str, Any]) -> nn.Module:
    """Make a layer; its fields are those of `LAYERS`, no more and no fewer."""
    kind, keys = LAYERS.get(str(settings.get("layer")), (None, ()))
    if kind is None:
        raise ValueError(f"a layer must be of {', '.join(LAYERS)}, got {settings.get('layer')!r}")
    if settings.keys() != {"layer", *keys}:
        raise ValueError(f"a {settings['layer']} must have the fields {', '.join(keys)}")
    for key in keys:
        if not _SETTINGS[key](settings[key]):
            raise ValueError(f"{key} of a {settings['layer']} is wrong, got {settings[key]!r:.60}")
    return kind(**{key: settings[key] for key in keys})


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


_SETTINGS: dict[str, Callable[[Any], bool]] = {  # what the settings of `LAYERS` may be
    "num_features": _is_count,
    "in_features": _is_count,
    "out_features": _is_count,
    "p": _is_share,
    "eps": _is_share,
    "approximate": lambda value: value in ("none", "tanh"),
    "normalized_shape": lambda value: isinstance(value, list) and all(map(_is_count, value)),
}


def convert_classifier(
    name: str,
    weights: str | Path = "DEFAULT",
    levels: Sequence[int] = DEFAULT_LEVELS,
    download: bool = False,
) -> SppNet:
    """Convert a network of torchvision or timm, classifier and all; the new weights start at zero.

    A network that averages its last map keeps its classifier on an averaging level in front of the
    pyramid, and gives the logits that it gave at any size. AlexNet and VGG, whose fully connected
    layers fit one size only, get their maxima from a 6 x 6 or 7 x 7 level, which is added when the
    pyramid has none; they give the same logits at 224 pixels, and logits at every other size.

    Args:
        name: A network of torchvision, EfficientNet-lite or "timm:NAME".
        weights: As in `build_backbone`.
        levels: Bins along each side of the pyramid, one number per level.
        download: As in `build_backbone`.

    Returns:
        A network for images of any size, RGB 0..1, in evaluation mode.

    Raises:
        ValueError: There is no such network, or it does not end in one pooling and plain layers.
        UsageError: As in `build_backbone`.
        UnusableFileError: As in `build_backbone`.

    Example:
        >>> network = convert_classifier("squeezenet1_1", "none", levels=(1, 2))
        >>> network(torch.rand(1, 3, 100, 70)).shape
        torch.Size([1, 1000])
    """
    recipe = find_trunk(name)
    if name in OWN and recipe.packaged is None:
        raise ValueError(f"name must be a network with a trained classifier, got {name!r}")
    model = build_whole_network(name, weights, download=download)
    head = read_head(model, recipe)
    backbone = wrap_network(name, model, layer=recipe.averaged)
    convert = _carry_average if head.grid == 1 else _carry_grid
    pool, new_head = convert(head, backbone.channels, check_levels(levels))
    return SppNet(backbone, pool, new_head).eval()


def _carry_average(
    head: Head, channels: int, levels: tuple[int, ...]
) -> tuple[nn.Module, nn.Module]:
    """Put the old classifier on the averages and nothing yet on the maxima."""
    carried = nn.Sequential(*head.layers)
    with torch.no_grad():
        num_classes = carried.eval()(torch.zeros(1, channels)).shape[1]
    new_head = PretrainedPlusPyramidHead(
        carried, channels, channels * num_bins(levels), num_classes
    )
    return AverageAndPyramid(levels), new_head


@torch.no_grad()
def _carry_grid(head: Head, channels: int, levels: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """Put the old fully connected layers on the level with their grid, zeros on the others."""
    levels = levels if head.grid in levels else (*levels, head.grid)
    old = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    dropout = next(layer.p for layer in head.layers if isinstance(layer, nn.Dropout))
    widths = [layer.out_features for layer in old]
    with torch.device("meta"):
        new_head = build_head(channels * num_bins(levels), widths[-1], widths[:-1], dropout=dropout)
    new_head.to_empty(device="cpu")
    new = [layer for layer in new_head if isinstance(layer, nn.Linear)]
    for layer, source in zip(new[1:], old[1:], strict=True):
        layer.weight.copy_(source.weight)
    for layer, source in zip(new, old, strict=True):
        layer.bias.copy_(source.bias)
    start = channels * num_bins(levels[: levels.index(head.grid)])
    nn.init.zeros_(new[0].weight)
    new[0].weight[:, start : start + old[0].in_features] = old[0].weight
    return build_pool("spp", levels), new_head
