"""Networks and images of tables 9 to 12: vectors that are kept, heads that were trained."""

import shutil
from pathlib import Path

import pytest
import torch

from sppnet.backbones import Backbone, build_backbone
from sppnet.classification.network import build_classifier
from sppnet.detection.rcnn import RcnnEncoder
from sppnet.paper import Resources
from sppnet.paper.detection_setup import (
    DetectionImages,
    DetectionNetwork,
    KeptRcnnEncoder,
    open_detection_images,
)
from sppnet.storage import FeatureCache

PROPOSALS = torch.tensor(
    [[10.0, 10.0, 90.0, 60.0], [0.0, 0.0, 50.0, 80.0], [30.0, 20.0, 99.0, 79.0]]
)


@pytest.fixture
def backbone() -> Backbone:
    torch.manual_seed(0)
    return build_backbone("small5")


def test_kept_vectors_are_those_of_rcnn_and_are_convolved_once(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, cache = RcnnEncoder(backbone, (1, 2)), FeatureCache(tmp_path)
    encoded = plain.encode(torch.rand(3, 80, 100))
    cells = plain.locate(encoded, PROPOSALS)
    kept = KeptRcnnEncoder(backbone, (1, 2), cache)
    kept.describe_cells(encoded, cells[:2])
    found = kept.describe_cells(encoded, cells[[2, 0, 2]])
    expected = plain.describe_cells(encoded, cells)[[2, 0, 2]]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    weights = torch.rand(plain.length, 2)
    torch.testing.assert_close(
        kept.score_cells(encoded, cells[[2, 0, 2]], weights), found @ weights
    )

    monkeypatch.setattr(backbone, "forward", None)
    again = KeptRcnnEncoder(backbone, (1, 2), cache)  # as after a kill
    assert torch.equal(again.describe_cells(encoded, cells[[2, 0, 2]]), found)
    other = plain.encode(torch.rand(3, 80, 100))
    with pytest.raises(TypeError):
        again.describe_cells(other, cells)  # vectors of another image are never taken


def test_a_head_begins_with_the_layers_that_were_trained() -> None:
    torch.manual_seed(0)
    network = build_classifier("small5", 7, hidden=(6, 5)).eval()
    linear = [layer for layer in network.head if isinstance(layer, torch.nn.Linear)]
    trained = DetectionNetwork(network.backbone, (1, 2, 3, 6), (linear[0], linear[1]))
    head = trained.build_head(linear[0].in_features, 3, widths=(99, 99))
    rows = torch.rand(4, linear[0].in_features)
    torch.testing.assert_close(head.describe(rows, "fc7"), network.head[:6](rows))
    assert head(rows).shape == (4, 4)


def test_images_are_divided_where_the_set_is_not(drawn: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(drawn, whole)
    shutil.rmtree(whole / "ImageSets")
    images = open_detection_images(Resources(tmp_path, data=whole))
    assert isinstance(images, DetectionImages)
    learnt, scored = ({image.image_id for image in part} for part in (images.train, images.test))
    assert len(scored) == 2  # a fifth
    assert not learnt & scored
    assert len(learnt | scored) == 12
    few = open_detection_images(Resources(tmp_path, data=whole, limit=1))
    assert isinstance(few, DetectionImages)
    assert (len(few.train), len(few.test)) == (1, 1)
