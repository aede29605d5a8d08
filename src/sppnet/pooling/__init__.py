"""The paper's layer: a map of any size, or a region of it, becomes a vector of one length.

``bins.py`` says where the bins of a level begin and end; ``pyramid.py`` pools whole maps, by the
rule for every size or as the paper trained at one, and ``regions.py`` regions of them.
``operators.py`` registers both with torch and gives them their gradients, ``kernels/`` computes
them (C++, Triton, plain torch); ``boxes.py`` pools boxes in pixels, and ``multi_scale.py`` those of
a feature pyramid. ``onnx/`` writes them as ONNX, ``keras_layer.py`` is the layer for
Keras. Start reading with ``bins.py``, then ``pyramid.py``.
"""

from sppnet.pooling.bins import (
    bin_edges,
    check_levels,
    check_pyramid,
    check_regions,
    num_bins,
    sliding_window_bins,
)
from sppnet.pooling.boxes import BoxPool, average_points, pool_boxes
from sppnet.pooling.pyramid import (
    SlidingWindowPool,
    SpatialPyramidPool,
    sliding_window_pool,
    spatial_pyramid_pool,
)
from sppnet.pooling.regions import RegionPool, pool_regions, score_regions

__all__ = [
    "BoxPool",
    "RegionPool",
    "SlidingWindowPool",
    "SpatialPyramidPool",
    "average_points",
    "bin_edges",
    "check_levels",
    "check_pyramid",
    "check_regions",
    "num_bins",
    "pool_boxes",
    "pool_regions",
    "score_regions",
    "sliding_window_bins",
    "sliding_window_pool",
    "spatial_pyramid_pool",
]
