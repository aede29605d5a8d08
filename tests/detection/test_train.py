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
    CachedFeatures,
    DetectionConfig,
    Detector,
    LinearRegionClassifier,
    build_encoder,
    choose_short_sides,
    train_detector,
)
from sppnet.detection.heads.region_head import RegionFeatures
from sppnet.detection.heads.svm_trainer import SvmTrainer, mean_length
from sppnet.errors import NothingUsableError, UsageError
from sppnet.evaluation import evaluate_detections
from sppnet.geometry import box_iou
from sppnet.images import draw_detection_set, load_image, open_detection_dataset
from sppnet.storage import FeatureCache, Stages, sha256_file

SCRIPT = Path(__file__).with_name("detector_to_kill.py")
SETTINGS = DetectionConfig(
    backbone="small5",
    weights="none",
    imgsz=(160,),
    proposals="grid",
    max_proposals=150,
    extra_positives=0,
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
    def build(images=None, settings: DetectionConfig = SETTINGS) -> CachedFeatures:
        torch.manual_seed(0)
        encoder = build_encoder(settings)
        images = scenes.images if images is None else images
        return CachedFeatures(images, encoder, cache, settings.proposals, settings.max_proposals)

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
        detector = train_detector(prepare(settings=few), scenes.names, replace(few, seed=seed))
        detector.save(tmp_path / name)
        digests.append(sha256_file(tmp_path / name / "model.safetensors"))
    assert digests[0] == digests[1] != digests[2]


def test_stages_are_timed_in_their_order(prepare, scenes) -> None:
    stages, few = Stages(), replace(SETTINGS, max_proposals=30)
    train_detector(prepare(settings=few), scenes.names, few, stage=stages.stage)
    assert list(stages.seconds()) == [
        "proposals",
        "features",
        "anchors",
        "objects",
        "svm",
        "boxes",
    ]


def make_trainer(cached: CachedFeatures, names, settings=SETTINGS, scale=None) -> SvmTrainer:
    features = RegionFeatures()
    scale = scale or settings.feature_norm / mean_length(cached, features)
    return SvmTrainer(cached, len(names), settings, features, scale=scale)


def test_features_have_the_mean_length_that_was_asked_for(prepare, scenes) -> None:
    trainer = make_trainer(prepare(), scenes.names)
    trainer.collect_positives()
    lengths = [
        trainer.encoder.describe(encoded, windows).norm(dim=1)
        for _, encoded, windows in trainer.cached
    ]
    assert float(torch.cat(lengths).mean() * trainer.scale) == pytest.approx(20, rel=1e-3)
    counted = torch.cat([image.labels for image in scenes]).bincount(minlength=len(scenes.names))
    assert [len(rows) for rows in trainer.positives] == trainer.counts == counted.tolist()


def test_windows_close_to_an_object_are_positives_too(prepare, scenes) -> None:
    more = replace(SETTINGS, extra_positives=2, positive_from=0.6, anchors=False)
    trainer = make_trainer(prepare(settings=more), scenes.names, more)
    trainer._extra_of = torch.full((len(scenes.names),), 2)
    close = 0
    for image in scenes.images:
        boxes, labels = trainer._positives_of(image)
        count = len(image.boxes)
        assert torch.equal(boxes[:count], image.boxes)
        assert torch.equal(labels[:count], image.labels)
        overlap, nearest = box_iou(boxes[count:], image.boxes).max(1)
        assert bool((overlap >= 0.6).all())
        assert torch.equal(labels[count:], image.labels[nearest])
        assert nearest.bincount(minlength=1).max() <= 2
        close += len(nearest)
    assert close > 0


def test_classes_with_many_objects_need_no_further_positives(prepare, scenes) -> None:
    trainer = make_trainer(prepare(), scenes.names, replace(SETTINGS, extra_positives=6))
    few = trainer._count_extras()
    assert few.tolist() == [6] * len(scenes.names)
    trainer.cached = prepare(scenes.images * 100)
    counted = torch.cat([image.labels for image in scenes]).bincount(minlength=len(scenes.names))
    assert trainer._count_extras().tolist() == [min(6, 1200 // (100 * n)) for n in counted.tolist()]


def test_length_of_no_windows_is_one(prepare) -> None:
    assert mean_length(prepare([]), RegionFeatures()) == 1.0


def test_saved_weights_take_plain_features(prepare, scenes) -> None:
    few = replace(SETTINGS, max_proposals=60)
    trainer = make_trainer(prepare(settings=few), scenes.names, few)
    trainer.collect_positives()
    classifier = trainer.mine()
    again = make_trainer(prepare(settings=few), scenes.names, few, scale=1.0)
    again.collect_positives()
    plain = again.mine()  # fitted on features that are not scaled
    assert not torch.allclose(plain.weights, classifier.weights, rtol=0.1)
    _, encoded, windows = next(iter(trainer.cached))
    cells = trainer.encoder.locate(encoded, windows)
    vectors = trainer.encoder.describe(encoded, windows)
    scores = classifier.score(trainer.encoder, encoded, cells)
    torch.testing.assert_close(
        scores, vectors @ classifier.weights + classifier.bias, rtol=0, atol=1e-3
    )


def test_negatives_overlap_no_object_of_the_class(prepare, scenes, monkeypatch) -> None:
    image = max(scenes.images, key=lambda each: len(each.labels.unique()))
    trainer = make_trainer(prepare([image]), scenes.names)
    windows = torch.cat([image.boxes, trainer.cached.windows(image)])
    negative = trainer._negative_of(image, windows)
    overlaps = box_iou(windows, image.boxes)
    for row in range(len(windows)):
        for label in range(len(scenes.names)):
            of_class = overlaps[row][image.labels == label].tolist()
            assert bool(negative[row, label]) == all(overlap < 0.3 for overlap in of_class)
    own = negative[torch.arange(len(image.labels)), image.labels]
    assert not own.any()


def test_windows_on_equal_cells_are_looked_at_once(prepare, scenes) -> None:
    trainer = make_trainer(prepare(), scenes.names)
    image, encoded, windows = next(iter(trainer.cached))
    boxes = torch.cat([image.boxes, windows, windows.flip(0)])
    kept, cells = trainer._distinct(encoded, boxes)
    every = [tuple(row) for row in trainer.encoder.locate(encoded, boxes).tolist()]
    first = [row for row, cell in enumerate(every) if cell not in every[:row]]
    assert torch.equal(kept, boxes[first])
    assert [tuple(row) for row in cells.tolist()] == [every[row] for row in first]


def test_object_stands_for_the_windows_on_its_cells(prepare, scenes, monkeypatch) -> None:
    trainer = make_trainer(prepare(scenes.images[:3]), scenes.names)
    trainer.collect_positives()
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
        trainer = make_trainer(prepare([marked]), scenes.names)
        trainer.collect_positives()
        assert sum(map(len, trainer.positives)) == len(image.labels) - 1
        own = trainer._negative_of(marked, image.boxes)[:, image.labels[0]]
        assert not own[0]
    lenient = replace(SETTINGS, use_difficult=True)
    trainer = make_trainer(prepare([replace(image, difficult=marks)]), scenes.names, lenient)
    trainer.collect_positives()
    assert sum(map(len, trainer.positives)) == len(image.labels)


def test_window_inside_a_crowd_is_no_negative(prepare, scenes) -> None:
    image = max(scenes.images, key=lambda each: len(each.labels))
    crowd = torch.zeros(len(image.labels), dtype=torch.bool)
    crowd[0] = True
    trainer = make_trainer(prepare([image]), scenes.names)
    x0, y0, x1, y1 = image.boxes[0].tolist()
    inside = torch.tensor([[x0, y0, x0 + (x1 - x0) / 4, y0 + (y1 - y0) / 4]])
    assert trainer._negative_of(image, inside).any()
    assert not trainer._negative_of(replace(image, crowd=crowd), inside).any()


def test_budget_of_the_mining_bounds_the_objects_and_they_stand_for_all(
    prepare, scenes, monkeypatch
) -> None:
    few = replace(SETTINGS, max_proposals=30)
    trainer = make_trainer(prepare(settings=few), scenes.names, few)
    trainer.rule = replace(
        trainer.rule, budget_bytes=2 * trainer.encoder.length * 4 * len(scenes.names)
    )
    trainer.collect_positives()
    assert max(len(rows) for rows in trainer.positives) == 2
    counted = torch.cat([image.labels for image in scenes]).bincount(minlength=len(scenes.names))
    assert trainer.counts == counted.tolist()


def test_without_box_regression_there_is_none(prepare, scenes) -> None:
    plain = replace(SETTINGS, box_regression=False, max_proposals=30)
    assert train_detector(prepare(settings=plain), scenes.names, plain).box_regressor is None


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
    cached = prepare(settings=few)
    trainer = make_trainer(cached, scenes.names, few)
    trainer.collect_positives()
    label = int(scenes[0].labels[0])
    negative_of = trainer._negative_of

    def no_negatives_at_first(image, boxes):
        found = negative_of(image, boxes)
        if image is scenes[0]:
            found[:, label] = False
        return found

    trainer._negative_of = no_negatives_at_first
    assert trainer.mine().weights[:, label].any()


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
    cached = prepare(gone)
    with pytest.raises(NothingUsableError, match="no image of the data set can be used"):
        train_detector(cached, scenes.names, SETTINGS)
    assert len(cached.problems) == len(scenes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"imgsz": (600, 3)},
        {"levels": ()},
        {"levels": (1, 0)},
        {"max_proposals": 0},
        {"max_long_side": -1},
        {"max_anchors": 0},
        {"tune": "all"},
        {"tune_updates": 0},
        {"features": "fc8"},
        {"classifier": "forest"},
        {"prefilter": -1},
        {"box_stages": 0},
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
        DetectionConfig(**wrong)
    with pytest.raises(UsageError, match=name):
        load_settings(DetectionConfig, None, wrong)


def test_methods_of_proposals_are_checked_and_files_are_not_methods() -> None:
    with pytest.raises(ValueError, match="method must be one of"):
        DetectionConfig(proposals="edges")
    assert DetectionConfig(proposals="graph+grid").proposals_file is None
    assert DetectionConfig(proposals="runs/boxes.npz").proposals_file == Path("runs/boxes.npz")


@pytest.mark.parametrize("wish", [{"features": "fc7"}, {"classifier": "softmax"}])
def test_heads_that_nobody_tunes_are_refused(wish: dict) -> None:
    with pytest.raises(ValueError, match="need tune to be head or network"):
        DetectionConfig(**wish)


TUNED = {"tune_updates": 20, "widths": (16, 16), "max_proposals": 60, "max_anchors": 40}


@pytest.mark.parametrize(
    ("wish", "kind", "box_regressor"),
    [
        ({}, "linear", "cascade"),
        ({"anchors": False, "box_stages": 1}, "linear", "cascade"),
        ({"box_agnostic": True}, "linear", "cascade"),
        ({"box_regression": False}, "linear", None),
        ({"tune": "head"}, "linear", "cascade"),
        ({"tune": "head", "features": "fc6"}, "linear", "cascade"),
        ({"tune": "head", "ranks": (8, 8)}, "linear", "cascade"),
        ({"tune": "head", "classifier": "softmax"}, "head", "cascade"),
        ({"tune": "head", "classifier": "softmax", "prefilter": 30}, "prefiltered", "cascade"),
        ({"tune": "head", "classifier": "kernel"}, "kernel", "cascade"),
        ({"tune": "network", "features": "pooled"}, "linear", "cascade"),
        ({"tune": "network"}, "linear", "cascade"),
        ({"tune": "network", "classifier": "softmax"}, "head", "head"),
        ({"classifier": "kernel"}, "kernel", "cascade"),
        ({"classifier": "kernel", "prefilter": 30}, "prefiltered", "cascade"),
    ],
    ids=str,
)
def test_every_kind_of_detector_is_learnt_saved_and_used(
    prepare, scenes, tmp_path: Path, wish: dict, kind: str, box_regressor: str | None
) -> None:
    settings = replace(SETTINGS, **TUNED, **wish)
    detector = train_detector(prepare(settings=settings), scenes.names, settings)
    config = detector.config()
    assert config["scorer"]["kind"] == kind
    assert (config["mover"] or {"kind": None})["kind"] == box_regressor
    detector.rule = replace(detector.rule, score_threshold=-30.0)  # little was learnt
    if isinstance(detector.classifier, LinearRegionClassifier):
        assert detector.classifier.features.layer == settings.layer_of_features
    assert [name for name, each in detector.tensors().items() if not each.is_contiguous()] == []
    detector.save(tmp_path / "model")
    again = Detector.load(tmp_path / "model")
    for image in scenes:
        assert _same_bits(detector, again, image.path)


def _same_bits(detector: Detector, again: Detector, path: Path) -> bool:
    """Whether two detectors find the same windows, scores and boxes in a photo, and some at all."""
    each_finds = []
    for each in (detector, again):
        pixels = load_image(path)
        encoded = each.encode(pixels)
        windows = each.windows(pixels, encoded)
        cells = each.encoder.locate(encoded, windows)
        found = each.predict(path)
        scores = each.classifier.score(each.encoder, encoded, cells)
        each_finds.append((windows, scores, found.boxes, found.scores, found.labels))
    return found.count > 0 and all(map(torch.equal, *each_finds))


def test_tuned_trunk_is_another_trunk_and_the_given_one_stays(prepare, scenes) -> None:
    settings = replace(SETTINGS, **TUNED, tune="network", features="pooled", tune_from="conv3")
    cached = prepare(settings=settings)
    before = {k: v.clone() for k, v in cached.encoder.backbone.state_dict().items()}
    tuned = train_detector(cached, scenes.names, settings).encoder.backbone.state_dict()
    assert all(torch.equal(v, before[k]) for k, v in cached.encoder.backbone.state_dict().items())
    changed = {
        name.split(".")[1] for name, value in tuned.items() if not torch.equal(value, before[name])
    }
    assert "conv5" in changed
    assert "conv1" not in changed


def test_scales_are_chosen_by_the_objects_where_none_are_given(scenes) -> None:
    left_open = replace(SETTINGS, imgsz=())
    encoder = build_encoder(left_open, scenes.images)
    assert encoder.short_sides == choose_short_sides(scenes.images)


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
