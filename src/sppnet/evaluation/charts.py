"""Charts as inline SVG, drawn from plain sequences; the page's style gives them their colours."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sppnet.evaluation.bar_charts import bar_chart, grouped_bar_chart
from sppnet.evaluation.chart_axes import Scale, number_text, thin
from sppnet.evaluation.confusion_chart import confusion_chart
from sppnet.evaluation.markup import Html, element, join
from sppnet.evaluation.svg import NUM_COLOURS, WIDTH, legend, svg_drawing, svg_line, svg_text

__all__ = ["Series", "bar_chart", "confusion_chart", "grouped_bar_chart", "legend", "line_chart"]

PLOT_HEIGHT = 300


@dataclass(frozen=True)
class Series:
    """One curve: name, points, a figure for the legend; a faint one stays in the background."""

    name: str
    x: ArrayLike
    y: ArrayLike
    note: str = ""
    is_faint: bool = False


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] = (0.0, 1.0),
    y_range: tuple[float, float] = (0.0, 1.0),
    log_x: bool = False,
) -> Html:
    """Draw curves over two axes, with a legend below.

    Points that are not finite break the curve; what lies outside the ranges is drawn at their edge.
    Curves of more than 240 points are thinned.

    Args:
        series: The curves; faint ones are drawn first and share one entry of the legend.
        x_label: What the horizontal axis is.
        y_label: What the vertical axis is.
        x_range: Its ends.
        y_range: Its ends.
        log_x: Whether the horizontal axis is logarithmic; its lower end must then be above 0.

    Returns:
        An SVG element and a list.

    Raises:
        ValueError: If a logarithmic axis starts at or below 0, or x and y differ in length.

    Example:
        >>> curve = Series("a", [0, 1], [1, 0.5])
        >>> "<path" in line_chart([curve], x_label="recall", y_label="precision")
        True
    """
    if log_x and x_range[0] <= 0:
        raise ValueError(f"x_range must start above 0 on a logarithmic axis, got {x_range}")
    across = Scale(*x_range, start=44, stop=WIDTH - 16, log=log_x)
    up = Scale(*y_range, start=PLOT_HEIGHT - 40, stop=26)
    colours = _colours(series)
    faint_first = sorted(zip(series, colours, strict=True), key=lambda pair: -pair[0].is_faint)
    curves = [_curve(entry, colour, across, up) for entry, colour in faint_first]
    drawing = svg_drawing(
        PLOT_HEIGHT,
        f"{y_label} against {x_label}",
        *_axes(across, up, x_label, y_label),
        *curves,
    )
    return join(drawing, _curve_legend(series, colours))


def _colours(series: Sequence[Series]) -> list[str]:
    """Class suffix of each curve: colours go round among those that are not faint."""
    numbers = iter(range(len(series)))
    return ["faint" if s.is_faint else f"{next(numbers) % NUM_COLOURS + 1}" for s in series]


def _axes(across: Scale, up: Scale, x_label: str, y_label: str) -> list[Html]:
    """Grid, ticks and names of both axes."""
    left, right, bottom = across.start, across.stop, up.start
    marks = []
    for value in up.ticks():
        y = up.pixel(value)
        marks.append(svg_line(left, y, right, y, "grid"))
        marks.append(svg_text(number_text(value), left - 8, y + 4, "end"))
    for value in across.ticks():
        x = across.pixel(value)
        marks.append(svg_line(x, bottom, x, bottom + 4, "axis"))
        marks.append(svg_text(number_text(value), x, bottom + 18, "middle"))
    marks.append(svg_line(left, bottom, right, bottom, "axis"))
    marks.append(svg_text(y_label, 0, 12, "start", class_="name"))
    marks.append(svg_text(x_label, right, bottom + 36, "end", class_="name"))
    return marks


def _curve(entry: Series, colour: str, across: Scale, up: Scale) -> Html:
    """One curve; a single point becomes a dot."""
    points = _points(entry, across, up)
    class_ = "curve faint" if entry.is_faint else f"curve stroke-{colour}"
    path, is_drawing = "", False
    for point in points:
        path += f"{'L' if is_drawing else 'M'}{point[0]:.1f} {point[1]:.1f}" if point else ""
        is_drawing = point is not None
    if len(points) == 1 and points[0]:
        path += "h0.01"
    title = element("title", f"{entry.name} {entry.note}".strip())
    return element("g", title, element("path", d=path, class_=class_)) if path else Html()


def _points(entry: Series, across: Scale, up: Scale) -> list[tuple[float, float] | None]:
    """Pixels of a curve; None where it is interrupted."""
    x, y = np.asarray(entry.x, dtype=float), np.asarray(entry.y, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"x and y must be of one length, got {x.shape} and {y.shape}")
    kept = thin(len(x))
    x, y = x[kept].clip(across.low, across.high), y[kept].clip(up.low, up.high)
    return [
        (across.pixel(a), up.pixel(b)) if math.isfinite(a) and math.isfinite(b) else None
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    ]


def _curve_legend(series: Sequence[Series], colours: Sequence[str]) -> Html:
    """Names below a chart; those in the background are only counted."""
    pairs = zip(series, colours, strict=True)
    entries = [(entry.name, entry.note, colour) for entry, colour in pairs if not entry.is_faint]
    faint = sum(entry.is_faint for entry in series)
    if faint:
        entries.append((f"{faint} other{'s' if faint > 1 else ''}", "", "faint"))
    return legend(entries)
