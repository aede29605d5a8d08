"""The plots of the benchmark: curves over two logarithmic axes, as drawings that stand alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from sppnet.app.benchmark_results import Growth
from sppnet.evaluation.report.axes import Scale, number_text, thin
from sppnet.evaluation.report.charts import WIDTH, svg_drawing, svg_line, svg_text
from sppnet.evaluation.report.html import STYLE_FILE, Html, element

HEIGHT = 300
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 42, 40
DOT = 6
Points = Sequence[tuple[float, float]]


def growth_chart(growth: Growth) -> Html:
    """Draw the milliseconds per megabyte of output along one axis, beside filling the output."""
    curves = {
        "ours": [(p["x"], p["ms_per_mb"]) for p in growth.points],
        "filling the output": [(p["x"], p["fill_ms_per_mb"]) for p in growth.points],
    }
    return log_chart(curves, growth.axis, "ms per MB of output")


def sweep_chart(sweep: Sequence[Mapping[str, Any]]) -> Html:
    """Draw the ratios of all shapes in ascending order, one curve for each way."""
    curves = {}
    for way in dict.fromkeys(str(row["way"]) for row in sweep):
        ratios = sorted(float(row["ratio"]) for row in sweep if row["way"] == way)
        curves[way] = [(i + 1.0, ratios[i]) for i in thin(len(ratios)).tolist()]
    return log_chart(curves, "shapes, the worst first", "times as fast")


def log_chart(curves: Mapping[str, Points], x_label: str, y_label: str) -> Html:
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
    marks = [*_axes(across, up), svg_text(y_label, 0, 12, "start", class_="name")]
    marks.append(svg_text(x_label, WIDTH - RIGHT, HEIGHT - 4, "end", class_="name"))
    for number, (name, points) in enumerate(curves.items(), start=1):
        place = LEFT + (number - 1) * (WIDTH - LEFT) / len(curves)
        marks += _curve(points, number, across, up)
        marks.append(svg_text(name, place, 30, "start", class_=f"fill-{number}"))
    return svg_drawing(HEIGHT, f"{y_label} against {x_label}", *marks)


def _ends(values: Any) -> tuple[float, float]:
    """Least and greatest value with a little air."""
    listed = list(values)
    return min(listed) / 1.15, max(listed) * 1.15


def _axes(across: Scale, up: Scale) -> list[Html]:
    """Grid and ticks of both axes."""
    marks = []
    for value in up.ticks():
        y = up.pixel(value)
        marks.append(svg_line(LEFT, y, WIDTH - RIGHT, y, "grid"))
        marks.append(svg_text(number_text(value), LEFT - 6, y + 4, "end"))
    for value in across.ticks():
        x = across.pixel(value)
        marks.append(svg_line(x, up.start, x, up.start + 4, "axis"))
        marks.append(svg_text(number_text(value), x, up.start + 18, "middle"))
    return [*marks, svg_line(LEFT, up.start, WIDTH - RIGHT, up.start, "axis")]


def _curve(points: Points, colour: int, across: Scale, up: Scale) -> list[Html]:
    """A line, and a dot at each point where they are few."""
    places = [(across.pixel(x), up.pixel(y)) for x, y in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    line = element("path", d=path, class_=f"curve stroke-{colour}")
    dots = [
        element("circle", cx=x, cy=y, r=DOT / 2, class_=f"fill-{colour}")
        for x, y in (places if len(places) < WIDTH / DOT / 4 else [])
    ]
    return [line, *dots]


def stand_alone(drawing: Html) -> str:
    """Turn a drawing of the page into an SVG file that brings its colours.

    Example:
        >>> stand_alone(log_chart({"a": [(1, 2)]}, "x", "y"))[:40]
        '<svg xmlns="http://www.w3.org/2000/svg" '
    """
    start, rest = drawing.split(">", 1)
    name = '<svg xmlns="http://www.w3.org/2000/svg"'
    rules = STYLE_FILE.read_text(encoding="utf-8").replace(">", "&gt;")
    style = element("style", Html(f"{rules}svg {{ font-family: sans-serif; }}"))
    return f"{start.replace('<svg', name, 1)}>{style}{rest}\n"
