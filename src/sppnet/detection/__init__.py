"""Detection from features that are computed once per image."""

from sppnet.detection.anchors import AnchorProposer
from sppnet.detection.automatic_scales import choose_short_sides
from sppnet.detection.box_cascade import BoxCascade
from sppnet.detection.box_regression import BoxRegressor
from sppnet.detection.combination import CombinedDetector
from sppnet.detection.detection_rule import DetectionRule
from sppnet.detection.detector import Detector
from sppnet.detection.encoder import EncodedImage, Encoder
from sppnet.detection.external_proposals import ExternalProposals
from sppnet.detection.hard_negatives import HardNegativeMiner, MiningRule
from sppnet.detection.prepared import PreparedImages
from sppnet.detection.proposals import PROPOSERS, propose
from sppnet.detection.scales import choose_scales
from sppnet.detection.scorers import LinearScorer, WindowScorer
from sppnet.detection.settings import DetectionSettings
from sppnet.detection.training import build_encoder, train_detector

__all__ = [
    "PROPOSERS",
    "AnchorProposer",
    "BoxCascade",
    "BoxRegressor",
    "CombinedDetector",
    "DetectionRule",
    "DetectionSettings",
    "Detector",
    "EncodedImage",
    "Encoder",
    "ExternalProposals",
    "HardNegativeMiner",
    "LinearScorer",
    "MiningRule",
    "PreparedImages",
    "WindowScorer",
    "build_encoder",
    "choose_scales",
    "choose_short_sides",
    "propose",
    "train_detector",
]
