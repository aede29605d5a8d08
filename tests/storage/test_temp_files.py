"""What a killed writer left is told from what a living one is busy with."""

import fcntl
import os
import subprocess
from pathlib import Path

import filelock
import pytest

from sppnet.storage.temp_files import (
    STALE_SECONDS,
    make_folders,
    remove_leftovers,
    stale_temp_files,
    temporary_path,
    try_lock,
)


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


def test_leftovers_are_removed_and_nothing_else(tmp_path: Path) -> None:
    gone, name = "99999999-0123abcd", ".a.json.tmp-"
    kept = [tmp_path / "others" / f"{name}{gone}", tmp_path / "pictures" / "a.json"]
    removed = [tmp_path / f"{name}{gone}", tmp_path / "pictures" / "deep" / f"{name}{gone}"]
    busy = temporary_path(tmp_path / "pictures" / "mine")
    for each in (*kept, *removed, busy):
        each.parent.mkdir(parents=True, exist_ok=True)
        each.touch()
    (tmp_path / f".folder.tmp-{gone}").mkdir()
    remove_leftovers(tmp_path, "pictures", "missing")
    assert not any(each.exists() for each in removed)
    assert all(each.exists() for each in (*kept, busy))


def test_a_name_is_cut_between_characters(tmp_path: Path) -> None:
    path = temporary_path(tmp_path / ("é" * 127))
    path.touch()
    assert path.name.startswith("." + "é" * 100 + ".tmp-")


def test_a_process_of_somebody_else_may_be_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f".a.tmp-{10**30}-0123abcd"
    path.touch()
    assert stale_temp_files(tmp_path) == [path]

    def refuse(number: int, signal: int) -> None:
        assert signal == 0  # any other one would end the writer
        raise PermissionError(f"{number} is somebody else's, {signal}")

    monkeypatch.setattr(os, "kill", refuse)
    assert stale_temp_files(tmp_path) == []


def test_a_writer_has_an_hour_unless_its_process_is_gone(tmp_path: Path) -> None:
    mine = temporary_path(tmp_path / "mine")
    mine.touch()
    now = mine.stat().st_mtime
    os.utime(mine, (now, now - STALE_SECONDS + 60))
    assert stale_temp_files(tmp_path) == []
    os.utime(mine, (now, now - STALE_SECONDS - 60))
    assert stale_temp_files(tmp_path) == [mine]


def test_a_link_is_nobody_s_unfinished_file(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / f".a.tmp-{10**30}-0123abcd").symlink_to(tmp_path / "real")
    assert stale_temp_files(tmp_path) == []


def test_a_disk_without_locks_does_not_stop_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(f"no locks for {descriptor}, {blocking}")

    with (tmp_path / "a").open("w") as file, (tmp_path / "a").open("w") as other:
        assert try_lock(file.fileno())
        assert not try_lock(other.fileno())
        monkeypatch.setattr(filelock, "lock_descriptor", refuse)
        assert try_lock(other.fileno())


def test_names_of_new_folders_reach_the_disk_and_old_ones_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr("sppnet.storage.temp_files.fsync_folder", flushed.append)
    make_folders(tmp_path / "a" / "b" / "c", 0o700)
    assert flushed == [tmp_path / "a" / "b", tmp_path / "a", tmp_path]
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o700
    make_folders(tmp_path / "a" / "b")
    assert len(flushed) == 3
