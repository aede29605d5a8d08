"""A trunk in a form that an exporter can follow, whatever the size of the image."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from sppnet.backbones.backbone import Backbone
from sppnet.errors import OutputError


def check_exportable(backbone: Backbone) -> None:
    """Refuse a trunk that no graph for all sizes can describe.

    Raises:
        OutputError: It has windows of attention: an exporter lays them out for one size.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> check_exportable(build_backbone("small5"))
    """
    if backbone.attends:
        raise OutputError(
            f"an ONNX file must fit every size, and the windows of attention of {backbone.name} "
            "are laid out for each size anew: take a trunk of convolutions",
            code="E_EXPORT",
        )


def convolve_any_size(backbone: Backbone, images: Tensor) -> Tensor:
    """Compute the feature maps of a batch, as the backbone itself does, without asking for sizes.

    ``Backbone.forward`` looks whether the image has to be padded; a graph for all sizes always
    pads, mostly by nothing.

    Args:
        backbone: The trunk.
        images: (N, 3, H, W) float, RGB, 0..1.

    Returns:
        (N, channels, h, w), the same as ``backbone(images)``.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> backbone, images = build_backbone("small5"), torch.rand(1, 3, 20, 30)
        >>> torch.equal(convolve_any_size(backbone, images), backbone(images))
        True
    """
    missing: list[Any] = [torch.sym_max(backbone.min_size - side, 0) for side in images.shape[-2:]]
    padded = pad(backbone.normalise(images), (0, missing[1], 0, missing[0]))
    features: Tensor = backbone.trunk(padded)
    return features
