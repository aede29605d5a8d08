"""ZF-5, the trunk of the released SPP-net detector, layer for layer."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

CONV_STD = 0.01
CONV_BIASES = {"conv1": 0.0, "conv2": 1.0, "conv3": 0.0, "conv4": 1.0, "conv5": 1.0}


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
        >>> WithinChannelNorm()(torch.ones(1, 96, 5, 5)).shape
        torch.Size([1, 96, 5, 5])

    Source: spp-net.md 2.2, within-channel LRN of the authors' Caffe.
    """

    keeps_cells = True  # read by sppnet.backbones.layer_rules

    def __init__(self, size: int = 3, alpha: float = 5e-5, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, features: Tensor) -> Tensor:
        """Normalise features (N, C, H, W); the shape stays."""
        energy = F.avg_pool2d(features * features, self.size, stride=1, padding=self.size // 2)
        return features / (1 + self.alpha * energy) ** self.beta


def build_zf5_trunk() -> nn.Sequential:
    """Build the five convolution layers of ZF-5, with new weights drawn from N(0, 0.01).

    Input is BGR, 0..255, minus 128. 224 pixels give 110, 55, 26 and 13 cells; stride 16, cell 0 on
    pixel 20. The layer order is convolution, ReLU, normalisation, pooling; poolings round up.

    Returns:
        A module from (N, 3, H, W) to (N, 256, h, w).

    Example:
        >>> build_zf5_trunk()(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 256, 13, 13])

    Source: paper table 1; paddings, ceil mode and initial values from the released definition.
    """
    trunk = nn.Sequential()
    _add_convolution(trunk, 1, nn.Conv2d(3, 96, 7, stride=2, padding=1))
    trunk.add_module("norm1", WithinChannelNorm())
    trunk.add_module("pool1", nn.MaxPool2d(3, stride=2, ceil_mode=True))
    _add_convolution(trunk, 2, nn.Conv2d(96, 256, 5, stride=2))
    trunk.add_module("norm2", WithinChannelNorm())
    trunk.add_module("pool2", nn.MaxPool2d(3, stride=2, ceil_mode=True))
    for number, (channels_in, channels) in enumerate([(256, 384), (384, 384), (384, 256)], start=3):
        _add_convolution(trunk, number, nn.Conv2d(channels_in, channels, 3, padding=1))
    _initialise(trunk)
    return trunk


def _add_convolution(trunk: nn.Sequential, number: int, convolution: nn.Conv2d) -> None:
    """Append a convolution and its ReLU."""
    trunk.add_module(f"conv{number}", convolution)
    trunk.add_module(f"relu{number}", nn.ReLU(inplace=True))


@torch.no_grad()
def _initialise(trunk: nn.Sequential) -> None:
    """Draw the weights and set the biases as the released solver does."""
    for name, bias in CONV_BIASES.items():
        convolution = trunk.get_submodule(name)
        nn.init.normal_(convolution.get_parameter("weight"), std=CONV_STD)
        nn.init.constant_(convolution.get_parameter("bias"), bias)
