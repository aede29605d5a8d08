"""What a killed writer left is told from what a living one is busy with."""

import fcntl
import os
import subprocess
from pathlib import Path

from sppnet.storage.temp_files import stale_temp_files, temporary_path


def test_leftovers_of_dead_processes_are_recognised(tmp_path: Path) -> None:
    child = subprocess.run(["true"], check=True)
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale = tmp_path / f".a.json.tmp-{dead.pid}-0123abcd"
    old = temporary_path(tmp_path / "b")
    for path in (stale, old, temporary_path(tmp_path / "mine"), tmp_path / ".a.tmp-1"):
        path.touch()
    os.utime(old, (0, 0))
    assert child.returncode == 0
    assert stale_temp_files(tmp_path) == sorted([stale, old])
    assert stale_temp_files(tmp_path / "missing") == []


def test_a_locked_leftover_has_a_living_writer(tmp_path: Path) -> None:
    path = temporary_path(tmp_path / "slow")
    with path.open("w") as file:
        os.utime(path, (0, 0))
        fcntl.flock(file, fcntl.LOCK_EX)
        assert stale_temp_files(tmp_path) == []
    assert stale_temp_files(tmp_path) == [path]


def test_a_name_is_cut_between_characters(tmp_path: Path) -> None:
    path = temporary_path(tmp_path / ("é" * 127))
    path.touch()
    assert path.name.startswith("." + "é" * 100 + ".tmp-")
