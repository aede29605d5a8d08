"""Seconds of the stages of detection, with a clock that the test sets."""

from pathlib import Path

import pytest
import torch

from sppnet.backbones import Backbone, build_backbone
from sppnet.detection import Encoder
from sppnet.detection.heads.region_head import RegionHead
from sppnet.detection.rcnn import RcnnEncoder
from sppnet.images import draw_detection_set
from sppnet.paper.detection_speed import Photo, StageClock, time_features
from sppnet.paper.printed import CONV, FC, POOLING
from sppnet.progress import no_tracking

PROPOSALS = torch.tensor(
    [[10.0, 10.0, 90.0, 60.0], [0.0, 0.0, 50.0, 80.0], [30.0, 20.0, 99.0, 79.0]]
)


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone("small5")


def test_seconds_of_a_share_of_the_proposals_are_scaled_up(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000))  # every look at the clock is a second later
    monkeypatch.setattr("sppnet.paper.detection_speed.time.perf_counter", lambda: next(clock))
    path = next(draw_detection_set(tmp_path, count=2, seed=0).rglob("*.jpg"))
    photo = Photo(path, PROPOSALS.repeat(4, 1))
    rcnn = RcnnEncoder(backbone, (1,), size=64)
    head = RegionHead(rcnn.length, 1, (4, 4)).eval()
    seconds = time_features(rcnn, head, [photo, photo], 0.25, no_tracking)
    assert seconds == {CONV: [1 + 4] * 2, FC: [1] * 2}  # of each of the two images
    spp = Encoder(backbone, (64,), (1,))
    seconds = time_features(spp, head, [photo], 0.25, no_tracking)  # SPP-net pools all of them
    assert seconds == {CONV: [1], POOLING: [1], FC: [1]}


def test_a_stage_does_not_count_the_stages_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([0.0, 1.0, 4.0, 9.0])
    monkeypatch.setattr("sppnet.paper.detection_speed.time.perf_counter", lambda: next(looks))
    clock = StageClock(torch.device("cpu"))
    with clock.stage("outer"), clock.stage("inner", scale=10.0):
        pass
    assert clock.seconds == {"inner": 30.0, "outer": 9.0 - 3.0}
