"""The results as rows of a table and as a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sppnet.app.benchmark_charts import growth_chart, sweep_chart
from sppnet.app.benchmark_inputs import WINDOW_WORDS
from sppnet.app.benchmark_plan import BenchmarkPlan
from sppnet.app.benchmark_results import Comparison, Growth, Results
from sppnet.evaluation.report.html import (
    Page,
    Tile,
    figure,
    figures,
    name_values,
    paragraph,
    table,
    tiles,
)
from sppnet.evaluation.report.sections import add_origin_section
from sppnet.storage import write_text

HEADER = ("case", "what", "threads", "ours, ms", "peer", "peer, ms", "ratio", "goal", "met")
MET = {True: "yes", False: "MISSED", None: "-"}
LOSSES = 10
POINT_HEADER = ("point", "ms", "MB", "ms per MB", "filling, ms per MB")
HOW = (
    "Contenders are warmed up and take turns; a time is the median of {rounds} repetitions "
    "({slow} where a call takes {limit:g} s or more), each of at least {least:g} ms and, but "
    "for the slow ones, after a call that does not count. Before "
    "anything is timed, pooled vectors and gradients are compared with the peer's, number by "
    "number (of ONNX, logits within a tolerance); a difference ends the benchmark. A ratio is the "
    "peer's time over ours; where the goal is a most (<=), ours over the peer's. '~' marks a "
    "time whose quartiles lie more than a fifth of it apart, or beside which other programs took "
    "processors away: do not rely on it. Maps are random numbers after a rectifier."
)


def table_rows(results: Results) -> list[tuple[str, ...]]:
    """Write all results as rows under `HEADER`, those that were not run at the end."""
    rows = [_comparison_row(each) for each in results.comparisons]
    rows += [_growth_row(each) for each in results.growth if each.slope is not None]
    rows.sort(key=lambda row: int(row[0].split()[0]))  # growth between the others
    for each in results.not_run:
        rows.append((each.case, each.what, "-", "-", each.reason, "-", "-", "-", "-"))
    return rows


def _comparison_row(each: Comparison) -> tuple[str, ...]:
    met = each.goal.is_met(each.ratio) if each.goal else None
    times = [
        f"{'~' if time.is_unsteady else ''}{milliseconds(time.median_ms)}"
        for time in (each.ours, each.peer)
    ]
    others = [f"{name}: {milliseconds(time.median_ms)} ms" for name, time in each.others.items()]
    peer = f"{each.peer_name} ({'; '.join(others)})" if others else each.peer_name
    goal = str(each.goal) if each.goal else "-"
    ratio = f"{each.ratio:.1f}" if each.ratio >= 10 else f"{each.ratio:.2f}"
    head = (each.case, _with_losses(each), str(each.threads))
    return (*head, times[0], peer, times[1], ratio, goal, MET[met])


def _with_losses(each: Comparison) -> str:
    """What was done; of a sweep, also how many shapes are slower than the peer."""
    if "losses" not in each.details:
        return each.what
    return f"{each.what}; {each.details['losses']} of {each.details['of']} below 1"


def _growth_row(each: Growth) -> tuple[str, ...]:
    met = each.goal.is_met(each.slope) if each.goal and each.slope is not None else None
    what = f"exponent of the time in the number of {each.axis}, {each.what}"
    slope, goal = f"{each.slope:.2f}", str(each.goal or "-")
    return (each.case, what, str(each.threads), "-", "linear is 1", "-", slope, goal, MET[met])


def milliseconds(value: float) -> str:
    """Write a time with three figures.

    Example:
        >>> [milliseconds(ms) for ms in (0.01234, 12.34, 1234.5)]
        ['0.0123', '12.3', '1,234']
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_report(
    path: Path, results: Results, plan: BenchmarkPlan, about: Mapping[str, Any]
) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        results: What was measured.
        plan: How.
        about: Machine, versions, configuration.

    Raises:
        OutputError: If it cannot be written.
    """
    machine = {name: _words(value) for name, value in about["machine"].items()}
    page = Page(
        "sppnet benchmark pooling",
        f"{machine['processor']}, kernel {machine['kernel']}",
        "Every figure: benchmark.json, beside this page.",
    )
    page.add_section("", tiles(_tiles(results)))
    page.add_section("Against peers", table(HEADER, table_rows(results)))
    page.add_section("Growth", *_growth_blocks(results))
    if results.sweep:
        page.add_section("Any shape", *_sweep_blocks(results))
    page.add_section("How it was measured", _how(plan), WINDOW_WORDS)
    page.add_section("Machine", name_values(machine))
    add_origin_section(page, about["configuration"], about["versions"])
    write_text(path, page.render())


def _tiles(results: Results) -> list[Tile]:
    verdicts = results.verdicts()
    missed = len(verdicts) - sum(verdicts)
    return [
        Tile("goals met", str(sum(verdicts)), f"of {len(verdicts)}"),
        Tile("goals missed", str(missed)),
        Tile("not run", str(len(results.not_run)), "listed at the end of the table"),
    ]


def _how(plan: BenchmarkPlan) -> str:
    pace = plan.pace
    least = 1000 * pace.least_seconds
    limit = pace.slow_seconds
    return HOW.format(rounds=pace.rounds, slow=pace.slow_rounds, limit=limit, least=least)


def _growth_blocks(results: Results) -> list[object]:
    """A chart for each axis, and its points as a table."""
    drawings, tables = [], []
    for each in results.growth:
        slope = "" if each.slope is None else f" The time grows with x^{each.slope:.2f}."
        title = f"Along the {each.axis}"
        drawings.append(figure(growth_chart(each), title, f"{each.what}.{slope}"))
        keys = ("label", "ms", "megabytes", "ms_per_mb", "fill_ms_per_mb")
        points = [tuple(point[key] for key in keys) for point in each.points]
        tables.append(table(POINT_HEADER, points, caption=f"{each.axis}; {each.what}"))
    return [figures(*drawings), *tables]


def _sweep_blocks(results: Results) -> list[object]:
    """All ratios as curves, and the lowest as a table."""
    worst = sorted(results.sweep, key=lambda row: row["ratio"])[:LOSSES]
    rows = [
        (
            f"{row['way']}, {row['layout']}, {'x'.join(map(str, row['shape']))}",
            *(row[key] for key in ("ours_ms", "textbook_ms", "ratio")),
        )
        for row in worst
    ]
    chart = figure(sweep_chart(results.sweep), "Random shapes", "Above 1 we are faster.")
    listing = table(("shape", "ours, ms", "textbook, ms", "ratio"), rows, caption="The lowest")
    return [figures(chart), listing, paragraph("One thread, both in the same layout.", note=True)]


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
