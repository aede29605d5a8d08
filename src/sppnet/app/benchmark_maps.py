"""Cases 6 to 8: whole maps of one size, of random shapes and of many sizes at once."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from sppnet.app.benchmark_inputs import LAYOUTS, draw_gradient, draw_map, draw_shapes, draw_sizes
from sppnet.app.benchmark_peers import (
    LOOP,
    PAD_AND_CROP,
    TEXTBOOK,
    TextbookPyramid,
    pad_and_crop,
    pool_in_a_loop,
    training_step,
)
from sppnet.app.benchmark_plan import LEVELS, BenchmarkPlan, Pace
from sppnet.app.benchmark_results import Comparison, Goal, Results, check_equal
from sppnet.app.benchmark_timing import Timing, time_together, using_threads
from sppnet.pooling import spatial_pyramid_pool

Shape = tuple[int, int, int, int]
FORWARD_GOALS = (Goal(12), Goal(10))
FORWARD, TRAINING = "forward", "forward + backward"
# So many of the slowest shapes of a sweep are timed again, longer: a lowest of many is mostly luck.
AGAIN, LONGER = 10, 3


def compare_whole(plan: BenchmarkPlan) -> Results:
    """Case 6: forward, both layouts beside the textbook in NCHW, one thread."""
    results, textbook = Results(), TextbookPyramid(LEVELS)
    for shape, goal in zip(plan.whole_maps, FORWARD_GOALS, strict=True):
        calls = {}
        for layout in LAYOUTS:
            features = _draw(shape, layout, plan.seed)
            check_equal(f"6, {layout}", _pool(features), textbook(features))
            calls[layout] = partial(_pool, features)
            calls[f"textbook {layout}"] = partial(textbook, features)
        with using_threads(1):
            timings = time_together(calls, plan.pace)
        others = {"textbook channels-last": timings["textbook channels-last"]}
        for layout in LAYOUTS:
            what = f"whole maps {_sizes(shape)}, {layout}, forward"
            pair = (timings[layout], f"{TEXTBOOK}, NCHW", timings["textbook NCHW"])
            results.comparisons.append(Comparison("6", what, 1, *pair, goal, others))
    return results


def compare_whole_training(plan: BenchmarkPlan) -> Results:
    """Case 7: forward and backward, both in the same layout, one thread."""
    results = Results()
    for shape in plan.whole_maps:
        for layout in LAYOUTS:
            timings = _time_shape(shape, layout, TRAINING, plan.pace, plan.seed)
            what = f"whole maps {_sizes(shape)}, {layout}, {TRAINING}"
            peer = f"{TEXTBOOK}, {layout}"
            pair = (timings["ours"], peer, timings["textbook"])
            results.comparisons.append(Comparison("7", what, 1, *pair, Goal(3)))
    return results


def sweep_shapes(plan: BenchmarkPlan) -> Results:
    """Case 7: random shapes in both layouts; the least ratio counts."""
    results = Results()
    shapes = draw_shapes(plan.sweep_shapes, plan.sweep_bytes, plan.seed)
    for way in (FORWARD, TRAINING):
        every = [
            (shape, layout, _time_shape(shape, layout, way, plan.sweep_pace, plan.seed))
            for shape in shapes
            for layout in LAYOUTS
        ]
        every.sort(key=lambda entry: _speed(entry[2]))
        longer = Pace(LONGER * plan.sweep_pace.rounds, least_seconds=plan.sweep_pace.least_seconds)
        for i, (shape, layout, _) in enumerate(every[:AGAIN]):
            every[i] = (shape, layout, _time_shape(shape, layout, way, longer, plan.seed))
        shape, layout, timings = min(every, key=lambda entry: _speed(entry[2]))
        what = f"least ratio of {len(shapes)} random shapes in two layouts, {way}: "
        what += f"{_sizes(shape)}, {layout}"
        pair = (timings["ours"], f"{TEXTBOOK}, same layout", timings["textbook"])
        details = {"losses": sum(_speed(entry[2]) < 1 for entry in every), "of": len(every)}
        results.comparisons.append(Comparison("7", what, 1, *pair, Goal(1), details=details))
        results.sweep += [_sweep_row(way, *entry) for entry in every]
    return results


def _sweep_row(way: str, shape: Shape, layout: str, timings: dict[str, Timing]) -> dict[str, Any]:
    """One shape of the sweep, for the file."""
    return {
        "way": way,
        "shape": shape,
        "layout": layout,
        "ours_ms": timings["ours"].median_ms,
        "textbook_ms": timings["textbook"].median_ms,
        "ratio": _speed(timings),
    }


def _speed(timings: dict[str, Timing]) -> float:
    return timings["textbook"].median_ms / timings["ours"].median_ms


def _time_shape(shape: Shape, layout: str, way: str, pace: Pace, seed: int) -> dict[str, Timing]:
    """Time both on one shape, one thread, after comparing pooled vectors and gradients."""
    features, textbook = _draw(shape, layout, seed), TextbookPyramid(LEVELS)
    what = f"{_sizes(shape)}, {layout}"
    with using_threads(1):
        pooled = _pool(features)
        check_equal(what, pooled, textbook(features))
        if way == FORWARD:
            calls = {"ours": lambda: _pool(features), "textbook": lambda: textbook(features)}
            return time_together(calls, pace)
        features.requires_grad_()
        grad = draw_gradient(pooled, seed)
        ours = training_step(lambda: _pool(features), [features], grad)
        theirs = training_step(lambda: textbook(features), [features], grad)
        check_equal(f"{what}, gradient", ours()[0], theirs()[0])
        return time_together({"ours": ours, "textbook": theirs}, pace)


def compare_mixed(plan: BenchmarkPlan) -> Results:
    """Case 8: maps of many sizes in one call, beside a loop and beside padding, one thread."""
    sizes = draw_sizes(plan.mixed_maps, plan.mixed_sides, plan.seed)
    maps = [draw_map((plan.mixed_channels, *hw), plan.seed + i) for i, hw in enumerate(sizes)]
    textbook = TextbookPyramid(LEVELS)
    calls = {
        "ours": lambda: spatial_pyramid_pool(maps, LEVELS),
        LOOP: lambda: pool_in_a_loop(maps, textbook),
        PAD_AND_CROP: lambda: pad_and_crop(maps, textbook),
    }
    sides = "{} to {}".format(*plan.mixed_sides)
    what = f"{len(maps)} maps of different sizes (C={plan.mixed_channels}, sides {sides}), one call"
    with using_threads(1):
        pooled = calls["ours"]()
        for name, call in calls.items():
            check_equal(f"8, {name}", pooled, call())
        made = _judge_mixed(f"{what}, {FORWARD}", time_together(calls, plan.pace))
        for each in maps:
            each.requires_grad_()
        grad = draw_gradient(pooled, plan.seed)
        steps = {name: training_step(call, maps, grad) for name, call in calls.items()}
        expected = _flat(steps[LOOP]())
        for name, step in steps.items():
            check_equal(f"8, gradient, {name}", _flat(step()), expected)
        made += _judge_mixed(f"{what}, {TRAINING}", time_together(steps, plan.pace))
    return Results(made)


def _judge_mixed(what: str, timings: dict[str, Timing]) -> list[Comparison]:
    """Ours beside both ways that people have; the goal is about the loop."""
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
