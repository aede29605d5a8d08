"""HTML pages: escaping, the page, and its blocks."""

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Control characters, lone surrogates, non-characters and the marks that reverse the order of text.
UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
WITHOUT_END_TAG = frozenset({"br", "img", "meta", "circle", "line", "path", "polyline", "rect"})
Attribute = str | int | float | bool | None
__all__ = [
    "Page",
    "Picture",
    "Tile",
    "details",
    "figure",
    "figures",
    "heading",
    "name_values",
    "paragraph",
    "pictures",
    "table",
    "tiles",
]
# The page forbids itself to load anything: what it shows lies inside it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE_FILE = Path(__file__).with_name("page.css")


class Html(str):
    """A string that is markup already and is passed through as it is.

    Example:
        >>> join("a < b", Html("<br />"))
        'a &lt; b<br />'
    """

    __slots__ = ()


def escape(text: object) -> Html:
    """Make any text harmless inside an element or a quoted attribute.

    Characters that cannot be shown, such as control bytes of a hostile file name, become U+FFFD.

    Args:
        text: Anything; markup stays as it is, the rest is turned into a string first.

    Returns:
        Markup that shows the text.

    Example:
        >>> escape("<script>")
        '&lt;script&gt;'
    """
    if isinstance(text, Html):
        return text
    return Html(html.escape(UNSHOWABLE.sub("\ufffd", str(text)), quote=True))


def join(*parts: object) -> Html:
    """Put parts one after the other, each escaped unless it is markup."""
    return Html("".join(escape(part) for part in parts))


def element(tag: str, *children: object, **attributes: Attribute) -> Html:
    """Write one element, well-formed both as HTML and as XML.

    Attribute names are Python names: a final underscore is dropped and the others become dashes.
    None and False leave the attribute out.

    Args:
        tag: Its name.
        children: Text, which is escaped, and other elements.
        attributes: Numbers are rounded to two decimals.

    Returns:
        The element.

    Example:
        >>> element("rect", width=1 / 3, stroke_width=2, class_="bar")
        '<rect width="0.33" stroke-width="2" class="bar" />'
        >>> element("p", "a & b", hidden=None)
        '<p>a &amp; b</p>'
    """
    inside = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute_text(value)}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in WITHOUT_END_TAG:
        return Html(f"<{tag}{inside} />")
    return Html(f"<{tag}{inside}>{join(*children)}</{tag}>")


def _attribute_text(value: Attribute) -> str:
    """Write an attribute's value: numbers short, True as nothing, text escaped."""
    if value is True:
        return ""
    if isinstance(value, float):
        return f"{round(value, 2):.10g}"
    return escape(value)


@dataclass(frozen=True)
class Tile:
    """One key figure: what it is, its value as it is to be read, and one line that explains it."""

    name: str
    value: str
    hint: str = ""


@dataclass(frozen=True)
class Picture:
    """One JPEG image with a title and one line below it."""

    jpeg: bytes
    title: str
    note: str = ""


def paragraph(*parts: object, note: bool = False) -> Html:
    """Write a paragraph; a note is smaller and quieter."""
    return element("p", *parts, class_="note" if note else None)


def heading(text: str) -> Html:
    """Write a heading inside a section."""
    return element("h3", text)


def tiles(entries: Sequence[Tile]) -> Html:
    """Show key figures side by side, as many in a row as fit.

    Args:
        entries: The figures, the most important first.

    Returns:
        Markup; nothing if there are none.
    """
    return _unless_empty(element("dl", *map(_tile, entries), class_="tiles"), entries)


def _tile(entry: Tile) -> Html:
    """One key figure."""
    hint = element("dd", entry.hint, class_="hint") if entry.hint else ""
    value = element("dd", entry.value, class_="value")
    return element("div", element("dt", entry.name), value, hint, class_="tile")


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    total: Sequence[object] | None = None,
    caption: str = "",
    decimals: int = 3,
) -> Html:
    """Show rows of values; the first cell of a row is its name, numbers are aligned right.

    Args:
        columns: Headings.
        rows: As many cells each as there are headings; None and NaN show as a dash.
        total: Last row, set apart.
        caption: Line above the table.
        decimals: Of floating-point numbers.

    Returns:
        Markup that scrolls sideways where the page is too narrow.

    Raises:
        ValueError: If a row has more or fewer cells than there are headings.
    """
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(
                f"rows must have {len(columns)} cells, got {len(row)} cells in row {number}"
            )
    numeric = [i > 0 and any(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    headings = [
        element("th", name, scope="col", class_="number" if right else None)
        for name, right in zip(columns, numeric, strict=True)
    ]
    body = [_row(row, numeric, decimals) for row in rows]
    last = element("tfoot", _row(total, numeric, decimals)) if total else ""
    content = join(element("thead", element("tr", *headings)), element("tbody", *body), last)
    above = element("caption", caption) if caption else ""
    return element("div", element("table", above, content), class_="scroll")


def _row(cells: Sequence[object], numeric: Sequence[bool], decimals: int) -> Html:
    """One row; its first cell is a heading for those who listen to the page."""
    first = element("th", _cell_text(cells[0], decimals), scope="row")
    rest = [
        element("td", _cell_text(cell, decimals), class_="number" if right else None)
        for cell, right in zip(cells[1:], numeric[1:], strict=True)
    ]
    return element("tr", first, *rest)


def _is_number(cell: object) -> bool:
    """Whether a cell belongs to a column that is aligned right."""
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _cell_text(cell: object, decimals: int) -> object:
    """Write a cell: fixed decimals, a dash for what is missing."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "\u2013"
    return f"{cell:.{decimals}f}" if isinstance(cell, float) else cell


def name_values(values: Mapping[str, object]) -> Html:
    """Show a mapping, such as a configuration, as a table of two columns.

    Args:
        values: Shown in their order; nested mappings are named ``outer.inner``.

    Returns:
        Markup; nothing if there are none.
    """
    rows = [
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in _flat(values)
    ]
    body = element("table", element("tbody", *rows), class_="names")
    return _unless_empty(element("div", body, class_="scroll"), rows)


def _flat(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Pairs of a nested mapping, with dotted names."""
    pairs: list[tuple[str, object]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs


def figures(*entries: Html) -> Html:
    """Put figures side by side where there is room, below each other where there is not."""
    return _unless_empty(element("div", *entries, class_="figures"), entries)


def figure(drawing: Html, title: str, note: str = "") -> Html:
    """Show a chart below its title and one line that tells how to read it."""
    caption = element("figcaption", element("strong", title), note)
    return element("figure", caption, drawing)


def pictures(entries: Sequence[Picture], *, small: bool = False) -> Html:
    """Show images in a grid; the bytes lie inside the page.

    Args:
        entries: JPEG images and what is written below them.
        small: For thumbnails.

    Returns:
        Markup; nothing if there are none.
    """
    grid = element("div", *map(_picture, entries), class_="pictures small" if small else "pictures")
    return _unless_empty(grid, entries)


def _picture(entry: Picture) -> Html:
    """One image with its caption."""
    source = "data:image/jpeg;base64," + base64.b64encode(entry.jpeg).decode("ascii")
    caption = element("figcaption", element("strong", entry.title), entry.note)
    return element("figure", element("img", src=source, alt=entry.title), caption)


def details(summary: str, *blocks: object, is_open: bool = False) -> Html:
    """Hide blocks behind one line that opens them."""
    return element("details", element("summary", summary), *map(block, blocks), open=is_open)


def block(content: object) -> Html:
    """Markup as it is; plain text as a paragraph that escapes it."""
    return content if isinstance(content, Html) else paragraph(escape(content))


def _unless_empty(markup: Html, entries: Sequence[object]) -> Html:
    """The markup, or nothing at all if there is nothing in it."""
    return markup if entries else Html()


@dataclass
class Page:
    """Builds an HTML page section by section.

    All text is escaped; only what the functions of this module and of ``charts`` return is markup.

    Args:
        title: Heading and title of the window.
        subtitle: One line below it.
        footer: One line at the end.

    Example:
        >>> page = Page("Report")
        >>> page.add_section("Figures", tiles([Tile("AP50", "0.904")]))
        >>> page.render().startswith("<!DOCTYPE html>")
        True
    """

    title: str
    subtitle: str = ""
    footer: str = ""
    _sections: list[tuple[str, Html]] = field(default_factory=list, init=False, repr=False)

    def add_section(self, title: str, *blocks: object) -> None:
        """Append a section; without a title it is an opening block that the contents leave out.

        Args:
            title: Its heading.
            blocks: Markup, or plain text that becomes a paragraph.
        """
        self._sections.append((title, join(*map(block, blocks))))

    def render(self) -> str:
        """Write the page.

        Returns:
            A whole HTML document, to be saved as UTF-8.
        """
        head = element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", http_equiv="Content-Security-Policy", content=POLICY),
            element("title", self.title),
            element("style", Html(STYLE_FILE.read_text(encoding="utf-8"))),
        )
        sections = [self._section(*section) for section in self._named_sections()]
        main = element("main", *sections)
        foot = element("footer", self.footer) if self.footer else ""
        document = element("html", head, element("body", self._header(), main, foot), lang="en")
        return f"<!DOCTYPE html>\n{document}\n"

    def _header(self) -> Html:
        """Title, subtitle and, on a long page, links to the sections."""
        links = [
            element("a", title, href=f"#{name}")
            for name, title, _ in self._named_sections()
            if title
        ]
        contents = element("nav", *links, aria_label="Contents") if len(links) > 2 else ""
        subtitle = element("p", self.subtitle, class_="subtitle") if self.subtitle else ""
        return element("header", element("h1", self.title), subtitle, contents)

    def _named_sections(self) -> list[tuple[str, str, Html]]:
        """(Anchor, title, content) of each section; the number keeps anchors unique."""
        return [
            (f"{number}-{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}", title, content)
            for number, (title, content) in enumerate(self._sections, start=1)
        ]

    @staticmethod
    def _section(name: str, title: str, content: Html) -> Html:
        """One section with its heading."""
        heading = element("h2", title) if title else ""
        return element("section", heading, content, id=name)
