"""HTML pages: a page and the blocks it is built of.

The markup itself lies in ``templates``: ``blocks.html`` has a macro for each block here, and
``page.html`` is the page around them. Jinja2 escapes all text in them.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import markupsafe
from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = [
    "Choice",
    "Page",
    "Picture",
    "Tile",
    "column",
    "details",
    "figure",
    "figures",
    "gallery",
    "heading",
    "name_values",
    "paragraph",
    "pictures",
    "table",
    "tiles",
    "whole_picture",
]
FOLDER = Path(__file__).parent
STYLE_FILE = FOLDER / "page.css"
# Control characters, lone surrogates, non-characters and the marks that reverse the order of text.
UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
# A page with fewer titled sections has no table of contents.
FEWEST_LISTED_SECTIONS = 3
DASH = "\u2013"


def escape(text: object) -> Markup:
    """Make any text harmless inside an element or a quoted attribute.

    Characters that cannot be shown, such as control bytes of a hostile file name, become U+FFFD.

    Args:
        text: Anything; markup stays as it is, the rest is turned into a string first.

    Returns:
        Markup that shows the text.

    Example:
        >>> escape("<script>")
        Markup('&lt;script&gt;')
    """
    if isinstance(text, Markup):
        return text
    return markupsafe.escape(UNSHOWABLE.sub("\ufffd", str(text)))


@cache
def _templates() -> "Environment":
    """The templates; every value in them passes through ``escape``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # not needed for --help

    return Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _block(macro: str, *values: object) -> Markup:
    """Fill in a macro of ``blocks.html``."""
    module = _templates().get_template("blocks.html").module
    markup: Markup = getattr(module, macro)(*values)
    return markup.strip()


@dataclass(frozen=True)
class Tile:
    """One key figure: its name, its value as text, and a line that explains it."""

    name: str
    value: str
    hint: str = ""
    is_wide: bool = False


@dataclass(frozen=True)
class Picture:
    """One JPEG image with a title and one line below it."""

    jpeg: bytes
    title: str
    note: str = ""

    @property
    def source(self) -> str:
        """The image as a data URL."""
        return "data:image/jpeg;base64," + base64.b64encode(self.jpeg).decode("ascii")


class Choice(NamedTuple):
    """A switch of a gallery: its group, its id, what it is called, and whether it is on first."""

    group: str
    id: str
    label: str
    is_on: bool = False


def paragraph(*parts: object, note: bool = False) -> Markup:
    """Write a paragraph; a note is smaller and quieter."""
    return _block("paragraph", parts, note)


def heading(text: str) -> Markup:
    """Write a heading inside a section."""
    return _block("heading", text)


def tiles(entries: Sequence[Tile]) -> Markup:
    """Show key figures side by side, as many in a row as fit.

    Args:
        entries: The figures, the most important first.

    Returns:
        Markup; empty if there are none.
    """
    return _block("tiles", entries) if entries else Markup()


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    total: Sequence[object] | None = None,
    caption: str = "",
    decimals: int = 3,
) -> Markup:
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
    is_number = [i > 0 and any(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    texts = [[_cell_text(cell, decimals) for cell in row] for row in rows]
    last = [_cell_text(cell, decimals) for cell in total or ()]
    return _block("table", columns, is_number, texts, last, caption)


def _is_number(cell: object) -> bool:
    """Whether a cell belongs to a column that is aligned right."""
    if isinstance(cell, Markup):
        return cell.startswith("<span data-live")
    return isinstance(cell, int | float) and not isinstance(cell, bool)


def _cell_text(cell: object, decimals: int) -> object:
    """Write a cell: fixed decimals, a dash for what is missing."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return DASH
    return f"{cell:z.{decimals}f}" if isinstance(cell, float) else cell


def name_values(values: Mapping[str, object]) -> Markup:
    """Show a mapping, such as a configuration, as a table of two columns.

    Args:
        values: Shown in their order; nested mappings are named ``outer.inner``.

    Returns:
        Markup; empty if there are none.
    """
    pairs = _flat(values)
    return _block("name_values", pairs) if pairs else Markup()


def _flat(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Pairs of a nested mapping, with dotted names."""
    pairs: list[tuple[str, object]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", value))
    return pairs


def figures(*entries: Markup) -> Markup:
    """Put figures side by side where there is room, below each other where there is not."""
    return _block("box", "figures", entries) if entries else Markup()


def column(*entries: Markup) -> Markup:
    """Stack blocks to be placed among ``figures`` as one of them."""
    return _block("box", "column", entries)


def figure(drawing: Markup, title: str, note: str = "") -> Markup:
    """Show a chart below its title and one line that tells how to read it."""
    return _block("figure", drawing, title, note)


def legend(entries: Sequence[tuple[Markup, str, str]], *, above: bool = False) -> Markup:
    """List (mark, name, figure) of what a drawing shows; the browser breaks the lines.

    Args:
        entries: The mark is a small drawing in the colour of what it stands for.
        above: Whether the list stands above what it explains, not below.

    Returns:
        Markup; empty if there are no entries.
    """
    return _block("legend", entries, "legend above" if above else "legend") if entries else Markup()


def pictures(entries: Sequence[Picture], *, small: bool = False) -> Markup:
    """Show images in a grid; the bytes lie inside the page.

    Args:
        entries: JPEG images and what is written below them.
        small: For thumbnails.

    Returns:
        Markup; empty if there are none.
    """
    return _block("pictures", entries, small) if entries else Markup()


def live_text(number: int, text: str) -> Markup:
    """Write a text that the script of the page replaces: the one of this number in its data."""
    return _block("live_text", number, text)


def threshold_bar(
    scale: str, shown: Markup, last: int, start: int, found: Markup, right: Markup
) -> Markup:
    """Show a slider at the lower edge of the window; without scripts it is not there.

    Args:
        scale: What the threshold is of.
        shown: The threshold, as a text that follows the slider.
        last: Number of the last position; the first one is 0.
        start: Where it stands at first.
        found: What share of the objects is found, likewise.
        right: What share of the detections is right, likewise.
    """
    return _block("threshold_bar", scale, shown, last, start, found, right)


def live_pictures(entries: Sequence[tuple[bytes, str, str, Markup]]) -> Markup:
    """Show images with drawings over them, which the script of the page changes.

    Args:
        entries: JPEG, title, line below it and drawing of each.

    Returns:
        Markup; empty if there are none.
    """
    shown = [(Picture(jpeg, title, note), drawing) for jpeg, title, note, drawing in entries]
    return _block("live_pictures", shown) if shown else Markup()


def gallery(
    entries: Sequence[Mapping[str, object]], choices: Sequence[Choice], *, small: bool = False
) -> Markup:
    """Show linked pictures with switches that choose which are shown, and their order.

    The switches are radio buttons, and CSS does the rest: rules of the page say what
    ``#ID:checked ~ .gallery`` shows.

    Args:
        entries: Dicts of ``source`` (URL of the picture, empty for none), ``title``, ``note``,
            ``classes`` and ``style`` of each.
        choices: The switches; one of each group is on at first.
        small: For thumbnails.

    Returns:
        Markup.
    """
    return _block("gallery", entries, choices, small)


def whole_picture(picture: Picture, *, beside: bool = False) -> Markup:
    """Show an image of any shape uncut, with its title below.

    Args:
        picture: A JPEG image; its note is not shown.
        beside: Whether it stands beside figures, narrow; otherwise it is as wide as the page.

    Returns:
        Markup.
    """
    return _block("whole_picture", picture, "beside" if beside else "wide")


def details(summary: str, *blocks: object, is_open: bool = False) -> Markup:
    """Hide blocks behind a line that opens them when it is clicked."""
    return _block("details", summary, [block(each) for each in blocks], is_open)


def block(content: object) -> Markup:
    """Markup as it is; plain text as a paragraph that escapes it."""
    return content if isinstance(content, Markup) else paragraph(content)


class Section(NamedTuple):
    """A part of a page: its anchor, its heading and its blocks."""

    anchor: str
    title: str
    content: Markup


@dataclass
class Page:
    """Builds an HTML page section by section.

    All text is escaped; only what the functions of this module and of ``charts`` return is markup.

    Args:
        title: Heading and title of the window.
        subtitle: One line below it.
        footer: One line at the end.
        style: Rules of this page, behind those of all pages.
        local_images: Whether it may show images that lie beside it, too.
        script: A script of ours that lies in the page, the only one that may run there.
        data: What the script reads.

    Example:
        >>> page = Page("Report")
        >>> page.add_section("Figures", tiles([Tile("AP50", "0.904")]))
        >>> page.render().startswith("<!DOCTYPE html>")
        True
    """

    title: str
    subtitle: str = ""
    footer: str = ""
    style: Markup = field(default_factory=Markup)
    local_images: bool = False
    script: str = ""
    data: object = None
    _sections: list[Section] = field(default_factory=list, init=False, repr=False)

    def add_section(self, title: str, *blocks: object) -> None:
        """Append a section; without a title it is an opening block that the contents leave out.

        Args:
            title: Its heading.
            blocks: Markup, or plain text that becomes a paragraph.
        """
        words = re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")
        anchor = f"{len(self._sections) + 1}-{words}"  # the number keeps anchors unique
        content = Markup("\n").join(block(each) for each in blocks)
        self._sections.append(Section(anchor, title, content))

    def render(self) -> str:
        """Write the page.

        Returns:
            A whole HTML document, to be saved as UTF-8.
        """
        titled = [section for section in self._sections if section.title]
        style = Markup(STYLE_FILE.read_text(encoding="utf-8")) + self.style  # noqa: S704 - our own
        return (
            _templates()
            .get_template("page.html")
            .render(
                page=self,
                style=style,
                sections=self._sections,
                listed=titled if len(titled) >= FEWEST_LISTED_SECTIONS else [],
                script=Markup(self.script),  # noqa: S704 - our own
                data=_data_text(self.data),
                digest=base64.b64encode(hashlib.sha256(self.script.encode()).digest()).decode(),
            )
        )


def _data_text(data: object) -> Markup:
    """JSON that nothing in it can end early: no "<" is left, and nothing that cannot be shown."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - nothing in it is markup
