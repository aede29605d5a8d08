"""Cases 1 to 5: windows of a map, beside roi_pool and beside writing the output at all."""

import torch

from sppnet.app.benchmark_inputs import draw_gradient, draw_map, draw_windows, duplicate_share
from sppnet.app.benchmark_peers import ROI_POOL, roi_pool_pyramid, rows_to_boxes, training_step
from sppnet.app.benchmark_plan import GOAL_THREADS, LEVELS, BenchmarkPlan
from sppnet.app.benchmark_results import Comparison, Goal, Results, check_equal
from sppnet.app.benchmark_timing import Call, Timing, time_together, using_threads
from sppnet.pooling import num_bins, pool_regions

GIVEN, FRESH, FILL = "ours, out= given", "ours, fresh output", "out.fill_: writing the output"


def compare_forward(plan: BenchmarkPlan) -> Results:
    """Cases 1 to 4: forward, with several threads and with one, on each map."""
    results = Results()
    for number, shape in enumerate(plan.region_maps):
        calls, details = _prepare_forward(plan, shape)
        for threads in dict.fromkeys((plan.threads, 1)):
            with using_threads(threads):
                timings = time_together(calls, plan.pace)
            made = _judge_forward(shape, plan.windows, threads, timings, details)
            results.comparisons += made if number == 0 else [_as_case_4(each) for each in made]
    return results


def _prepare_forward(
    plan: BenchmarkPlan, shape: tuple[int, int, int]
) -> tuple[dict[str, Call], dict[str, float]]:
    """Draw one map and its windows; give the four contenders, after comparing their answers."""
    features = draw_map((1, *shape), plan.seed)
    rows = draw_windows(plan.windows, shape[1:], plan.seed)
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
    windows: int,
    threads: int,
    timings: dict[str, Timing],
    details: dict[str, float],
) -> list[Comparison]:
    """Set the times beside each other, and beside the goals."""
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
            f"{windows:,} windows of {_sizes(shape)}, forward, {ours.removeprefix('ours, ')}",
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


def _sizes(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]}x{shape[1]}x{shape[2]}"


def compare_training(plan: BenchmarkPlan) -> Results:
    """Case 5: forward and backward on the first map, one thread."""
    shape = plan.region_maps[0]
    features = draw_map((1, *shape), plan.seed).requires_grad_()
    rows = draw_windows(plan.windows, shape[1:], plan.seed)
    boxes = rows_to_boxes(rows)
    with using_threads(1):
        pooled = pool_regions(features.detach(), rows, LEVELS)
        check_equal("5", pooled, roi_pool_pyramid(features.detach(), boxes, LEVELS))
        grad = draw_gradient(pooled, plan.seed)
        ours = training_step(lambda: pool_regions(features, rows, LEVELS), [features], grad)
        theirs = training_step(lambda: roi_pool_pyramid(features, boxes, LEVELS), [features], grad)
        check_equal("5, gradient", ours()[0], theirs()[0])
        timings = time_together({"ours": ours, ROI_POOL: theirs}, plan.pace)
    what = f"{plan.windows:,} windows of {_sizes(shape)}, forward + backward"
    made = Comparison("5", what, 1, timings["ours"], ROI_POOL, timings[ROI_POOL], Goal(8))
    return Results([made])
