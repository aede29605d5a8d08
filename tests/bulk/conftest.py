"""Tiny models and photos, some of them damaged, for rows on one machine and on several."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from small_photos import draw_folders, spoil
from sppnet.backbones import build_backbone
from sppnet.classification import Classifier, View, build_classifier
from sppnet.detection import Detector, Encoder, InferenceConfig, LinearRegionClassifier
from sppnet.evaluation import OperatingPoints, ScoreCalibration

NAMES = ("cat", "dog", "owl")


class Models(NamedTuple):
    """Folders of a detector and of a classifier."""

    detector: Path
    classifier: Path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Models of random weights; what they find is noise, and the same noise everywhere."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    encoder = Encoder(build_backbone("small5"), short_sides=(96,))
    weights = torch.randn(encoder.length, len(NAMES)) / 20
    scorer = LinearRegionClassifier(weights, torch.zeros(len(NAMES)))
    rule = InferenceConfig(proposals="grid", max_proposals=60)
    calibration = ScoreCalibration().fit([-2.0, 2.0] * 10, [0] * 20, [False, True] * 10, 3)
    points = OperatingPoints((0.02,) * len(NAMES), calibration, "val", 10, (3,) * len(NAMES))
    detector = Detector(encoder, scorer, None, NAMES, rule, operating_points=points)
    detector.save(folder / "detector")
    network = build_classifier("small5", num_classes=len(NAMES))
    Classifier(network, View("full", 64), NAMES).save(folder / "classifier")
    return Models(folder / "detector", folder / "classifier")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve good photos of many sizes, and three files that are none."""
    folder = tmp_path_factory.mktemp("photos")
    draw_folders(folder, 3)
    spoil(folder)
    return folder
