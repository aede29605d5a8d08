"""Recognise and find things in images of any size, the SPP-net way (He, Zhang, Ren, Sun 2014).

The names below are loaded on first use, so that ``import sppnet`` does not pay for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sppnet.classification import SppNet
    from sppnet.classification.estimator import SppClassifier
    from sppnet.detection import Detector
    from sppnet.geometry import Detections
    from sppnet.pooling import RegionPool, SpatialPyramidPool, pool_regions, spatial_pyramid_pool

__version__ = "0.1.0"

__all__ = [
    "Detections",
    "Detector",
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
    "RegionPool": "pooling",
    "SpatialPyramidPool": "pooling",
    "SppClassifier": "classification.estimator",
    "SppNet": "classification",
    "pool_regions": "pooling",
    "spatial_pyramid_pool": "pooling",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its room."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'sppnet' has no attribute {name!r}")
    return getattr(import_module(f"sppnet.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted(__all__)
