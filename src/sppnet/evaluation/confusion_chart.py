"""A confusion matrix as a heat map."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sppnet.evaluation.chart_axes import shorten, text_width
from sppnet.evaluation.markup import Html, element
from sppnet.evaluation.svg import WIDTH, svg_drawing, svg_text

LARGEST_NAME = 110
LARGEST_CELL = 44
# Smaller cells leave no room for names of 12 pixels, or for counts.
SMALLEST_NAMED_CELL = 13
SMALLEST_COUNTED_CELL = 26
TITLE_ROOM = 22


def confusion_chart(counts: ArrayLike, names: Sequence[str]) -> Html:
    """Draw how many images of each class (row) were taken for each class (column).

    The shade is the share of the row, so that large and small classes compare. Counts and names are
    left out where the cells are too small for them; tooltips have both.

    Args:
        counts: (K, K) not negative; truth by row, prediction by column.
        names: K names.

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
    room = min(LARGEST_NAME, max(map(text_width, names), default=0)) + 8
    cell = _cell_size(room, len(names))
    left, top = (room + TITLE_ROOM, room) if cell >= SMALLEST_NAMED_CELL else (TITLE_ROOM, 0)
    top += TITLE_ROOM
    side = cell * len(names)
    parts = [_titles(left, top, side)]
    if cell >= SMALLEST_NAMED_CELL:
        parts += _names(names, cell, left, top)
    parts += _cells(matrix, names, cell, left, top)
    frame = element("rect", x=left, y=top, width=side, height=side, class_="frame")
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


def _titles(left: float, top: float, side: float) -> Html:
    """What rows and columns are, outside the names."""
    middle = top + side / 2
    rows = svg_text("truth", 12, middle, "middle", transform=f"rotate(-90 12 {middle:g})")
    return element("g", svg_text("prediction", left + side / 2, 12, "middle"), rows)


def _names(names: Sequence[str], cell: float, left: float, top: float) -> list[Html]:
    """Names of the rows, and of the columns: level if all fit into their cells, upright if not."""
    are_level = all(text_width(name) <= cell - 4 for name in names)
    parts = []
    for i, name in enumerate(names):
        short = shorten(name, LARGEST_NAME)
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
    matrix: NDArray[np.int64], names: Sequence[str], cell: float, left: float, top: float
) -> list[Html]:
    """The cells that are not zero; the background shows through the others."""
    totals = matrix.sum(axis=1)
    parts = []
    for row, column in np.argwhere(matrix).tolist():
        count, total = int(matrix[row, column]), int(totals[row])
        x, y, share = left + column * cell, top + row * cell, count / total
        verb = "recognised" if row == column else f"taken for {names[column]}"
        kind = "right" if row == column else "wrong"
        tooltip = element("title", f"{names[row]} {verb}: {count} of {total}")
        place = {"x": x, "y": y, "width": cell, "height": cell}
        shade = element("rect", **place, class_=kind, fill_opacity=max(share, 0.12))
        text: Html | str = ""
        if cell >= SMALLEST_COUNTED_CELL:
            class_ = "over" if share > 0.5 else "value"
            text = svg_text(f"{count}", x + cell / 2, y + cell / 2 + 4, "middle", class_=class_)
        parts.append(element("g", tooltip, shade, text))
    return parts
