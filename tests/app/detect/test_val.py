"""``sppnet detect val``: the operating point that it finds, and when the model keeps it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sppnet import Detector
from sppnet.app.main import main
from sppnet.images import draw_detection_set
from sppnet.storage import sha256_file

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = [
    *("--backbone", "small5", "--weights", "none", "--proposals", "grid", "--imgsz", "96"),
    *("--max-anchors", "40", "--mirror", "off", "--crops", "off"),
]
QUICK = ["--max-proposals", "60", "--no-operating-point"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_detection_set(tmp_path_factory.mktemp("drawn") / "data", 14, seed=0)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main(["detect", "train", str(data), *SMALL, *QUICK, "--out", str(out)]) == 0
    return out / "model"


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    Detector.load(trained).save(tmp_path / "model")
    return tmp_path / "model"


def _val(model: Path, data: Path, *words: str) -> dict[str, Any]:
    out = model.parent / "val"
    assert main(["detect", "val", str(model), str(data), *words, "--out", str(out)]) == 0
    return json.loads((out / "metrics.json").read_text())


def _unseen(model: Path) -> None:
    """Let the model forget which photos it was trained on."""
    detector = Detector.load(model)
    detector.seen = detector.seen[:0]
    detector.save(model)


def test_the_point_is_kept_and_predict_uses_it(model: Path, data: Path, capsys) -> None:
    _unseen(model)
    weights = sha256_file(model / "model.safetensors")
    metrics = _val(model, data, "--split", "train")
    assert f"kept in {model}" in capsys.readouterr().out
    points = Detector.load(model).operating_points
    assert points is not None
    assert points.config() == metrics["operating_points"]
    assert (points.source, points.images) == ("val", metrics["images"])
    assert sha256_file(model / "model.safetensors") == weights
    out = model.parent / "found"
    photo = str(next((data / "JPEGImages").iterdir()))
    assert main(["detect", "predict", str(model), photo, "--out", str(out)]) == 0
    assert f"found by detect val on {metrics['images']} photos" in capsys.readouterr().err
    found = json.loads((out / "detections.json").read_text())
    least = dict(zip(Detector.load(model).names, points.thresholds, strict=True))
    assert all(e["above_threshold"] == (e["score"] >= least[e["category_name"]]) for e in found)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--split", "train"], "was trained on some of these images"),
        (["--split", "train", "--no-keep"], "--no-keep"),
        (["--split", "train", "--nms", "hard"], "options of testing"),
    ],
)
def test_it_is_not_kept_where_predict_would_not_find_the_same(
    model: Path, data: Path, capsys, words: list[str], reason: str
) -> None:
    if "--nms" in words:
        _unseen(model)
    before = sha256_file(model / "manifest.json")
    assert _val(model, data, *words)["operating_points"] is not None
    err = capsys.readouterr().err
    assert "not kept in the model" in err
    assert reason in err
    assert sha256_file(model / "manifest.json") == before


def test_it_is_kept_anyway_if_asked_for(model: Path, data: Path) -> None:
    _val(model, data, "--split", "train", "--keep")
    assert Detector.load(model).operating_points is not None


def test_a_combination_cannot_keep_it(model: Path, data: Path, tmp_path: Path, capsys) -> None:
    words = ["detect", "val", str(model), str(data), "--combine", str(model), "--out"]
    assert main([*words, str(tmp_path / "out"), "--keep"]) == 2
    assert "--keep is for one model" in capsys.readouterr().err


def test_a_model_that_cannot_be_written_is_no_failure(
    model: Path, data: Path, capsys, monkeypatch
) -> None:
    from sppnet.errors import OutputError

    def refuse(*_: object) -> None:
        raise OutputError("cannot be written", path=model)

    monkeypatch.setattr("sppnet.app.detect.val.keep_operating_points", refuse)
    _val(model, data, "--split", "train", "--keep")
    assert "not kept" in capsys.readouterr().err


def test_detections_are_left_with_their_files_and_give_the_same_score(
    model: Path, data: Path, tmp_path: Path
) -> None:
    metrics = _val(model, data)
    found = json.loads((model.parent / "val" / "detections.json").read_text())
    assert {each["file"].rpartition("/")[0] for each in found} == {"JPEGImages"}
    score = tmp_path / "score.json"
    words = ["evaluate", str(data), str(model.parent / "val" / "detections.json")]
    assert main([*words, "--split", "test", "--json", str(score)]) == 0
    mean = json.loads(score.read_text())["mean"]
    assert mean["ap50"] == pytest.approx(metrics["ap50"], abs=1e-9)
    shown = json.loads((model.parent / "val" / "report.json").read_text())["images"]
    assert all(name.startswith("JPEGImages/") for name in [*shown["worst"], *shown["best"]])
