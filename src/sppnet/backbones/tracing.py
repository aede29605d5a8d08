"""A trunk in a form that an exporter can follow, whatever the size of the image."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from sppnet.backbones.backbone import Backbone


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
    colours = images.flip(1) if backbone.bgr else images
    normalised = (colours - backbone.mean[:, None, None]) / backbone.std[:, None, None]
    missing: list[Any] = [torch.sym_max(backbone.min_size - side, 0) for side in images.shape[-2:]]
    features: Tensor = backbone.trunk(pad(normalised, (0, missing[1], 0, missing[0])))
    return features
