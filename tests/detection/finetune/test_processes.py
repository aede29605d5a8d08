"""Two real processes fine-tune one network: gradient, weights and files are those of one alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detection.finetune.tuning_in_processes import Stop, gradients, tune
from sppnet.detection import Detector
from sppnet.images import draw_detection_set
from sppnet.training.trainer import ALONE
from two_processes import assert_same_gradients, both_of, run_two

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = Path(__file__).with_name("tuning_in_processes.py")
WORDS = ("--backbone", "small5", "--weights", "none", "--imgsz", "96", "--proposals", "grid",
         "--max-proposals", "60", "--no-operating-point", "--no-box-regression", "--no-anchors",
         "--mirror", "off", "--crops", "off", "--tune", "network", "--tune-updates", "4",
         "--widths", "16,16", "--workers", "1", "--device", "cpu")  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_detection_set(tmp_path_factory.mktemp("scenes") / "data", 14, seed=0)


@pytest.fixture(scope="module")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """Folder and results of two processes that did everything."""
    out = tmp_path_factory.mktemp("together")
    return out, both_of(SCRIPT, "everything", data, out)


def test_gradient_equals_that_of_one_process(data: Path, together) -> None:
    """Shares of 2 + 1 and 2 + 0 images with their proposals, and of no proposals at all."""
    alone = gradients(data, ALONE)
    _, (first, second) = together
    assert_same_gradients(alone, first["gradients"], second["gradients"])


def test_tuning_equals_that_of_one_process(data: Path, tmp_path: Path, together) -> None:
    alone = tune(data, tmp_path / "alone", ALONE)
    out, (first, second) = together
    for name, want in alone.items():
        assert torch.equal(first["tuned"][name], second["tuned"][name]), name
        assert torch.allclose(first["tuned"][name], want, atol=1e-4), name
    places = [_places(folder) for folder in (tmp_path / "alone", out / "tuned")]
    assert places[0] == places[1]  # once each: the second process wrote none


def _places(folder: Path) -> list:
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(row["epoch"], row.get("update")) for row in rows]


@pytest.mark.slow
def test_states_go_from_one_process_to_two_and_back(data: Path, tmp_path: Path) -> None:
    """Updates 0 to 2 alone, 3 and 4 by two, the last three alone; beside one all the way."""
    straight = tune(data, tmp_path / "straight", ALONE)
    out = tmp_path / "mixed"
    with pytest.raises(Stop):
        tune(data, out, ALONE, stop=3)
    assert both_of(SCRIPT, "until-5", data, out) == [None, None]
    mixed = tune(data, out, ALONE)
    assert all(torch.allclose(mixed[name], straight[name], atol=1e-4) for name in straight)
    assert _places(out) == _places(tmp_path / "straight")


@pytest.mark.slow
def test_process_that_is_lost_ends_the_others(data: Path, tmp_path: Path) -> None:
    (code, words), (other, _) = run_two(SCRIPT, "lost", data, tmp_path / "out")
    assert code == other == 1
    assert "another process of this training has ended" in words


def _torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, "-m", "sppnet", "detect", "train", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=900, env=environment
    )


def test_same_command_under_torchrun(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = _torchrun(str(data), *WORDS, "--out", str(run))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: ") == 1  # one process speaks
    assert done.stderr.count("using split 'train'") == 1
    assert json.loads((run / "metrics.json").read_text())["processes"] == 2
    assert Detector.load(run / "model").names
    assert not (run / "cache").exists()  # and the other left nothing there
    again = _torchrun(str(data), *WORDS, "--out", str(run))
    assert again.returncode == 0, again.stderr
    assert "holds a finished run" in again.stderr


def test_other_trainings_take_one_process(data: Path, tmp_path: Path) -> None:
    done = _torchrun(str(data), "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert "several processes share the updates of a fine-tuning" in done.stderr
    assert not (tmp_path / "run").exists()
