"""``sppnet classify`` end to end, with bad images among the good ones."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from option_walk import compare_folders, options_of
from small_photos import PATTERNS, draw_folders, spoil
from sppnet.app.main import main
from sppnet.classification import load_classifier

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ["--backbone", "small5", "--weights", "none"]
# Words for every option; all but the last three change a result.
USING = {
    "--view": ["--view", "10"],
    "--imgsz": ["--imgsz", "40"],
    "--device": ["--device", "cpu"],
    "--threads": ["--threads", "2"],
    "--max-pixels": ["--max-pixels", "1000000"],
    "--dry-run": ["--dry-run"],
    "--debug": ["--debug"],
    "--out": [],
}
OPTIONS = {
    "val": USING | {"--split": ["--split", "train"], "--skip-seen": ["--skip-seen"]},
    "predict": USING | {"--top": ["--top", "2"], "--fresh": ["--fresh"]},
}
# Of many machines; tests/bulk has them.
WORKERS = {"--engine", "--address", "--concurrency", "--cpus", "--gpus", "--batch"}


def _json(path: Path) -> dict:
    return json.loads(path.read_text())


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folders(tmp_path_factory.mktemp("photos") / "data", 12)


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("fit") / "run"
    words = ["classify", "fit", str(data), *SMALL, "--imgsz", "64", "--keep-cache"]
    assert main([*words, "--out", str(run)]) == 0
    return run


def test_fit_reports_on_images_it_was_not_fitted_on(fitted: Path) -> None:
    metrics = _json(fitted / "metrics.json")
    assert metrics["images"] == {"listed": 48, "failed": 0, "train": 40, "test": 8}
    assert 0.5 <= metrics["top1"] <= 1
    assert metrics["top5"] == 1
    assert set(metrics["per_class"]) == set(PATTERNS)
    assert metrics["mean_class_accuracy"] == pytest.approx(sum(metrics["per_class"].values()) / 4)
    assert set(metrics["seconds"]) == {"features", "svm"}


def test_protocol_gives_mean_and_deviation(data: Path, tmp_path: Path) -> None:
    words = ["--train-per-class", "8", "--test-per-class", "3", "--splits", "4", "--seed", "0"]
    command = ["classify", "fit", str(data), *SMALL, "--imgsz", "48", *words]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    assert main([*command, "--out", str(tmp_path / "b")]) == 0
    first, second = (_json(tmp_path / run / "metrics.json") for run in "ab")
    assert first["images"] == {"listed": 48, "failed": 0, "train": 32, "test": 12}
    each = [split["mean_class_accuracy"] for split in first["splits"]["each"]]
    assert first["splits"]["count"] == len(each) == 4
    assert first["mean_class_accuracy"] == pytest.approx(sum(each) / 4)
    assert first["splits"] == second["splits"]


def test_second_fit_takes_features_from_the_cache(data: Path, fitted: Path, capsys) -> None:
    before = (fitted / "model" / "model.safetensors").read_bytes()
    records = len(list((fitted / "cache").rglob("*.record")))
    words = ["classify", "fit", str(data), *SMALL, "--imgsz", "64", "--keep-cache"]
    assert main([*words, "--out", str(fitted)]) == 0
    assert "going on with the run" in capsys.readouterr().err
    assert (fitted / "model" / "model.safetensors").read_bytes() == before
    assert len(list((fitted / "cache").rglob("*.record"))) == records == 48


def test_other_settings_in_the_same_folder_are_refused(data: Path, fitted: Path, capsys) -> None:
    command = ["classify", "fit", str(data), *SMALL, "--imgsz", "65", "--out", str(fitted)]
    assert main(command) == 2
    assert "imgsz" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [["--pool", "6x6"], ["--pool", "avg"], ["--levels", "1,4"], ["--view", "crop"],
     ["--view", "warp"], ["--layer", "relu4"], ["--c", "10"]],
    ids=" ".join,
)  # fmt: skip
def test_options_of_the_features(data: Path, tmp_path: Path, option: list[str]) -> None:
    command = ["classify", "fit", str(data), *SMALL, "--imgsz", "32", *option]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    config = _json(tmp_path / "run" / "model" / "config.json")
    assert main(["classify", "predict", str(tmp_path / "run" / "model"), str(data / "disc"),
                 "--out", str(tmp_path / "out")]) == 0  # fmt: skip
    assert config["about"]["settings"]["imgsz"] == 32


def test_what_a_killed_prediction_left_unfinished_is_removed(
    data: Path, fitted: Path, tmp_path: Path
) -> None:
    left = tmp_path / ".predictions.json.tmp-99999999-0123abcd"
    left.write_text("half")
    words = [str(fitted / "model"), str(data / "disc" / "000.png"), "--out", str(tmp_path)]
    assert main(["classify", "predict", *words]) == 0
    assert not left.exists()


def test_train_then_val_then_predict(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["classify", "train", str(data), *SMALL, "--imgsz", "32,40", "--epochs", "2"]
    assert main([*command, "--out", str(run)]) == 0
    metrics = _json(run / "metrics.json")
    assert [epoch["size"] for epoch in metrics["history"]] == [40, 32]
    assert metrics["images"] == {"listed": 48, "failed": 0, "train": 40, "test": 8}
    model = (run / "model" / "model.safetensors").read_bytes()
    assert main([*command, "--out", str(run)]) == 0  # all epochs are done already
    assert (run / "model" / "model.safetensors").read_bytes() == model
    assert main([*command, "--fresh", "--out", str(run)]) == 0
    assert (run / "model" / "model.safetensors").read_bytes() == model
    assert main(["classify", "val", str(run / "model"), str(data), "--out", str(run / "val")]) == 0
    assert "<svg" in (run / "val" / "report.html").read_text()


def test_val_knows_the_images_of_the_training(
    data: Path, fitted: Path, tmp_path: Path, capsys
) -> None:
    command = ["classify", "val", str(fitted / "model"), str(data), "--out"]
    assert main([*command, str(tmp_path / "all")]) == 0
    words = "trained on 40 of these 48 images"
    assert words in capsys.readouterr().err
    assert words in (tmp_path / "all" / "report.html").read_text()
    assert words in _json(tmp_path / "all" / "metrics.json")["warnings"][0]
    assert main([*command, str(tmp_path / "new"), "--skip-seen"]) == 0
    unseen, own = _json(tmp_path / "new" / "metrics.json"), _json(fitted / "metrics.json")
    assert unseen["images"]["scored"] == 8
    for name in ("top1", "top5", "mean_class_accuracy", "per_class"):
        assert unseen[name] == own[name]  # the same images by another way: the same figures
    assert not (tmp_path / "new" / "unfinished").exists()


def test_val_takes_the_test_folder(fitted: Path, tmp_path: Path) -> None:
    draw_folders(tmp_path / "d" / "train", 1, seed=5)
    draw_folders(tmp_path / "d" / "test", 2, seed=6)
    command = ["classify", "val", str(fitted / "model"), str(tmp_path / "d"), "--out"]
    assert main([*command, str(tmp_path / "out")]) == 0
    assert _json(tmp_path / "out" / "metrics.json")["images"]["listed"] == 8


def test_bad_images_cost_only_themselves(fitted: Path, tmp_path: Path) -> None:
    folder = draw_folders(tmp_path / "data", 3, seed=9)
    model = str(fitted / "model")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sppnet", "classify", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: other counts, other bits
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    assert main(["classify", "predict", model, str(folder), "--out", str(tmp_path / "clean")]) == 0
    bad = spoil(folder)
    before = _tree(folder)
    done = run("predict", model, str(folder), "nowhere/*.png", "--out", str(tmp_path / "out"))
    assert done.returncode == 3, done.stderr
    for path in bad:
        assert sum(str(path) in line for line in done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr
    found = _json(tmp_path / "out" / "predictions.json")
    assert found["images"] == _json(tmp_path / "clean" / "predictions.json")["images"]
    assert (len(found["images"]), len(found["failed"])) == (12, 4)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 * 4
    assert {row["name"] for row in rows} == set(PATTERNS)
    assert _tree(folder) == before


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_results_name_the_file_and_count_the_classes(
    data: Path, fitted: Path, tmp_path: Path
) -> None:
    model, out = str(fitted / "model"), tmp_path / "out"
    folders = [str(data / name) for name in sorted(PATTERNS)[:2]]
    assert main(["classify", "predict", model, *folders, "--out", str(out)]) == 0
    files = {path.relative_to(data).as_posix() for folder in folders for path in _images(folder)}
    found, rows = _json(out / "predictions.json"), _table(out / "predictions.csv")
    assert {each["file"] for each in found["images"]} == {row["file"] for row in rows} == files
    assert {each["path"] for each in found["images"]} == {str(data / file) for file in files}
    best = [row["name"] for row in rows if row["rank"] == "1"]
    counts = {name: best.count(name) for name in found["names"]}
    assert found["counts"] == counts
    assert {row["class"]: int(row["images"]) for row in _table(out / "counts.csv")} == counts
    assert {row["confidence"] for row in rows} == {""}  # margins of SVMs are none
    assert main(["classify", "val", model, str(data), "--out", str(out)]) == 0
    answers = _table(out / "predictions.csv")
    assert len(answers) == 48
    assert all(row["file"].split("/")[0] == row["truth"] for row in answers)
    assert all((row["name"] == row["truth"]) == (row["is_right"] == "1") for row in answers)
    right = sum(row["is_right"] == "1" for row in answers)
    assert right / 48 == pytest.approx(_json(out / "metrics.json")["top1"])


def _images(folder: str) -> list[Path]:
    return [path for path in Path(folder).iterdir() if path.suffix == ".png"]


def test_probabilities_are_confidences(data: Path, tmp_path: Path) -> None:
    words = [*SMALL, "--imgsz", "24", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert main(["classify", "train", str(data), *words]) == 0
    out = tmp_path / "out"
    words = [str(tmp_path / "run" / "model"), str(data / "disc"), "--out", str(out)]
    assert main(["classify", "predict", *words]) == 0
    for row in _table(out / "predictions.csv"):
        assert float(row["confidence"]) == pytest.approx(float(row["score"]), abs=1e-4)
    first = _json(out / "predictions.json")["images"][0]
    assert first["confidence"] == first["scores"][0]


def test_fit_and_val_leave_bad_images_out(fitted: Path, tmp_path: Path, capsys) -> None:
    folder = draw_folders(tmp_path / "data", 5, seed=9)
    bad = spoil(folder)
    command = ["classify", "fit", str(folder), *SMALL, "--imgsz", "32", "--out"]
    assert main([*command, str(tmp_path / "run")]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert all(sum(str(path) in line for line in lines) == 1 for path in bad)
    metrics = _json(tmp_path / "run" / "metrics.json")
    assert metrics["images"] == {"listed": 23, "failed": 3, "train": 16, "test": 4}
    assert len(metrics["problems"]) == 3
    command = ["classify", "train", str(folder), *SMALL, "--imgsz", "24", "--epochs", "1", "--out"]
    assert main([*command, str(tmp_path / "train")]) == 3
    assert _json(tmp_path / "train" / "metrics.json")["images"]["failed"] == 3
    command = ["classify", "val", str(fitted / "model"), str(folder), "--out"]
    assert main([*command, str(tmp_path / "val")]) == 3
    counts = _json(tmp_path / "val" / "metrics.json")["images"]
    assert (counts["listed"], counts["failed"], counts["scored"]) == (23, 3, 20)


@pytest.mark.parametrize("command", ["fit", "train"])
def test_dry_run_writes_nothing(data: Path, tmp_path: Path, capsys, command: str) -> None:
    words = ["classify", command, str(data), *SMALL, "--imgsz", "32", "--dry-run"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    assert not (tmp_path / "run").exists()
    output = capsys.readouterr().out
    assert "4 classes" in output
    assert "about" in output


def test_dry_run_of_val_and_predict(data: Path, fitted: Path, tmp_path: Path, capsys) -> None:
    for command in ("val", "predict"):
        words = ["classify", command, str(fitted / "model"), str(data), "--dry-run", "--out"]
        assert main([*words, str(tmp_path / "out")]) == 0
        assert "would score 48 images for 4 classes" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


TWELVE = ["--train-per-class", "12"]
ENDINGS = [  # words after "classify", exit code, part of the error line
    (["fit", "{data}", "--out", "{new}", "--backbone", "small6"], 2, "backbone must be one of"),
    (["fit", "{data}", "--out", "{new}", "--pool", "sum"], 2, "pool must be one of"),
    (["fit", "{data}", "--out", "{new}", "--levels", "1,x"], 2, "levels must be whole numbers"),
    (["fit", "{data}", "--out", "{new}", "--splits", "2"], 2, "need --train-per-class"),
    (
        ["fit", "{data}", *SMALL, "--out", "{new}", "--train-per-class", "12"],
        2,
        "class 'checks' has 12",
    ),
    (["fit", "{empty}", "--out", "{new}"], 4, "looked for a folder per class"),
    (["fit", "{new}", "--out", "{new}"], 2, "new"),
    (["fit", "{data}", *SMALL, "--imgsz", "24", "--out", "{file}"], 6, "file"),
    (["train", "{data}", *SMALL, "--out", "{new}", "--imgsz", "0"], 2, "imgsz must be"),
    (["val", "{empty}", "{data}", "--out", "{new}"], 5, "manifest.json"),
    (["predict", "{model}", "{empty}", "--out", "{new}"], 4, "the one input could not"),
    (["predict", "{model}", "{file}", "--out", "{new}"], 4, "E_FORMAT"),
    (["predict", "{file}", "{data}", "--out", "{new}"], 5, "file"),
]


@pytest.mark.parametrize(("words", "code", "part"), ENDINGS)
def test_endings(
    data: Path, fitted: Path, tmp_path: Path, capsys, words: list[str], code: int, part: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("neither image nor folder")
    places = {"data": data, "model": fitted / "model", "new": tmp_path / "new"}
    places |= {"empty": tmp_path / "empty", "file": tmp_path / "file"}
    assert main(["classify", *(word.format(**places) for word in words)]) == code
    error = capsys.readouterr().err
    assert part in error
    assert "Traceback" not in error


@pytest.mark.parametrize("command", OPTIONS)
def test_a_used_folder_gives_what_a_fresh_one_gives(
    data: Path, tmp_path: Path, monkeypatch, command: str
) -> None:
    """Every option, where an earlier run with other words was killed and left all its scores."""
    monkeypatch.setattr("shutil.rmtree", Mock())  # what a kill leaves
    monkeypatch.setattr("sppnet.app.options._THREAD_VARIABLES", ())
    assert set(options_of("classify", command)) - WORKERS == set(OPTIONS[command])
    photos = tmp_path / "photos"
    for part, numbers in (("train", (0, 1)), ("test", (2, 3))):
        for path in sorted(data.rglob("*.png")):
            if int(path.stem) in numbers:
                copy = photos / part / path.parent.name / path.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    train = [*SMALL, "--imgsz", "32", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert main(["classify", "train", str(photos), *train]) == 0
    words = ["classify", command, str(tmp_path / "run" / "model"), str(photos), "--out"]
    assert main([*words, str(tmp_path / "used")]) == 0
    for option, more in OPTIONS[command].items():
        fresh = tmp_path / f"fresh{option}"
        try:
            assert main([*words, str(tmp_path / "used"), *more]) == 0
            assert main([*words, str(fresh), *more]) == 0
        finally:
            torch.set_num_threads(1)
        if option != "--dry-run":
            compare_folders(tmp_path / "used", fresh)


def test_val_says_that_an_old_model_does_not_know_what_it_saw(
    data: Path, fitted: Path, tmp_path: Path, capsys
) -> None:
    model = load_classifier(fitted / "model")
    model.seen = model.seen[:0]
    model.save(tmp_path / "old")
    command = ["classify", "val", str(tmp_path / "old"), str(data), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "does not say which images" in capsys.readouterr().err
    assert "does not say which images" in (tmp_path / "out" / "report.html").read_text()
    assert _json(tmp_path / "out" / "metrics.json")["images"]["seen_in_training"] is None
