"""Convolution trunks, and what they do to coordinates: stride, centre of cell 0, receptive field.

``build.py`` builds a trunk by name and restores a saved one; the names are in ``registry.py``
(torchvision and our own), ``timm.py`` and ``paper.py`` (ZF-5, Convnet*-5, Overfeat). What comes out
is the :class:`Backbone` of ``backbone.py``; ``tracing/`` works out where its cells look.
``weights.py`` reads files of weights. Start reading with ``backbone.py``.
"""

from sppnet.backbones.backbone import Backbone, as_device
from sppnet.backbones.build import build_backbone, build_plain_classifier, restore_backbone
from sppnet.backbones.registry import list_backbones
from sppnet.backbones.tracing.receptive_field import Axis, Window

__all__ = [
    "Axis",
    "Backbone",
    "Window",
    "as_device",
    "build_backbone",
    "build_plain_classifier",
    "list_backbones",
    "restore_backbone",
]
