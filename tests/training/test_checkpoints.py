"""Every epoch and update stands in the logs once, whatever was killed before."""

import csv
import json
import sys
from pathlib import Path

import pytest

from sppnet.classification import TrainingLog
from sppnet.errors import MissingPackageError, OutputError

ROW = {"size": 32, "rate": 0.1, "loss": 1.5, "accuracy": 0.25, "seconds": 0.5}


def _history(epochs: int) -> list[dict]:
    return [{"epoch": epoch, **ROW} for epoch in range(epochs)]


def _places(folder: Path) -> list[tuple]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["kind"], row["epoch"], row.get("update")) for row in rows]


def _run(log: TrainingLog, first: tuple[int, int], last: tuple[int, int]) -> None:
    """Log updates (epoch, update) from the first up to, not including, the last; 25 an epoch."""
    log.begin(_history(first[0]), first[1], 25)
    epoch, update = first
    while (epoch, update) != last:
        log.add_update(epoch, update, 25 * epoch + update, {"loss": 1.0, "rate": 0.1})
        update += 1
        if update == 25:
            epoch, update = epoch + 1, 0
            log.add_epoch(_history(epoch), 25 * epoch - 1)
    log.close()


def test_every_tenth_update_and_every_epoch(tmp_path: Path) -> None:
    _run(TrainingLog(tmp_path), (0, 0), (2, 0))
    one = [("update", 0, 0), ("update", 0, 10), ("update", 0, 20), ("epoch", 0, None)]
    assert _places(tmp_path) == one + [(kind, 1, place) for kind, _, place in one]
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert {name: float(rows[0][name]) for name in ROW} == ROW


@pytest.mark.parametrize("stop", [(0, 1), (1, 0), (1, 13), (1, 24), (2, 0)])
@pytest.mark.parametrize("again", [(0, 0), (0, 11), (1, 0)])
def test_run_that_goes_on_repeats_no_row(
    tmp_path: Path, stop: tuple[int, int], again: tuple[int, int]
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    for folder in (straight, broken):
        folder.mkdir()
    _run(TrainingLog(straight), (0, 0), (3, 0))
    _run(TrainingLog(broken), (0, 0), max(stop, again))
    _run(TrainingLog(broken), again, (3, 0))
    for name in ("log.jsonl", "log.csv"):
        assert (broken / name).read_text() == (straight / name).read_text()


def test_torn_last_row_is_dropped(tmp_path: Path) -> None:
    _run(TrainingLog(tmp_path), (0, 0), (1, 0))
    before = _places(tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "epo')
    TrainingLog(tmp_path).begin(_history(1), 0, 25)
    assert _places(tmp_path) == before


def test_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path)
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"log\.jsonl"):
        log.add_update(0, 0, 0, {"loss": 1.0})


def test_tensorboard_gets_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _run(TrainingLog(tmp_path, tensorboard=True), (0, 0), (1, 13))
    _run(TrainingLog(tmp_path, tensorboard=True), (1, 0), (2, 0))
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("update/loss")] == [0, 10, 20, 25, 35, 45]
    assert [event.step for event in found.Scalars("epoch/loss")] == [24, 49]
    assert found.Scalars("epoch/accuracy")[0].value == 0.25


def test_missing_tensorboard_names_the_command(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'sppnet\[tensorboard\]'"):
        TrainingLog(tmp_path, tensorboard=True)
