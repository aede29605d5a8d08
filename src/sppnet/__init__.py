"""Recognise and find things in images of any size, the SPP-net way (He, Zhang, Ren, Sun 2014).

The names below are loaded on first use, so that ``import sppnet`` does not pay for torch.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppnet.classification import SppNet
    from sppnet.classification.estimator import SppClassifier
    from sppnet.detection import Detector
    from sppnet.geometry import Detections
    from sppnet.labelling import LabelSession
    from sppnet.pooling import RegionPool, SpatialPyramidPool, pool_regions, spatial_pyramid_pool

__version__ = "0.1.0"

__all__ = [
    "Detections",
    "Detector",
    "LabelSession",
    "RegionPool",
    "SpatialPyramidPool",
    "SppClassifier",
    "SppNet",
    "__version__",
    "pool_regions",
    "spatial_pyramid_pool",
]

_ROOM_OF = {
    "Detections": "geometry",
    "Detector": "detection",
    "LabelSession": "labelling",
    "RegionPool": "pooling",
    "SpatialPyramidPool": "pooling",
    "SppClassifier": "classification.estimator",
    "SppNet": "classification",
    "pool_regions": "pooling",
    "spatial_pyramid_pool": "pooling",
}


def _keep_to_one_thread() -> None:
    """Let torch work in a forked child: the threads that it had are not there, and it would wait.

    A process that has torch's threads at work and forks leaves its children an OpenMP library that
    believes in them. With one thread it asks for none; torch's own loaders do the same.
    """
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_keep_to_one_thread)


def __getattr__(name: str) -> Any:
    """Load a public name from its room."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'sppnet' has no attribute {name!r}")
    return getattr(import_module(f"sppnet.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
