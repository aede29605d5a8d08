"""Progress off a terminal: silence for short loops, lines at growing intervals for long ones."""

import io
import sys
from contextlib import nullcontext

import pytest

from sppnet.app import progress
from sppnet.app.progress import Plan, Stage
from sppnet.progress import Track


class Clock:
    """Stands for time.monotonic; every item takes one second."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    return made


def run_loop(clock: Clock, count: int, total: int | None) -> None:
    for _ in progress.track(iter(range(count)), "reading", total=total):
        clock.now += 1


def test_short_loop_says_nothing(clock: Clock, capsys) -> None:
    run_loop(clock, 4, 4)
    assert capsys.readouterr().err == ""


def test_long_loop_says_the_time_left_ever_less_often(clock: Clock, capsys) -> None:
    run_loop(clock, 100, 100)
    assert capsys.readouterr().err.splitlines() == [
        "sppnet: reading: 5 of 100, 1 min 35 s left",
        "sppnet: reading: 15 of 100, 85 s left",
        "sppnet: reading: 35 of 100, 65 s left",
        "sppnet: reading: 75 of 100, 25 s left",
        "sppnet: reading: 100 in 1 min 40 s",
    ]


def test_unknown_length_is_counted(clock: Clock, capsys) -> None:
    run_loop(clock, 8, None)
    assert capsys.readouterr().err.splitlines() == [
        "sppnet: reading: 5 in 5.0 s",
        "sppnet: reading: 8 in 8.0 s",
    ]


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_bars_nest_and_pass_every_item(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    pairs = [(a, b) for a in progress.track([1, 2], "outer") for b in progress.track("xy", "inner")]
    assert pairs == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]
    assert progress._BARS._display is None


def test_bars_close_when_the_loop_breaks(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    loop = progress.track([1, 2], "outer")
    next(loop)
    loop.close()
    assert progress._BARS._display is None


def test_track_is_what_the_rooms_ask_for(capsys) -> None:
    wanted: Track = progress.track
    assert list(wanted([3], "one", total=1)) == [3]


def test_plan_says_what_is_known(capsys) -> None:
    assert progress.announce([progress.Stage("a"), progress.Stage("b", 2)]) == (
        "plan: a, b 2.0 s; about 2.0 s in all"
    )
    assert progress.announce([progress.Stage("a")]) == "plan: a"
    assert capsys.readouterr().err.startswith("sppnet: plan: a, b")


def test_what_is_left_counts_all_stages_at_the_speed_of_those_before(clock: Clock, capsys) -> None:
    stages = [Stage("features", 20.0), Stage("svm", 30.0), Stage("save", 10.0)]
    plan = Plan(stages, nullcontext)
    assert plan.seconds_left == 60
    with plan.stage("features"):
        clock.now += 40  # twice as long as was thought
    assert plan.seconds_left == 80
    assert "features done in 40 s; about 80 s left for svm, save" in capsys.readouterr().err
    with plan.stage("features"), plan.stage("unplanned"):
        clock.now += 10
    with plan.stage("svm"):
        pass
    with plan.stage("save"):
        pass
    assert plan.seconds_left == 0
    assert "svm" not in capsys.readouterr().err.splitlines()[-1].partition("left")[2]


def test_a_short_plan_is_not_spoken_of_again(clock: Clock, capsys) -> None:
    plan = Plan([Stage("features", 2.0), Stage("svm")], nullcontext)
    with plan.stage("features"):
        clock.now += 2
    assert capsys.readouterr().err == ""
