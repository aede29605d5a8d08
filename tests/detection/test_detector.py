"""The detector: the same answers after saving, any kind of image, what is kept, combinations."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oracles.box_loops import iou, suppress
from sppnet.app.main import main
from sppnet.detection import (
    BoxCascade,
    CombinedDetector,
    Detector,
    EncodedImage,
    InferenceConfig,
    LinearRegionClassifier,
    RidgeBoxRegressor,
)
from sppnet.detection.detector import keep_operating_points
from sppnet.errors import InputError, UnusableFileError
from sppnet.evaluation import OperatingPoints, ScoreCalibration
from sppnet.geometry import Detections, nms_per_class
from sppnet.images import load_image
from sppnet.progress import using_threads
from sppnet.storage import load_model, save_model

NAMES = ("left", "right", "none")


@pytest.fixture
def make_detector(make_encoder):
    """A detector with random weights, so scaled that many proposals score above the threshold."""

    def build(*, boxes: bool = True, bias: float = 0.0, **options) -> Detector:
        encoder = make_encoder((96,))
        draw = torch.Generator().manual_seed(1)
        weights = torch.randn(encoder.length, 3, generator=draw) / encoder.length**0.5
        box_regressor = BoxCascade(3)
        box_regressor.stages_ = [RidgeBoxRegressor(), RidgeBoxRegressor()]
        for stage in box_regressor.stages_:
            stage.weights_ = torch.randn(3, encoder.length, 4, generator=draw) * 1e-3
            stage.bias_ = torch.zeros(3, 4)
        return Detector(
            encoder,
            LinearRegionClassifier(weights, torch.full((3,), bias)),
            box_regressor if boxes else None,
            NAMES,
            InferenceConfig(
                **{"proposals": "grid", "max_proposals": 150, "nms": "hard", **options}
            ),
        )

    return build


def margins_of(detector: Detector, encoded: EncodedImage, proposals: torch.Tensor) -> torch.Tensor:
    """Distances to the planes by way of the whole vectors."""
    described = detector.encoder.describe(encoded, proposals)
    return described @ detector.classifier.weights + detector.classifier.bias


def _same(first: Detections, second: Detections) -> bool:
    return all(torch.equal(first[key], second[key]) for key in ("boxes", "scores", "labels"))


def test_prediction_is_a_checked_dict(make_detector, make_picture) -> None:
    found = make_detector().predict(make_picture(90, 120))
    assert isinstance(found, dict)
    assert set(found) == {"boxes", "scores", "labels"}
    count = len(found["scores"])
    assert 0 < count <= 100
    assert found["boxes"].shape == (count, 4)
    assert found["labels"].dtype == torch.int64
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    assert bool((found["scores"].diff() <= 0).all())
    assert bool((found["boxes"] >= 0).all())
    assert bool((found["boxes"].amax(0) <= torch.tensor([120.0, 90, 120, 90])).all())
    assert bool((found["boxes"][:, 2:] > found["boxes"][:, :2]).all())


@pytest.mark.parametrize("boxes", [True, False])
@pytest.mark.parametrize("size_hw", [(1, 1), (90, 120), (15, 300)])
def test_nothing_found_keeps_the_shapes(make_detector, make_picture, boxes: bool, size_hw) -> None:
    found = make_detector(bias=-1e4, boxes=boxes).predict(make_picture(*size_hw))
    assert found["boxes"].shape == (0, 4)
    assert found["scores"].shape == found["labels"].shape == (0,)
    assert found["boxes"].dtype == torch.float32
    assert found["labels"].dtype == torch.int64


def test_no_proposals_are_no_detections(make_detector, make_picture) -> None:
    detector = make_detector()
    encoded = detector.encode(make_picture(50, 60))
    assert detector.detect(encoded, torch.zeros(0, 4)).count == 0


def _points() -> OperatingPoints:
    calibration = ScoreCalibration().fit([-1.0, 1.0] * 20, [0] * 40, [False, True] * 20, 3)
    return OperatingPoints((0.5, -0.5, 0.0), calibration, "val", 4, (3, 2, 1))


def test_operating_points_change_nothing_but_what_is_said_about_detections(
    make_detector, make_picture, tmp_path: Path
) -> None:
    detector, picture = make_detector(), make_picture(90, 120)
    detector.save(tmp_path / "model", extra={"split": "train"})
    before = detector.predict(picture)
    keep_operating_points(tmp_path / "model", _points())
    loaded = Detector.load(tmp_path / "model")
    assert loaded.operating_points.config() == _points().config()
    assert loaded.config() == detector.config()
    config, tensors = load_model(tmp_path / "model", "detector")
    assert config["training"] == {"split": "train"}
    assert all(torch.equal(tensors[name], each) for name, each in detector.tensors().items())
    found = loaded.predict(picture)
    assert _same(found, before)
    assert set(found) == {"boxes", "scores", "labels", "confidence"}
    assert torch.equal(found.confidence, _points().with_confidence(before).confidence)
    keep_operating_points(tmp_path / "model", replace(_points(), source="training"))  # once more
    assert Detector.load(tmp_path / "model").operating_points.source == "training"
    assert CombinedDetector([loaded, loaded]).operating_points is None


@pytest.mark.parametrize("boxes", [True, False])
def test_saved_and_loaded_gives_the_same_bits(
    make_detector, make_picture, tmp_path: Path, boxes: bool
) -> None:
    detector = make_detector(boxes=boxes)
    detector.save(tmp_path / "model", extra={"split": "train"})
    loaded = Detector.load(tmp_path / "model")
    assert loaded.names == NAMES
    assert loaded.inference == detector.inference
    assert loaded.config() == detector.config()
    assert (loaded.box_regressor is None) == (not boxes)
    for seed in range(3):
        picture = make_picture(70 + 20 * seed, 90, seed)
        assert _same(loaded.predict(picture), detector.predict(picture))
    loaded.save(tmp_path / "again", extra={"split": "train"})
    first, second = (tmp_path / name / "model.safetensors" for name in ("model", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_path_pillow_array_and_tensor_give_the_same(
    make_detector, make_picture, tmp_path: Path
) -> None:
    pixels = (make_picture(60, 80) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    detector = make_detector()
    expected = detector.predict(load_image(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        picture,
        pixels,
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
    ):
        assert _same(detector.predict(source), expected), type(source)
    assert expected.count > 0


def test_values_that_are_no_images_are_refused(make_detector, tmp_path: Path) -> None:
    detector = make_detector()
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(InputError):
        detector.predict(tmp_path / "text.jpg")
    with pytest.raises(InputError):
        detector.predict(tmp_path / "missing.jpg")
    with pytest.raises(TypeError):
        detector.predict(7)
    with pytest.raises((TypeError, ValueError)):
        detector.predict(np.zeros((5, 5), dtype=np.float64))


def test_overlaps_of_a_class_are_suppressed_as_in_the_slow_loop(
    make_detector, make_picture, make_boxes
) -> None:
    detector = make_detector(
        boxes=False, max_detections=10**6, score_threshold=-0.5, softmax_temperature=0.0
    )
    encoded = detector.encode(make_picture(80, 110))
    proposals = make_boxes(60, 80, 110).round()
    proposals[:, 2:] = torch.maximum(proposals[:, 2:], proposals[:, :2] + 1)
    found = detector.detect(encoded, proposals)
    scores = margins_of(detector, encoded, proposals)
    for label in range(3):
        rows = [row for row in range(60) if scores[row, label] > -0.5]
        boxes = [proposals[row].tolist() for row in rows]
        # proposals on the same cells score the same up to rounding: round the scores of both ways
        values = [round(float(scores[row, label]), 4) for row in rows]
        kept = suppress(boxes, values, 0.3)
        mine = found.labels == label
        assert sorted(boxes[place] for place in kept) == sorted(found.boxes[mine].tolist())


def test_other_classes_do_not_suppress(make_detector, make_picture) -> None:
    detector = make_detector(boxes=False)
    weights = detector.classifier.weights[:, :1].repeat(1, 3)
    detector.classifier = LinearRegionClassifier(weights, torch.zeros(3))
    found = detector.predict(make_picture(80, 100))
    per_class = [found.boxes[found.labels == label].tolist() for label in range(3)]
    assert per_class[0] == per_class[1] == per_class[2]


def test_limit_keeps_the_best(make_detector, make_picture) -> None:
    picture = make_picture(90, 120)
    everything = make_detector(boxes=False, max_detections=10**6).predict(picture)
    few = make_detector(boxes=False, max_detections=4).predict(picture)
    assert everything.count > few.count == 4
    assert _same(few, everything.select(torch.arange(4)))


def test_models_of_earlier_versions_score_each_class_alone(
    make_detector, make_picture, tmp_path: Path
) -> None:
    make_detector(softmax_temperature=0.5).save(tmp_path / "model")
    config, tensors = load_model(tmp_path / "model", "detector")
    earlier = {k: v for k, v in config["rule"].items() if k != "softmax_temperature"}
    save_model(tmp_path / "earlier", "detector", {**config, "rule": earlier}, tensors)
    loaded = Detector.load(tmp_path / "earlier")
    assert loaded.inference.softmax_temperature == 0
    alone, competing = (
        make_detector(softmax_temperature=0.0),
        make_detector(softmax_temperature=0.5),
    )
    picture = make_picture(90, 120, 1)
    assert _same(loaded.predict(picture), alone.predict(picture))
    assert not torch.equal(alone.predict(picture).scores, competing.predict(picture).scores)


def test_threshold_is_exclusive_and_scores_are_margins(
    make_detector, make_picture, make_boxes
) -> None:
    detector = make_detector(boxes=False, nms_threshold=1.0, softmax_temperature=0.0)
    encoded, proposals = detector.encode(make_picture(70, 70)), make_boxes(12, 70, 70)
    everything = detector.detect(encoded, proposals)
    scores = margins_of(detector, encoded, proposals)
    kept = scores[scores > -1.5].sort(descending=True).values
    assert torch.allclose(everything.scores, kept, atol=1e-4)
    strict = make_detector(boxes=False, nms_threshold=1.0)
    strict.inference = InferenceConfig(
        score_threshold=float(everything.scores[3]),
        nms="hard",
        nms_threshold=1.0,
        softmax_temperature=0.0,
    )
    assert strict.detect(encoded, proposals).count == 3


def test_moved_boxes_are_clipped_and_suppressed_again(
    make_detector, make_picture, make_boxes
) -> None:
    detector = make_detector(nms_threshold=0.3)
    for stage in detector.box_regressor.stages_:
        stage.weights_ *= 60
    encoded, proposals = detector.encode(make_picture(80, 100)), make_boxes(150, 80, 100)
    found = detector.detect(encoded, proposals)
    boxes = found.boxes
    assert bool((boxes >= 0).all() & (boxes <= torch.tensor([100.0, 80, 100, 80])).all())
    for one in range(found.count):
        for other in range(one):
            if found.labels[one] == found.labels[other]:
                assert float(iou(boxes[one].tolist(), boxes[other].tolist())) <= 0.3 + 1e-6
    assert found.count > 1


def test_box_that_would_leave_the_image_stays_where_it_was(make_detector, make_picture) -> None:
    detector, still = make_detector(vote_overlap=1.0), make_detector(boxes=False)
    for stage in detector.box_regressor.stages_:
        stage.weights_ *= 0
        stage.bias_ += torch.tensor([50.0, 0, 0, 0])  # fifty widths to the right
    found, expected = (each.predict(make_picture(60, 60)) for each in (detector, still))
    assert found.count
    assert {tuple(b) for b in found.boxes.tolist()} <= {tuple(b) for b in expected.boxes.tolist()}


def test_released_code_refines_what_suppression_kept_and_leaves_the_scores(
    make_detector, make_picture, make_boxes
) -> None:
    options = {"recipe": "paper", "proposals": "grid", "score_threshold": -0.5}
    detector = make_detector(**options)
    for stage in detector.box_regressor.stages_:
        stage.weights_ *= 200
    encoded, proposals = detector.encode(make_picture(80, 100)), make_boxes(60, 80, 100)
    found = detector.detect(encoded, proposals)
    scores = margins_of(detector, encoded, proposals)
    expected, dropped = [], 0
    for label in range(3):
        rows = (scores[:, label] > -0.5).nonzero().flatten()
        values = scores[rows, label].tolist()
        kept = rows[suppress(proposals[rows].tolist(), values, 0.3)]
        labels = torch.full((len(kept),), label)
        moved = detector.box_regressor.apply(detector.encoder, encoded, labels, proposals[kept])
        values = scores[kept, label].tolist()
        again = suppress(moved.tolist(), values, 0.3)
        dropped += len(kept) - len(again)
        expected += [(round(values[row], 3), moved[row].round().tolist()) for row in again]
    assert dropped > 0  # by the second suppression
    assert sorted(expected) == sorted(
        (round(score, 3), box)
        for score, box in zip(found.scores.tolist(), found.boxes.round().tolist(), strict=True)
    )


def test_moving_to_a_device_keeps_the_answers(make_detector, make_picture) -> None:
    picture = make_picture(60, 60)
    expected = make_detector().predict(picture)
    assert _same(make_detector().to("cpu").predict(picture), expected)


def _damage(model: Path, how: str) -> None:
    tensors, config = model / "model.safetensors", model / "config.json"
    if how == "bit of the weights":
        data = bytearray(tensors.read_bytes())
        data[len(data) // 2] ^= 1
        tensors.write_bytes(data)
    elif how == "cut weights":
        tensors.write_bytes(tensors.read_bytes()[:-5])
    elif how == "no weights":
        tensors.unlink()
    elif how == "threshold":
        config.write_text(
            config.read_text().replace('"nms_threshold": 0.3', '"nms_threshold": 0.4')
        )
    elif how == "no manifest":
        (model / "manifest.json").unlink()


@pytest.mark.parametrize(
    "how", ["bit of the weights", "cut weights", "no weights", "threshold", "no manifest"]
)
def test_model_that_was_tampered_with_is_refused(
    make_detector, tmp_path: Path, capsys, how: str
) -> None:
    model = tmp_path / "model"
    make_detector().save(model)
    _damage(model, how)
    with pytest.raises(UnusableFileError) as caught:
        Detector.load(model)
    assert str(model) in str(caught.value)
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    out = tmp_path / "out"
    assert main(["detect", "predict", str(model), str(tmp_path / "a.png"), "--out", str(out)]) == 5
    assert not (out / "detections.json").exists()
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def _without(config: dict, key: str) -> dict:
    return {name: value for name, value in config.items() if name != key}


@pytest.mark.parametrize(
    "change",
    [
        lambda config, tensors: (_without(config, "rule"), tensors),
        lambda config, tensors: ({**config, "rule": {"colour": 1}}, tensors),
        lambda config, tensors: ({**config, "names": ["one"]}, tensors),
        lambda config, tensors: ({**config, "encoder": {"levels": [1]}}, tensors),
        lambda config, tensors: (
            config,
            {k: v for k, v in tensors.items() if k != "scorer.bias"},
        ),
        lambda config, tensors: (config, {**tensors, "scorer.weights": torch.zeros(7, 3)}),
        lambda config, tensors: (config, {k: v for k, v in tensors.items() if k != "mover.bias"}),
    ],
    ids=["no rule", "other rule", "names", "encoder", "no bias", "other length", "half regressor"],
)
def test_whole_model_whose_parts_do_not_fit_is_refused(
    make_detector, tmp_path: Path, change
) -> None:
    make_detector().save(tmp_path / "model")
    config, tensors = load_model(tmp_path / "model", "detector")
    save_model(tmp_path / "other", "detector", *change(config, tensors))
    with pytest.raises(UnusableFileError, match="does not fit together"):
        Detector.load(tmp_path / "other")


def test_model_of_another_kind_is_refused(make_detector, tmp_path: Path) -> None:
    save_model(tmp_path / "model", "classifier", {"names": ["a"]}, {"w": torch.ones(2)})
    with pytest.raises(UnusableFileError, match="classifier"):
        Detector.load(tmp_path / "model")


def test_config_says_how_the_model_came_to_be(make_detector, tmp_path: Path) -> None:
    make_detector().save(tmp_path / "model", extra={"seed": 3})
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert json.dumps(config).count('"seed": 3') == 1


def test_classifier_of_another_shape_is_refused(make_detector) -> None:
    detector = make_detector()
    with pytest.raises(ValueError, match="classifier must have one score per name"):
        Detector(detector.encoder, detector.classifier, None, ("only",))
    lengths = LinearRegionClassifier(torch.zeros(7, 3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"vectors of regions must have .* numbers, got"):
        Detector(detector.encoder, lengths, None, NAMES)


def test_mirror_images_average_the_scores(make_detector, make_picture) -> None:
    image = make_picture(90, 120)
    detector, both = make_detector(boxes=False), make_detector(boxes=False, flip=True)
    proposals = torch.tensor([[10.0, 5, 60, 80], [0.0, 0, 120, 90], [70.0, 30, 119, 60]])
    mirrored = torch.stack(
        [120 - proposals[:, 2], proposals[:, 1], 120 - proposals[:, 0], proposals[:, 3]]
    )
    seen = detector.score(detector.encode(image), proposals)
    flipped = detector.score(detector.encode(image.flip(-1)), mirrored.T)
    assert torch.equal(both.score(both.encode(image), proposals), (seen + flipped) / 2)
    assert not torch.equal(seen, flipped)


def test_detections_do_not_depend_on_which_side_is_left_when_both_are_looked_at(
    make_detector, make_picture
) -> None:
    image = make_picture(64, 96)
    detector = make_detector(boxes=False, flip=True)
    proposals = detector.propose(image, detector.encode(image))
    turned = torch.stack(
        [96 - proposals[:, 2], proposals[:, 1], 96 - proposals[:, 0], proposals[:, 3]], 1
    )
    found = detector.detect(detector.encode(image), proposals)
    again = detector.detect(detector.encode(image.flip(-1)), turned)
    assert found.count
    assert torch.allclose(found.scores, again.scores, atol=1e-5)


@pytest.mark.parametrize("boxes", [True, False])
def test_soft_suppression_keeps_more_and_never_raises_a_score(
    make_detector, make_picture, boxes: bool
) -> None:
    image = make_picture(90, 120)
    hard, soft = make_detector(boxes=boxes), make_detector(boxes=boxes, nms="soft")
    found, more = hard.predict(image), soft.predict(image)
    assert more.count > found.count
    assert more.count <= soft.inference.max_detections
    assert bool((more.scores[1:] <= more.scores[:-1]).all())
    assert float(more.scores[0]) == pytest.approx(float(found.scores[0]), abs=1e-4)


def test_another_suppression_is_refused() -> None:
    with pytest.raises(ValueError, match="nms must be one of hard, soft, got 'none'"):
        InferenceConfig(nms="none")


@pytest.fixture
def make_linear(make_encoder):
    """A detector with random weights and a trunk of its own scale."""

    def build(seed: int, short_side: int = 96, names=("dog", "cat"), **options) -> Detector:
        encoder = make_encoder((short_side,))
        draw = torch.Generator().manual_seed(seed)
        weights = torch.randn(encoder.length, len(names), generator=draw) / encoder.length**0.5
        classifier = LinearRegionClassifier(weights, torch.zeros(len(names)))
        options = {"proposals": "grid", "max_proposals": 120, **options}
        return Detector(
            encoder, classifier, None, names, InferenceConfig(**{"nms": "hard", **options})
        )

    return build


def test_everything_found_comes_from_one_of_them_and_copies_are_gone(
    make_linear, make_picture
) -> None:
    parts = [make_linear(1), make_linear(2, 64)]
    image = make_picture(90, 120)
    combined = CombinedDetector(parts).predict(image)
    alone = [part.predict(image) for part in parts]
    rows = {
        (label, score, *box)
        for found in alone
        for label, score, box in zip(
            found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
        )
    }
    assert 0 < combined.count < len(rows)
    seen = [
        (label, score, *box)
        for label, score, box in zip(
            combined.labels.tolist(), combined.scores.tolist(), combined.boxes.tolist(), strict=True
        )
    ]
    assert set(seen) <= rows
    kept = nms_per_class(combined.boxes, combined.scores, combined.labels, 0.3)
    assert len(kept) == combined.count
    assert combined.scores[0] == max(found.scores[0] for found in alone)


def test_the_same_detector_twice_finds_what_it_finds_alone(make_linear, make_picture) -> None:
    detector, image = make_linear(1), make_picture(90, 120)
    alone, twice = detector.predict(image), CombinedDetector([detector] * 2).predict(image)
    best = alone.scores >= twice.scores.min()
    assert torch.equal(alone.scores[best], twice.scores)


def test_proposals_are_those_of_all_each_once(make_linear, make_picture) -> None:
    parts, image = [make_linear(1), make_linear(2, max_proposals=60)], make_picture(90, 120)
    combined = CombinedDetector(parts)
    proposals = combined.propose(image, combined.encode(image))
    each = [part.propose(image, part.encode(image)) for part in parts]
    assert {tuple(w) for w in proposals.tolist()} == {tuple(w) for w in torch.cat(each).tolist()}
    assert len(proposals.unique(dim=0)) == len(proposals)


def test_detectors_of_other_classes_are_refused(make_linear) -> None:
    with pytest.raises(ValueError, match="detectors must have the same classes"):
        CombinedDetector([make_linear(1), make_linear(2, names=("cat", "dog"))])
    with pytest.raises(ValueError, match="detectors must be two or more, got 1"):
        CombinedDetector([make_linear(1)])


def test_moved_boxes_are_scored_again_in_parts_alike(make_detector, make_picture, monkeypatch):
    detector, image = make_detector(), make_picture(90, 120)
    whole = detector.predict(image)
    monkeypatch.setattr("sppnet.detection.detector.SCORES_AT_ONCE", 30)  # ten boxes
    parts = detector.predict(image)
    assert torch.equal(parts.labels, whole.labels)
    assert torch.allclose(parts.scores, whole.scores, atol=1e-5)
    assert torch.allclose(parts.boxes, whole.boxes, atol=1e-3)
    monkeypatch.setattr("sppnet.detection.detector.MOST_MOVED", 1)
    assert detector.predict(image).count == 1


@pytest.mark.parametrize("bins", ["points", "cells"])
def test_any_number_of_threads_gives_the_same_bits_alone_and_in_a_list(
    make_detector, make_picture, bins: str
) -> None:
    detector = make_detector()
    detector.encoder.backbone = detector.encoder.backbone.with_engine("onnxruntime")
    detector.box_regressor.constants = replace(detector.box_regressor.constants, bins=bins)
    pictures = [make_picture(90 + 37 * n, 260 - 31 * n, seed=n) for n in range(5)]
    found = []
    for threads in (1, 2, 3):
        with using_threads(threads):
            assert detector.workers == threads
            found.append([detector.predict(each) for each in pictures])
            found.append(detector.predict(pictures))
    assert all(each.count for each in found[0])
    for others in found[1:]:
        assert all(_same(one, other) for one, other in zip(found[0], others, strict=True))


def test_where_torch_convolves_images_are_looked_at_one_after_the_other(make_detector) -> None:
    assert make_detector().encoder.backbone.engine == "torch"
    assert make_detector().workers == 1
