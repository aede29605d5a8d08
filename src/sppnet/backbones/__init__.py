"""Convolution trunks and what they do to coordinates: stride, centre of cell 0, receptive field."""

from sppnet.backbones.backbone import Backbone
from sppnet.backbones.build import build_backbone, build_plain_classifier, restore_backbone
from sppnet.backbones.registry import list_backbones
from sppnet.backbones.tracing.receptive_field import Axis, Window

__all__ = [
    "Axis",
    "Backbone",
    "Window",
    "build_backbone",
    "build_plain_classifier",
    "list_backbones",
    "restore_backbone",
]
