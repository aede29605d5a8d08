"""The page builder: well-formed, self-contained, everything escaped."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from html_checks import Document, check_page
from sppnet.evaluation.report.charts import svg_element
from sppnet.evaluation.report.html import (
    Page,
    Picture,
    Tile,
    details,
    escape,
    figure,
    figures,
    heading,
    name_values,
    paragraph,
    pictures,
    table,
    tiles,
)

HOSTILE = '<script>alert("x")</script> & \' -->'


def full_page(text: str) -> str:
    page = Page(text, text, text)
    page.add_section("", tiles([Tile(text, text, text)]))
    page.add_section(text, text, paragraph(text, note=True), heading(text))
    page.add_section("Table", table([text, "n"], [[text, 1]], total=[text, 2.0], caption=text))
    page.add_section("Picture", pictures([Picture(b"\xff\xd8", text, text)], small=True))
    page.add_section("Figure", figures(figure(svg_element("svg"), text, text)))
    page.add_section("Details", details(text, text, name_values({text: {text: text}})))
    return page.render()


def test_page_is_well_formed_and_self_contained():
    document = check_page(full_page("plain"))
    assert document.count("section") == 6
    assert document.count("h1") == 1
    assert document.count("h2") == 5


def test_every_text_is_escaped_and_still_readable():
    markup = full_page(HOSTILE)
    document = check_page(markup)
    assert "<script" not in markup
    # title, heading, subtitle, footer, tile, section, paragraph, table, ... all show it as it is
    assert document.visible_text().count(HOSTILE) >= 20


@given(st.text())
def test_any_text_stays_text(text):
    drawing = svg_element("g", svg_element("text", text), title=text)
    for markup, tags in ((drawing, ["g", "text"]), (paragraph(text, note=True), ["p"])):
        assert [tag for tag, _ in Document(markup).elements] == tags
        markup.encode("utf-8")  # lone surrogates would fail


def test_unshowable_characters_are_replaced():
    assert escape("a\x00b\udcff\u202ec") == "a\ufffdb\ufffd\ufffdc"
    assert paragraph("a\x00", paragraph("\udcff")) == "<p>a\ufffd<p>\ufffd</p></p>"


def test_markup_is_not_escaped_twice():
    assert paragraph("<", escape(Markup("&lt;"))) == "<p>&lt;&lt;</p>"


def test_sections_have_distinct_anchors_that_the_contents_link_to():
    page = Page("t")
    for _ in range(3):
        page.add_section("Same name", "text")
    document = check_page(page.render())
    anchors = [a["id"] for tag, a in document.elements if tag == "section"]
    links = [a["href"] for tag, a in document.elements if tag == "a"]
    assert len(set(anchors)) == 3
    assert links == [f"#{anchor}" for anchor in anchors]


def test_empty_page_and_empty_blocks():
    check_page(Page("").render())
    assert tiles([]) == pictures([]) == figures() == name_values({}) == ""
    assert check_page(table(["a"], [])).count("th") == 1


def test_table_aligns_numbers_and_marks_what_is_missing():
    markup = table(["name", "ap"], [["a", 0.5], ["b", float("nan")], ["c", None]], decimals=2)
    assert '<td class="number">0.50</td>' in markup
    assert markup.count('<td class="number">\u2013</td>') == 2


def test_table_names_the_row_that_does_not_fit():
    with pytest.raises(ValueError, match="2 cells, got 1 cells in row 1"):
        table(["a", "b"], [[1, 2], [3]])


def test_page_is_readable_on_phones_dark_screens_and_paper():
    markup = Page("t").render()
    assert 'name="viewport"' in markup
    assert "prefers-color-scheme: dark" in markup
    assert "@media print" in markup
    assert markup.startswith("<!DOCTYPE html>")


def test_page_forbids_itself_to_load_anything():
    metas = [values for tag, values in check_page(Page("t").render()).elements if tag == "meta"]
    policies = [v["content"] for v in metas if v.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_nested_configuration_is_shown_with_dotted_names():
    assert '<th scope="row">svm.c</th><td>0.5</td>' in name_values({"svm": {"c": 0.5}})
    assert json.dumps([1, 2]) in name_values({"levels": [1, 2]})
