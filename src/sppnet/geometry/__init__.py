"""Boxes and where they lie: pixels of an image, cells of a feature map.

``boxes.py`` has area, overlap, the deltas of box regression, and hard and soft non-maximum
suppression, ``projection.py`` the way from a box in pixels to a region of cells, and
``detections.py`` the result type of every detector. Start reading with ``boxes.py``; the order of
numbers in a box is in ``docs/conventions.md``.
"""

from sppnet.geometry.boxes import (
    box_area,
    box_iou,
    boxes_to_deltas,
    check_boxes,
    clip_boxes,
    deltas_to_boxes,
    flip_boxes,
    nms,
    nms_per_class,
    soft_nms,
    soft_nms_per_class,
)
from sppnet.geometry.detections import Detections
from sppnet.geometry.projection import Projection, cell_centres, project_boxes

__all__ = [
    "Detections",
    "Projection",
    "box_area",
    "box_iou",
    "boxes_to_deltas",
    "cell_centres",
    "check_boxes",
    "clip_boxes",
    "deltas_to_boxes",
    "flip_boxes",
    "nms",
    "nms_per_class",
    "project_boxes",
    "soft_nms",
    "soft_nms_per_class",
]
