"""Training learns what the labels say, to the same bits each time, also after kill -9."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sppnet.app.settings import load_settings
from sppnet.detection import (
    DetectionSettings,
    Detector,
    HardNegativeMiner,
    PreparedImages,
    build_encoder,
    train_detector,
)
from sppnet.detection.training import DetectorTrainer
from sppnet.errors import NothingUsableError, UsageError
from sppnet.evaluation import evaluate_detections
from sppnet.geometry import box_iou
from sppnet.images import draw_detection_set, open_detection_dataset
from sppnet.storage import FeatureCache, Stages, sha256_file

SCRIPT = Path(__file__).with_name("detector_to_kill.py")
SETTINGS = DetectionSettings(
    backbone="small5",
    weights="none",
    imgsz=(160,),
    proposals="grid",
    max_proposals=150,
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    folder = draw_detection_set(tmp_path_factory.mktemp("scenes") / "data", 14, seed=0)
    return open_detection_dataset(folder, "train")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def prepare(scenes, cache):
    def build(images=None, settings: DetectionSettings = SETTINGS) -> PreparedImages:
        torch.manual_seed(0)
        encoder = build_encoder(settings)
        images = scenes.images if images is None else images
        return PreparedImages(images, encoder, cache, settings.proposals, settings.max_proposals)

    return build


def _score(detector: Detector, images, names) -> float:
    found = {image.image_id: detector.predict(image.path) for image in images}
    return evaluate_detections(images, found, names, metric="area").mean_ap


def _with_labels(images, permutation: torch.Tensor):
    """The same boxes, each with the label of another."""
    labels = torch.cat([image.labels for image in images])[permutation]
    parts = labels.split([len(image.labels) for image in images])
    return [replace(image, labels=part) for image, part in zip(images, parts, strict=True)]


def test_learns_what_the_labels_say(prepare, scenes) -> None:
    detector = train_detector(prepare(), scenes.names, SETTINGS)
    learned = _score(detector, scenes.images, scenes.names)
    count = sum(len(image.labels) for image in scenes)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(3))
    wrong = _with_labels(scenes.images, order)
    control = train_detector(prepare(wrong), scenes.names, SETTINGS)
    by_chance = _score(control, scenes.images, scenes.names)
    assert learned > 0.6
    assert learned > 2 * by_chance
    assert _score(control, wrong, scenes.names) > by_chance  # the control did learn its labels


def test_same_seed_same_bytes_other_seed_other_bytes(prepare, scenes, tmp_path: Path) -> None:
    few = replace(SETTINGS, max_proposals=60, max_box_samples=5)
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        detector = train_detector(prepare(settings=few), scenes.names, few, seed=seed)
        detector.save(tmp_path / name)
        digests.append(sha256_file(tmp_path / name / "model.safetensors"))
    assert digests[0] == digests[1] != digests[2]


def test_stages_are_timed_in_their_order(prepare, scenes) -> None:
    stages, few = Stages(), replace(SETTINGS, max_proposals=30)
    train_detector(prepare(settings=few), scenes.names, few, stage=stages.stage)
    assert list(stages.seconds()) == ["proposals", "features", "objects", "svm", "boxes"]


def test_features_have_the_mean_length_that_was_asked_for(prepare, scenes) -> None:
    trainer = DetectorTrainer(prepare(), scenes.names, SETTINGS)
    trainer.measure_scale()
    lengths = [
        trainer.encoder.describe(encoded, windows).norm(dim=1)
        for _, encoded, windows in trainer.prepared
    ]
    assert float(torch.cat(lengths).mean() * trainer.feature_scale) == pytest.approx(20, rel=1e-3)
    counted = torch.cat([image.labels for image in scenes]).bincount(minlength=len(scenes.names))
    assert [len(rows) for rows in trainer.positives] == counted.tolist()


def test_saved_weights_take_plain_features(prepare, scenes) -> None:
    few = replace(SETTINGS, max_proposals=60)
    trainer = DetectorTrainer(prepare(settings=few), scenes.names, few)
    trainer.measure_scale()
    miner = trainer.mine()
    regressor = trainer.fit_boxes()
    _, encoded, windows = next(iter(trainer.prepared))
    plain = trainer.encoder.describe(encoded, windows)
    labels = torch.arange(len(windows)) % len(scenes.names)
    moved = regressor.apply(plain * trainer.feature_scale, labels, windows)
    detector = trainer.build_detector(miner, regressor)
    assert torch.allclose(detector.regressor.apply(plain, labels, windows), moved, atol=0.01)
    assert not torch.allclose(moved, windows, atol=1)
    expected = (plain * trainer.feature_scale) @ miner.weights_ + miner.bias_
    assert torch.allclose(detector.classifier.score(plain), expected, atol=1e-3)


def test_negatives_overlap_no_object_of_the_class(prepare, scenes, monkeypatch) -> None:
    image = max(scenes.images, key=lambda each: len(each.labels.unique()))
    trainer = DetectorTrainer(prepare([image]), scenes.names, SETTINGS)
    windows = torch.cat([image.boxes, trainer.prepared.windows(image)])
    negative = trainer._negative_of(image, windows)
    overlaps = box_iou(windows, image.boxes)
    for row in range(len(windows)):
        for label in range(len(scenes.names)):
            of_class = overlaps[row][image.labels == label].tolist()
            assert bool(negative[row, label]) == all(overlap < 0.3 for overlap in of_class)
    own = negative[torch.arange(len(image.labels)), image.labels]
    assert not own.any()


def test_windows_on_equal_cells_are_looked_at_once(prepare, scenes) -> None:
    trainer = DetectorTrainer(prepare(), scenes.names, SETTINGS)
    image, encoded, windows = next(iter(trainer.prepared))
    boxes = torch.cat([image.boxes, windows, windows.flip(0)])
    kept, cells = trainer._distinct(encoded, boxes)
    every = [tuple(row) for row in trainer.encoder.locate(encoded, boxes).tolist()]
    first = [row for row, cell in enumerate(every) if cell not in every[:row]]
    assert torch.equal(kept, boxes[first])
    assert [tuple(row) for row in cells.tolist()] == [every[row] for row in first]


def test_object_stands_for_the_windows_on_its_cells(prepare, scenes, monkeypatch) -> None:
    trainer = DetectorTrainer(prepare(scenes.images[:3]), scenes.names, SETTINGS)
    trainer.measure_scale()
    distinct, asked = trainer._distinct, []

    def watch(encoded, boxes):
        asked.append(boxes)
        return distinct(encoded, boxes)

    monkeypatch.setattr(trainer, "_distinct", watch)
    trainer.mine()
    for image, boxes in zip(scenes.images[:3], asked, strict=True):
        assert torch.equal(boxes[: len(image.boxes)], image.boxes)
        assert len(boxes) > len(image.boxes)


def test_difficult_and_crowd_are_no_positives_and_no_negatives(prepare, scenes) -> None:
    image = max(scenes.images, key=lambda each: len(each.labels))
    marks = torch.zeros(len(image.labels), dtype=torch.bool)
    marks[0] = True
    for marked in (replace(image, difficult=marks), replace(image, crowd=marks)):
        trainer = DetectorTrainer(prepare([marked]), scenes.names, SETTINGS)
        trainer.measure_scale()
        assert sum(map(len, trainer.positives)) == len(image.labels) - 1
        own = trainer._negative_of(marked, image.boxes)[:, image.labels[0]]
        assert not own[0]
        assert (trainer._target_of(marked, image.boxes) != 0).all()
    lenient = replace(SETTINGS, use_difficult=True)
    trainer = DetectorTrainer(prepare([replace(image, difficult=marks)]), scenes.names, lenient)
    trainer.measure_scale()
    assert sum(map(len, trainer.positives)) == len(image.labels)


def test_box_samples_overlap_their_object_by_more_than_half(prepare, scenes) -> None:
    trainer = DetectorTrainer(prepare(), scenes.names, SETTINGS)
    trainer.measure_scale()
    trainer.mine()
    total = 0
    for label, samples in enumerate(trainer.samples):
        _, windows, targets = samples.take()
        assert bool((box_iou(windows, targets).diagonal() > 0.5).all())
        objects = torch.cat([image.boxes[image.labels == label] for image in scenes])
        assert {tuple(row) for row in targets.tolist()} <= {tuple(r) for r in objects.tolist()}
        total += len(windows)
    assert total > sum(len(image.labels) for image in scenes)  # more than the objects themselves


def test_without_box_regression_there_is_none(prepare, scenes) -> None:
    plain = replace(SETTINGS, box_regression=False, max_proposals=30)
    assert train_detector(prepare(settings=plain), scenes.names, plain).regressor is None


def test_class_without_an_object_is_never_found(prepare, scenes) -> None:
    few = replace(SETTINGS, max_proposals=60)
    names = ("unicorn", *scenes.names)
    shifted = [replace(image, labels=image.labels + 1) for image in scenes]
    detector = train_detector(prepare(shifted, few), names, few)
    labels = torch.cat([detector.predict(image.path).labels for image in scenes])
    assert len(labels) > 0
    assert 0 not in labels


def test_first_image_full_of_one_class_does_not_silence_it(prepare, scenes) -> None:
    # every window of the first image overlaps an object of the class, so it gives no negatives
    few = replace(SETTINGS, max_proposals=60)
    prepared = prepare(settings=few)
    trainer = DetectorTrainer(prepared, scenes.names, few)
    trainer.measure_scale()
    label = int(scenes[0].labels[0])
    negative_of = trainer._negative_of

    def no_negatives_at_first(image, boxes):
        found = negative_of(image, boxes)
        if image is scenes[0]:
            found[:, label] = False
        return found

    trainer._negative_of = no_negatives_at_first
    miner: HardNegativeMiner = trainer.mine()
    assert miner.weights_[:, label].any()


def test_images_without_objects_are_used_but_not_alone(prepare, scenes) -> None:
    def empty(image):
        parts = {
            name: getattr(image, name)[:0]
            for name in ("boxes", "labels", "difficult", "crowd", "truncated")
        }
        return replace(image, **parts)

    few = replace(SETTINGS, max_proposals=30)
    mixed = [empty(scenes[0]), *scenes.images[1:4]]
    assert train_detector(prepare(mixed, few), scenes.names, few).names == scenes.names
    with pytest.raises(NothingUsableError, match="no image has an object"):
        train_detector(prepare([empty(image) for image in scenes], few), scenes.names, few)


def test_nothing_usable_is_said(prepare, scenes, tmp_path: Path) -> None:
    gone = [replace(image, path=tmp_path / image.path.name) for image in scenes]
    prepared = prepare(gone)
    with pytest.raises(NothingUsableError, match="no image of the data set can be used"):
        train_detector(prepared, scenes.names, SETTINGS)
    assert len(prepared.problems) == len(scenes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"imgsz": ()},
        {"imgsz": (600, 3)},
        {"levels": ()},
        {"levels": (1, 0)},
        {"proposals": "edges"},
        {"max_proposals": 0},
        {"max_long_side": 0},
        {"max_box_samples": 0},
        {"feature_norm": 0.0},
        {"svm_cost": float("nan")},
        {"positive_weight": -1.0},
        {"box_strength": float("inf")},
        {"target_side": 0.0},
        {"negative_below": 0.0},
        {"box_overlap": 1.0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused_by_name(wrong: dict) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        DetectionSettings(**wrong)
    with pytest.raises(UsageError, match=name):
        load_settings(DetectionSettings, None, wrong)


def test_killed_training_ends_with_the_same_bits(scenes, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, scenes.root, tmp_path]
    output = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL)
    report = json.loads(output.splitlines()[-1])
    assert report["kills"] >= 3
    assert report["code"] == 0
    models = [tmp_path / run / "model" for run in ("straight", "killed")]
    assert len({sha256_file(model / "model.safetensors") for model in models}) == 1
    assert len({(model / "config.json").read_bytes() for model in models}) == 1
    assert Detector.load(models[1]).names == scenes.names
    assert not list((tmp_path / "killed").rglob("*.tmp-*"))
