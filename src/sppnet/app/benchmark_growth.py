"""Case 9: how the time of pooling windows grows with each of the things that it depends on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sppnet.app.benchmark_inputs import draw_map, draw_windows
from sppnet.app.benchmark_peers import TextbookPyramid, pool_in_a_loop
from sppnet.app.benchmark_plan import LEVELS, BenchmarkPlan
from sppnet.app.benchmark_results import Goal, Growth, Results, check_equal
from sppnet.app.benchmark_timing import Timing, time_together, using_threads
from sppnet.pooling import num_bins, pool_regions

# Linear, with a tenth for what the clock and the caches do.
LINEAR = Goal(1.1, at_most=True)
# So many of the windows of a point are compared with the textbook, which takes them one by one.
COMPARED = 50
# Below so many windows the cost of the call itself would make the growth look slower than it is.
MANY = 1_000


@dataclass(frozen=True)
class _Point:
    """One measurement: where it stands on the axis, and what is pooled."""

    x: float
    label: str
    windows: int
    shape: tuple[int, int, int]
    levels: tuple[int, ...] = LEVELS


def measure_growth(plan: BenchmarkPlan) -> Results:
    """Measure along all axes, one thread, into memory that is there already."""
    grow, windows = plan.growth, plan.windows
    channels, *size = plan.region_maps[0]
    height, width = size
    few = (grow.few_channels, height, width)
    axes = {
        ("windows", f"C={few[0]}, map {height}x{width}"): [
            _Point(r, f"{r:,}", r, few) for r in grow.windows
        ],
        ("channels", f"{windows:,} windows, map {height}x{width}"): [
            _Point(c, f"{c}", windows, (c, height, width)) for c in grow.channels
        ],
        ("side of the map", f"{windows:,} windows, C={channels}"): [
            _Point(s, f"{s}", windows, (channels, s, s)) for s in grow.sides
        ],
        ("bins of the levels", f"{windows:,} windows, C={channels}, map {height}x{width}"): [
            _Point(num_bins(n), str(n), windows, (channels, height, width), n) for n in grow.levels
        ],
    }
    results = Results()
    for (axis, what), points in axes.items():
        with using_threads(1):
            results.growth.append(_measure_axis(axis, what, points, plan))
    return results


def _measure_axis(axis: str, what: str, points: list[_Point], plan: BenchmarkPlan) -> Growth:
    """Measure the points of one axis; the time in the number of windows gets a slope."""
    measured, unsteady = [], 0
    for point, timings in _time_points(points, plan):
        measured.append(_describe(point, timings))
        unsteady += timings["ours"].is_unsteady
    many = [point for point in measured if point["x"] >= MANY]
    slope = fit_slope(many) if axis == "windows" and len(many) > 1 else None
    return Growth("9", axis, what, 1, measured, slope, LINEAR if slope else None, unsteady)


def _time_points(
    points: list[_Point], plan: BenchmarkPlan
) -> Iterator[tuple[_Point, dict[str, Timing]]]:
    """Time each point and a filling of the same output."""
    memory = torch.empty(max(map(_length, points)))
    for point in points:
        features = draw_map((1, *point.shape), plan.seed)
        rows = draw_windows(point.windows, point.shape[1:], plan.seed)
        out = memory[: _length(point)].view(point.windows, -1)
        yield point, _time_point(features, rows, point.levels, out, plan)


def _time_point(
    features: Tensor, rows: Tensor, levels: tuple[int, ...], out: Tensor, plan: BenchmarkPlan
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
    return time_together(calls, plan.pace)


def _length(point: _Point) -> int:
    return point.windows * point.shape[0] * num_bins(point.levels)


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
