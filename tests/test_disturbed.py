"""What ``seeds.py``, ``stops.py`` and ``poor_places.py`` of ``benchmarks/reliability`` must see."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import poor_places
import pytest
import seeds
import small_runs
import stops

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]
MEMORY = Path("/dev/shm")
RESULT = json.dumps({"images": [{"file": f"{n}.png"} for n in range(5)]})


def planted(fault: str = "") -> Callable[[], int]:
    """A command of half a second with a fault."""

    def run() -> int:
        out, state = Path("out"), Path("out/run.json")
        again = state.exists()
        out.mkdir(exist_ok=True)
        state.touch()
        try:
            if fault == "torn":
                (out / "predictions.json").write_text(RESULT[:20])
            time.sleep(0.1)
            text = RESULT.replace("4", "3") if fault == "forgets" and again else RESULT
            (out / "counts.csv").write_text("class,images\n")
            if fault == "early":
                (out / "counts.csv").write_text("class\n")
            time.sleep(0.1)
            (out / "counts.csv").write_text("class,images\n")
            (out / "predictions.json").write_text(text)
        except KeyboardInterrupt:
            return saved()
        return int(fault == "refuses" and again)

    def saved() -> int:
        if fault == "deaf":
            time.sleep(1)
        if fault == "breaks":
            sys.stderr.write("Traceback (most recent call last):\n")
        if fault != "silent":
            sys.stderr.write("sppnet: stopped; what is finished is kept\n")
        return 1 if fault == "code" else 143

    return run


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("", ""),
        ("torn", "a torn file"),
        ("early", "half done: out/counts.csv"),
        ("deaf", "took more than 0.5 s to end"),
        ("breaks", "a traceback"),
        ("silent", "no line that says so"),
        ("code", "exit code 1"),
        ("forgets", "other bytes: out/predictions.json"),
        ("refuses", "cannot go on: exit code 1"),
    ],
)
def test_faults_of_commands_that_are_stopped_are_seen(
    fault: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stops, "MOST_SECONDS", 0.5)
    peace = stops.in_peace(tmp_path, "evaluate", planted())
    count, draw = stops.Count(), random.Random(0)
    for _ in range(4):
        count.add(
            stops.stop(tmp_path, peace, draw, [signal.SIGTERM], program=planted(fault)), peace
        )
    assert count.stopped > 1
    assert list(count.faults) == ([words] if words else [])


def test_two_signals_that_do_not_end_at_once_are_seen(tmp_path: Path) -> None:
    peace = stops.Peace("evaluate", {}, {}, {"out/a": "1"})
    ended, again = small_runs.Ended(143, 1.5, ""), small_runs.Ended(0, 1, "")
    stopped = stops.Stopped([15, 15], ended, {}, again, {"out/a": "1"})
    assert stopped.faults(peace) == ["took more than 1 s to end"]


def test_a_signal_before_python_has_the_program_is_no_fault_and_a_later_one_is() -> None:
    peace = stops.Peace("evaluate", {}, {}, {})
    ended, again = small_runs.Ended(-2, 0.1, "KeyboardInterrupt"), small_runs.Ended(0, 1, "")
    assert stops.Stopped([2], ended, {}, again, {}, fresh=True).faults(peace) == []
    found = stops.Stopped([2], ended, {"out/a": "1"}, again, {}, fresh=True).faults(peace)
    assert "exit code -2" in found
    assert stops.Stopped([2], ended, {}, again, {}).faults(peace) == ["exit code -2"]


def test_photos_that_are_there_twice_are_seen(tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text(RESULT)
    assert stops.photos_in(tmp_path) == {}
    (tmp_path / "predictions.json").write_text(RESULT.replace("4", "3"))
    assert stops.photos_in(tmp_path) == {"3.png": 2}


@pytest.mark.parametrize("name", ["metrics.json", "log.csv", "report.html", "a.bin"])
def test_times_are_no_result_and_everything_else_is(name: str, tmp_path: Path) -> None:
    def digest(value: str, seconds: str) -> dict[str, str]:
        document = {"ap": value, "seconds": {"svm": seconds}}
        texts = {
            "metrics.json": json.dumps(document),
            "log.csv": f"epoch,loss,seconds\n0,{value},{seconds}\n",
            "report.html": f"<p>{value}</p><dd>{seconds} ms</dd>",
            "a.bin": value,
        }
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text(texts[name])
        return small_runs.ending(tmp_path)

    assert digest("0.5", "12") == digest("0.5", "31")
    assert small_runs.differences(digest("0.5", "12"), digest("0.6", "12")) == [f"out/{name}"]


@pytest.mark.skipif(not MEMORY.is_dir(), reason="needs a folder in memory")
def test_files_made_in_another_order_are_listed_in_another_order(tmp_path: Path) -> None:
    for n in range(20):
        (tmp_path / f"{n}.txt").write_text(str(n))
    place = MEMORY / f"sppnet-orders-{os.getpid()}"
    try:
        orders = [seeds.scatter(tmp_path, place / str(n), random.Random(n)) for n in range(3)]
    finally:
        shutil.rmtree(place)
    assert len({tuple(order) for order in orders}) == 3
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(orders[0]))}


def test_a_clock_that_jumps_is_seen_and_one_that_does_not_is_no_poverty(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler")
    library = tmp_path / "clock.so"
    command = ["cc", "-shared", "-fPIC", "-o", str(library), str(poor_places.CLOCK), "-ldl"]
    subprocess.run(command, check=True)
    for poverty in poor_places.clocks(library, 0.5, random.Random(0)):
        assert poor_places.is_poor(poverty)
        assert not poor_places.is_poor(poor_places.Poverty("none", probe=poverty.probe))


def test_endings_in_poor_places_are_judged(tmp_path: Path) -> None:
    def judge(code: int, said: str, *, may_refuse: bool = True) -> list[str]:
        ended = small_runs.Ended(code, 1, said)
        return poor_places.faults(ended, {"a": "1"}, {"a": "1"}, may_refuse=may_refuse)

    line = "sppnet: error: no room (E_OUTPUT)\n"
    assert judge(0, "") == judge(6, line) == []
    assert judge(6, "") == ["no line that says why"]
    assert judge(6, line, may_refuse=False) == ["exit code 6"]
    assert judge(-11, "") == ["exit code -11"]
    assert judge(1, "sppnet: error: x; this is a bug (E_BUG)") == ["a traceback"]
    ended = small_runs.Ended(0, 1, "")
    assert poor_places.faults(ended, {"a": "2"}, {"a": "1"}, may_refuse=True) == ["other bytes: a"]
    (tmp_path / "metrics.json").write_text('{"seconds": {"svm": -86399.5}, "ap": -1}')
    assert poor_places.times_wrong(tmp_path) == ["time .seconds.svm"]
