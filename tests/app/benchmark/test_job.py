"""``sppnet benchmark pooling``: compares before it times, and publishes losses like wins."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch.nn.functional import adaptive_max_pool2d

from html_checks import check_page
from sppnet.app.benchmark import cases as benchmark_growth
from sppnet.app.benchmark import cases as benchmark_maps
from sppnet.app.benchmark import cases as benchmark_regions
from sppnet.app.benchmark import cases_extra as benchmark_onnx
from sppnet.app.benchmark import job as benchmark_job
from sppnet.app.benchmark import timing as benchmark_timing
from sppnet.app.benchmark.cases_extra import compare_on_device, compare_on_gpu
from sppnet.app.benchmark.job import CASES, BenchmarkJob
from sppnet.app.benchmark.peers import (
    TextbookPyramid,
    draw_shapes,
    draw_sizes,
    draw_windows,
    duplicate_share,
    pad_and_crop,
    pool_in_a_loop,
)
from sppnet.app.benchmark.report import (
    HEADER,
    Comparison,
    Goal,
    Growth,
    Results,
    check_equal,
    log_chart,
    table_rows,
)
from sppnet.app.benchmark.timing import (
    LEVELS,
    BenchmarkConfig,
    GrowthConfig,
    Pace,
    Timing,
    choose_plan,
    time_together,
    using_threads,
)
from sppnet.app.main import main
from sppnet.errors import UsageError
from sppnet.evaluation.report import stand_alone
from sppnet.pooling import check_regions, pool_regions, spatial_pyramid_pool

TINY = BenchmarkConfig(
    pace=Pace(rounds=3, slow_rounds=1, slow_seconds=1, least_seconds=1e-5),
    sweep_pace=Pace(rounds=2, least_seconds=1e-6),
    windows=60,
    region_maps=((4, 7, 9), (8, 5, 6)),
    whole_maps=((2, 3, 5, 6), (1, 4, 7, 3)),
    sweep_shapes=4,
    sweep_bytes=10_000,
    mixed_maps=5,
    mixed_channels=3,
    mixed_sides=(2, 6),
    growth=GrowthConfig((1_000, 2_000), (2, 4), (4, 8), ((1,), (7, 2)), few_channels=2),
    image_sides=(64,),
    gpu_windows=(20,),
)
STEADY, SHAKY = Timing(10.0, 9.9, 10.1, 7, 1), Timing(10.0, 8.0, 13.0, 7, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A finished run, without the export, which other tests pay for."""
    out = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        cases = {name: case for name, case in CASES.items() if name != "ONNX"}
        patch.setattr(benchmark_job, "CASES", cases)
        BenchmarkJob(out, TINY).run()
    return out


@pytest.fixture(scope="module")
def figures(folder) -> dict:
    return json.loads((folder / "benchmark.json").read_text(encoding="utf-8"))


def test_every_case_is_in_the_file(figures) -> None:
    cases = [row["case"] for row in figures["comparisons"]]
    assert {case.split()[0] for case in cases} == {"1", "2", "3", "4", "5", "6", "7", "8"}
    assert {case for case in cases if case.startswith("4")} == {"4 (1)", "4 (2)", "4 (3)"}
    growing = ["windows", "channels", "side of the map", "bins of the levels"]
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
    assert about["configuration"]["windows"] == TINY.windows
    wanted = {"processor", "processors", "kernel", "vector units", "GPU", "load before"}
    assert wanted < set(about["machine"])


def test_missing_gpu_is_told_in_file_and_table(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    results = compare_on_gpu(TINY)
    assert [each.reason for each in results.not_run] == ["not run: no GPU"] * 2
    assert [row["case"] for row in results.to_json()["not_run"]] == ["11", "11"]
    assert all("not run: no GPU" in row for row in table_rows(results))


def test_gpu_case_compares_with_both_peers_in_both_types() -> None:
    found = compare_on_device(TINY, torch.device("cpu")).comparisons
    assert [(each.goal.limit, "bfloat16" in each.what) for each in found] == [
        (6, False),
        (0.6, False),
        (6, True),
        (0.6, True),
    ]


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
        "growth-side-of-the-map.svg",
        "growth-windows.svg",
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

    monkeypatch.setattr("sppnet.app.benchmark.timing.choose_plan", choose)
    monkeypatch.setattr(benchmark_job, "CASES", {"training": CASES["windows forward + backward"]})
    words = ["benchmark", "pooling", "--quick", "--out", str(tmp_path / "new" / "run")]
    assert main(words) == 0
    assert main(words) == 0  # measured anew, in the same folder
    assert wanted == {"quick": True, "threads": None}
    shown = capsys.readouterr().out
    assert "60 windows of 4x7x9, forward + backward" in shown
    assert "of 1 goals met" in shown
    assert (tmp_path / "new" / "run" / "report.html").exists()


def test_folder_of_another_command_is_refused(tmp_path) -> None:
    (tmp_path / "run.json").write_text('{"command": "demo"}', encoding="utf-8")
    with pytest.raises(UsageError, match="holds a run of 'demo'"):
        BenchmarkJob(tmp_path, TINY).run()


def wrong_in_one_number(pool):
    """A pooling that is right but for one number."""

    def pool_wrongly(*inputs, **options):
        out = pool(*inputs, **options).clone()
        out[-1, -1] += 1
        return out

    return pool_wrongly


@pytest.mark.parametrize(
    ("module", "name", "case"),
    [
        (benchmark_regions, "pool_regions", benchmark_regions.compare_forward),
        (benchmark_regions, "pool_regions", benchmark_regions.compare_training),
        (benchmark_maps, "spatial_pyramid_pool", benchmark_maps.compare_whole),
        (benchmark_maps, "spatial_pyramid_pool", benchmark_maps.compare_whole_training),
        (benchmark_maps, "spatial_pyramid_pool", benchmark_maps.sweep_shapes),
        (benchmark_maps, "spatial_pyramid_pool", benchmark_maps.compare_mixed),
    ],
)
def test_wrong_pooling_is_not_timed(module, name, case, monkeypatch) -> None:
    monkeypatch.setattr(module, name, wrong_in_one_number(getattr(module, name)))
    for each in (benchmark_regions, benchmark_maps):
        monkeypatch.setattr(each, "time_together", lambda *_: pytest.fail("timed a wrong answer"))
    with pytest.raises(RuntimeError, match=r"1 of [0-9]+ numbers differ"):
        case(TINY)


def test_wrong_pooling_in_place_is_not_timed_in_growth(monkeypatch) -> None:
    def pool_wrongly(*inputs, out):
        pool_regions(*inputs, out=out)
        out[0, 0] += 1

    monkeypatch.setattr(benchmark_growth, "pool_regions", pool_wrongly)
    with pytest.raises(RuntimeError, match=r"1 of [0-9]+ numbers differ"):
        benchmark_growth.measure_growth(TINY)


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, features):
        return features.clone()

    @staticmethod
    def backward(_ctx, grad):
        return grad + 1


@pytest.mark.parametrize(
    ("module", "name", "case"),
    [
        (benchmark_regions, "pool_regions", benchmark_regions.compare_training),
        (benchmark_maps, "spatial_pyramid_pool", benchmark_maps.compare_whole_training),
        (benchmark_maps, "spatial_pyramid_pool", benchmark_maps.compare_mixed),
    ],
)
def test_wrong_gradient_is_not_timed(module, name, case, monkeypatch) -> None:
    right = getattr(module, name)

    def pool(features, *inputs):
        if isinstance(features, torch.Tensor):
            return right(_WrongGradient.apply(features), *inputs)
        return right([_WrongGradient.apply(each) for each in features], *inputs)

    monkeypatch.setattr(module, name, pool)
    with pytest.raises(RuntimeError, match=r"gradient.* numbers differ"):
        case(TINY)


def test_failed_comparison_ends_the_command_without_figures(tmp_path, monkeypatch, capsys) -> None:
    wrong = wrong_in_one_number(pool_regions)
    monkeypatch.setattr(benchmark_regions, "pool_regions", wrong)
    monkeypatch.setattr("sppnet.app.benchmark.timing.choose_plan", lambda **_: TINY)
    assert main(["benchmark", "pooling", "--out", str(tmp_path)]) == 1
    assert "must equal the peer" in capsys.readouterr().err
    assert not (tmp_path / "benchmark.json").exists()


def test_difference_of_shapes_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"shapes \(2,\) and \(1, 2\)"):
        check_equal("a case", torch.ones(2), torch.ones(1, 2))
    with pytest.raises(RuntimeError, match="1 of 2 numbers differ"):
        check_equal("a case", torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))


def test_missed_goals_are_shown_as_missed() -> None:
    slower = Comparison("5", "a loss", 1, STEADY, "peer", replace(STEADY, median_ms=9.0), Goal(8))
    faster = Comparison("5", "a win", 1, STEADY, "peer", replace(STEADY, median_ms=90.0), Goal(8))
    unjudged = Comparison("5", "no goal", 1, STEADY, "peer", STEADY)
    steep = Growth("9", "windows", "C=2", 1, [], slope=1.3, goal=Goal(1.1, at_most=True))
    results = Results([slower, faster, unjudged], [steep])
    assert [dict(zip(HEADER, row, strict=True))["met"] for row in table_rows(results)] == [
        "MISSED",
        "yes",
        "-",
        "MISSED",
    ]
    assert table_rows(results)[0][HEADER.index("ratio")] == "0.90"
    assert results.to_json()["goals"] == {"met": 1, "missed": 2}
    assert [row["met"] for row in results.to_json()["comparisons"]] == [False, True, None]


def test_goal_that_is_a_most_counts_how_many_times_as_long() -> None:
    fill = replace(STEADY, median_ms=5.0)
    comparison = Comparison("1", "fill", 2, STEADY, "fill", fill, Goal(2.5, at_most=True))
    assert comparison.ratio == 2.0
    assert comparison.to_json()["met"] is True
    assert not Goal(2.5, at_most=True).is_met(2.6)


def test_unsteady_times_are_marked() -> None:
    comparison = Comparison("5", "shaken", 1, SHAKY, "peer", STEADY)
    assert comparison.to_json()["unsteady"] is True
    row = dict(zip(HEADER, table_rows(Results([comparison]))[0], strict=True))
    assert (row["ours, ms"], row["peer, ms"]) == ("~10", "10")


def test_goals_of_two_threads_do_not_judge_other_counts() -> None:
    found = benchmark_regions.compare_forward(replace(TINY, threads=3)).comparisons
    assert {each.goal is None for each in found if each.threads == 3} == {True}
    assert any(each.goal for each in found if each.threads == 1)


def test_contenders_take_turns_and_slow_ones_take_fewer(monkeypatch) -> None:
    clock, called = [0.0], []

    def contender(name, seconds):
        def call():
            called.append(name)
            clock[0] += seconds

        return call

    monkeypatch.setattr(benchmark_timing.time, "perf_counter", lambda: clock[0])
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
    monkeypatch.setattr(benchmark_timing.time, "perf_counter", lambda: next(seconds))
    pace = Pace(rounds=5, slow_seconds=10, least_seconds=0.1)
    assert time_together({"a": lambda: None}, pace)["a"] == Timing(3000, 2000, 4000, 5, 1)


@pytest.mark.parametrize(("others", "crowded"), [(0.1, False), (0.9, True), (None, False)])
def test_programs_that_take_processors_away_are_told(others, crowded, monkeypatch) -> None:
    monkeypatch.setattr(benchmark_timing._Watch, "others", lambda _: others)
    monkeypatch.setattr(benchmark_timing.os, "cpu_count", lambda: 2)
    with using_threads(2):
        timing = time_together({"a": lambda: sum(range(1_000))}, TINY.pace)["a"]
    assert (timing.others, timing.is_crowded) == (others, crowded)
    assert replace(STEADY, is_crowded=crowded).is_unsteady == crowded


def test_another_program_is_noticed(monkeypatch) -> None:
    seconds = iter([(10.0, 2.0, 100.0), (14.0, 5.0, 109.0), (10.1, 5.0, 109.0)])
    monkeypatch.setattr(benchmark_timing._Watch, "_now", lambda _: next(seconds))
    watch = benchmark_timing._Watch()
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


@pytest.mark.parametrize("case", [name for name in CASES if name != "ONNX"])
def test_cases_leave_threads_as_they_were(case) -> None:
    before = torch.get_num_threads()
    CASES[case](TINY)
    assert torch.get_num_threads() == before


def test_windows_are_seeded_inside_the_map_and_a_fifth_coincide() -> None:
    for size in ((40, 60), (38, 50), (1, 1), (200, 200)):
        rows = draw_windows(2_000, size, seed=1)
        assert torch.equal(rows, draw_windows(2_000, size, seed=1))
        assert torch.equal(check_regions(rows, torch.zeros(1, 1, *size)), rows)
    assert not torch.equal(draw_windows(99, (40, 60), 1), draw_windows(99, (40, 60), 2))
    assert 0.15 < duplicate_share(draw_windows(2_000, (40, 60), seed=0)) < 0.3


def test_shapes_and_sizes_keep_to_their_bounds() -> None:
    for n, c, h, w in draw_shapes(200, 4_000_000, seed=0):
        assert 1 <= n <= 32
        assert 1 <= c <= 512
        assert 1 <= h <= 64
        assert 1 <= w <= 64
        assert 4 * n * c * h * w <= 4_000_000
    sizes = draw_sizes(64, (6, 40), seed=0)
    assert len(set(sizes)) == 64
    assert all(6 <= side <= 40 for size in sizes for side in size)


def test_peers_agree_with_the_definition() -> None:
    maps = [torch.randn(3, h, w) for h, w in ((2, 9), (7, 7), (1, 4))]
    pooled = spatial_pyramid_pool(maps, LEVELS)
    textbook = TextbookPyramid(LEVELS)
    assert torch.equal(pool_in_a_loop(maps, textbook), pooled)
    assert torch.equal(pad_and_crop(maps, textbook), pooled)
    wanted = [each.clone().requires_grad_() for each in maps]
    assert torch.equal(pad_and_crop(wanted, textbook), pooled)  # the way that keeps a gradient
    finest = adaptive_max_pool2d(maps[0], 6).flatten()
    assert torch.equal(textbook(maps[0][None])[0, : len(finest)], finest)


def test_slope_of_a_power() -> None:
    points = [{"x": x, "ms": 3 * x**1.5} for x in (1, 10, 100)]
    assert benchmark_growth.fit_slope(points) == pytest.approx(1.5)


def test_both_axes_of_a_chart_are_logarithmic() -> None:
    markup = log_chart({"a": [(1, 1), (10, 10), (100, 100)]}, "x", "y")
    root = ElementTree.fromstring(stand_alone(markup))
    dots = [
        (float(each.get("cx")), float(each.get("cy"))) for each in root.iter() if each.get("cx")
    ]
    (x0, y0), (x1, y1), (x2, y2) = dots
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.02)


def test_quick_is_shorter_and_threads_are_passed_on() -> None:
    quick, full = choose_plan(quick=True), choose_plan(threads=5)
    assert quick.sweep_shapes < full.sweep_shapes == 200
    assert quick.pace.rounds >= 7
    assert full.threads == 5
    most = max(full.growth.windows)
    assert 4 * most * full.growth.few_channels * 50 <= 2_000_000_000


def test_exported_classifier_is_compared_at_every_size() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found = benchmark_onnx.compare_onnx(replace(TINY, image_sides=(40, 64)))
    assert [each.what.split()[-1] for each in found.comparisons] == ["40x60", "64x96"]
    assert found.not_run == []


def test_missing_onnxruntime_is_told(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (left_out,) = benchmark_onnx.compare_onnx(TINY).not_run
    assert "onnxruntime" in left_out.reason
    assert left_out.case == "10"
