"""Checks of a page that several tests share: well-formed, self-contained, nothing unescaped."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

VOID = {"br", "img", "input", "meta", "circle", "line", "path", "polyline", "rect"}


class Document(HTMLParser):
    """Collects elements and visible text; fails on a tag that is closed in the wrong place."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(markup)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert tag in VOID or not self.get_starttag_text().endswith("/>"), tag
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID, f"<{tag} /> has content"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in {"style", "script"}:
            self.text.append(data)

    def count(self, tag: str) -> int:
        """Number of elements of a kind."""
        return sum(name == tag for name, _ in self.elements)

    def visible_text(self) -> str:
        """All text, in order."""
        return " ".join(self.text)


def check_page(markup: str) -> Document:
    """Fail unless the page is well-formed, self-contained and runs no script but ours."""
    document = Document(markup)
    check_scripts(markup, document)
    for tag, attributes in document.elements:
        for name in ("src", "href", "action", "data", "srcset"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("data:image/jpeg;base64,", "#")), (tag, value)
        assert not any(name.startswith("on") for name in attributes)
    style = "".join(re.findall("<style>(.*?)</style>", markup, re.DOTALL))
    assert "@import" not in style
    assert "url(" not in style
    for drawing in re.findall("<svg.*?</svg>", markup, re.DOTALL):
        ElementTree.fromstring(drawing)
    return document


def check_scripts(markup: str, document: Document) -> None:
    """Fail unless the only script is the one whose digest the page names, and its data are JSON."""
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", markup, re.DOTALL)
    assert document.count("script") == len(scripts)
    allowed = re.findall(r"script-src 'sha256-([^']*)'", markup)
    assert markup.count("script-src") == len(allowed) == len(scripts) // 2
    if scripts:
        (data_kind, data), (kind, script) = scripts
        assert (data_kind, kind) == (' type="application/json" id="live-data"', "")
        assert not set("<>&") & set(data)
        json.loads(data)
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() == allowed[0]


def drawing(markup: str) -> ElementTree.Element:
    """The first SVG of a chart, parsed."""
    return ElementTree.fromstring(re.search("<svg.*?</svg>", markup, re.DOTALL).group())


def has_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """Elements of a class."""
    return [e for e in root.iter() if name in (e.get("class") or "").split()]
