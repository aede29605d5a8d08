"""Charts as SVG: lines, bars and confusion matrices.

They are our own because a page is one small file: no library draws charts that follow dark mode
without a script or a font.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from sppnet.evaluation.report.axes import Scale, number_text, score_text, shorten, text_width, thin
from sppnet.evaluation.report.html import STYLE_FILE, escape, legend

# Narrow, so that the letters stay readable when a phone shrinks the drawing a little.
WIDTH = 460
NUM_COLOURS = 6
LARGEST_BAR_NAME = 180
ROW_HEIGHT = 26
BAR_HEIGHT = 14
LARGEST_CLASS_NAME = 110
LARGEST_CELL = 44
# Smaller cells leave no room for names of 12 pixels, or for counts.
SMALLEST_NAMED_CELL = 13
SMALLEST_COUNTED_CELL = 26
TITLE_ROOM = 22
PLOT_HEIGHT = 300
WITHOUT_CONTENT = frozenset({"circle", "line", "path", "polyline", "rect"})
Attribute = str | int | float | None
__all__ = ["Series", "bar_chart", "confusion_chart", "grouped_bar_chart", "line_chart"]


@dataclass(frozen=True)
class Series:
    """One curve: its name, points, and a note in the legend; a faint one is drawn in grey."""

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
    marker: float | None = None,
) -> Markup:
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
        marker: Where a vertical line stands, which the slider of a page moves; None for none.

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
        *svg_axes(across, up, x_label, y_label),
        *curves,
        *([] if marker is None else [_marker(marker, across, up)]),
    )
    return drawing + _curve_legend(series, colours)


def _marker(value: float, across: Scale, up: Scale) -> Markup:
    """A vertical line that knows its axis."""
    x = across.pixel(min(max(value, across.low), across.high))
    axis = {"data_low": across.low, "data_high": across.high}
    place = {"x1": x, "x2": x, "y1": up.start, "y2": up.stop}
    ends = {"data_start": across.start, "data_stop": across.stop}
    return svg_element("line", **place, **axis, **ends, class_="marker")


def _colours(series: Sequence[Series]) -> list[str]:
    """Colour of each curve, "1" to "6" in turn, or "faint"."""
    numbers = iter(range(len(series)))
    return ["faint" if s.is_faint else f"{next(numbers) % NUM_COLOURS + 1}" for s in series]


def _curve(entry: Series, colour: str, across: Scale, up: Scale) -> Markup:
    """One curve; a single point becomes a dot."""
    points = _points(entry, across, up)
    class_ = "curve faint" if entry.is_faint else f"curve stroke-{colour}"
    path, is_drawing = "", False
    for point in points:
        path += f"{'L' if is_drawing else 'M'}{point[0]:.1f} {point[1]:.1f}" if point else ""
        is_drawing = point is not None
    if len(points) == 1 and points[0]:
        path += "h0.01"
    title = svg_element("title", f"{entry.name} {entry.note}".strip())
    return svg_element("g", title, svg_element("path", d=path, class_=class_)) if path else Markup()


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


def _curve_legend(series: Sequence[Series], colours: Sequence[str]) -> Markup:
    """Names of the curves below a chart; the faint ones are only counted."""
    pairs = zip(series, colours, strict=True)
    entries = [
        (_filled(colour), entry.name, entry.note) for entry, colour in pairs if not entry.is_faint
    ]
    faint = sum(entry.is_faint for entry in series)
    if faint:
        entries.append((_filled("faint"), f"{faint} other{'s' if faint > 1 else ''}", ""))
    return legend(entries)


def bar_chart(
    names: Sequence[str],
    values: ArrayLike,
    *,
    label: str,
    largest: float | None = 1.0,
    value_text: Callable[[float], str] = score_text,
) -> Markup:
    """Draw one horizontal bar per name, with its value at the right.

    Args:
        names: From top to bottom; long ones are cut, and whole in the tooltip.
        values: As many; a value that is not finite has no bar and shows a dash.
        label: What the chart shows, for screen readers.
        largest: Value of a bar of full length; None takes the largest of the values.
        value_text: How a value is written.

    Returns:
        An SVG element; its height grows with the number of names.

    Example:
        >>> 'class="fill-1"' in bar_chart(["raccoon"], [0.5], label="average precision")
        True
    """
    return _bars(names, {"": values}, label, largest, value_text, {})


def grouped_bar_chart(
    names: Sequence[str],
    series: Mapping[str, ArrayLike],
    *,
    label: str,
    largest: float | None = 1.0,
    value_text: Callable[[float], str] = score_text,
    spreads: Mapping[str, ArrayLike] | None = None,
) -> Markup:
    """Draw for each name one horizontal bar per series, with a legend below.

    Args:
        names: Groups, from top to bottom.
        series: Name of each series and its values, one per group.
        label: What the chart shows, for screen readers.
        largest: Value of a bar of full length; None takes the largest of all values.
        value_text: How a value is written.
        spreads: Name of a series -> deviations of its values, drawn and written; NaN for none.

    Returns:
        An SVG element and a list.

    Example:
        >>> series = {"SPP": [0.9, 0.8], "GAP": [0.8, 0.7]}
        >>> chart = grouped_bar_chart(["full", "crop"], series, label="accuracy")
        >>> chart.count("<title>")
        4
    """
    drawing = _bars(names, series, label, largest, value_text, spreads or {})
    entries = [(_filled(f"{i % NUM_COLOURS + 1}"), name, "") for i, name in enumerate(series)]
    return drawing + legend(entries)


def _bars(
    names: Sequence[str],
    series: Mapping[str, ArrayLike],
    label: str,
    largest: float | None,
    value_text: Callable[[float], str],
    spreads: Mapping[str, ArrayLike],
) -> Markup:
    """Bars of one or more series."""
    columns = _columns(names, series)
    rows = np.array([*columns.values()]).reshape(len(columns), len(names)).T
    known = {**{title: np.full(len(names), np.nan) for title in columns}, **spreads}
    around = np.array([*_columns(names, known).values()]).reshape(len(known), len(names)).T
    texts = [[value_text(value) for value in row] for row in rows.tolist()]
    for i, j in np.argwhere(np.isfinite(around)):
        texts[i][j] += f" ± {value_text(around[i, j])}"
    name_room = min(LARGEST_BAR_NAME, max(map(text_width, names), default=0)) + 12
    value_room = max((text_width(text) for row in texts for text in row), default=0) + 12
    high = largest or _largest(rows + np.nan_to_num(around))
    scale = Scale(0, high, name_room, WIDTH - value_room)
    group_height = ROW_HEIGHT + (len(series) - 1) * (BAR_HEIGHT + 3) if series else ROW_HEIGHT
    parts = []
    for i, name in enumerate(names):
        top = i * group_height
        parts.append(_row_name(name, name_room - 12, top + group_height / 2 + 4))
        for j, title in enumerate(columns):
            y = top + (ROW_HEIGHT - BAR_HEIGHT) / 2 + j * (BAR_HEIGHT + 3)
            tooltip = f"{name} {title}: {texts[i][j]}".replace(" :", ":")
            parts.append(_bar(rows[i, j], texts[i][j], tooltip, j, y, scale))
            if np.isfinite(around[i, j]):
                parts.append(_spread(rows[i, j], around[i, j], y + BAR_HEIGHT / 2, scale))
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


def _row_name(name: str, room: float, y: float) -> Markup:
    """Name of a row, right-aligned before the bars; whole in the tooltip if it was cut."""
    short = shorten(name, room)
    title = svg_element("title", name) if short != name else ""
    return svg_element("text", title, short, x=room, y=y, text_anchor="end", class_="name")


def _bar(value: float, text: str, tooltip: str, colour: int, y: float, scale: Scale) -> Markup:
    """One bar on its track, with its value at the right edge."""
    full = scale.stop - scale.start
    shown = min(max(value, 0.0), scale.high) if math.isfinite(value) else 0.0
    place = {"x": scale.start, "y": y, "height": BAR_HEIGHT, "rx": 2}
    track = svg_element("rect", **place, width=full, class_="track")
    length = scale.pixel(shown) - scale.start
    fill = f"fill-{colour % NUM_COLOURS + 1}"
    bar = svg_element("rect", **place, width=length, class_=fill) if length > 0 else ""
    number = svg_text(text, WIDTH, y + BAR_HEIGHT - 3, "end", class_="value")
    return svg_element("g", svg_element("title", tooltip), track, bar, number)


def _spread(value: float, around: float, y: float, scale: Scale) -> Markup:
    """A deviation to either side of a value, as far as the scale goes."""
    ends = (max(value - around, scale.low), min(value + around, scale.high))
    left, right = map(scale.pixel, ends)
    return svg_line(left, y, right, y, "spread")


def confusion_chart(counts: ArrayLike, names: Sequence[str], *, every_cell: bool = False) -> Markup:
    """Draw how many images of each class (row) were taken for each class (column).

    The shade is the share of the row, so that large and small classes compare; the number at the
    right of a row is how many it has. Counts and names are left out where the cells are too small
    for them; tooltips have both. Cells know their place (``data-cell``, row times K plus column),
    so that the script of a page can fill them anew.

    Args:
        counts: (K, K) not negative; truth by row, prediction by column.
        names: K names.
        every_cell: Whether cells that are zero are there too, unseen.

    Returns:
        An SVG element.

    Raises:
        ValueError: If the counts are not (K, K) or negative.

    Example:
        >>> chart = confusion_chart([[8, 2], [0, 5]], ["cat", "dog"])
        >>> "cat taken for dog: 2 of 10" in chart
        True
    """
    matrix = _checked(counts, len(names))
    room = min(LARGEST_CLASS_NAME, max(map(text_width, names), default=0)) + 8
    totals = [f"{total:,}" for total in matrix.sum(axis=1).tolist()]
    cell = _cell_size(room + max(map(text_width, totals), default=0) + 8, len(names))
    left, top = (room + TITLE_ROOM, room) if cell >= SMALLEST_NAMED_CELL else (TITLE_ROOM, 0)
    top += TITLE_ROOM
    side = cell * len(names)
    parts = [_titles(left, top, side)]
    if cell >= SMALLEST_NAMED_CELL:
        parts += _names(names, cell, left, top)
        for row, total in enumerate(totals):
            y = top + (row + 0.5) * cell + 4
            parts.append(svg_text(total, left + side + 8, y, "start", data_row=row))
    parts += _cells(matrix, names, cell, (left, top), every_cell)
    frame = svg_element("rect", x=left, y=top, width=side, height=side, class_="frame")
    return svg_drawing(top + side + 1, "confusion matrix", *parts, frame)


def _checked(counts: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """The counts as whole numbers."""
    matrix = np.asarray(counts).astype(np.int64).reshape(np.shape(counts) or (0,))
    if not num_classes and not matrix.size:
        return np.zeros((0, 0), dtype=np.int64)
    if matrix.shape != (num_classes, num_classes):
        raise ValueError(
            f"counts must have shape ({num_classes}, {num_classes}), got {matrix.shape}"
        )
    if (matrix < 0).any():
        raise ValueError(f"counts must not be negative, got {matrix.min()}")
    return matrix


def _cell_size(name_room: float, num_classes: int) -> float:
    """Side of a cell: with names if they leave it enough room, without them otherwise."""
    named = (WIDTH - 1 - TITLE_ROOM - name_room) / max(1, num_classes)
    bare = (WIDTH - 1 - TITLE_ROOM) / max(1, num_classes)
    return min(LARGEST_CELL, named if named >= SMALLEST_NAMED_CELL else min(bare, 12.0))


def _titles(left: float, top: float, side: float) -> Markup:
    """Write "truth" and "prediction" beside the names."""
    middle = top + side / 2
    rows = svg_text("truth", 12, middle, "middle", transform=f"rotate(-90 12 {middle:g})")
    return svg_element("g", svg_text("prediction", left + side / 2, 12, "middle"), rows)


def _names(names: Sequence[str], cell: float, left: float, top: float) -> list[Markup]:
    """Names of rows and columns; those of columns are turned if they are wider than a cell."""
    are_level = all(text_width(name) <= cell - 4 for name in names)
    parts = []
    for i, name in enumerate(names):
        short = shorten(name, LARGEST_CLASS_NAME)
        middle = (i + 0.5) * cell
        parts.append(svg_text(short, left - 8, top + middle + 4, "end", class_="name"))
        x, y = left + middle, top - 8
        if are_level:
            parts.append(svg_text(short, x, y, "middle", class_="name"))
        else:
            turn = f"rotate(-90 {x + 4:g} {y:g})"
            parts.append(svg_text(short, x + 4, y, "start", class_="name", transform=turn))
    return parts


def _cells(
    matrix: NDArray[np.int64],
    names: Sequence[str],
    cell: float,
    corner: tuple[float, float],
    every_cell: bool,
) -> list[Markup]:
    """The cells that are not zero; the background shows through the others."""
    totals = matrix.sum(axis=1)
    parts = []
    for row, column in np.argwhere(np.ones_like(matrix) if every_cell else matrix).tolist():
        count, total = int(matrix[row, column]), int(totals[row])
        x, y = corner[0] + column * cell, corner[1] + row * cell
        share = count / max(1, total)
        verb = "recognised" if row == column else f"taken for {names[column]}"
        kind = "right" if row == column else "wrong"
        tooltip = svg_element("title", f"{names[row]} {verb}: {count} of {total}")
        place = {"x": x, "y": y, "width": cell, "height": cell}
        shade = svg_element("rect", **place, class_=kind, fill_opacity=max(share, 0.12))
        text: Markup | str = ""
        if cell >= SMALLEST_COUNTED_CELL:
            class_ = "over" if share > 0.5 else "value"
            text = svg_text(f"{count}", x + cell / 2, y + cell / 2 + 4, "middle", class_=class_)
        place_text = row * len(names) + column
        hidden = "none" if not count else None
        group = svg_element("g", tooltip, shade, text, data_cell=place_text, display=hidden)
        parts.append(group)
    return parts


def _filled(colour: str) -> Markup:
    """The mark of a legend in the colour "1" to "6" of a series, or "faint"."""
    mark = svg_element("rect", width=12, height=12, rx=2, class_=f"fill-{colour}")
    return svg_element("svg", mark, width=12, height=12, viewBox="0 0 12 12", aria_hidden="true")


def stand_alone(drawing: Markup) -> str:
    """Turn a drawing of a page into an SVG file that brings its colours.

    Example:
        >>> stand_alone(svg_drawing(10, "nothing"))[:40]
        '<svg xmlns="http://www.w3.org/2000/svg" '
    """
    start, rest = str(drawing).split(">", 1)
    start = start.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    rules = STYLE_FILE.read_text(encoding="utf-8").replace(">", "&gt;")
    return f"{start}><style>{rules}svg {{ font-family: sans-serif; }}</style>{rest}\n"


def svg_axes(across: Scale, up: Scale, x_label: str, y_label: str) -> list[Markup]:
    """Grid, ticks and names of both axes, the vertical one at the left."""
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


def svg_drawing(height: float, label: str, *parts: object) -> Markup:
    """A drawing as wide as all charts, with a label for screen readers."""
    return svg_element(
        "svg",
        *parts,
        role="img",
        aria_label=label,
        width=WIDTH,
        height=height,
        viewBox=f"0 0 {WIDTH} {height:g}",
    )


def svg_line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return svg_element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def svg_text(text: str, x: float, y: float, anchor: str, **attributes: Attribute) -> Markup:
    """A line of text whose baseline is at y."""
    return svg_element("text", text, x=x, y=y, text_anchor=anchor, **attributes)


def svg_element(tag: str, *children: object, **attributes: Attribute) -> Markup:
    """Write one element, well-formed as XML.

    Attribute names are Python names: a final underscore is dropped and the others become dashes.
    None leaves the attribute out.

    Args:
        tag: Its name.
        children: Text, which is escaped, and other elements.
        attributes: Numbers are rounded to two decimals.

    Returns:
        The element.

    Example:
        >>> print(svg_element("rect", width=1 / 3, stroke_width=2, class_="bar"))
        <rect width="0.33" stroke-width="2" class="bar" />
        >>> print(svg_element("text", "a & b", transform=None))
        <text>a &amp; b</text>
    """
    inside = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute_text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in WITHOUT_CONTENT:
        return Markup(f"<{tag}{inside} />")  # noqa: S704 - every part is escaped
    content = "".join(map(escape, children))
    return Markup(f"<{tag}{inside}>{content}</{tag}>")  # noqa: S704 - every part is escaped


def _attribute_text(value: Attribute) -> str:
    """Write an attribute's value: numbers short, text escaped."""
    return f"{round(value, 2):z.10g}" if isinstance(value, float) else escape(value)
