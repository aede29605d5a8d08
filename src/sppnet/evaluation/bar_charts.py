"""Horizontal bars: one per name, or one per name and series."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sppnet.evaluation.chart_axes import Scale, score_text, shorten, text_width
from sppnet.evaluation.markup import Html, element, join
from sppnet.evaluation.svg import NUM_COLOURS, WIDTH, legend, svg_drawing, svg_text

LARGEST_NAME = 180
ROW_HEIGHT = 26
BAR_HEIGHT = 14


def bar_chart(
    names: Sequence[str],
    values: ArrayLike,
    *,
    label: str,
    largest: float | None = 1.0,
    value_text: Callable[[float], str] = score_text,
) -> Html:
    """Draw one horizontal bar per name, with its value at the right.

    Args:
        names: From top to bottom; long ones are cut, and whole in the tooltip.
        values: As many; a value that is not finite has no bar and shows a dash.
        label: What the chart is, for those who listen to the page.
        largest: Value of a bar of full length; None takes the largest of the values.
        value_text: How a value is written.

    Returns:
        An SVG element; its height grows with the number of names.

    Example:
        >>> 'class="fill-1"' in bar_chart(["raccoon"], [0.5], label="average precision")
        True
    """
    return _bars(names, {"": values}, label, largest, value_text)


def grouped_bar_chart(
    names: Sequence[str],
    series: Mapping[str, ArrayLike],
    *,
    label: str,
    largest: float | None = 1.0,
    value_text: Callable[[float], str] = score_text,
) -> Html:
    """Draw for each name one horizontal bar per series, with a legend below.

    Args:
        names: Groups, from top to bottom.
        series: Name of each series and its values, one per group.
        label: What the chart is, for those who listen to the page.
        largest: Value of a bar of full length; None takes the largest of all values.
        value_text: How a value is written.

    Returns:
        An SVG element and a list.

    Example:
        >>> series = {"SPP": [0.9, 0.8], "GAP": [0.8, 0.7]}
        >>> chart = grouped_bar_chart(["full", "crop"], series, label="accuracy")
        >>> chart.count("<title>")
        4
    """
    drawing = _bars(names, series, label, largest, value_text)
    colours = [str(i % NUM_COLOURS + 1) for i in range(len(series))]
    return join(drawing, legend([(n, "", c) for n, c in zip(series, colours, strict=True)]))


def _bars(
    names: Sequence[str],
    series: Mapping[str, ArrayLike],
    label: str,
    largest: float | None,
    value_text: Callable[[float], str],
) -> Html:
    """Bars of one or more series."""
    columns = _columns(names, series)
    rows = np.array([*columns.values()]).reshape(len(columns), len(names)).T
    texts = [[value_text(value) for value in row] for row in rows.tolist()]
    name_room = min(LARGEST_NAME, max(map(text_width, names), default=0)) + 12
    value_room = max((text_width(text) for row in texts for text in row), default=0) + 12
    scale = Scale(0, largest or _largest(rows), name_room, WIDTH - value_room)
    group_height = ROW_HEIGHT + (len(series) - 1) * (BAR_HEIGHT + 3) if series else ROW_HEIGHT
    parts = []
    for i, name in enumerate(names):
        top = i * group_height
        parts.append(_row_name(name, name_room - 12, top + group_height / 2 + 4))
        for j, title in enumerate(columns):
            y = top + (ROW_HEIGHT - BAR_HEIGHT) / 2 + j * (BAR_HEIGHT + 3)
            tooltip = f"{name} {title}: {texts[i][j]}".replace(" :", ":")
            parts.append(_bar(rows[i, j], texts[i][j], tooltip, j, y, scale))
    return svg_drawing(max(1, len(names) * group_height), label, *parts)


def _columns(names: Sequence[str], series: Mapping[str, ArrayLike]) -> dict[str, NDArray]:
    """Values of each series as arrays of the right length."""
    columns = {title: np.asarray(values, dtype=float) for title, values in series.items()}
    for title, values in columns.items():
        if values.shape != (len(names),):
            where = f" in series {title!r}" if title else ""
            raise ValueError(f"values must have shape ({len(names)},), got {values.shape}{where}")
    return columns


def _largest(values: NDArray) -> float:
    """Largest finite value, or 1 if there is none above 0."""
    finite = values[np.isfinite(values) & (values > 0)]
    return float(finite.max()) if finite.size else 1.0


def _row_name(name: str, room: float, y: float) -> Html:
    """Name of a row, right-aligned before the bars; whole in the tooltip if it was cut."""
    short = shorten(name, room)
    title = element("title", name) if short != name else ""
    return element("text", title, short, x=room, y=y, text_anchor="end", class_="name")


def _bar(value: float, text: str, tooltip: str, colour: int, y: float, scale: Scale) -> Html:
    """One bar on its track, with its value at the right edge."""
    full = scale.stop - scale.start
    shown = min(max(value, 0.0), scale.high) if math.isfinite(value) else 0.0
    place = {"x": scale.start, "y": y, "height": BAR_HEIGHT, "rx": 2}
    track = element("rect", **place, width=full, class_="track")
    length = scale.pixel(shown) - scale.start
    fill = f"fill-{colour % NUM_COLOURS + 1}"
    bar = element("rect", **place, width=length, class_=fill) if length > 0 else ""
    number = svg_text(text, WIDTH, y + BAR_HEIGHT - 3, "end", class_="value")
    return element("g", element("title", tooltip), track, bar, number)
