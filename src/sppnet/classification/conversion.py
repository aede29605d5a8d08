"""Makes a trained classifier into one with a pyramid that at first gives the same logits."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from sppnet.backbones.build import build_whole_network, wrap_network
from sppnet.backbones.classifiers import Head, read_head
from sppnet.backbones.registry import OWN, find_trunk
from sppnet.classification.carried_head import CarriedHead
from sppnet.classification.network import AverageAndPyramid, SppNet, build_head, build_pool
from sppnet.pooling import check_levels, num_bins
from sppnet.pooling.bins import DEFAULT_LEVELS


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
        name: A network of torchvision or "timm:NAME".
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
    if name in OWN:
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
    new_head = CarriedHead(carried, channels, channels * num_bins(levels), num_classes)
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
