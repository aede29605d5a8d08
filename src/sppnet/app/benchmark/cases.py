"""The cases that are timed: regions, whole maps, maps of mixed sizes, growth with the input."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sppnet.app.benchmark.peers import (
    LAYOUTS,
    LOOP,
    PAD_AND_CROP,
    ROI_POOL,
    TEXTBOOK,
    TextbookPyramid,
    draw_gradient,
    draw_map,
    draw_regions,
    draw_shapes,
    draw_sizes,
    duplicate_share,
    pad_and_crop,
    pool_in_a_loop,
    roi_pool_pyramid,
    rows_to_boxes,
    training_step,
)
from sppnet.app.benchmark.report import Comparison, Goal, Growth, Results, check_equal
from sppnet.app.benchmark.timing import (
    GOAL_THREADS,
    LEVELS,
    BenchmarkConfig,
    Call,
    Pace,
    Timing,
    time_together,
)
from sppnet.pooling import num_bins, pool_regions, spatial_pyramid_pool
from sppnet.progress import using_threads

GIVEN, FRESH, FILL = "ours, out= given", "ours, fresh output", "out.fill_: writing the output"
Shape = tuple[int, int, int, int]
FORWARD_GOALS = (Goal(12), Goal(10))
FORWARD, TRAINING = "forward", "forward + backward"
# So many of the slowest shapes of a sweep are timed again, longer: a least of many is mostly luck.
AGAIN, LONGER = 10, 3
# Linear, plus a tenth for the clock and the caches.
LINEAR = Goal(1.1, at_most=True)
# So many of the regions of a point are compared with the textbook, which takes them one by one.
COMPARED = 50
# Below so many regions the cost of the call itself would make the growth look slower than it is.
MANY = 1_000


def compare_forward(config: BenchmarkConfig) -> Results:
    """Cases 1 to 4: forward, with several threads and with one, on each map."""
    results = Results()
    for number, shape in enumerate(config.region_maps):
        calls, details = _prepare_forward(config, shape)
        for threads in dict.fromkeys((config.threads, 1)):
            with using_threads(threads):
                timings = time_together(calls, config.pace)
            made = _judge_forward(shape, config.regions, threads, timings, details)
            results.comparisons += made if number == 0 else [_as_case_4(each) for each in made]
    return results


def _prepare_forward(
    config: BenchmarkConfig, shape: tuple[int, int, int]
) -> tuple[dict[str, Call], dict[str, float]]:
    """Draw one map and its regions; return the four contenders, once their answers agree."""
    features = draw_map((1, *shape), config.seed)
    rows = draw_regions(config.regions, shape[1:], config.seed)
    boxes = rows_to_boxes(rows)
    out = torch.empty(len(rows), shape[0] * num_bins(LEVELS))
    pooled = roi_pool_pyramid(features, boxes, LEVELS)
    check_equal(GIVEN, pool_regions(features, rows, LEVELS, out=out), pooled)
    check_equal(FRESH, pool_regions(features, rows, LEVELS), pooled)
    del pooled
    contenders: dict[str, Call] = {
        GIVEN: lambda: pool_regions(features, rows, LEVELS, out=out),
        FRESH: lambda: pool_regions(features, rows, LEVELS),
        FILL: lambda: out.fill_(1.0),
        ROI_POOL: lambda: roi_pool_pyramid(features, boxes, LEVELS),
    }
    return contenders, {"duplicates": duplicate_share(rows)}


def _judge_forward(
    shape: tuple[int, int, int],
    regions: int,
    threads: int,
    timings: dict[str, Timing],
    details: dict[str, float],
) -> list[Comparison]:
    """Compare the times with each other and with the goals."""
    peer = timings[ROI_POOL]
    if threads == 1:
        entries = [("3", GIVEN, ROI_POOL, Goal(36)), ("3", GIVEN, FILL, None)]
    else:
        entries = [
            ("1", GIVEN, ROI_POOL, Goal(70)),
            ("1", GIVEN, FILL, Goal(2.5, at_most=True)),
            ("2", FRESH, ROI_POOL, Goal(25)),
        ]
    return [
        Comparison(
            case,
            f"{regions:,} regions of {_map_size(shape)}, forward, {ours.removeprefix('ours, ')}",
            threads,
            timings[ours],
            other,
            peer if other == ROI_POOL else timings[other],
            goal if threads in (1, GOAL_THREADS) else None,
            details=details,
        )
        for case, ours, other, goal in entries
    ]


def _as_case_4(each: Comparison) -> Comparison:
    """The same on the larger map."""
    return Comparison(**{**vars(each), "case": f"4 ({each.case})"})


def _map_size(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]}x{shape[1]}x{shape[2]}"


def compare_training(config: BenchmarkConfig) -> Results:
    """Case 5: forward and backward on the first map, one thread."""
    shape = config.region_maps[0]
    features = draw_map((1, *shape), config.seed).requires_grad_()
    rows = draw_regions(config.regions, shape[1:], config.seed)
    boxes = rows_to_boxes(rows)
    with using_threads(1):
        pooled = pool_regions(features.detach(), rows, LEVELS)
        check_equal("5", pooled, roi_pool_pyramid(features.detach(), boxes, LEVELS))
        grad = draw_gradient(pooled, config.seed)
        ours = training_step(lambda: pool_regions(features, rows, LEVELS), [features], grad)
        theirs = training_step(lambda: roi_pool_pyramid(features, boxes, LEVELS), [features], grad)
        check_equal("5, gradient", ours()[0], theirs()[0])
        timings = time_together({"ours": ours, ROI_POOL: theirs}, config.pace)
    what = f"{config.regions:,} regions of {_map_size(shape)}, forward + backward"
    made = Comparison("5", what, 1, timings["ours"], ROI_POOL, timings[ROI_POOL], Goal(8))
    return Results([made])


def compare_whole(config: BenchmarkConfig) -> Results:
    """Case 6: forward, both layouts beside the textbook in NCHW, one thread."""
    results, textbook = Results(), TextbookPyramid(LEVELS)
    for shape, goal in zip(config.whole_maps, FORWARD_GOALS, strict=True):
        calls = {}
        for layout in LAYOUTS:
            features = _draw(shape, layout, config.seed)
            check_equal(f"6, {layout}", _pool(features), textbook(features))
            calls[layout] = partial(_pool, features)
            calls[f"textbook {layout}"] = partial(textbook, features)
        with using_threads(1):
            timings = time_together(calls, config.pace)
        others = {"textbook channels-last": timings["textbook channels-last"]}
        for layout in LAYOUTS:
            what = f"whole maps {_sizes(shape)}, {layout}, forward"
            pair = (timings[layout], f"{TEXTBOOK}, NCHW", timings["textbook NCHW"])
            results.comparisons.append(Comparison("6", what, 1, *pair, goal, others))
    return results


def compare_whole_training(config: BenchmarkConfig) -> Results:
    """Case 7: forward and backward, both in the same layout, one thread."""
    results = Results()
    for shape in config.whole_maps:
        for layout in LAYOUTS:
            timings = _time_shape(shape, layout, TRAINING, config.pace, config.seed)
            what = f"whole maps {_sizes(shape)}, {layout}, {TRAINING}"
            peer = f"{TEXTBOOK}, {layout}"
            pair = (timings["ours"], peer, timings["textbook"])
            results.comparisons.append(Comparison("7", what, 1, *pair, Goal(3)))
    return results


def sweep_shapes(config: BenchmarkConfig) -> Results:
    """Case 7: random shapes in both layouts; the least ratio counts."""
    results = Results()
    shapes = draw_shapes(config.sweep_shapes, config.sweep_bytes, config.seed)
    for mode in (FORWARD, TRAINING):
        every = [
            (shape, layout, _time_shape(shape, layout, mode, config.sweep_pace, config.seed))
            for shape in shapes
            for layout in LAYOUTS
        ]
        every.sort(key=lambda entry: _speed(entry[2]))
        longer = Pace(
            LONGER * config.sweep_pace.rounds, least_seconds=config.sweep_pace.least_seconds
        )
        for i, (shape, layout, _) in enumerate(every[:AGAIN]):
            every[i] = (shape, layout, _time_shape(shape, layout, mode, longer, config.seed))
        shape, layout, timings = min(every, key=lambda entry: _speed(entry[2]))
        what = f"least ratio of {len(shapes)} random shapes in two layouts, {mode}: "
        what += f"{_sizes(shape)}, {layout}"
        pair = (timings["ours"], f"{TEXTBOOK}, same layout", timings["textbook"])
        details = {"losses": sum(_speed(entry[2]) < 1 for entry in every), "of": len(every)}
        results.comparisons.append(Comparison("7", what, 1, *pair, Goal(1), details=details))
        results.sweep += [_sweep_row(mode, *entry) for entry in every]
    return results


def _sweep_row(mode: str, shape: Shape, layout: str, timings: dict[str, Timing]) -> dict[str, Any]:
    """One shape of the sweep, for the file."""
    return {
        "way": mode,
        "shape": shape,
        "layout": layout,
        "ours_ms": timings["ours"].median_ms,
        "textbook_ms": timings["textbook"].median_ms,
        "ratio": _speed(timings),
    }


def _speed(timings: dict[str, Timing]) -> float:
    return timings["textbook"].median_ms / timings["ours"].median_ms


def _time_shape(shape: Shape, layout: str, mode: str, pace: Pace, seed: int) -> dict[str, Timing]:
    """Time both on one shape, one thread, after comparing pooled vectors and gradients."""
    features, textbook = _draw(shape, layout, seed), TextbookPyramid(LEVELS)
    what = f"{_sizes(shape)}, {layout}"
    with using_threads(1):
        pooled = _pool(features)
        check_equal(what, pooled, textbook(features))
        if mode == FORWARD:
            calls = {"ours": lambda: _pool(features), "textbook": lambda: textbook(features)}
            return time_together(calls, pace)
        features.requires_grad_()
        grad = draw_gradient(pooled, seed)
        ours = training_step(lambda: _pool(features), [features], grad)
        theirs = training_step(lambda: textbook(features), [features], grad)
        check_equal(f"{what}, gradient", ours()[0], theirs()[0])
        return time_together({"ours": ours, "textbook": theirs}, pace)


def compare_mixed(config: BenchmarkConfig) -> Results:
    """Case 8: maps of many sizes in one call, beside a loop and beside padding, one thread."""
    sizes = draw_sizes(config.mixed_maps, config.mixed_sides, config.seed)
    maps = [draw_map((config.mixed_channels, *hw), config.seed + i) for i, hw in enumerate(sizes)]
    textbook = TextbookPyramid(LEVELS)
    calls = {
        "ours": lambda: spatial_pyramid_pool(maps, LEVELS),
        LOOP: lambda: pool_in_a_loop(maps, textbook),
        PAD_AND_CROP: lambda: pad_and_crop(maps, textbook),
    }
    sides = "{} to {}".format(*config.mixed_sides)
    what = (
        f"{len(maps)} maps of different sizes (C={config.mixed_channels}, sides {sides}), one call"
    )
    with using_threads(1):
        pooled = calls["ours"]()
        for name, call in calls.items():
            check_equal(f"8, {name}", pooled, call())
        made = _judge_mixed(f"{what}, {FORWARD}", time_together(calls, config.pace))
        for each in maps:
            each.requires_grad_()
        grad = draw_gradient(pooled, config.seed)
        steps = {name: training_step(call, maps, grad) for name, call in calls.items()}
        expected = _flat(steps[LOOP]())
        for name, step in steps.items():
            check_equal(f"8, gradient, {name}", _flat(step()), expected)
        made += _judge_mixed(f"{what}, {TRAINING}", time_together(steps, config.pace))
    return Results(made)


def _judge_mixed(what: str, timings: dict[str, Timing]) -> list[Comparison]:
    """Ours beside both usual solutions; the goal is about the loop."""
    return [
        Comparison("8", what, 1, timings["ours"], peer, timings[peer], goal)
        for peer, goal in ((LOOP, Goal(5)), (PAD_AND_CROP, None))
    ]


def _flat(gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([each.flatten() for each in gradients])


def _pool(features: Tensor) -> Tensor:
    return spatial_pyramid_pool(features, LEVELS)


def _draw(shape: Shape, layout: str, seed: int) -> Tensor:
    return draw_map(shape, seed).contiguous(memory_format=LAYOUTS[layout])


def _sizes(shape: Shape) -> str:
    return "x".join(map(str, shape))


@dataclass(frozen=True)
class _Point:
    """One measurement: its place on the axis, and what is pooled."""

    x: float
    label: str
    regions: int
    shape: tuple[int, int, int]
    levels: tuple[int, ...] = LEVELS


def measure_growth(config: BenchmarkConfig) -> Results:
    """Case 9: measure along all axes, one thread, into memory that is allocated already."""
    grow, regions = config.growth, config.regions
    channels, *size = config.region_maps[0]
    height, width = size
    few = (grow.few_channels, height, width)
    axes = {
        ("regions", f"C={few[0]}, map {height}x{width}"): [
            _Point(r, f"{r:,}", r, few) for r in grow.regions
        ],
        ("channels", f"{regions:,} regions, map {height}x{width}"): [
            _Point(c, f"{c}", regions, (c, height, width)) for c in grow.channels
        ],
        ("side of the map", f"{regions:,} regions, C={channels}"): [
            _Point(s, f"{s}", regions, (channels, s, s)) for s in grow.sides
        ],
        ("bins of the levels", f"{regions:,} regions, C={channels}, map {height}x{width}"): [
            _Point(num_bins(n), str(n), regions, (channels, height, width), n) for n in grow.levels
        ],
    }
    results = Results()
    for (axis, what), points in axes.items():
        with using_threads(1):
            results.growth.append(_measure_axis(axis, what, points, config))
    return results


def _measure_axis(axis: str, what: str, points: list[_Point], config: BenchmarkConfig) -> Growth:
    """Measure the points of one axis; the time in the number of regions gets a slope."""
    measured, unsteady = [], 0
    for point, timings in _time_points(points, config):
        measured.append(_describe(point, timings))
        unsteady += timings["ours"].is_unsteady
    many = [point for point in measured if point["x"] >= MANY]
    slope = fit_slope(many) if axis == "regions" and len(many) > 1 else None
    return Growth("9", axis, what, 1, measured, slope, LINEAR if slope else None, unsteady)


def _time_points(
    points: list[_Point], config: BenchmarkConfig
) -> Iterator[tuple[_Point, dict[str, Timing]]]:
    """Time each point and a filling of the same output."""
    memory = torch.empty(max(map(_length, points)))
    for point in points:
        features = draw_map((1, *point.shape), config.seed)
        rows = draw_regions(point.regions, point.shape[1:], config.seed)
        out = memory[: _length(point)].view(point.regions, -1)
        yield point, _time_point(features, rows, point.levels, out, config)


def _time_point(
    features: Tensor, rows: Tensor, levels: tuple[int, ...], out: Tensor, config: BenchmarkConfig
) -> dict[str, Timing]:
    """Compare a part of the answer with the textbook on crops, then time."""
    pool_regions(features, rows, levels, out=out)
    step = max(1, len(rows) // COMPARED)
    crops = [features[0, :, y0:y1, x0:x1] for _, x0, y0, x1, y1 in rows[::step].tolist()]
    check_equal("9", out[::step], pool_in_a_loop(crops, TextbookPyramid(levels)))
    calls = {
        "ours": lambda: pool_regions(features, rows, levels, out=out),
        "fill": lambda: out.fill_(1.0),
    }
    return time_together(calls, config.pace)


def _length(point: _Point) -> int:
    return point.regions * point.shape[0] * num_bins(point.levels)


def _describe(point: _Point, timings: dict[str, Timing]) -> dict[str, Any]:
    """One point, for the file and the plot."""
    megabytes = 4 * _length(point) / 1e6
    ours, fill = timings["ours"].median_ms, timings["fill"].median_ms
    return {
        "x": point.x,
        "label": point.label,
        "ms": ours,
        "fill_ms": fill,
        "unsteady": timings["ours"].is_unsteady,
        "megabytes": megabytes,
        "ms_per_mb": ours / megabytes,
        "fill_ms_per_mb": fill / megabytes,
    }


def fit_slope(points: list[dict[str, Any]]) -> float:
    """Exponent of the time in x: 1 is linear, 2 quadratic.

    Args:
        points: At least two, each with x and ms.

    Example:
        >>> round(fit_slope([{"x": 1, "ms": 3}, {"x": 10, "ms": 300}]), 6)
        2.0
    """
    x = np.log([float(point["x"]) for point in points])
    return float(np.polyfit(x, np.log([float(point["ms"]) for point in points]), 1)[0])
