"""The paper's whole networks, with SPP and without, and the layer tables of its table 1."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import nn

from sppnet.backbones import build_backbone
from sppnet.backbones.paper import PAPER_TRUNKS, build_paper_trunk, initialise
from sppnet.backbones.tracing.propagate import through_module
from sppnet.backbones.tracing.receptive_field import Axis, Placed
from sppnet.classification.network import SppNet, build_classifier
from sppnet.pooling.bins import DEFAULT_LEVELS

HIDDEN = (4096, 4096)
DROPOUT = 0.5
BIAS = 1.0


class LayerRow(NamedTuple):
    """One row of a layer table.

    Args:
        layer: Name of a convolution, normalisation or pooling.
        channels: Channels of its map.
        kernel: Cells along a side of the window; 1 for a normalisation.
        stride: Cells from one window to the next.
        padding: Cells added at every border.
        cells: Cells along a side of the map, for each size of the image.
    """

    layer: str
    channels: int
    kernel: int
    stride: int
    padding: int
    cells: tuple[int, ...]


def build_paper_network(
    name: str,
    num_classes: int = 1000,
    spp: bool = True,
    levels: Sequence[int] = DEFAULT_LEVELS,
    *,
    hidden: Sequence[int] = HIDDEN,
) -> SppNet:
    """Build one of the paper's networks with new weights, ready for training from nothing.

    Two hidden layers of 4096 with dropout 0.5; all weights from N(0, 0.01), all biases of the fully
    connected layers 1, as in the released definition.

    Args:
        name: "zf5", "convnet5", "overfeat5" or "overfeat7".
        num_classes: Outputs, at least 1.
        spp: Pool with the pyramid; without it the last map is pooled to 6 x 6, as in the paper's
            baselines: at 224 pixels those are windows of 3 with stride 2 (stride 3 for Overfeat).
        levels: Bins along each side of the pyramid, one number per level.
        hidden: Width of each hidden layer; the paper's, unless there is little to learn.

    Returns:
        A network for images of any size.

    Raises:
        ValueError: The name is another, or a number is out of range.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     network = build_paper_network("overfeat7", spp=False)
        >>> network.head[0].in_features
        18432

    Source:
        Paper, section 3.1.1 and table 1.
    """
    if name not in PAPER_TRUNKS:
        raise ValueError(f"name must be one of {', '.join(PAPER_TRUNKS)}, got {name!r}")
    pool = "spp" if spp else "6x6"
    network = build_classifier(
        build_backbone(name), num_classes, levels, hidden, DROPOUT, pool=pool
    )
    for layer in network.head.modules():
        if isinstance(layer, nn.Linear):
            initialise(layer, BIAS)
    return network


def layer_table(name: str, sizes: Sequence[int] = (224,)) -> list[LayerRow]:
    """List a paper trunk's layers with the sizes of their maps, as its table 1 does.

    Args:
        name: As for :func:`build_paper_network`.
        sizes: Sides of square images in pixels.

    Returns:
        One row for each convolution, normalisation and pooling, in order.

    Raises:
        ValueError: The name is another.

    Example:
        >>> for row in layer_table("zf5", (224, 180))[:3]:
        ...     print(*row)
        conv1 96 7 2 1 (110, 88)
        norm1 96 1 1 0 (110, 88)
        pool1 96 3 2 0 (55, 44)
    """
    rows, channels = [], 0
    place = Placed(Axis(), Axis())
    for layer, module in build_paper_trunk(name).named_children():
        if isinstance(module, nn.ReLU):
            continue
        channels = module.out_channels if isinstance(module, nn.Conv2d) else channels
        place = cast(Placed, through_module(module, place))
        cells = tuple(place.x.cells(size) for size in sizes)
        rows.append(LayerRow(layer, channels, *_window_of(module), cells))
    return rows


def _window_of(module: nn.Module) -> tuple[int, int, int]:
    """Give kernel, stride and padding of a layer."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size[0], module.stride[0], int(module.padding[0])
    if isinstance(module, nn.MaxPool2d):
        return cast(int, module.kernel_size), cast(int, module.stride), 0
    return 1, 1, 0
