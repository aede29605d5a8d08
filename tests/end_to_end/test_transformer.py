"""A small vision transformer through the whole system: trained, saved, loaded, exported."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from small_photos import draw_folders
from sppnet import Detector
from sppnet.app.main import main
from sppnet.backbones import build_backbone
from sppnet.classification.predict import load_classifier
from sppnet.detection import Encoder
from sppnet.images import draw_detection_set
from sppnet.pooling import spatial_pyramid_pool
from sppnet.pooling.onnx.export import open_session

pytestmark = pytest.mark.usefixtures("one_thread")
TRUNK = ["--backbone", "timm:test_vit2", "--weights", "none"]
CUT = [*TRUNK, "--layer", "blocks.0"]
FEW = ["--proposals", "grid", "--max-proposals", "30", "--imgsz", "96"]


@torch.no_grad()
@pytest.mark.parametrize("size", [(96, 131), (203, 96), (50, 50), (300, 61)])
def test_proposals_are_described_by_the_patches_they_cover(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("timm:test_vit2", layer="blocks.0")
    encoder, (height, width) = Encoder(backbone, (96,), levels=(1, 2)), size
    encoded = encoder.encode(torch.rand(3, height, width))
    (maps,), ((zoom_x, zoom_y),) = encoded.maps, encoded.zooms_xy
    sides = round(height * zoom_y), round(width * zoom_x)
    assert tuple(maps.shape[2:]) == (-(-sides[0] // 16), -(-sides[1] // 16))
    boxes = torch.tensor([[0.0, 0.0, width, height], [7.0, 9.0, 40.0, 33.0]], dtype=torch.float64)
    expected = []
    for x0, y0, x1, y1 in (boxes * torch.tensor([zoom_x, zoom_y] * 2)).tolist():
        columns = covered_patches(x0, x1, encoder.projection.offset, maps.shape[3])
        rows = covered_patches(y0, y1, encoder.projection.offset, maps.shape[2])
        expected.append(spatial_pyramid_pool(maps[:, :, rows][..., columns], (1, 2)))
    assert torch.equal(encoder.describe(encoded, boxes), torch.cat(expected))


def covered_patches(begin: float, end: float, offset: float, patches: int) -> list[int]:
    """The patches of 16 pixels from the one at the first pixel to that at the last, by centres."""
    first = math.floor((begin - 7.5 + offset) / 16 + 0.5)
    last = math.ceil((end - 1 - 7.5 - offset) / 16 - 0.5)
    assert first <= last
    return [n for n in range(patches) if min(first, patches - 1) <= n <= max(last, 0)]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained detector, beside its data."""
    folder = tmp_path_factory.mktemp("detector")
    data, run = draw_detection_set(folder / "data", 8, seed=0), folder / "run"
    assert main(["detect", "train", str(data), *CUT, *FEW, "--out", str(run)]) == 0
    return run / "model"


def test_a_trained_detector_is_loaded_bit_by_bit(detector: Path, tmp_path: Path) -> None:
    photo, loaded = torch.rand(3, 90, 140), Detector.load(detector)
    first, second = loaded.predict(photo), Detector.load(detector).predict(photo)
    assert loaded.encoder.backbone.config()["layer"] == "blocks.0"
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.scores, second.scores)
    photos, out = detector.parents[1] / "data" / "JPEGImages", tmp_path / "found"
    assert main(["detect", "predict", str(detector), str(photos), "--out", str(out)]) == 0


@pytest.mark.slow
def test_a_detector_is_exported(detector: Path, tmp_path: Path) -> None:
    assert main(["export", str(detector), str(tmp_path / "detector.onnx")]) == 0


def test_a_trunk_is_tuned_with_the_detector(tmp_path: Path) -> None:
    data, run = draw_detection_set(tmp_path / "data", 8, seed=0), tmp_path / "run"
    tuned = ["--tune", "network", "--tune-updates", "2", "--widths", "8,8"]
    assert (
        main(
            [
                "detect",
                "train",
                str(data),
                *CUT,
                *FEW,
                *tuned,
                "--tune-from",
                "blocks.0",
                "--out",
                str(run),
            ]
        )
        == 0
    )
    assert Detector.load(run / "model").encoder.backbone.node == "blocks.0"


def test_a_classifier_is_fitted_loaded_and_exported(tmp_path: Path) -> None:
    data, run = draw_folders(tmp_path / "data", 6), tmp_path / "run"
    words = [*TRUNK, "--layer", "blocks.0,norm"]
    assert main(["classify", "fit", str(data), *words, "--out", str(run)]) == 0
    classifier = load_classifier(run / "model")
    photo = np.zeros((50, 71, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    out = str(tmp_path / "named")
    photo_path = str(tmp_path / "photo.png")
    assert main(["classify", "predict", str(run / "model"), photo_path, "--out", out]) == 0
    assert classifier.names


@pytest.mark.slow
def test_a_network_is_trained_from_end_to_end_and_exported(tmp_path: Path) -> None:
    data, run = draw_folders(tmp_path / "data", 4), tmp_path / "run"
    words = [*TRUNK, "--imgsz", "48,64", "--epochs", "1", "--hidden", "8"]
    assert main(["classify", "train", str(data), *words, "--out", str(run)]) == 0
    path = tmp_path / "classifier.onnx"
    assert main(["export", str(run / "model"), str(path)]) == 0
    session = open_session(path.read_bytes())
    free = session.get_inputs()[0].shape
    assert [type(side) for side in free[2:]] == [str, str]
