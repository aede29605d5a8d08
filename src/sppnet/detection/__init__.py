"""Detection from features that are computed once per image.

Where to start reading, in this order:

- ``encoder.py``: convolve an image once, then pool as many of its regions as wanted.
- ``detector.py``: the fitted detector; ``combined.py``: several as one; ``watch.py``: videos and
  cameras; ``postprocess.py``: how scored boxes become detections.
- ``proposals/``: where the boxes to score come from; ``heads/``: what scores and refines them.
- ``train.py``: trains a detector stage by stage, as a ``DetectionConfig`` (``sppnet.config``) says;
  ``feature_set.py`` keeps what it computes, ``assign.py`` tells positives from negatives,
  and at which sizes images are convolved.
- ``finetune/``: fine-tuning of the fully connected layers, or of the whole network.
- ``rcnn.py`` is the baseline, ``onnx/`` the export.
"""

from sppnet.config.detection import DetectionConfig, InferenceConfig
from sppnet.detection.assign import choose_short_sides
from sppnet.detection.combined import CombinedDetector
from sppnet.detection.detector import Detector
from sppnet.detection.encoder import EncodedImage, Encoder, choose_scales
from sppnet.detection.feature_set import CachedFeatures
from sppnet.detection.heads.box_regression import BoxCascade, RidgeBoxRegressor
from sppnet.detection.heads.classifiers import LinearRegionClassifier, RegionClassifier
from sppnet.detection.heads.hard_negatives import HardNegativeMiner, MiningConfig
from sppnet.detection.proposals.anchors import AnchorProposer
from sppnet.detection.proposals.precomputed import ExternalProposals
from sppnet.detection.proposals.propose import PROPOSERS, propose
from sppnet.detection.train import build_cached_features, build_encoder, train_detector
from sppnet.detection.watch import WatchedFrame

__all__ = [
    "PROPOSERS",
    "AnchorProposer",
    "BoxCascade",
    "CachedFeatures",
    "CombinedDetector",
    "DetectionConfig",
    "Detector",
    "EncodedImage",
    "Encoder",
    "ExternalProposals",
    "HardNegativeMiner",
    "InferenceConfig",
    "LinearRegionClassifier",
    "MiningConfig",
    "RegionClassifier",
    "RidgeBoxRegressor",
    "WatchedFrame",
    "build_cached_features",
    "build_encoder",
    "choose_scales",
    "choose_short_sides",
    "propose",
    "train_detector",
]
