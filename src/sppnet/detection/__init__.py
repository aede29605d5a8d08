"""Detection from features that are computed once per image."""

from sppnet.config.detection import DetectionConfig, InferenceConfig
from sppnet.detection.detector import CombinedDetector, Detector
from sppnet.detection.encoder import EncodedImage, Encoder, choose_scales, choose_short_sides
from sppnet.detection.feature_set import CachedFeatures
from sppnet.detection.heads.box_regression import BoxCascade, RidgeBoxRegressor
from sppnet.detection.heads.classifiers import LinearRegionClassifier, RegionClassifier
from sppnet.detection.heads.hard_negatives import HardNegativeMiner, MiningConfig
from sppnet.detection.proposals.anchors import AnchorProposer
from sppnet.detection.proposals.precomputed import ExternalProposals
from sppnet.detection.proposals.propose import PROPOSERS, propose
from sppnet.detection.train import build_encoder, train_detector

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
    "build_encoder",
    "choose_scales",
    "choose_short_sides",
    "propose",
    "train_detector",
]
