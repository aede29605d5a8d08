"""Training learns what the labels say, to the same bits each time, also after kill -9."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sppnet.app.settings import Setting, load_settings, settings_of
from sppnet.detection import (
    CachedFeatures,
    DetectionConfig,
    Detector,
    InferenceConfig,
    LinearRegionClassifier,
    build_cached_features,
    build_encoder,
    choose_short_sides,
    train,
    train_detector,
)
from sppnet.detection.finetune.head import HeadTuningConfig
from sppnet.detection.finetune.network import NetworkTuningConfig
from sppnet.detection.heads.svm_trainer import NormConfig
from sppnet.detection.proposals.anchors import AnchorConfig
from sppnet.errors import NothingUsableError, UsageError
from sppnet.evaluation import OperatingPoints, evaluate_detections
from sppnet.images import draw_detection_set, load_image, open_detection_dataset
from sppnet.storage import FeatureCache, Stages, sha256_file

SCRIPT = Path(__file__).with_name("detector_to_kill.py")
SETTINGS = DetectionConfig(
    backbone="small5",
    weights="none",
    imgsz=(160,),
    proposals="grid",
    max_proposals=150,
    max_anchors=80,
    extra_positives=0,
    mirror="off",
    crops="off",
    operating_point=False,
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


def test_cached_features_are_built_as_the_configuration_says(prepare, scenes, cache) -> None:
    config = replace(SETTINGS, proposals="grid", max_proposals=7, max_anchors=3, seed=5)
    cached = build_cached_features(config, scenes.images, prepare().encoder, cache)
    assert (cached.method, cached.max_proposals, cached.max_anchors) == ("grid", 7, 3)
    assert (cached.seed, cached.anchors, cached.external) == (5, None, None)


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


def test_operating_points_are_of_photos_that_were_held_out(prepare, tmp_path) -> None:
    more = draw_detection_set(tmp_path / "data", 30, seed=0)
    scenes = open_detection_dataset(more, "train")
    few = replace(SETTINGS, max_proposals=60, operating_point=True, engine="torch")
    stages = Stages()
    detector = train_detector(prepare(scenes.images, few), scenes.names, few, stage=stages.stage)
    assert list(stages.seconds())[-1] == "operating point"
    points = detector.operating_points
    assert points is not None
    assert (points.source, points.images) == ("training", len(scenes))
    assert sum(points.objects) == sum(len(image.boxes) for image in scenes)
    found = {image.image_id: detector.predict(image.path) for image in scenes}
    fitted = OperatingPoints.fit(scenes.images, found, scenes.names, "training")
    # what was learnt by heart scores otherwise: its thresholds would be others
    assert not np.allclose(fitted.thresholds, points.thresholds, rtol=0, atol=1e-5)
    plain = train_detector(
        prepare(scenes.images, few), scenes.names, replace(few, operating_point=False)
    )
    assert plain.operating_points is None
    assert plain.config() == detector.config()
    assert all(torch.equal(a, b) for a, b in zip(
        plain.tensors().values(), detector.tensors().values(), strict=True
    ))  # fmt: skip


def test_many_photos_are_judged_by_what_the_svms_are_without_them(
    prepare, scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(SETTINGS, max_proposals=60, operating_point=True, engine="torch")
    judged: list[tuple[set, dict]] = []

    def keep(_kind, images, detections, *_others) -> None:
        judged.append(({image.image_id for image in images}, detections))

    monkeypatch.setattr(OperatingPoints, "fit", classmethod(keep))
    for most in (len(scenes), len(scenes) - 1):
        detector = train_detector(prepare(settings=few), scenes.names, few, few_photos=most)
    for photos, found in judged:
        assert photos == found.keys() == {image.image_id for image in scenes}
    own = {image.image_id: detector.predict(image.path) for image in scenes}
    best = [
        torch.stack([found[image.image_id].scores.max() for image in scenes])
        for found in (judged[0][1], judged[1][1], own)
    ]
    near, far = ((best[1] - other).abs().mean() for other in (best[0], best[2]))
    assert near < 0.5 * far  # alike, and not what was learnt by heart


def test_too_few_objects_give_no_operating_point(prepare, scenes) -> None:
    few = replace(SETTINGS, max_proposals=30, operating_point=True)
    detector = train_detector(prepare(scenes.images[:1], few), scenes.names, few)
    assert detector.operating_points is None


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
    with pytest.raises(ValueError, match="proposals must be one of"):
        DetectionConfig(proposals="edges")
    assert DetectionConfig(proposals="graph+grid").proposals_file is None
    assert DetectionConfig(proposals="runs/boxes.npz").proposals_file == Path("runs/boxes.npz")


@pytest.mark.parametrize("wish", [{"features": "fc7"}, {"classifier": "softmax"}])
def test_heads_that_nobody_tunes_are_refused(wish: dict) -> None:
    with pytest.raises(ValueError, match="need tune to be head or network"):
        DetectionConfig(**wish)


PARTS = {
    "anchors": lambda config: train.part_of(config, AnchorConfig, "anchor_"),
    "svm": train.svm_config,
    "norm": train.norm_config,
    "boxes": train.cascade_config,
    "head": train.head_tuning_config,
    "network": train.network_tuning_config,
    "testing": train.inference_config,
}
# settings that are not a constant of one part: they are read where training decides what to do
READ_BY_TRAINING = {
    *("backbone", "layer", "weights", "engine", "imgsz", "max_long_side", "levels"),
    *("projection", "target_side", "anchors", "tune", "features", "classifier", "prefilter"),
    *(
        "mirror",
        "few_objects",
        "crops",
        "very_few_objects",
        "box_regression",
        "box_agnostic",
        "operating_point",
    ),
}
OTHER = {
    "box_bins": "cells",
    "tune_positive_from": 0.6,
    "tune_flip": "on",
    "recipe": "paper",
    "proposals": "grid",
    "tune_from": "conv3",
}


@pytest.mark.parametrize("setting", settings_of(DetectionConfig), ids=lambda each: each.name)
def test_every_setting_reaches_the_part_that_it_is_of(setting: Setting) -> None:
    def parts(**given) -> dict:
        config = DetectionConfig(**given)
        return {name: make(config) for name, make in PARTS.items()}

    value = OTHER.get(setting.name)
    if value is None and isinstance(setting.default, bool):
        value = not setting.default
    elif value is None and isinstance(setting.default, tuple):
        value = (50, 60)
    elif value is None and isinstance(setting.default, float):
        value = setting.default * 0.9 or 0.5
    elif value is None and isinstance(setting.default, int):
        value = setting.default + 1
    reached = value is not None and parts() != parts(**{setting.name: value})
    assert reached == (setting.name not in READ_BY_TRAINING)


def test_parts_of_the_default_settings_are_those_of_the_rooms() -> None:
    config = DetectionConfig()
    assert PARTS["anchors"](config) == AnchorConfig()
    assert PARTS["norm"](config) == NormConfig()
    assert PARTS["testing"](config) == InferenceConfig()
    assert PARTS["network"](config) == NetworkTuningConfig()
    assert PARTS["head"](config) == HeadTuningConfig(updates=config.tune_updates)


TUNED = {"tune_updates": 20, "widths": (16, 16), "max_proposals": 60, "max_anchors": 30}


@pytest.mark.parametrize(
    ("wish", "kind", "box_regressor"),
    [
        ({}, "linear", "cascade"),
        ({"anchors": False, "box_stages": 1}, "linear", "cascade"),
        ({"box_agnostic": "on"}, "linear", "cascade"),
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
    cached = prepare(scenes.images[:7], settings)
    detector = train_detector(cached, scenes.names, settings)
    config = detector.config()
    assert config["scorer"]["kind"] == kind
    assert (config["mover"] or {"kind": None})["kind"] == box_regressor
    detector.inference = replace(detector.inference, score_threshold=-30.0)  # little was learnt
    if isinstance(detector.classifier, LinearRegionClassifier):
        assert detector.classifier.features.layer == settings.layer_of_features
    assert [name for name, each in detector.tensors().items() if not each.is_contiguous()] == []
    detector.save(tmp_path / "model")
    again = Detector.load(tmp_path / "model")
    for image in scenes.images[5:9]:
        assert _same_bits(detector, again, image.path)


def _same_bits(detector: Detector, again: Detector, path: Path) -> bool:
    """Whether two detectors give the same proposals, scores and boxes, and any at all."""
    each_finds = []
    for each in (detector, again):
        pixels = load_image(path)
        encoded = each.encode(pixels)
        proposals = each.propose(pixels, encoded)
        regions = each.encoder.assign_regions(encoded, proposals)
        found = each.predict(path)
        scores = each.classifier.score(each.encoder, encoded, regions)
        each_finds.append((proposals, scores, found.boxes, found.scores, found.labels))
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


def _with_difficult_copies(image):
    """The same objects once more, each marked difficult."""
    parts = {name: torch.cat([getattr(image, name)] * 2) for name in ("boxes", "labels", "crowd")}
    marks = torch.arange(2 * len(image.labels)) >= len(image.labels)
    truncated = torch.cat([image.truncated] * 2)
    return replace(image, **parts, difficult=marks, truncated=truncated)


@pytest.mark.parametrize(
    "wish",
    [
        {"extra_positives": 600, "positive_from": 0.6},  # more than objects allow
        {"tune": "head"},
        {"tune": "network", "classifier": "softmax"},
        {"classifier": "kernel", "box_stages": 1},
    ],
    ids=str,
)
def test_difficult_objects_teach_nothing_unless_asked(prepare, scenes, wish: dict) -> None:
    small = {**TUNED, "imgsz": (96,), "levels": (1, 2), "max_proposals": 40, "tune_updates": 4}
    settings = replace(SETTINGS, **small, **wish)
    images = scenes.images[:3]
    marked = [_with_difficult_copies(image) for image in images]
    lenient = replace(settings, use_difficult=True)

    def tensors(images, settings: DetectionConfig) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        cached = replace(prepare(images, settings), encoder=build_encoder(settings, images))
        return train_detector(cached, scenes.names, settings).tensors()

    expected, found, asked = (
        tensors(*each) for each in ((images, settings), (marked, settings), (marked, lenient))
    )
    assert {name for name, each in found.items() if not torch.equal(each, expected[name])} == set()
    learnt = {
        name.split(".")[0]
        for name, each in asked.items()
        if each.shape != expected[name].shape or not torch.equal(each, expected[name])
    }
    assert {"anchors", "mover", "scorer"} <= learnt


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
