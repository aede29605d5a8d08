"""``sppnet classify train``: its ways, its logs, its states."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from small_photos import draw_folders
from sppnet.app.main import main

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = ["--backbone", "small5", "--weights", "none", "--epochs", "2", "--batch", "8"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folders(tmp_path_factory.mktemp("photos") / "data", 6)


def _train(data: Path, run: Path, *words: str) -> int:
    return main(["classify", "train", str(data), "--out", str(run), *WORDS, *words])


def _json(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("words", "side"),
    [
        (["--imgsz", "32"], 37),
        (["--imgsz", "24-32"], 37),
        (["--imgsz", "natural:32"], 32),
        (["--imgsz", "32", "--pool", "6x6", "--hidden", "16,8", "--feature-norm", "0"], 37),
        (["--imgsz", "32", "--optimizer", "adamw", "--lr", "0.001", "--schedule", "cosine"], 37),
        (["--imgsz", "32", "--ema", "0.9", "--amp", "--accumulate", "2", "--workers", "2"], 37),
        (["--imgsz", "32", "--crops", "paper", "--no-flip", "--colour-noise", "0"], 37),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_ways_to_train(data: Path, tmp_path: Path, words: list[str], side: int) -> None:
    run = tmp_path / "run"
    assert _train(data, run, *words, "--label-smoothing", "0.1") == 0
    assert _json(run / "model" / "config.json")["view"]["short_side"] == side
    metrics = _json(run / "metrics.json")
    assert metrics["processes"] == 1
    assert len(metrics["history"]) == 2
    with (run / "log.csv").open() as file:
        logged = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert logged == metrics["history"]


def test_same_command_goes_on_and_settings_are_kept(data: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    assert _train(data, run, "--imgsz", "24") == 0
    before = (run / "model" / "model.safetensors").read_bytes()
    log = (run / "log.jsonl").read_text()
    assert _train(data, run, "--imgsz", "24", "--workers", "0", "--save-seconds", "0") == 0
    assert (run / "model" / "model.safetensors").read_bytes() == before
    assert (run / "log.jsonl").read_text() == log
    capsys.readouterr()
    assert _train(data, run, "--imgsz", "24", "--ema", "0.5") == 2
    assert "ema" in capsys.readouterr().err


def test_every_split_has_its_own_logs(data: Path, tmp_path: Path) -> None:
    words = ["--imgsz", "24", "--train-per-class", "3", "--splits", "2"]
    assert _train(data, tmp_path / "run", *words) == 0
    logs = sorted(p.relative_to(tmp_path / "run") for p in (tmp_path / "run").rglob("log.csv"))
    assert logs == [Path("log.csv"), Path("split-01/log.csv")]


def test_damaged_state_is_named(data: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    assert _train(data, run, "--imgsz", "24") == 0
    (newest,) = (run / "checkpoints").rglob("epoch-00002/model.safetensors")
    newest.write_bytes(newest.read_bytes()[:-1])
    assert _train(data, run, "--imgsz", "24") == 0
    assert "training state is damaged; not used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--imgsz", "large"], "imgsz must be N, N,N,..., N-N or natural"),
        (["--schedule", "step"], "schedule must be one of plateau, cosine"),
        (["--optimizer", "adam"], "optimizer must be one of sgd, adamw"),
        (["--crops", "middle"], "crops must be one of random, paper, centre"),
        (["--pool", "mean"], "pool must be one of"),
        (["--ema", "1"], "ema must be at least 0 and below 1, got 1.0"),
    ],
)
def test_words_that_cannot_be_meant(
    data: Path, tmp_path: Path, capsys, words: list[str], part: str
) -> None:
    assert _train(data, tmp_path / "run", *words) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def _tensors(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


def _swap_labels(data: Path) -> None:
    """Give two photos each other's class."""
    one, two = data / "disc" / "000.png", data / "level" / "000.png"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def _add_a_photo(data: Path) -> None:
    (data / "disc" / "100.png").write_bytes((data / "disc" / "001.png").read_bytes())


def _remove_a_photo(data: Path) -> None:
    (data / "disc" / "001.png").unlink()


def _rename_a_photo(data: Path) -> None:
    (data / "disc" / "001.png").rename(data / "disc" / "zzz.png")


def _move_a_photo(data: Path) -> None:
    (data / "disc" / "001.png").rename(data / "level" / "101.png")


def _rename_a_class(data: Path) -> None:
    (data / "disc").rename(data / "a-disc")


@pytest.mark.parametrize(
    "change",
    [_swap_labels, _add_a_photo, _remove_a_photo, _rename_a_photo, _move_a_photo, _rename_a_class],
    ids=lambda change: change.__name__,
)
@pytest.mark.parametrize("is_killed", [False, True], ids=["finished", "killed"])
def test_other_data_train_again(
    tmp_path: Path, capsys, monkeypatch, change: Callable[[Path], None], is_killed: bool
) -> None:
    """A run that was killed, or finished, and other data: what a fresh folder gives, and a word."""
    data, run = draw_folders(tmp_path / "data", 4), tmp_path / "run"
    with monkeypatch.context() as patch:
        if is_killed:
            patch.setattr("sppnet.app.classify.train._test", Mock(side_effect=KeyboardInterrupt))
        assert _train(data, run, "--imgsz", "24") == (130 if is_killed else 0)
    change(data)
    capsys.readouterr()
    assert _train(data, run, "--imgsz", "24") == 0
    assert "the data changed since the run began" in capsys.readouterr().err
    assert _train(data, tmp_path / "fresh", "--imgsz", "24") == 0
    assert _tensors(run) == _tensors(tmp_path / "fresh")
    assert (run / "model" / "config.json").read_bytes() == (
        tmp_path / "fresh" / "model" / "config.json"
    ).read_bytes()


def test_other_images_to_score_on_leave_the_network(tmp_path: Path, capsys) -> None:
    draw_folders(tmp_path / "data" / "train", 3)
    draw_folders(tmp_path / "data" / "test", 2, seed=1)
    run = tmp_path / "run"
    assert _train(tmp_path / "data", run, "--imgsz", "24") == 0
    before, figures = _tensors(run), _json(run / "metrics.json")["images"]["test"]
    (tmp_path / "data" / "test" / "disc" / "000.png").unlink()
    assert _train(tmp_path / "data", run, "--imgsz", "24") == 0
    said = capsys.readouterr().err
    assert "the images to score on changed" in said
    assert "training again" not in said
    assert _tensors(run) == before
    assert _json(run / "metrics.json")["images"]["test"] == figures - 1


def test_without_a_word_it_starts_from_trained_weights_and_needs_no_network(
    data: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    words = ["--imgsz", "32", "--epochs", "1", "--trunk-lr", "0", "--out", str(tmp_path / "run")]
    assert main(["classify", "train", str(data), *words]) == 0
    about = _json(tmp_path / "run" / "model" / "config.json")
    assert about["backbone"]["name"] == "efficientnet_lite0"
