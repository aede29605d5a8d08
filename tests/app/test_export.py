"""``sppnet export`` writes files that compute the same, and refuses to write others."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import Tensor

from readme_blocks import Block, fenced_blocks, run_python
from sppnet.app.main import main
from sppnet.backbones import build_backbone
from sppnet.classification import Classifier, View, build_classifier
from sppnet.classification.onnx import ClassifierGraph
from sppnet.detection import BoxCascade, Detector, Encoder, InferenceConfig, LinearRegionClassifier
from sppnet.detection.heads.box_regression import CascadeConfig, RidgeBoxRegressor
from sppnet.detection.postprocess import let_classes_compete, preselect, select_detections
from sppnet.evaluation import OperatingPoints, ScoreCalibration
from sppnet.geometry import Detections, clip_boxes, project_boxes
from sppnet.pooling import pool_regions
from sppnet.pooling.onnx import operators as onnx_form
from sppnet.pooling.onnx.export import open_session
from sppnet.storage import save_model

pytestmark = pytest.mark.usefixtures("one_thread")
PAGE = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny models of random weights: classifier, detector, plain_detector, toy."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    network = build_classifier("small5", 3, hidden=(8,), feature_norm=1.0)
    Classifier(network, View("full", 64), ("cat", "dog", "owl")).save(folder / "classifier")
    encoder = Encoder(build_backbone("small5"), (96,))
    scores = LinearRegionClassifier(torch.randn(encoder.length, 2) * 0.1, torch.randn(2))
    box_regressor = BoxCascade(2)
    box_regressor.stages_ = [RidgeBoxRegressor(), RidgeBoxRegressor()]
    for stage in box_regressor.stages_:
        stage.weights_, stage.bias_ = torch.randn(2, encoder.length, 4) / 200, torch.zeros(2, 4)
    config = InferenceConfig(proposals="grid", max_proposals=80)
    detector = Detector(encoder, scores, box_regressor, ("cup", "pen"), config)
    calibration = ScoreCalibration().fit([-1.0, 1.0] * 20, [0] * 40, [False, True] * 20, 2)
    detector.operating_points = OperatingPoints((0.5, -0.5), calibration, "val", 4, (3, 2))
    detector.save(folder / "detector")
    encoder = Encoder(build_backbone("small5"), (96,), projection="paper_v4", levels=(4, 3))
    scores = LinearRegionClassifier(torch.randn(encoder.length, 2) * 0.1, torch.randn(2))
    Detector(encoder, scores, None, ("cup", "pen")).save(folder / "plain_detector")
    points = CascadeConfig(stages=1, class_agnostic=True, bins="points")
    box_regressor = BoxCascade(2, points)
    box_regressor.stages_ = [RidgeBoxRegressor()]
    stage = box_regressor.stages_[0]
    stage.weights_, stage.bias_ = torch.randn(1, encoder.length, 4) / 200, torch.zeros(1, 4)
    Detector(encoder, scores, box_regressor, ("cup", "pen")).save(folder / "points_detector")
    save_model(folder / "toy", "toy", {}, {"w": torch.ones(1)})
    return folder


@pytest.fixture(scope="module")
def exported(models: Path) -> Path:
    """The same folder, with classifier.onnx and detector.onnx in it."""
    for name in ("classifier", "detector"):
        assert main(["export", str(models / name), str(models / f"{name}.onnx")]) == 0
    return models


def facts_of(session: Any) -> dict[str, Any]:
    found = session.get_modelmeta().custom_metadata_map
    return {key.removeprefix("sppnet."): json.loads(value) for key, value in found.items()}


def free_sizes(values: list[Any]) -> dict[str, list[str | int]]:
    return {value.name: value.shape for value in values}


def test_classifier_serves_all_sizes(exported: Path) -> None:
    session = open_session((exported / "classifier.onnx").read_bytes())
    network = Classifier.load(exported / "classifier").network
    assert free_sizes(session.get_inputs()) == {"images": ["batch", 3, "height", "width"]}
    assert free_sizes(session.get_outputs()) == {"logits": ["batch", 3]}
    for shape in [(1, 3, 2, 2), (4, 3, 33, 50), (2, 3, 90, 17), (1, 3, 9, 300)]:
        images = torch.rand(shape)
        with torch.no_grad():
            expected = network(images)
        (logits,) = session.run(None, {"images": images.numpy()})
        assert (torch.from_numpy(logits) - expected).abs().max() <= 1e-5 * expected.abs().max()
    facts = facts_of(session)
    assert (facts["kind"], facts["names"]) == ("classifier", ["cat", "dog", "owl"])
    assert facts["view"] == {"kind": "full", "short_side": 64}
    assert facts["pool"]["levels"] == [1, 2, 3, 6]
    assert facts["backbone"]["stride"] == 8


def test_a_detector_on_two_maps_is_exported_for_all_sizes(tmp_path: Path) -> None:
    """The usual trunk: its coarse map has one cell where the image has one."""
    torch.manual_seed(0)
    backbone = build_backbone("efficientnet_lite0", layer="stage5+stage7")
    encoder = Encoder(backbone, (96,), levels=(1, 2))
    scores = LinearRegionClassifier(torch.randn(encoder.length, 2) * 0.1, torch.randn(2))
    Detector(encoder, scores, None, ("cup", "pen")).save(tmp_path / "detector")
    assert main(["export", str(tmp_path / "detector"), str(tmp_path / "detector.onnx")]) == 0
    session = open_session((tmp_path / "detector.onnx").read_bytes())
    boxes = torch.tensor([[0.0, 0.0, 30.0, 20.0], [5.0, 9.0, 200.0, 60.0]], dtype=torch.float64)
    for height, width in [(1, 1), (20, 300), (97, 64), (300, 33)]:
        image = torch.rand(1, 3, height, width)
        (found,) = session.run(None, {"image": image.numpy(), "boxes": boxes.numpy()})
        features = backbone(image)
        grid_hw = (features.shape[2], features.shape[3])
        regions = project_boxes(boxes, encoder.projection, grid_hw)
        pooled = pool_regions(features, [regions], (1, 2))
        expected = pooled @ scores.weights + scores.bias
        apart = (torch.from_numpy(found) - expected).abs().max()
        assert apart <= 1e-5 * expected.abs().max()


def detect_by_onnx(session: Any, detector: Detector, image: Tensor, boxes: Tensor) -> Detections:
    """The detector's own steps with the numbers of the exported file."""
    from sppnet.geometry import clip_boxes
    from sppnet.images import resize_short_side

    resized, (zoom_y, zoom_x) = resize_short_side(image, 96, 2000)
    zoom = torch.tensor([zoom_x, zoom_y, zoom_x, zoom_y], dtype=torch.float64)

    def ask(boxes: Tensor) -> list[Tensor]:
        feed = {"image": resized[None].numpy(), "boxes": (boxes.double() * zoom).numpy()}
        return [torch.from_numpy(found) for found in session.run(None, feed)]

    config, (scores, moved) = detector.inference, ask(boxes)
    scores = let_classes_compete(scores, config.softmax_temperature)
    row, label = (scores > config.score_threshold).nonzero().unbind(1)
    found = Detections(boxes[row], scores[row, label], label)
    found = found.select(preselect(found, config.moved_per_class))
    boxes, rows = found.boxes, torch.arange(found.count)
    for stage in range(moved.shape[1]):
        group = found.labels.clamp(max=moved.shape[2] - 1)  # one regression may serve all classes
        after = ask(boxes)[1][rows, stage, group]
        boxes = clip_boxes((after / zoom).float(), (image.shape[1], image.shape[2]))
    after = let_classes_compete(ask(boxes)[0], config.softmax_temperature)[rows, found.labels]
    after = Detections(boxes, (found.scores + after) / 2, found.labels)
    return select_detections(after, config, moved=True)


def test_detector_finds_the_same_boxes(exported: Path) -> None:
    session = open_session((exported / "detector.onnx").read_bytes())
    detector = Detector.load(exported / "detector")
    # all that was scored and moved: which of two equal copies suppresses the other is for rounding
    every = {"score_threshold": -5.0, "nms": "hard", "nms_threshold": 1.0, "vote_overlap": 1.0}
    detector.inference = replace(detector.inference, **every, max_detections=1000)
    assert free_sizes(session.get_inputs()) == {
        "image": [1, 3, "height", "width"],
        "boxes": ["boxes", 4],
    }
    assert free_sizes(session.get_outputs()) == {
        "scores": ["boxes", 2],
        "moved": ["boxes", 2, 2, 4],
    }
    for number, (height, width) in enumerate([(60, 80), (97, 200), (150, 31)]):
        image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(number))
        boxes = detector.propose(image, detector.encode(image))
        expected = detector.detect(detector.encode(image), boxes)
        found = detect_by_onnx(session, detector, image, boxes)
        assert expected.count > 3
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
        # of two detections whose scores differ by rounding either may come first
        rows = torch.cat([found.boxes, found.labels[:, None] * 1e6], 1)
        others = torch.cat([expected.boxes, expected.labels[:, None] * 1e6], 1)
        apart = torch.cdist(rows, others, p=torch.inf)
        assert float(apart.amin(0).max()) < 1e-3
        assert float(apart.amin(1).max()) < 1e-3
    facts = facts_of(session)
    assert (facts["kind"], facts["names"]) == ("detector", ["cup", "pen"])
    assert facts["encoder"]["short_sides"] == [96]
    assert facts["cells"]["stride"] == 8
    assert facts["operating_points"] == detector.operating_points.config()


def test_detector_without_box_regression_gives_scores_alone(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "plain.onnx"
    assert main(["export", str(models / "plain_detector"), str(out), "--opset", "18"]) == 0
    session = open_session(out.read_bytes())
    assert free_sizes(session.get_outputs()) == {"scores": ["boxes", 2]}
    assert [each.version for each in onnx.load(out).opset_import] == [18]


def test_box_regression_on_interpolated_points_is_exported(models: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    assert main(["export", str(models / "points_detector"), str(out)]) == 0
    session = open_session(out.read_bytes())
    assert [value.name for value in session.get_outputs()] == ["scores", "moved"]
    detector = Detector.load(models / "points_detector")
    image = torch.rand(1, 3, 96, 130, generator=torch.Generator().manual_seed(2))
    boxes = torch.tensor([[10.0, 20.0, 70.5, 80.0], [12.0, 20.0, 72.5, 80.0], [0.0, 0, 130, 96]])
    _, moved = session.run(None, {"image": image.numpy(), "boxes": boxes.double().numpy()})
    encoded = detector.encoder.encode(image[0])
    expected = detector.box_regressor.apply(
        detector.encoder, encoded, torch.zeros(3, dtype=torch.int64), boxes
    )
    clipped = clip_boxes(torch.from_numpy(moved)[:, 0, 0], (96, 130))
    torch.testing.assert_close(clipped, expected, rtol=1e-3, atol=0.02)


def test_trunk_that_pads_small_images_is_exported_with_its_padding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_classifier("squeezenet1_1", 4, levels=(2, 1))
    Classifier(network, View("full", 40), list("abcd")).save(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "a.onnx")]) == 0
    session = open_session((tmp_path / "a.onnx").read_bytes())
    for shape in [(1, 3, 1, 1), (2, 3, 3, 30)]:
        images = torch.rand(shape)
        (logits,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(logits), network(images), rtol=0, atol=1e-4)


def test_console_shows_the_comparison_and_nothing_else(tmp_path: Path, capfd) -> None:
    out = tmp_path / "new" / "pool.onnx"
    assert main(["export", "pooling", str(out), "--levels", "2,1", "--regions"]) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    header, *rows, last = shown.out.splitlines()
    assert header.split() == ["features,", "regions", "vectors"]
    assert len(rows) >= 5
    assert all(row.endswith("  equal") for row in rows)
    assert any(", 0x5 " in row for row in rows)
    assert last == f"{out}: {out.stat().st_size / 1000:.1f} kB, features, regions -> vectors"


def test_pooling_with_its_options(tmp_path: Path) -> None:
    out = tmp_path / "pool.onnx"
    words = ["export", "pooling", str(out), "--mode", "avg", "--channels", "4", "--levels", "5"]
    assert main(words) == 0
    session = open_session(out.read_bytes())
    assert free_sizes(session.get_inputs()) == {"features": ["batch", 4, "height", "width"]}
    (vectors,) = session.run(None, {"features": np.full((1, 4, 2, 3), 0.5, np.float32)})
    assert vectors.shape == (1, 100)
    assert (vectors == 0.5).all()


def test_an_older_file_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "pool.onnx"
    out.write_bytes(b"old")
    assert main(["export", "pooling", str(out), "--levels", "1"]) == 0
    onnx.checker.check_model(onnx.load(out))
    assert [path.name for path in tmp_path.iterdir()] == ["pool.onnx"]


def truncated_edges(length: Any, n: int, first: Any = None) -> onnx_form.Edges:
    """The trap: -(-a // b) is no ceiling where division truncates."""
    op, ints = onnx_form.op, onnx_form.ints
    true = TRUE_EDGES(length, n, first)
    end = op.Neg(op.Div(op.Neg(op.Mul(length, ints(*range(1, n + 1)))), ints(n)))
    end = end if first is None else op.Add(first, end)
    end = op.Max(end, op.Add(true.start, ints(1)))  # an empty bin would stop onnxruntime
    return onnx_form.Edges(true.start, end, op.Mul(true.doublings, op.Squeeze(ints(0))))


TRUE_EDGES = onnx_form._edges


@pytest.mark.parametrize("what", ["classifier", "detector", "pooling"])
def test_a_wrong_translation_is_not_written(
    what: str, models: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out = tmp_path / "wrong.onnx"
    out.write_bytes(b"old")
    monkeypatch.setattr(onnx_form, "_edges", truncated_edges)
    model = "pooling" if what == "pooling" else str(models / what)
    assert main(["export", model, str(out)]) == 6
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith(f"sppnet: error: '{out}': not written: onnxruntime and torch differ in ")
    assert line.endswith("(E_MISMATCH)")
    assert out.read_bytes() == b"old"
    if what != "pooling":  # it is the pooling that is named, not only what follows from it
        assert any(row.split()[-2] != "equal" for row in shown.out.splitlines()[1:])


def test_a_file_that_onnxruntime_cannot_run_is_not_written(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    def beyond(length: Any, n: int, first: Any = None) -> onnx_form.Edges:
        start, end, doublings = TRUE_EDGES(length, n, first)
        return onnx_form.Edges(start, onnx_form.op.Add(end, onnx_form.ints(10**6)), doublings)

    monkeypatch.setattr(onnx_form, "_edges", beyond)
    assert main(["export", "pooling", str(tmp_path / "a.onnx"), "--regions"]) == 6
    expected = f"'{tmp_path / 'a.onnx'}': not written: onnxruntime cannot run the exported model: "
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_slightly_wrong_logits_are_not_written(models: Path, tmp_path: Path, monkeypatch) -> None:
    forward = ClassifierGraph.forward

    def shifted(graph: ClassifierGraph, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, *probes = forward(graph, images)
        return logits * 1.0001, *probes

    monkeypatch.setattr(ClassifierGraph, "forward", shifted)
    assert main(["export", str(models / "classifier"), str(tmp_path / "a.onnx")]) == 6
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_package_names_the_install_command(
    package: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    find = importlib.util.find_spec
    hide = lambda name, *rest: None if name == package else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    assert main(["export", "pooling", str(tmp_path / "a.onnx")]) == 2
    expected = f"sppnet: error: export needs {package}: pip install 'sppnet[onnx]' (E_PACKAGE)\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["none", "a.onnx"], 5, "'none/manifest.json': the file does not exist"),
        (["toy", "a.onnx"], 5, "the model is a 'toy'; a 'classifier' or a 'detector' is needed"),
        (["pooling", "toy"], 6, "is a folder; the name of a file is needed here"),
        (["pooling", "toy/config.json/a.onnx"], 6, "toy/config.json"),
        (["classifier", "a.onnx", "--levels", "1"], 2, "--levels goes with the word pooling only"),
        (["classifier", "a.onnx", "--regions"], 2, "--regions goes with the word pooling only"),
        (["pooling", "a.onnx", "--levels", "0"], 2, "--levels must be numbers above 0"),
        (["pooling", "a.onnx", "--levels", ""], 2, "levels must be one or more positive integers"),
        (["pooling", "a.onnx", "--mode", "sum"], 2, "mode must be one of max, avg, got 'sum'"),
        (["pooling", "a.onnx", "--opset", "17"], 2, "greater than or equal to 18"),
        (["pooling"], 2, "OUT.onnx or --web DIR is needed"),
    ],
)
def test_mistakes_are_one_line_with_a_code(
    words: list[str], code: int, says: str, models: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(models)
    assert main(["export", *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sppnet: error: ")
    assert says in line
    assert not Path("a.onnx").exists()


def test_a_changed_model_is_refused(models: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (models / "classifier").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "config.json").write_bytes(b"{}")
    assert main(["export", str(folder), str(tmp_path / "a.onnx")]) == 5
    assert "E_CHECKSUM" in capsys.readouterr().err


BLOCKS = fenced_blocks(PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.kind == "python"], ids=lambda block: f"line {block.line}"
)
def test_python_of_the_page_runs(block: Block, exported: Path, monkeypatch) -> None:
    monkeypatch.chdir(exported)
    Image.effect_noise((80, 60), 90).convert("RGB").save("photo.jpg")
    run_python(block)


def test_commands_of_the_page_are_those_run_here() -> None:
    commands = [line for b in BLOCKS if b.kind == "sh" for line in b.text.splitlines()]
    assert len(commands) > 2
    for command in commands:
        assert command.startswith("sppnet export ")
