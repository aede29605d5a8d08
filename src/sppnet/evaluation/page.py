"""A page that is one file: no script, no outside links, light and dark, phone and paper."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from sppnet.evaluation.markup import Html, element, join
from sppnet.evaluation.page_blocks import (
    Picture,
    Tile,
    block,
    details,
    figure,
    figures,
    heading,
    name_values,
    paragraph,
    pictures,
    table,
    tiles,
)

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
