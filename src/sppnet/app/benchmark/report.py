"""Results of a benchmark: table, charts and files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from sppnet.app.benchmark.peers import REGION_WORDS
from sppnet.app.benchmark.timing import BenchmarkConfig, Timing
from sppnet.evaluation.report import (
    WIDTH,
    Page,
    Scale,
    Tile,
    add_origin_section,
    figure,
    figures,
    name_values,
    number_text,
    paragraph,
    svg_axes,
    svg_drawing,
    svg_element,
    svg_text,
    table,
    thin,
    tiles,
)
from sppnet.storage import write_text

HEIGHT = 300
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 42, 40
DOT = 6
Points = Sequence[tuple[float, float]]
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


@dataclass(frozen=True)
class Goal:
    """What a ratio shall be.

    Args:
        limit: The least ratio, or the greatest.
        at_most: Whether it is the greatest.

    Example:
        >>> Goal(70).is_met(71.5), Goal(2.5, at_most=True).is_met(3), str(Goal(70))
        (True, False, '>= 70')
    """

    limit: float
    at_most: bool = False

    def is_met(self, value: float) -> bool:
        """Whether a value is on the right side."""
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.limit:g}"


@dataclass(frozen=True)
class Comparison:
    """Ours beside a peer, timed in the same turns.

    Args:
        case: Number of the case.
        what: What is done, on what.
        threads: Threads of both.
        ours: Our time.
        peer_name: What it is compared with.
        peer: Its time.
        goal: What the ratio shall be, if there is a goal.
        others: More times of the same turns.
        details: More about it.
    """

    case: str
    what: str
    threads: int
    ours: Timing
    peer_name: str
    peer: Timing
    goal: Goal | None = None
    others: Mapping[str, Timing] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The peer's time over ours; ours over the peer's if the goal is an upper limit."""
        speed = self.peer.median_ms / self.ours.median_ms
        return 1 / speed if self.goal and self.goal.at_most else speed

    @property
    def is_unsteady(self) -> bool:
        """Whether one of the two times is unreliable."""
        return self.ours.is_unsteady or self.peer.is_unsteady

    def to_json(self) -> dict[str, Any]:
        """Everything, for the file."""
        judged = _judge(self.goal, self.ratio)
        return {**asdict(self), **judged, "ratio": self.ratio, "unsteady": self.is_unsteady}


@dataclass(frozen=True)
class Growth:
    """How the time grows along one axis.

    Args:
        case: Number of the case.
        axis: What grows.
        what: What stays.
        threads: Threads.
        points: Each with x, label, ms, fill_ms, megabytes, ms_per_mb and fill_ms_per_mb.
        slope: Fitted exponent of the time in x, where it has a meaning.
        goal: What the exponent shall be.
        unsteady: Points whose quartiles lie far apart.
    """

    case: str
    axis: str
    what: str
    threads: int
    points: Sequence[Mapping[str, Any]]
    slope: float | None = None
    goal: Goal | None = None
    unsteady: int = 0

    def to_json(self) -> dict[str, Any]:
        """Everything, for the file."""
        return {**asdict(self), **_judge(self.goal, self.slope)}


@dataclass(frozen=True)
class SkippedCase:
    """A case that this machine cannot run."""

    case: str
    what: str
    reason: str


@dataclass
class Results:
    """All that was measured, in the order of the cases."""

    comparisons: list[Comparison] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)
    not_run: list[SkippedCase] = field(default_factory=list)
    sweep: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, found: "Results") -> None:
        """Append the results of one more case."""
        self.comparisons += found.comparisons
        self.growth += found.growth
        self.not_run += found.not_run
        self.sweep += found.sweep

    def verdicts(self) -> list[bool]:
        """Whether each goal is met."""
        judged = [(each.goal, each.ratio) for each in self.comparisons]
        judged += [(each.goal, each.slope or 0.0) for each in self.growth]
        return [goal.is_met(value) for goal, value in judged if goal]

    def to_json(self) -> dict[str, Any]:
        """Everything, for the file."""
        verdicts = self.verdicts()
        return {
            "goals": {"met": sum(verdicts), "missed": len(verdicts) - sum(verdicts)},
            "comparisons": [each.to_json() for each in self.comparisons],
            "growth": [each.to_json() for each in self.growth],
            "not_run": [asdict(each) for each in self.not_run],
            "sweep": self.sweep,
            "seconds": self.seconds,
        }


def _judge(goal: Goal | None, value: float | None) -> dict[str, Any]:
    """A goal and whether a value meets it, for the file."""
    if goal is None or value is None:
        return {"goal": None, "met": None}
    return {"goal": asdict(goal), "met": goal.is_met(value)}


def check_equal(what: str, ours: Tensor, theirs: Tensor) -> None:
    """Refuse to time two things that do not give the same numbers.

    Raises:
        RuntimeError: If they differ anywhere.

    Example:
        >>> check_equal("a case", torch.ones(2), torch.ones(2))
    """
    if torch.equal(ours, theirs):
        return
    if ours.shape != theirs.shape:
        rule = f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    else:
        rule = f"{int((ours != theirs).sum())} of {ours.numel()} numbers differ"
    raise RuntimeError(f"{what}: ours must equal the peer before it is timed, got {rule}")


def growth_chart(growth: Growth) -> Markup:
    """Draw the milliseconds per megabyte of output along one axis, beside filling the output."""
    curves = {
        "ours": [(p["x"], p["ms_per_mb"]) for p in growth.points],
        "filling the output": [(p["x"], p["fill_ms_per_mb"]) for p in growth.points],
    }
    return log_chart(curves, growth.axis, "ms per MB of output")


def sweep_chart(sweep: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the ratios of all shapes in ascending order, one curve for each way."""
    curves = {}
    for way in dict.fromkeys(str(row["way"]) for row in sweep):
        ratios = sorted(float(row["ratio"]) for row in sweep if row["way"] == way)
        curves[way] = [(i + 1.0, ratios[i]) for i in thin(len(ratios)).tolist()]
    return log_chart(curves, "shapes, the worst first", "times as fast")


def log_chart(curves: Mapping[str, Points], x_label: str, y_label: str) -> Markup:
    """Draw curves over two logarithmic axes, their names above.

    Args:
        curves: Name -> (x, y) points, above 0.
        x_label: What the horizontal axis is.
        y_label: What the vertical axis is.

    Returns:
        One SVG element.

    Example:
        >>> log_chart({"a": [(1, 2), (10, 20)]}, "x", "y").count("<path")
        1
    """
    every = [point for points in curves.values() for point in points]
    across = Scale(*_ends(x for x, _ in every), start=LEFT, stop=WIDTH - RIGHT, log=True)
    up = Scale(*_ends(y for _, y in every), start=HEIGHT - BOTTOM, stop=TOP, log=True)
    marks = svg_axes(across, up, x_label, y_label)
    for number, (name, points) in enumerate(curves.items(), start=1):
        place = LEFT + (number - 1) * (WIDTH - LEFT) / len(curves)
        marks += _curve(points, number, across, up)
        marks.append(svg_text(name, place, 30, "start", class_=f"fill-{number}"))
    return svg_drawing(HEIGHT, f"{y_label} against {x_label}", *marks)


def _ends(values: Any) -> tuple[float, float]:
    """Least and greatest value, with a margin."""
    listed = list(values)
    return min(listed) / 1.15, max(listed) * 1.15


def _curve(points: Points, colour: int, across: Scale, up: Scale) -> list[Markup]:
    """A line, with a dot at each point if there are few."""
    places = [(across.pixel(x), up.pixel(y)) for x, y in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    line = svg_element("path", d=path, class_=f"curve stroke-{colour}")
    dots = [
        svg_element("circle", cx=x, cy=y, r=DOT / 2, class_=f"fill-{colour}")
        for x, y in (places if len(places) < WIDTH / DOT / 4 else [])
    ]
    return [line, *dots]


def table_rows(results: Results) -> list[tuple[str, ...]]:
    """Write all results as rows under `HEADER`; cases that were not run come last."""
    rows = [_comparison_row(each) for each in results.comparisons]
    rows += [_growth_row(each) for each in results.growth if each.slope is not None]
    rows.sort(key=lambda row: int(row[0].split()[0]))  # growth between the others
    for each in results.not_run:
        rows.append((each.case, each.what, "-", "-", each.reason, "-", "-", "-", "-"))
    return rows


def _comparison_row(each: Comparison) -> tuple[str, ...]:
    met = each.goal.is_met(each.ratio) if each.goal else None
    times = [
        f"{'~' if time.is_unsteady else ''}{number_text(time.median_ms)}"
        for time in (each.ours, each.peer)
    ]
    others = [f"{name}: {number_text(time.median_ms)} ms" for name, time in each.others.items()]
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


def write_report(
    path: Path, results: Results, config: BenchmarkConfig, about: Mapping[str, Any]
) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        results: What was measured.
        config: How.
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
    page.add_section("How it was measured", _how(config), REGION_WORDS)
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


def _how(config: BenchmarkConfig) -> str:
    pace = config.pace
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
