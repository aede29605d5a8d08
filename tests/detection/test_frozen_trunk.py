"""A detector in onnxruntime finds what it finds in torch, and keeps its engine."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sppnet.detection import (
    CachedFeatures,
    DetectionConfig,
    Detector,
    build_encoder,
    train_detector,
)
from sppnet.errors import MissingPackageError
from sppnet.images import draw_detection_set, load_image, open_detection_dataset
from sppnet.storage import FeatureCache

SETTINGS = DetectionConfig(
    backbone="efficientnet_lite0",
    weights="none",
    imgsz=(96,),
    target_side=70,
    levels=(1, 2),
    proposals="grid",
    max_proposals=60,
    operating_point=False,
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    folder = draw_detection_set(tmp_path_factory.mktemp("scenes") / "data", 8, seed=0)
    return open_detection_dataset(folder, "train")


def prepare(scenes, folder: Path, engine: str) -> CachedFeatures:
    torch.manual_seed(0)
    encoder = build_encoder(replace(SETTINGS, engine=engine))
    return CachedFeatures(scenes.images, encoder, FeatureCache(folder), "grid", 60)


def test_a_model_finds_the_same_in_both_engines_and_keeps_its_own(scenes, tmp_path: Path) -> None:
    cached = prepare(scenes, tmp_path / "cache", "auto")
    detector = train_detector(cached, scenes.names, SETTINGS)
    detector.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model")
    assert loaded.encoder.backbone.engine == "onnxruntime"
    total = 0
    for image in scenes.images:
        pixels, sides = load_image(image.path), (loaded.encoder, detector.encoder)
        found = detector.predict(pixels)
        assert all(torch.equal(loaded.predict(pixels)[key], found[key]) for key in found)
        maps = [each.encode(pixels).maps[0] for each in sides]
        assert torch.equal(*maps)
        loaded.encoder.backbone = loaded.encoder.backbone.with_engine("torch")
        plain = loaded.predict(pixels)
        loaded.encoder.backbone = loaded.encoder.backbone.with_engine("onnxruntime")
        assert torch.equal(plain.labels, found.labels)
        assert torch.allclose(plain.boxes, found.boxes, atol=0.01)
        assert torch.allclose(plain.scores, found.scores, atol=1e-4)
        total += found.count
    assert total > 20


def test_engines_do_not_share_maps_in_a_cache(scenes, tmp_path: Path) -> None:
    frozen, plain = (prepare(scenes, tmp_path, engine) for engine in ("auto", "torch"))
    image = scenes.images[0]
    assert frozen._map_key(image, 96) != plain._map_key(image, 96)
    ours, theirs = (each.encoded(image).maps[0] for each in (frozen, plain))
    assert 0 < (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert torch.equal(prepare(scenes, tmp_path, "onnxruntime").encoded(image).maps[0], ours)


def test_a_model_says_that_its_engine_is_missing(scenes, tmp_path: Path, monkeypatch) -> None:
    detector = train_detector(prepare(scenes, tmp_path / "cache", "auto"), scenes.names, SETTINGS)
    detector.save(tmp_path / "model")
    monkeypatch.setattr("sppnet.backbones.frozen.PACKAGES", ("onnx", "no_such_engine"))
    with pytest.raises(MissingPackageError, match="pip install no_such_engine"):
        Detector.load(tmp_path / "model")
    assert build_encoder(SETTINGS).backbone.engine == "torch"
