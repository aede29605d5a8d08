"""Draws the figures of the pages: ``python docs/draw_figures.py`` writes ``docs/images/*.svg``.

Nothing is placed by hand: bins come from ``bin_edges``, cells from ``project_boxes``, so a figure
shows what the code does.
"""

from pathlib import Path

import torch

from sppnet.geometry.projection import Projection, cell_centres, project_boxes
from sppnet.pooling.bins import bin_edges

IMAGES = Path(__file__).parent / "images"
INK, MUTED, LINE = "#1a1e23", "#5a636e", "#c9d0d8"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#00855f"


def rect(x: float, y: float, w: float, h: float, fill: str = "none", **more: object) -> str:
    """A rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{fill}"{_more(more)}/>'


def text(x: float, y: float, words: str, **more: object) -> str:
    """A line of text."""
    more.setdefault("fill", INK)
    return f'<text x="{x:.1f}" y="{y:.1f}"{_more(more)}>{words}</text>'


def _more(more: dict[str, object]) -> str:
    """Further attributes."""
    return "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())


def grid(x: float, y: float, columns: int, rows: int, cell: float) -> str:
    """Cells of a map."""
    return "".join(
        rect(x + c * cell, y + r * cell, cell, cell, "#f5f6f8", stroke=LINE)
        for r in range(rows)
        for c in range(columns)
    )


def write(name: str, width: int, height: int, *parts: str) -> None:
    """Save a drawing on white paper, which reads in light and dark."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="system-ui, sans-serif" font-size="13">'
    )
    paper = rect(0, 0, width, height, "#ffffff")
    (IMAGES / name).write_text(f"{head}{paper}{''.join(parts)}</svg>\n", encoding="utf-8")


def draw_bins() -> None:
    """A map of 10 x 7 cells under the levels 1, 2, 3; then 6 bins along 10 cells, which overlap."""
    parts, cell = [], 16
    for place, level in enumerate((1, 2, 3)):
        x, y = 30 + place * 210, 46
        parts += [
            text(x, 28, f"level {level}: {level * level} bin{'s' if level > 1 else ''}"),
            grid(x, y, 10, 7, cell),
        ]
        for row, (top, bottom) in enumerate(bin_edges(7, level)):
            for column, (left, right) in enumerate(bin_edges(10, level)):
                colour = (BLUE, ORANGE, GREEN)[(row + column) % 3]
                shape = (x + left * cell + 2, y + top * cell + 2)
                size = ((right - left) * cell - 4, (bottom - top) * cell - 4)
                parts.append(rect(*shape, *size, colour, fill_opacity=0.16, stroke=colour, rx=3))
    parts.append(
        text(30, 200, "6 bins along a side of 10 cells: neighbours share a cell, none is lost")
    )
    parts.append(grid(30, 214, 10, 1, 36))
    for number, (left, right) in enumerate(bin_edges(10, 6)):
        y = 262 + (number % 2) * 22
        parts.append(
            rect(30 + left * 36 + 2, y, (right - left) * 36 - 4, 16, BLUE, rx=3, fill_opacity=0.75)
        )
        words = f"{left} to {right - 1}"
        parts.append(
            text(
                30 + (left + right) * 18,
                y + 12,
                words,
                fill="#fff",
                text_anchor="middle",
                font_size=11,
            )
        )
    parts.append(text(420, 246, "bin i of n: floor(i·size/n)", fill=MUTED))
    parts.append(text(420, 266, "up to ceil((i+1)·size/n)", fill=MUTED))
    write("bins.svg", 660, 320, *parts)


def draw_projection() -> None:
    """A box in pixels, the centres of the cells, and the cells that the box becomes."""
    projection, hw = Projection.released(stride=16, centre=8), (9, 14)
    box = torch.tensor([[50.0, 30.0, 172.0, 110.0]])
    x0, y0, x1, y1 = project_boxes(box, projection, hw)[0].tolist()
    scale, left, top = 1.6, 20, 44
    down, across = cell_centres(projection, hw)
    width, height = hw[1] * 16 * scale, hw[0] * 16 * scale
    parts = [text(left, 28, "photo: a box in pixels, and where each cell looks")]
    parts.append(rect(left, top, width, height, "#f5f6f8", stroke=LINE))
    for y in down.tolist():
        for x in across.tolist():
            inside = box[0, 0] < x < box[0, 2] and box[0, 1] < y < box[0, 3]
            colour = ORANGE if inside else LINE
            parts.append(
                f'<circle cx="{left + x * scale:.1f}" cy="{top + y * scale:.1f}" r="3" fill="{colour}"/>'
            )
    bx1, by1, bx2, by2 = (box[0] * scale).tolist()
    parts.append(rect(left + bx1, top + by1, bx2 - bx1, by2 - by1, stroke=BLUE, stroke_width=2.5))
    right = left + width + 60
    parts += [text(right, 28, "map: the cells that are pooled"), grid(right, top, hw[1], hw[0], 16)]
    shape = ((x1 - x0) * 16, (y1 - y0) * 16)
    parts.append(
        rect(right + x0 * 16, top + y0 * 16, *shape, ORANGE, fill_opacity=0.35, stroke=ORANGE)
    )
    words = f"cells {x0} to {x1 - 1} across, {y0} to {y1 - 1} down"
    parts.append(text(right, top + 170, words, fill=MUTED))
    write("projection.svg", 670, 300, *parts)


def draw_walk() -> None:
    """The way of a photo through the detector."""
    steps = [
        ("photo", "any size", INK),
        ("trunk", "convolved once", BLUE),
        ("map", "432 x h x w", BLUE),
        ("2,000 boxes", "pixels and map propose", GREEN),
        ("pooling", "one vector each", ORANGE),
        ("SVMs, boxes", "scored and moved", INK),
        ("found", "suppressed, confident", INK),
    ]
    parts = []
    for number, (title, note, colour) in enumerate(steps):
        x, y = 14 + (number % 4) * 164, 30 + (number // 4) * 104
        parts.append(
            rect(x, y, 138, 58, colour, rx=8, fill_opacity=0.1, stroke=colour, stroke_width=1.5)
        )
        parts.append(text(x + 69, y + 25, title, text_anchor="middle", font_weight=600))
        parts.append(text(x + 69, y + 44, note, text_anchor="middle", fill=MUTED, font_size=11))
        if number not in (3, len(steps) - 1):
            parts.append(
                f'<path d="M{x + 142} {y + 29}h14m-5 -5l5 5l-5 5" fill="none" stroke="{MUTED}" stroke-width="1.5"/>'
            )
    parts.append(
        f'<path d="M575 92v18H83v16m-5 -5l5 5l5 -5" fill="none" stroke="{MUTED}" stroke-width="1.5"/>'
    )
    write("walk.svg", 664, 216, *parts)


if __name__ == "__main__":
    draw_bins()
    draw_projection()
    draw_walk()
