"""Two real processes train one network: same weights, same gradient, same files as one alone."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from small_photos import draw_folders
from sppnet.classification import Processes
from sppnet.training.checkpoints import TrainingState
from sppnet.training.distributed import local_device
from training.training_in_processes import Stop, gradients, plain_network, train
from two_processes import assert_same_gradients, both_of, run_two

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = Path(__file__).with_name("training_in_processes.py")
ALONE = Processes()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folders(tmp_path_factory.mktemp("two") / "data", 6)


def _both(job: str, data: Path, out: Path) -> list:
    """What two processes ended with."""
    return both_of(SCRIPT, job, data, out)


@pytest.fixture(scope="module")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """Folder and results of two processes that did everything."""
    out = tmp_path_factory.mktemp("together")
    return out, _both("everything", data, out)


def test_gradient_equals_that_of_one_process(data: Path, together) -> None:
    """Shards of 3 + 2, 1 + 0 and 4 + 3 images of several sizes."""
    alone = gradients(data, ALONE)
    _, (first, second) = together
    assert_same_gradients(alone, first["gradients"], second["gradients"])


def test_training_equals_that_of_one_process(data: Path, tmp_path: Path, together) -> None:
    alone = train(plain_network(), data, tmp_path / "alone", ALONE)
    out, (first, second) = together
    for name, want in alone.items():
        assert torch.equal(first["plain"][name], second["plain"][name]), name
        assert torch.allclose(first["plain"][name], want, atol=1e-4), name
    rows = [_rows(folder / "log.csv") for folder in (tmp_path / "alone", out / "plain")]
    for want, got in zip(*rows, strict=True):
        assert float(got["loss"]) == pytest.approx(float(want["loss"]), abs=1e-4)
        assert got["accuracy"] == want["accuracy"]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_statistics_of_batches_come_from_the_first_process(together) -> None:
    first, second = (each["normalised"] for each in together[1])
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["backbone.trunk.norm1.running_mean"].any()


def test_states_go_from_one_process_to_two_and_back(data: Path, tmp_path: Path) -> None:
    """Updates 0 to 4 alone, 5 to 9 by two, the last two alone; beside one process all the way."""
    straight = train(plain_network(), data, tmp_path / "straight", ALONE)
    out = tmp_path / "mixed"
    with pytest.raises(Stop):
        train(plain_network(), data, out, ALONE, stop=5)
    _both("until-5", data, out)
    mixed = train(plain_network(9), data, out, ALONE)
    assert all(torch.allclose(mixed[name], straight[name], atol=1e-4) for name in straight)
    places = [
        [
            (row["epoch"], row.get("update"))
            for row in map(json.loads, path.read_text().splitlines())
        ]
        for path in (tmp_path / "straight" / "log.jsonl", out / "log.jsonl")
    ]
    assert places[0] == places[1]


def test_process_that_is_lost_ends_the_others(data: Path, tmp_path: Path) -> None:
    (code, words), (other, _) = run_two(SCRIPT, "lost", data, tmp_path / "out")
    assert code == other == 1
    assert "another process of this training has ended" in words


def test_state_in_one_piece_comes_back_to_the_last_bit() -> None:
    state = TrainingState(2, 3, 0.1 + 0.2, 5, 1e-9, [{"loss": 1 / 3}], 2, 7)
    state.tensors.update({"a": torch.randn(3), "b": torch.tensor(4)})
    back = TrainingState.from_bytes(state.to_bytes())
    assert back.plain() == state.plain()
    assert all(torch.equal(back.tensors[name], state.tensors[name]) for name in ("a", "b"))


def test_one_process_exchanges_nothing() -> None:
    tensor = torch.ones(2)
    ALONE.all_reduce([tensor])
    assert tensor.tolist() == [1, 1]
    assert ALONE.broadcast_bytes(b"x") == b"x"


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert local_device(torch.device("cuda:0")) == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device(torch.device("cuda:0")) == torch.device("cuda:3")
    assert local_device(torch.device("cpu")) == torch.device("cpu")
    assert chosen == [3]


def test_same_command_under_torchrun(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["--backbone", "small5", "--weights", "none", "--imgsz", "natural:32"]
    command = [sys.executable, *launch, "-m", "sppnet", "classify", "train", str(data), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--epochs", "2", "--out", str(run)],
        capture_output=True, text=True, check=False, timeout=180, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote ") == 2  # one process speaks
    assert done.stderr.count("24 images of 4 classes") == 1
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["processes"] == 2
    assert len(_rows(run / "log.csv")) == 2
    assert (run / "model" / "model.safetensors").exists()
