"""Fine-tuning for tables 9 to 12 begins where trained layers are, and goes on after a kill."""

from pathlib import Path

import pytest
import torch

from sppnet.backbones import Backbone, build_backbone
from sppnet.detection import CachedFeatures, DetectionConfig, Encoder
from sppnet.detection.heads.region_head import RegionHead
from sppnet.images import draw_detection_set, open_detection_dataset
from sppnet.paper.detection_experiment import tune_layers, tuning_of
from sppnet.progress import no_tracking
from sppnet.storage import FeatureCache


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone("small5")


@pytest.mark.parametrize("is_trained", [True, False])
def test_tuning_begins_where_the_trained_layers_are(
    backbone: Backbone, tmp_path: Path, *, is_trained: bool
) -> None:
    data = open_detection_dataset(draw_detection_set(tmp_path / "drawn", count=5, seed=0))
    encoder = Encoder(backbone, (64,), (1, 2))
    cached = CachedFeatures(data.images, encoder, FeatureCache(tmp_path / "c"), "grid", 20)
    head = RegionHead(encoder.length, len(data.names), (8, 8)).eval()
    settings = DetectionConfig(recipe="paper", tune_updates=2)
    config = tuning_of(settings, head, is_trained=is_trained)
    arguments = (cached, head, config, tmp_path / "tuning", no_tracking)
    tuned = tune_layers(*arguments, is_trained=is_trained)
    moved = (tuned.fc7[0].weight - head.fc7[0].weight).abs().max()
    assert bool(0 < moved < 0.1) == is_trained
    again = tune_layers(*arguments, is_trained=is_trained)  # a finished one is taken up
    assert torch.equal(again.fc6[0].weight, tuned.fc6[0].weight)
