"""small5, our own trunk: five small convolutions that learn from nothing in seconds on a CPU."""

from torch import nn

WIDTHS = (24, 48, 64, 96, 96)
KERNELS = (5, 3, 3, 3, 3)
STRIDES = (2, 2, 2, 1, 1)


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
