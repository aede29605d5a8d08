"""Detection from features that are computed once per image."""

from sppnet.detection.box_regression import BoxRegressor
from sppnet.detection.detector import DetectionRule, Detector, WindowClassifier
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.hard_negatives import HardNegativeMiner, MiningRule
from sppnet.detection.prepared import PreparedImages
from sppnet.detection.proposals import PROPOSERS, propose
from sppnet.detection.scales import choose_scales
from sppnet.detection.settings import DetectionSettings
from sppnet.detection.training import build_encoder, train_detector

__all__ = [
    "PROPOSERS",
    "BoxRegressor",
    "DetectionRule",
    "DetectionSettings",
    "Detector",
    "EncodedImage",
    "Encoder",
    "HardNegativeMiner",
    "MiningRule",
    "PreparedImages",
    "WindowClassifier",
    "build_encoder",
    "choose_scales",
    "propose",
    "train_detector",
]
