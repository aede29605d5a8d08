"""Export of detectors to ONNX.

``regions.py``: an image and boxes in, their scores out; whoever has proposals of their own asks it.
``whole.py``: an image in, detections out; proposals come from the feature maps, in the graph.
"""

from sppnet.detection.onnx.regions import detector_recipe

__all__ = ["detector_recipe"]
