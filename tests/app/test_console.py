"""Counting inputs, tables, and words for times and sizes."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from sppnet.app import console
from sppnet.app import options as device
from sppnet.errors import InputError, Problem, UsageError


def test_every_input_is_counted_once() -> None:
    tally = console.Tally(listed=3)
    tally.add_ok(2)
    with pytest.raises(RuntimeError, match="must be listed"):
        tally.exit_code()
    tally.add_failed(InputError("the file is empty", path="a", code="E_EMPTY"))
    assert tally.exit_code() == 3
    assert tally.problems == [Problem("a", "the file is empty", "E_EMPTY")]


@pytest.mark.parametrize(
    ("ok", "failed", "code"),
    [(0, 0, 4), (1, 0, 0), (0, 1, 4), (1, 1, 3), (2, 1, 3)],
)
def test_codes_of_tallies(ok: int, failed: int, code: int) -> None:
    problems = [Problem("a", "is bad", "E_FORMAT")] * failed
    assert console.Tally(ok + failed, ok, problems).exit_code() == code


def test_many_problems_are_cut_and_counted(capsys) -> None:
    problems = [Problem(f"{n}.jpg", "is bad", "E_FORMAT") for n in range(5)]
    assert console.report_problems(problems, most=2) == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("sppnet: 3 more problems")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (9.96, "10 s"),
        (89.4, "89 s"),
        (90, "1 min 30 s"),
        (3599, "60 min"),
        (3600, "1 h 0 min"),
    ],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert console.human_seconds(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2e15, "2000.0 TB")]
)
def test_sizes_in_words(count: float, words: str) -> None:
    assert console.human_bytes(count) == words


def test_unknown_device_names_those_that_exist() -> None:
    with pytest.raises(
        UsageError, match=r"must be one of auto, .*cpu on this machine, got 'cuda:99'"
    ):
        device.choose_device("cuda:99")
    assert str(device.choose_device("auto")) == device.list_devices()[0]


def test_a_name_cannot_forge_a_line_or_move_the_cursor(capsys) -> None:
    hostile = "cat\ndone: 0 errors\x1b[2K"
    console.say(f"class {hostile}")
    console.note(hostile)
    console.say_table(["class", "AP"], [[hostile, 0.5], ["dog", 0.25]])
    out, err = capsys.readouterr()
    assert out.count("\n") == 4
    assert err.count("\n") == 1
    assert "\x1b" not in out + err
    first, _, *rows = out.splitlines()
    assert first == r"class cat\ndone: 0 errors\x1b[2K"
    assert len({len(row) for row in rows}) == 1  # the columns still stand under each other


@pytest.mark.parametrize(("planned", "is_said"), [(999, False), (1001, True)])
def test_too_little_room_is_said_before_the_work(
    tmp_path: Path, capsys, monkeypatch, planned: int, is_said: bool
) -> None:
    asked = []
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: asked.append(path) or Mock(free=1000, total=5000)
    )
    console.warn_of_space(tmp_path / "not" / "yet", planned, "--cache DIR writes elsewhere")
    said = capsys.readouterr().err
    assert asked == [tmp_path]
    assert ("1.0 kB are free; --cache DIR writes elsewhere" in said) == is_said
    assert said.count("\n") == is_said


@pytest.mark.parametrize("letter", ["x", "\x1b", "\U0001f600", "\udcff"])
def test_a_line_of_a_log_has_at_most_four_kilobytes(capsys, letter: str) -> None:
    for tell in (console.note, console.warn, console.error):
        tell(f"begin {1_000_000 * letter} (E_END)")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert len(line.encode()) < 4096
        assert "begin" in line
        assert line.endswith("(E_END)")
