"""``sppnet benchmark pooling``: compares before it times, and publishes losses like wins."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from html_checks import check_page
from sppnet.app.benchmark import cases, job
from sppnet.app.benchmark.job import CASES, BenchmarkJob
from sppnet.app.main import main
from sppnet.errors import UsageError
from sppnet.pooling import pool_regions
from tiny_benchmark import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A finished run, without the export, which other tests pay for."""
    out = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        quick = {name: case for name, case in CASES.items() if name != "ONNX"}
        patch.setattr(job, "CASES", quick)
        BenchmarkJob(out, TINY).run()
    return out


@pytest.fixture(scope="module")
def figures(folder) -> dict:
    return json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))


def test_every_case_is_in_the_file(figures) -> None:
    found = [row["case"] for row in figures["comparisons"]]
    assert {case.split()[0] for case in found} == {"1", "2", "3", "4", "5", "6", "7", "8"}
    assert {case for case in found if case.startswith("4")} == {"4 (1)", "4 (2)", "4 (3)"}
    growing = ["regions", "channels", "side of the map", "bins of the levels"]
    assert [row["axis"] for row in figures["growth"]] == growing
    assert len(figures["sweep"]) == 2 * 2 * TINY.sweep_shapes  # ways x layouts x shapes
    counted = figures["goals"]["met"] + figures["goals"]["missed"]
    judged = [*figures["comparisons"], *figures["growth"]]
    assert counted == sum(row["met"] is not None for row in judged)
    assert figures["goals"]["met"] == sum(row["met"] is True for row in judged)


def test_goals_are_those_of_the_project(figures) -> None:
    limits: dict[str, list] = {}
    for row in figures["comparisons"]:
        if row["goal"]:
            limits.setdefault(row["case"], []).append(row["goal"]["limit"])
    assert limits == {
        "1": [70, 2.5],
        "2": [25],
        "3": [36],
        "4 (1)": [70, 2.5],
        "4 (2)": [25],
        "4 (3)": [36],
        "5": [8],
        "6": [12, 12, 10, 10],
        "7": [3, 3, 3, 3, 1, 1],
        "8": [5, 5],
    }


def test_every_comparison_has_times_threads_and_a_ratio_of_medians(figures) -> None:
    for row in figures["comparisons"]:
        for side in ("ours", "peer"):
            times = row[side]
            assert 0 < times["low_ms"] <= times["median_ms"] <= times["high_ms"]
            assert times["repetitions"] >= 2
            assert times["calls"] >= 1
        speed = row["peer"]["median_ms"] / row["ours"]["median_ms"]
        at_most = bool(row["goal"] and row["goal"]["at_most"])
        assert row["ratio"] == pytest.approx(1 / speed if at_most else speed)
    threads = {row["case"]: row["threads"] for row in figures["comparisons"]}
    assert threads["1"] == threads["2"] == threads["4 (1)"] == 2
    assert {threads[case] for case in threads if case not in ("1", "2", "4 (1)", "4 (2)")} == {1}


def test_file_says_on_what_it_was_measured(figures) -> None:
    about = figures["about"]
    assert about["versions"]["torch"] == torch.__version__.split("+")[0]
    assert about["configuration"]["regions"] == TINY.regions
    wanted = {"processor", "processors", "kernel", "vector units", "GPU", "load before"}
    assert wanted < set(about["machine"])


def test_page_and_plots_are_well_formed_and_show_what_was_missed(folder, figures) -> None:
    page = check_page((folder / "report.html").read_text(encoding="utf-8"))
    assert page.count("svg") >= len(figures["growth"]) + 1
    text = page.visible_text()
    missed = sum(row["met"] is False for row in figures["comparisons"])
    assert missed > 0  # so small a run is far from 70 times as fast
    assert text.count("MISSED") == missed + sum(row["met"] is False for row in figures["growth"])
    assert "selective search" in text
    plots = sorted(path.name for path in folder.glob("*.svg"))
    assert plots == [
        "growth-bins-of-the-levels.svg",
        "growth-channels.svg",
        "growth-regions.svg",
        "growth-side-of-the-map.svg",
        "shapes.svg",
    ]
    for name in plots:
        root = ElementTree.fromstring((folder / name).read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_command_measures_and_prints_the_table(tmp_path, monkeypatch, capsys) -> None:
    wanted = {}

    def choose(**words):
        wanted.update(words)
        return TINY

    monkeypatch.setattr("sppnet.app.benchmark.timing.choose_config", choose)
    monkeypatch.setattr(job, "CASES", {"training": CASES["regions forward + backward"]})
    words = ["benchmark", "pooling", "--quick", "--out", str(tmp_path / "new" / "run")]
    assert main(words) == 0
    assert main(words) == 0  # measured anew, in the same folder
    assert wanted == {"quick": True, "threads": None}
    shown = capsys.readouterr().out
    assert "60 regions of 4x7x9, forward + backward" in shown
    assert "of 1 goals met" in shown
    assert (tmp_path / "new" / "run" / "report.html").exists()


def test_folder_of_another_command_is_refused(tmp_path) -> None:
    (tmp_path / "run.json").write_text('{"command": "demo"}', encoding="utf-8")
    with pytest.raises(UsageError, match="holds a run of 'demo'"):
        BenchmarkJob(tmp_path, TINY).run()


def test_failed_comparison_ends_the_command_without_figures(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(
        cases, "pool_regions", lambda *given, **more: pool_regions(*given, **more) + 1
    )
    monkeypatch.setattr("sppnet.app.benchmark.timing.choose_config", lambda **_: TINY)
    assert main(["benchmark", "pooling", "--out", str(tmp_path)]) == 1
    assert "must equal the peer" in capsys.readouterr().err
    assert not (tmp_path / "benchmark.json").exists()
