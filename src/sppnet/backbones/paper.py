"""The paper's own trunks from one table: ZF-5, Convnet*-5, Overfeat-5 and Overfeat-7."""

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

WEIGHT_STD = 0.01
COLOURS = 3


@dataclass(frozen=True)
class Convolution:
    """A convolution with its ReLU; its biases all start at one value."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    bias: float = 0.0


@dataclass(frozen=True)
class Normalisation:
    """Local response normalisation, across channels or within each one."""

    across_channels: bool


@dataclass(frozen=True)
class Pooling:
    """A max pooling without padding."""

    kernel: int
    stride: int
    ceil_mode: bool = False


Layer = Convolution | Normalisation | Pooling
WITHIN, ACROSS = Normalisation(across_channels=False), Normalisation(across_channels=True)
# Strides, widths and the places of poolings and normalisations are those of the paper's table 1,
# which leaves the paddings open. ZF-5 is the released network. The paddings of the others give the
# map sizes of the table; their normalisation, its constants and the biases are Krizhevsky's, from
# whose network theirs descend: biases of 1 in the second layer and from the fourth on.
OVERFEAT5: tuple[Layer, ...] = (
    *(Convolution(96, 7, stride=2), Pooling(3, 3), ACROSS),
    *(Convolution(256, 5, padding=2, bias=1.0), Pooling(2, 2)),
    Convolution(512, 3, padding=1),
    *(Convolution(512, 3, padding=1, bias=1.0),) * 2,
)
PAPER_TRUNKS: dict[str, tuple[Layer, ...]] = {
    "zf5": (
        *(Convolution(96, 7, stride=2, padding=1), WITHIN, Pooling(3, 2, ceil_mode=True)),
        *(Convolution(256, 5, stride=2, bias=1.0), WITHIN, Pooling(3, 2, ceil_mode=True)),
        Convolution(384, 3, padding=1),
        Convolution(384, 3, padding=1, bias=1.0),
        Convolution(256, 3, padding=1, bias=1.0),
    ),
    "convnet5": (
        *(Convolution(96, 11, stride=4, padding=2), ACROSS),
        *(Convolution(256, 5, padding=2, bias=1.0), ACROSS, Pooling(3, 2)),
        *(Convolution(384, 3, padding=1), Pooling(3, 2)),
        Convolution(384, 3, padding=1, bias=1.0),
        Convolution(256, 3, padding=1, bias=1.0),
    ),
    "overfeat5": OVERFEAT5,
    "overfeat7": (*OVERFEAT5, *(Convolution(512, 3, padding=1, bias=1.0),) * 2),
}


def build_paper_trunk(name: str) -> nn.Sequential:
    """Build the convolution layers of one of the paper's networks, with new weights.

    Input is BGR, 0..255, minus 128. Every convolution is followed by its ReLU; layers are called
    conv1, relu1, norm1, pool1, conv2 and so on. Weights are drawn from N(0, 0.01).

    Args:
        name: "zf5" (224 pixels give 13 cells, stride 16), "convnet5" (13 cells, stride 16),
            "overfeat5" or "overfeat7" (18 cells, stride 12).

    Returns:
        A module from (N, 3, H, W) to (N, 256 or 512, h, w).

    Raises:
        ValueError: The name is another.

    Example:
        >>> import torch
        >>> build_paper_trunk("overfeat7")(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 512, 18, 18])

    Source:
        Paper, table 1; ZF-5's paddings, ceil mode, normalisation and initial values from the
        released definition; Krizhevsky et al. 2012, sections 3.3 and 5, for what both leave open.
    """
    if name not in PAPER_TRUNKS:
        raise ValueError(f"name must be one of {', '.join(PAPER_TRUNKS)}, got {name!r}")
    trunk, channels, number = nn.Sequential(), COLOURS, 0
    for layer in PAPER_TRUNKS[name]:
        if isinstance(layer, Convolution):
            number += 1
            trunk.add_module(f"conv{number}", _convolution(layer, channels))
            trunk.add_module(f"relu{number}", nn.ReLU(inplace=True))
            channels = layer.channels
        elif isinstance(layer, Normalisation):
            trunk.add_module(f"norm{number}", _normalisation(layer))
        else:
            pooling = nn.MaxPool2d(layer.kernel, layer.stride, ceil_mode=layer.ceil_mode)
            trunk.add_module(f"pool{number}", pooling)
    return trunk


def initialise(layer: nn.Conv2d | nn.Linear, bias: float) -> None:
    """Draw a layer's weights from N(0, 0.01) and set its biases, as all the paper's layers start.

    Example:
        >>> layer = nn.Linear(4, 2)
        >>> initialise(layer, bias=1.0)
        >>> layer.bias.tolist()
        [1.0, 1.0]
    """
    nn.init.normal_(layer.weight, std=WEIGHT_STD)
    nn.init.constant_(layer.get_parameter("bias"), bias)


def _convolution(layer: Convolution, channels_in: int) -> nn.Conv2d:
    convolution = nn.Conv2d(channels_in, layer.channels, layer.kernel, layer.stride, layer.padding)
    initialise(convolution, layer.bias)
    return convolution


def _normalisation(layer: Normalisation) -> nn.Module:
    if not layer.across_channels:
        return WithinChannelNorm()
    # Krizhevsky adds up the squares of 5 channels times 1e-4; torch takes their mean
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)


class WithinChannelNorm(nn.Module):
    """Divides each value by the energy around it in its own channel.

    y = x / (1 + alpha * mean of x^2 over a size x size neighbourhood, zeros outside) ^ beta.
    `nn.LocalResponseNorm` is another layer: it looks across channels. The neighbourhood scales a
    value and moves nothing, so it is left out of the receptive field, as in the paper.

    Args:
        size: Odd side of the neighbourhood, in cells.
        alpha: Weight of the energy.
        beta: Exponent.

    Example:
        >>> import torch
        >>> WithinChannelNorm()(torch.ones(1, 96, 5, 5)).shape
        torch.Size([1, 96, 5, 5])

    Source: within-channel LRN of the authors' Caffe.
    """

    keeps_cells = True  # read by sppnet.backbones.tracing.propagate

    def __init__(self, size: int = 3, alpha: float = 5e-5, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, features: Tensor) -> Tensor:
        """Normalise features (N, C, H, W); the shape stays."""
        energy = F.avg_pool2d(features * features, self.size, stride=1, padding=self.size // 2)
        return features / (1 + self.alpha * energy) ** self.beta
