"""Parts of tables 9 to 12: windows, heads, seconds."""

from pathlib import Path

import pytest
import torch

from sppnet.backbones import Backbone, build_backbone
from sppnet.classification.network import build_classifier
from sppnet.detection import CachedFeatures, Encoder
from sppnet.detection.heads.region_head import RegionHead
from sppnet.detection.rcnn import RcnnEncoder
from sppnet.images import draw_detection_set, open_detection_dataset
from sppnet.paper.detection_bench import build_plan, tune_layers
from sppnet.paper.detection_setup import DetectionNetwork, KeptRcnnEncoder
from sppnet.paper.detection_speed import Photo, Seconds, time_features
from sppnet.progress import no_tracking
from sppnet.storage import FeatureCache

WINDOWS = torch.tensor([[10.0, 10.0, 90.0, 60.0], [0.0, 0.0, 50.0, 80.0], [30.0, 20.0, 99.0, 79.0]])


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone("small5")


def test_kept_vectors_are_those_of_rcnn_and_are_convolved_once(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, cache = RcnnEncoder(backbone, (1, 2)), FeatureCache(tmp_path)
    encoded = plain.encode(torch.rand(3, 80, 100))
    cells = plain.assign_regions(encoded, WINDOWS)
    kept = KeptRcnnEncoder(backbone, (1, 2), cache)
    kept.pool(encoded, cells[:2])
    found = kept.pool(encoded, cells[[2, 0, 2]])
    expected = plain.pool(encoded, cells)[[2, 0, 2]]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    weights = torch.rand(plain.length, 2)
    torch.testing.assert_close(
        kept.pool_and_multiply(encoded, cells[[2, 0, 2]], weights), found @ weights
    )

    monkeypatch.setattr(backbone, "forward", None)
    again = KeptRcnnEncoder(backbone, (1, 2), cache)  # as after a kill
    assert torch.equal(again.pool(encoded, cells[[2, 0, 2]]), found)
    other = plain.encode(torch.rand(3, 80, 100))
    with pytest.raises(TypeError):
        again.pool(other, cells)  # vectors of another image are never taken


def test_a_head_begins_with_the_layers_that_were_trained() -> None:
    torch.manual_seed(0)
    network = build_classifier("small5", 7, hidden=(6, 5)).eval()
    linear = [layer for layer in network.head if isinstance(layer, torch.nn.Linear)]
    trained = DetectionNetwork(network.backbone, (1, 2, 3, 6), (linear[0], linear[1]))
    head = trained.build_head(linear[0].in_features, 3, widths=(99, 99))
    rows = torch.rand(4, linear[0].in_features)
    torch.testing.assert_close(head.describe(rows, "fc7"), network.head[:6](rows))
    assert head(rows).shape == (4, 4)


@pytest.mark.parametrize("is_trained", [True, False])
def test_tuning_begins_where_the_trained_layers_are(
    backbone: Backbone, tmp_path: Path, *, is_trained: bool
) -> None:
    data = open_detection_dataset(draw_detection_set(tmp_path / "drawn", count=5, seed=0))
    encoder = Encoder(backbone, (64,), (1, 2))
    cached = CachedFeatures(data.images, encoder, FeatureCache(tmp_path / "c"), "grid", 20)
    head = RegionHead(encoder.length, len(data.names), (8, 8)).eval()
    plan = build_plan(2, head, 0, is_trained=is_trained)
    arguments = (cached, head, plan, tmp_path / "tuning", no_tracking)
    tuned = tune_layers(*arguments, is_trained=is_trained)
    moved = (tuned.fc7[0].weight - head.fc7[0].weight).abs().max()
    assert bool(0 < moved < 0.1) == is_trained
    again = tune_layers(*arguments, is_trained=is_trained)  # a finished one is taken up
    assert torch.equal(again.fc6[0].weight, tuned.fc6[0].weight)


def test_seconds_of_a_share_of_the_windows_are_scaled_up(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))  # every look at the clock is a second later
    monkeypatch.setattr("sppnet.paper.detection_speed.time.perf_counter", lambda: next(clock))
    path = next(draw_detection_set(tmp_path, count=2, seed=0).rglob("*.jpg"))
    photo = Photo(path, WINDOWS.repeat(4, 1))
    rcnn = RcnnEncoder(backbone, (1,), size=64)
    head = RegionHead(rcnn.length, 1, (4, 4)).eval()
    seconds = time_features(rcnn, head, [photo, photo], 0.25, no_tracking)
    assert seconds == Seconds(conv=2 * (1 + 4), pooling=0, fc=2, images=2)
    assert seconds.total == (10 + 2) / 2
    spp = Encoder(backbone, (64,), (1,))
    seconds = time_features(spp, head, [photo], 0.25, no_tracking)  # SPP-net pools all of them
    assert seconds == Seconds(conv=1, pooling=1, fc=1, images=1)
