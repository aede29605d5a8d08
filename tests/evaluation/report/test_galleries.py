"""The page of what was found: every image, the switches, and nothing from outside."""

import re
from pathlib import Path

import pytest

from html_checks import Document
from sppnet.evaluation.report import write_found_page

NAMES = ("cat", "dog", "unicorn")
COUNTS = {"a/x.jpg": [2, 1, 0], "b/x.jpg": [0, 0, 0], "c/x.jpg": [0, 3, 0], "d.jpg": None}


def _page(tmp_path: Path, counts=COUNTS, names=NAMES, pictures=None) -> tuple[Document, str]:
    pictures = pictures or {each: f"overlays/{each}" for each in counts if counts[each]}
    write_found_page(tmp_path / "index.html", counts, names, pictures)
    markup = (tmp_path / "index.html").read_text(encoding="utf-8")
    return Document(markup), markup


def _figures(document: Document) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in document.elements if tag == "figure"]


def test_every_image_has_its_counts(tmp_path: Path) -> None:
    document, _ = _page(tmp_path)
    text = document.visible_text()
    for part in ("a/x.jpg", "2 cat, 1 dog", "b/x.jpg", "nothing", "3 dog", "could not be read"):
        assert part in text
    assert [each["class"] for each in _figures(document)] == ["c0 c1", "none", "c1", "failed"]
    assert _figures(document)[0]["style"] == "--n: 3; --n0: 2; --n1: 1"


def test_switches_are_of_what_was_found_and_one_is_on(tmp_path: Path) -> None:
    document, markup = _page(tmp_path)
    inputs = {each["id"]: each for tag, each in document.elements if tag == "input"}
    orders = {"by-name", "most-first", "fewest-first"}
    assert set(inputs) == {"all", "c0", "c1", "none", *orders}
    assert [name for name in inputs if "checked" in inputs[name]] == ["all", "by-name"]
    labels = {each["for"] for tag, each in document.elements if tag == "label"}
    assert labels == set(inputs)
    assert "#c1:checked ~ .gallery > figure:not(.c1) { display: none; }" in markup
    rule = "#c1:checked ~ #most-first:checked ~ .gallery > figure { order: calc(-1 * var(--n1, 0));"
    assert rule in markup


def test_nothing_is_loaded_but_pictures_beside_the_page(tmp_path: Path) -> None:
    odd = 'cam 1/a"b#?%20<b>é.jpg'
    counts = {odd: [1, 0, 0], **COUNTS}
    document, markup = _page(tmp_path, counts, pictures={odd: f"overlays/{odd}"})
    assert document.count("script") == 0
    links = [
        value
        for _, attributes in document.elements
        for name in ("src", "href")
        if (value := attributes.get(name))
    ]
    assert set(links) == {"overlays/cam%201/a%22b%23%3F%2520%3Cb%3E%C3%A9.jpg"}
    assert "<b>" not in markup
    policy = re.search('Content-Security-Policy" content="([^"]*)"', markup).group(1)
    assert policy.startswith("default-src 'none'; img-src data: 'self' file:;")


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "}</style><b>", "&amp;"])
def test_names_of_classes_and_images_are_text(tmp_path: Path, hostile: str) -> None:
    document, markup = _page(tmp_path, {hostile: [1]}, (hostile,), {hostile: "overlays/x.jpg"})
    assert document.count("script") == document.count("b") == 0
    assert markup.count("</style>") == 1
    assert hostile in document.visible_text()


def test_a_page_of_nothing(tmp_path: Path) -> None:
    document, _ = _page(tmp_path, {"a.jpg": [0]}, ("cat",))
    assert "nothing" in document.visible_text()


def test_a_page_of_very_many_images_shows_the_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("sppnet.evaluation.report.galleries.MOST_PICTURES", 2)
    document, _ = _page(tmp_path)
    assert [each["class"] for each in _figures(document)] == ["c0 c1", "none"]
    text = document.visible_text()
    assert "The first 2 of 4 images are shown" in text
    assert "Not readable" in text  # the figures above are of all
    assert "dog (1)" in text
    assert "dog (2)" not in text
