"""Recognise and find things in images of any size, the SPP-net way (He, Zhang, Ren, Sun 2014).

The names below are loaded on first use, so that ``import sppnet`` does not pay for torch.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppnet.backbones import Backbone, build_backbone
    from sppnet.classification import RidgeSums, SppNet
    from sppnet.classification.estimator import SppClassifier
    from sppnet.classification.transfer.estimators import SppFeatures, SppHead
    from sppnet.config.detection import DetectionConfig, InferenceConfig
    from sppnet.detection import CombinedDetector, Detector
    from sppnet.geometry import Detections, Projection, project_boxes
    from sppnet.images import open_detection_dataset
    from sppnet.labelling import LabelSession
    from sppnet.pooling import (
        BoxPool,
        RegionPool,
        SlidingWindowPool,
        SpatialPyramidPool,
        pool_boxes,
        pool_regions,
        score_regions,
        sliding_window_pool,
        spatial_pyramid_pool,
    )
    from sppnet.pooling.multi_scale import MultiScaleBoxPool

__version__ = "0.1.0"

_ROOM_OF = {
    "Backbone": "backbones",
    "BoxPool": "pooling",
    "CombinedDetector": "detection",
    "DetectionConfig": "config.detection",
    "Detections": "geometry",
    "Detector": "detection",
    "InferenceConfig": "config.detection",
    "LabelSession": "labelling",
    "MultiScaleBoxPool": "pooling.multi_scale",
    "Projection": "geometry",
    "RegionPool": "pooling",
    "RidgeSums": "classification",
    "SlidingWindowPool": "pooling",
    "SpatialPyramidPool": "pooling",
    "SppClassifier": "classification.estimator",
    "SppFeatures": "classification.transfer.estimators",
    "SppHead": "classification.transfer.estimators",
    "SppNet": "classification",
    "build_backbone": "backbones",
    "open_detection_dataset": "images",
    "pool_boxes": "pooling",
    "pool_regions": "pooling",
    "project_boxes": "geometry",
    "score_regions": "pooling",
    "sliding_window_pool": "pooling",
    "spatial_pyramid_pool": "pooling",
}

__all__ = [
    "Backbone",
    "BoxPool",
    "CombinedDetector",
    "DetectionConfig",
    "Detections",
    "Detector",
    "InferenceConfig",
    "LabelSession",
    "MultiScaleBoxPool",
    "Projection",
    "RegionPool",
    "RidgeSums",
    "SlidingWindowPool",
    "SpatialPyramidPool",
    "SppClassifier",
    "SppFeatures",
    "SppHead",
    "SppNet",
    "__version__",
    "build_backbone",
    "open_detection_dataset",
    "pool_boxes",
    "pool_regions",
    "project_boxes",
    "score_regions",
    "sliding_window_pool",
    "spatial_pyramid_pool",
]


def _keep_to_one_thread() -> None:
    """Let torch work in a forked child: the threads that it had are not there, and it would wait.

    A process that has torch's threads at work and forks leaves its children an OpenMP library that
    believes in them. With one thread it asks for none; torch's own loaders do the same.
    """
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)


# onnxruntime tells its makers how it is used, unless this is said before it is loaded
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_keep_to_one_thread)


def __getattr__(name: str) -> Any:
    """Load a public name from its room."""
    if name not in _ROOM_OF:
        words = f"module 'sppnet' has no attribute {name!r}"  # Python adds "Did you mean"
        raise AttributeError(words, name=name, obj=sys.modules[__name__])
    return getattr(import_module(f"sppnet.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
