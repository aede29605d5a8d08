"""HTML and SVG from nested calls: whatever is not markup already is escaped."""

import html
import re

# Control characters, lone surrogates, non-characters and the marks that reverse the order of text.
UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
WITHOUT_END_TAG = frozenset({"br", "img", "meta", "circle", "line", "path", "polyline", "rect"})

Attribute = str | int | float | bool | None


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
