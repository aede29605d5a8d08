"""kill -9 at random moments: what was acknowledged is there, and nothing torn is ever returned."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sppnet.errors import UnusableFileError
from sppnet.storage import FeatureCache, RunFolder, load_model, save_model
from sppnet.storage.temp_files import TEMPORARY_NAME

Ask = Callable[[str, Path, float], list[int]]
ENOUGH = 5  # records, models or stages, so that the kills have met some
TRIALS = [15, pytest.param(300, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    script = Path(__file__).with_name("writers_to_kill.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def send(task: str, folder: Path, number: float) -> list[int]:
            process.stdin.write(f"{task}\t{folder}\t{number}\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield send
        process.stdin.close()


def moments(count: int, longest: float, written: list[int]) -> Iterator[float]:
    """Random times to live, from before the first write to well inside the writing.

    Where the machine has other work, longer ones follow until enough was written.
    """
    generator = random.Random(0)
    for _ in range(count):
        yield generator.uniform(0.002, longest)
    while len(written) <= ENOUGH and longest < 60:
        longest *= 2
        yield generator.uniform(0.002, longest)


def unfinished(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if TEMPORARY_NAME.fullmatch(path.name)]


@pytest.mark.parametrize("trials", TRIALS)
def test_cache_keeps_every_acknowledged_record(ask: Ask, tmp_path: Path, trials: int) -> None:
    acknowledged: list[int] = []
    for seconds in moments(trials, 0.1, acknowledged):
        acknowledged += ask("records", tmp_path, seconds)
        cache = FeatureCache(tmp_path)
        assert not unfinished(tmp_path)
        # The record after the last acknowledged one may be there or not, but never in part.
        for index in [*acknowledged[-20:], max(acknowledged, default=-1) + 1]:
            found = cache.get(FeatureCache.make_key(index=index))
            if found is None:
                assert index not in acknowledged
            else:
                assert torch.equal(found["map"], torch.full((13, 31, 32), float(index)))
        assert cache.damaged == 0
    cache = FeatureCache(tmp_path)
    assert all(cache.get(FeatureCache.make_key(index=index)) for index in acknowledged)
    assert len(acknowledged) > ENOUGH, "the writers were killed before they wrote anything"


@pytest.mark.parametrize("trials", TRIALS)
def test_model_is_the_old_or_the_new_one(ask: Ask, tmp_path: Path, trials: int) -> None:
    last, written = -1, list[int]()
    for seconds in moments(trials, 0.3, written):
        acknowledged = ask("models", tmp_path, seconds)
        written += acknowledged
        last = max([last, *acknowledged])
        try:
            config, tensors = load_model(tmp_path / "model", "toy")
        except UnusableFileError:
            assert last == -1, "an acknowledged model is gone"
            continue
        assert config["index"] in {last, last + 1}
        assert torch.equal(tensors["w"], torch.full((3000,), float(config["index"])))
        last = config["index"]
    assert len(written) > ENOUGH, "the writers were killed before they wrote anything"
    save_model(tmp_path / "model", "toy", {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "leftovers are swept"


@pytest.mark.parametrize("trials", TRIALS)
def test_run_remembers_every_finished_stage(ask: Ask, tmp_path: Path, trials: int) -> None:
    written: list[int] = []
    for seconds in moments(trials, 0.3, written):
        acknowledged = ask("stages", tmp_path, seconds)
        written += acknowledged
        with RunFolder.open(tmp_path, "toy", {"levels": (1, 2)}, seed=3) as run:
            assert all(run.is_done(f"stage {index}") for index in acknowledged)
            assert all(value >= 0 for value in run.seconds().values())
        assert not unfinished(tmp_path)
    assert len(written) > ENOUGH, "the writers were killed before they wrote anything"


def test_several_processes_share_one_cache(ask: Ask, tmp_path: Path) -> None:
    assert ask("share", tmp_path, 3) == [0, 0, 0]
    cache = FeatureCache(tmp_path)
    assert sum(1 for _ in cache.keys()) == 30  # noqa: SIM118
    assert not unfinished(tmp_path)


@pytest.mark.parametrize("rounds", [4, pytest.param(100, marks=pytest.mark.slow)])
def test_eight_processes_share_one_cache_and_one_is_killed(
    ask: Ask, tmp_path: Path, rounds: int
) -> None:
    generator, killed = random.Random(0), 0
    for number in range(rounds):
        folder = tmp_path / str(number)
        seconds = generator.uniform(0.0, 0.2) if number else 0.0  # for some are done before that
        codes = ask("share and kill", folder, seconds)
        assert codes[-1] in (0, -9)  # it may have been done before
        assert codes[:-1] == [0] * 7
        killed += codes[-1] == -9
        cache = FeatureCache(folder)
        assert sum(1 for _ in cache.keys()) == 30  # noqa: SIM118
        assert all(cache.get(key) for key in cache.keys())  # noqa: SIM118
        assert cache.damaged == 0
        assert not unfinished(folder)
    assert killed
