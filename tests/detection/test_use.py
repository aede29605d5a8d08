"""A detector in Python: learnt in one call, over lists and videos, printed, kept in pickles."""

import copy
import io
import pickle
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from torch import Tensor

from readme_blocks import run_python_page
from sppnet import CombinedDetector, DetectionConfig, Detections, Detector
from sppnet.backbones import build_backbone
from sppnet.errors import InputError, UsageError
from sppnet.evaluation import OperatingPoints, ScoreCalibration
from sppnet.images import draw_detection_set, list_images, load_image, open_detection_dataset
from sppnet.images.video import VideoWriter

SMALL = {
    "backbone": "small5",
    "weights": "none",
    "imgsz": (96,),
    "proposals": "grid",
    "max_anchors": 40,
    "mirror": "off",
    "crops": "off",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_detection_set(tmp_path_factory.mktemp("drawn") / "data", 6, seed=0)


@pytest.fixture(scope="module")
def photos(data: Path) -> list[Path]:
    return list(list_images([str(data / "JPEGImages")], data / "out").paths)


@pytest.fixture(scope="module")
def detector(data: Path) -> Detector:
    return Detector.fit(data, **SMALL)


def same(one: Detections, other: Detections) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_fit_takes_a_folder_or_a_data_set_and_keeps_what_it_computed(
    detector: Detector, data: Path, photos: list[Path], tmp_path: Path
) -> None:
    dataset = open_detection_dataset(data, "train")
    config = DetectionConfig(**{**SMALL, "imgsz": (48,)})
    again = Detector.fit(dataset, config, imgsz=(96,), cache=tmp_path / "cache")
    assert again.names == dataset.names
    assert any((tmp_path / "cache").iterdir())
    assert same(again.predict(photos[0]), detector.predict(photos[0]))


def test_fit_names_mistakes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="trunk"):
        Detector.fit(data, trunk="small5")
    with pytest.raises(UsageError):
        Detector.fit(tmp_path / "nothing")
    with pytest.raises(UsageError):
        Detector.fit(data, split="holiday")


def test_a_list_gives_a_list_in_order(detector: Detector, photos: list[Path]) -> None:
    calls: list[tuple[str, int | None]] = []

    def track(items, description, total=None):
        calls.append((description, total))
        return items

    small = load_image(photos[0])[:, :90, :70]
    sources = [photos[0], small, *photos[1:], str(photos[0])]
    found = detector.predict(sources, track=track)
    assert calls == [("detecting", len(sources))]
    alone = [detector.predict(source) for source in sources]
    assert len({each.scores.max().item() for each in alone}) >= len(sources) - 1
    for one, other in zip(found, alone, strict=True):
        assert torch.allclose(one.boxes, other.boxes, atol=0.01)
        assert torch.allclose(one.scores, other.scores, atol=1e-4)
    assert detector.predict([]) == []
    assert same(found[0], found[-1])


def test_mirrored_images_of_a_list_are_its_own(detector: Detector, photos: list[Path]) -> None:
    flipping = copy.copy(detector)
    flipping.inference = replace(detector.inference, flip=True)
    for one, path in zip(flipping.predict(photos[:3]), photos, strict=False):
        assert torch.allclose(one.scores, flipping.predict(path).scores, atol=1e-4)


def test_several_detectors_take_a_list(detector: Detector, photos: list[Path]) -> None:
    both = CombinedDetector([detector, detector])
    assert same(both.predict(photos[:2])[1], both.predict(photos[1]))
    assert repr(both) == f"CombinedDetector({detector!r}, {detector!r})"


def test_a_photo_of_a_list_that_cannot_be_read_is_named(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no photo")
    with pytest.raises(InputError, match=r"bad\.jpg"):
        detector.predict([tmp_path / "bad.jpg"])


def test_it_says_what_it_is(detector: Detector) -> None:
    line = repr(detector)
    assert "6 classes: ball, donut, fish, house, star, tree" in line
    assert "Encoder(small5 at relu5, stride 8; short sides 96 px; levels (1, 2, 4))" in line
    assert "no operating point yet" in line
    calibration = ScoreCalibration().fit([-1.0, 1.0] * 20, [0] * 40, [False, True] * 20, 6)
    pointed = copy.copy(detector)
    pointed.operating_points = OperatingPoints((0.0,) * 6, calibration, "val", 4, (3,) * 6)
    known = "found by detect val on 4 photos; a detection that only just counts is right in 50 % of"
    assert known in repr(pointed)


def by_joblib(value: object) -> object:
    file = io.BytesIO()
    joblib.dump(value, file)
    file.seek(0)
    return joblib.load(file)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "joblib": by_joblib,
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_of_a_detector_find_the_same(
    detector: Detector, photos: list[Path], way: str
) -> None:
    copied = COPIES[way](detector)
    assert same(copied.predict(photos[1]), detector.predict(photos[1]))
    assert copied.config() == detector.config()
    with torch.no_grad():
        next(copied.encoder.backbone.parameters()).zero_()
    assert next(detector.encoder.backbone.parameters()).any()  # nothing is shared


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer2+layer4"),
        ("efficientnet_lite0", "stage3"),
        ("swin_t", "features.3"),
        ("timm:vit_tiny_patch16_224", "blocks.1"),
    ],
)
def test_a_trunk_in_a_pickle_keeps_its_layers_and_its_state(name: str, layer: str) -> None:
    backbone = build_backbone(name, "none", layer=layer).eval()
    backbone.trunk.register_forward_hook(print_nothing)
    next(backbone.parameters()).requires_grad_(False)
    copied = pickle.loads(pickle.dumps(backbone))
    images = torch.rand(1, 3, 70, 64)
    assert torch.equal(copied(images), backbone(images))
    assert repr(copied) == repr(backbone)
    assert list(copied.state_dict()) == list(backbone.state_dict())
    assert not copied.training
    assert [each.requires_grad for each in copied.parameters()] == [
        each.requires_grad for each in backbone.parameters()
    ]
    assert len(copied.trunk._forward_hooks) == 1
    inner = [layer.split("+")[0]]
    assert torch.equal(copied.tap(images, inner)[0], backbone.tap(images, inner)[0])


def print_nothing(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """A hook of a module that can be imported."""


@pytest.fixture
def video(photos: list[Path], tmp_path: Path) -> Path:
    """Five frames at ten a second, each brighter than the one before."""
    picture = (load_image(photos[0]) * 200).byte().permute(1, 2, 0).numpy()
    with VideoWriter(tmp_path / "walk.mp4", 10) as written:
        for number in range(5):
            written.write(picture + np.uint8(10 * number))
    return tmp_path / "walk.mp4"


def test_a_video_is_watched_frame_by_frame(detector: Detector, video: Path) -> None:
    watched = copy.copy(detector)
    calibration = ScoreCalibration().fit([-1.0, 1.0] * 20, [0] * 40, [False, True] * 20, 6)
    least = (-9.0, *(9.0,) * 5)  # all balls count, and nothing else
    watched.operating_points = OperatingPoints(least, calibration, "val", 4, (3,) * 6)
    frames = list(watched.watch(video, every=2))
    assert [frame.number for frame in frames] == [0, 2, 4]
    assert [frame.seconds for frame in frames] == pytest.approx([0.0, 0.2, 0.4])
    assert frames[0].image.mean() < frames[-1].image.mean()
    for frame in frames:
        found = watched.predict(frame.image)
        assert frame.counts == {**dict.fromkeys(watched.names, 0), "ball": frame.detections.count}
        assert frame.detections.count == int((found.labels == 0).sum()) > 0
        assert frame.detections.confidence is not None


def test_the_code_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names = run_python_page(Path(__file__).parents[2] / "docs" / "detection.md")
    assert capsys.readouterr().out.startswith("Detector(6 classes: ball")
    assert len(names["entries"]) == len(names["table"]) == names["found"][0].count
