"""What the charts share: the drawing of one width, lines, text and the legend."""

from collections.abc import Sequence

from sppnet.evaluation.markup import Attribute, Html, element

# Narrow, so that the letters stay readable when a phone shrinks the drawing a little.
WIDTH = 460
NUM_COLOURS = 6


def svg_drawing(height: float, label: str, *parts: object) -> Html:
    """A drawing of the common width that says what it is to those who listen."""
    return element(
        "svg",
        *parts,
        role="img",
        aria_label=label,
        width=WIDTH,
        height=height,
        viewBox=f"0 0 {WIDTH} {height:g}",
    )


def svg_line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Html:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def svg_text(text: str, x: float, y: float, anchor: str, **attributes: Attribute) -> Html:
    """A line of text whose baseline is at y."""
    return element("text", text, x=x, y=y, text_anchor=anchor, **attributes)


def legend(entries: Sequence[tuple[str, str, str]]) -> Html:
    """List (name, figure, colour) with a swatch each; the browser breaks the lines.

    Args:
        entries: The colour is a number from "1" to "6", or "faint".

    Returns:
        Markup; nothing if there are no entries.
    """
    items = []
    for name, note, colour in entries:
        mark = element("rect", width=12, height=12, rx=2, class_=f"fill-{colour}")
        sample = element("svg", mark, width=12, height=12, viewBox="0 0 12 12", aria_hidden="true")
        figure = element("span", note, class_="note") if note else ""
        items.append(element("li", sample, element("span", name), figure))
    return element("ul", *items, class_="legend") if items else Html()


def swatch(colour: tuple[int, int, int], *, is_dashed: bool = False) -> Html:
    """Show an outline in a colour of the pictures, which are the same in light and dark.

    Args:
        colour: RGB, 0..255.
        is_dashed: Whether the line is broken.

    Returns:
        A small drawing for a legend.
    """
    dashes = "3.5 2" if is_dashed else None
    line = element(
        "rect",
        x=1.5,
        y=1.5,
        width=17,
        height=11,
        fill="none",
        stroke="#{:02x}{:02x}{:02x}".format(*colour),
        stroke_width=3,
        stroke_dasharray=dashes,
    )
    return element("svg", line, width=20, height=14, viewBox="0 0 20 14", aria_hidden="true")
