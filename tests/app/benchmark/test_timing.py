"""Contenders take turns; medians, quartiles, and what other programs take away."""

from dataclasses import replace

import pytest
import torch

from sppnet.app.benchmark import timing
from sppnet.app.benchmark.timing import (
    Pace,
    Timing,
    choose_config,
    time_together,
)
from sppnet.progress import using_threads
from tiny_benchmark import STEADY, TINY


def test_contenders_take_turns_and_slow_ones_take_fewer(monkeypatch) -> None:
    clock, called = [0.0], []

    def contender(name, seconds):
        def call():
            called.append(name)
            clock[0] += seconds

        return call

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    pace = Pace(rounds=9, slow_rounds=5, slow_seconds=0.25, least_seconds=0.002)
    timings = time_together(
        {"short": contender("short", 0.001), "long": contender("long", 0.5)}, pace
    )
    assert "".join(name[0] for name in called) == "ss" + "l" + "sssl" + "ssssssl" * 4
    assert timings["short"] == Timing(
        pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0), 9, 2
    )
    assert (timings["long"].median_ms, timings["long"].repetitions) == (pytest.approx(500.0), 5)


def test_median_and_quartiles(monkeypatch) -> None:
    seconds = iter([0.0, 1.0, 0.0, 1.0, *(x for s in (3, 1, 2, 5, 4) for x in (0.0, float(s)))])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(seconds))
    pace = Pace(rounds=5, slow_seconds=10, least_seconds=0.1)
    assert time_together({"a": lambda: None}, pace)["a"] == Timing(3000, 2000, 4000, 5, 1)


@pytest.mark.parametrize(("others", "crowded"), [(0.1, False), (0.9, True), (None, False)])
def test_programs_that_take_processors_away_are_told(others, crowded, monkeypatch) -> None:
    monkeypatch.setattr(timing._Watch, "others", lambda _: others)
    monkeypatch.setattr(timing.os, "cpu_count", lambda: 2)
    with using_threads(2):
        found = time_together({"a": lambda: sum(range(1_000))}, TINY.pace)["a"]
    assert (found.others, found.is_crowded) == (others, crowded)
    assert replace(STEADY, is_crowded=crowded).is_unsteady == crowded


def test_another_program_is_noticed(monkeypatch) -> None:
    seconds = iter([(10.0, 2.0, 100.0), (14.0, 5.0, 109.0), (10.1, 5.0, 109.0)])
    monkeypatch.setattr(timing._Watch, "_now", lambda _: next(seconds))
    watch = timing._Watch()
    assert watch.others() == 1.5  # 9 seconds of work in 4, 3 of them ours
    assert watch.others() is None  # too short to tell


def test_threads_are_restored_even_after_an_error() -> None:
    before = torch.get_num_threads()
    inside = []

    def fail():
        with using_threads(before + 1):
            inside.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before


def test_quick_is_shorter_and_threads_are_passed_on() -> None:
    quick, full = choose_config(quick=True), choose_config(threads=5)
    assert quick.sweep_shapes < full.sweep_shapes == 200
    assert quick.pace.rounds >= 7
    assert full.threads == 5
    most = max(full.growth.regions)
    assert 4 * most * full.growth.few_channels * 50 <= 2_000_000_000
