"""The networks of timm, by "timm:NAME": which of them take any size, and where their weights are.

timm is asked for when a name begins with "timm:" and not before: it takes seconds to import.
"""

import difflib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from sppnet.backbones.weights import read_weights_file
from sppnet.errors import MissingPackageError, UsageError

PREFIX = "timm:"
WEIGHTS_FILE = "model.safetensors"
NEAREST = 3
WINDOWED = ("swin_", "swinv2_tiny", "swinv2_small", "swinv2_base", "swinv2_large")


@dataclass(frozen=True)
class TimmModel:
    """A network of timm.

    Args:
        name: timm's name, without the prefix.
        build: Makes the whole network with new weights; a ValueError when it fits one size only.
        mean: What its trained weights expect to be taken from each channel.
        std: What they expect each channel to be divided by.
        hub: Repository of the trained weights on the Hugging Face hub; None when there is none.
        attends: It is one of those with windows of attention.
    """

    name: str
    build: Callable[[], nn.Module]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hub: str | None
    attends: bool


def find_timm_model(name: str) -> TimmModel:
    """Look up one of timm's networks.

    Args:
        name: Such as "timm:resnet50", or with timm's tag of the weights, "timm:resnet50.a1_in1k".

    Raises:
        MissingPackageError: timm is not installed.
        ValueError: timm has no such network, or no weights of that tag.

    Example:
        >>> find_timm_model("timm:resnet50.a1_in1k").hub
        'timm/resnet50.a1_in1k'
    """
    timm = _import_timm()
    known = name.removeprefix(PREFIX)
    if not timm.is_model(known):
        nearest = difflib.get_close_matches(known, timm.list_models(), NEAREST)
        hint = f", did you mean {' or '.join(nearest)}" if nearest else ""
        raise ValueError(f"backbone must be a network that timm has, got {name!r}{hint}")
    try:
        settings = timm.get_pretrained_cfg(known)
    except RuntimeError as error:  # another tag of the weights than the network has
        rule = "backbone must have weights of that tag in timm"
        raise ValueError(f"{rule}, got {name!r}: {error}") from None
    windowed = known.startswith(WINDOWED)
    build = _build
    if windowed or settings.fixed_input_size:
        build = _build_windowed if windowed else _build_transformer
    mean, std, hub = settings.mean, settings.std, settings.hf_hub_id
    return TimmModel(known, lambda: build(timm, known), mean, std, hub, windowed)


def _import_timm() -> ModuleType:
    if importlib.util.find_spec("timm") is None:
        raise MissingPackageError("networks of timm need timm: pip install 'sppnet[timm]'")
    import timm  # here, because it takes seconds

    return timm


def _build(timm: Any, name: str) -> nn.Module:
    model: nn.Module = timm.create_model(name, pretrained=False)
    return model


def _build_windowed(timm: Any, name: str) -> nn.Module:
    """Let a Swin take any size: its windows are filled up, and so are the patches at the border."""
    model: Any = timm.create_model(name, pretrained=False, strict_img_size=False)
    model.patch_embed.dynamic_img_pad = True
    return model


def _build_transformer(timm: Any, name: str) -> nn.Module:
    """Let a vision transformer take any size: its positions are interpolated, as timm does it.

    Raises:
        ValueError: timm builds the network for one size only.
    """
    try:
        model: nn.Module = timm.create_model(name, dynamic_img_size=True)
    except TypeError as error:
        if "dynamic_img_size" not in str(error):
            raise
        raise _one_size_error(timm, name) from error  # that class does not know the argument
    if not hasattr(model, "num_prefix_tokens"):  # it knows the argument, but has windows
        raise _one_size_error(timm, name)
    return model


def _one_size_error(timm: Any, name: str) -> ValueError:
    height, width = timm.get_pretrained_cfg(name).input_size[-2:]
    return ValueError(
        f"backbone must take any size, got {PREFIX + name!r}: timm builds it for "
        f"{height} x {width} pixels only, with a table of positions or windows for that size"
    )


def read_timm_weights(name: str, *, download: bool = False) -> dict[str, Tensor]:
    """Read timm's own weights from the local cache of the Hugging Face hub.

    Args:
        name: As for :func:`find_timm_model`.
        download: Fetch the file when it is not there.

    Returns:
        The tensors by timm's key names, floating point ones as float32.

    Raises:
        UsageError: The file is not there and `download` is off, the download fails, or the network
            has no trained weights on the hub.
        UnusableFileError: The file is damaged.
    """
    repository = find_timm_model(name).hub
    if repository is None:
        raise UsageError(f"timm has no trained weights of {name}; give none or a .safetensors file")
    return read_weights_file(_locate_weights(name, repository, download))


def _locate_weights(name: str, repository: str, download: bool) -> Path:
    import huggingface_hub  # comes with timm

    cached = huggingface_hub.try_to_load_from_cache(repository, WEIGHTS_FILE)
    if isinstance(cached, str):
        return Path(cached)
    if not download:
        raise UsageError(
            f"there are no weights of {name} in the cache of the Hugging Face hub (HF_HOME sets "
            f"the folder, {repository} is the repository); --download fetches them "
            "(download=True in Python)"
        )
    try:
        return Path(huggingface_hub.hf_hub_download(repository, WEIGHTS_FILE))
    except Exception as error:  # the hub's client has a class for each of its many failures
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UsageError(f"weights could not be downloaded from {repository}: {reason}") from error
