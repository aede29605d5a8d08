"""What is left when the power is cut or calls fail, by the programs of ``benchmarks/reliability``.

They have to be started below a library of their own, so each is a process.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sppnet.storage.temp_files import make_folders

PROGRAMS = Path(__file__).parents[2] / "benchmarks" / "reliability"
THINGS = ["models", "labels", "caches", "outputs"]


def figures_of(program: str, *words: object, folder: Path) -> dict[str, Any]:
    """Run a program; its figures."""
    out = folder / "figures.json"
    command = [sys.executable, str(PROGRAMS / program), *map(str, words)]
    run = subprocess.run(
        [*command, "--memory", str(folder), "--out", str(out)], capture_output=True, text=True
    )
    assert out.exists(), run.stderr
    return json.loads(out.read_text())


def cut_power(folder: Path, *words: object) -> dict[str, Any]:
    things = figures_of("power_loss.py", *words, folder=folder)["things"]
    assert all(each["replayed_to_the_same_bytes"] for each in things.values())
    return things


POINTS = [10, pytest.param(1000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("points", POINTS)
def test_a_power_cut_leaves_what_was_acknowledged(tmp_path: Path, points: int) -> None:
    found = cut_power(tmp_path, "--points", points)
    assert list(found) == THINGS
    assert {name: each["examples"] for name, each in found.items() if each["wrong"]} == {}


@pytest.mark.parametrize("lie", ["folders", "all"])
def test_a_disk_that_does_not_flush_is_noticed(tmp_path: Path, lie: str) -> None:
    """Without it the test above would say nothing."""
    found = cut_power(tmp_path, "models", "caches", "outputs", "--points", 30, "--lie", lie)
    assert min(each["wrong"] for each in found.values()) > 5


def test_labels_that_are_not_flushed_are_missed(tmp_path: Path) -> None:
    assert cut_power(tmp_path, "labels", "--points", 15, "--lie", "all")["labels"]["wrong"] > 3


FAULTS = [
    ["models", "labels", "--faults", "EIO"],
    pytest.param(THINGS, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("words", FAULTS)
def test_every_call_may_fail(tmp_path: Path, words: list[str]) -> None:
    found = figures_of("disk_faults.py", *words, folder=tmp_path)
    assert found["faults"] > 50
    wrong = [each["examples"] for faults in found["things"].values() for each in faults.values()]
    assert not found["wrong"], wrong


def test_new_folders_are_made_with_their_parents(tmp_path: Path) -> None:
    make_folders(tmp_path / "a" / "b" / "c", 0o700)
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o700
    make_folders(tmp_path / "a" / "b" / "c")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        make_folders(tmp_path / "file")
    with pytest.raises(OSError, match="Not a directory"):
        make_folders(tmp_path / "file" / "below")
