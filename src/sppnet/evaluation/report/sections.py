"""Sections that several reports share, and pictures with what was found on them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from markupsafe import Markup
from torch import Tensor

from sppnet.errors import InputError, Problem, count_of
from sppnet.evaluation.error_analysis import ImageCounts
from sppnet.evaluation.report.axes import seconds_text
from sppnet.evaluation.report.charts import bar_chart, svg_element
from sppnet.evaluation.report.html import (
    Page,
    Picture,
    details,
    figure,
    figures,
    legend,
    name_values,
    paragraph,
    table,
)
from sppnet.evaluation.visualize import (
    FALSE_NEGATIVE_COLOUR,
    FALSE_POSITIVE_COLOUR,
    SCENE_SIDE,
    TRUE_POSITIVE_COLOUR,
    LoadImage,
    draw_matches,
    fit_picture,
    to_jpeg_bytes,
    to_picture,
)
from sppnet.geometry import Detections

LARGEST_OPEN_TABLE = 10
MOST_PROBLEMS = 500
MOST_BARS = 30
THUMBNAIL_SIDE = 224


def add_time_section(page: Page, seconds: Mapping[str, float]) -> None:
    """Append the time per stage as bars; nothing if nothing was measured.

    Args:
        page: Appended to.
        seconds: By stage, in the order of the work.
    """
    drawn = time_figure(seconds)
    if drawn:
        page.add_section("Time", figures(drawn))


def time_figure(seconds: Mapping[str, float]) -> Markup | None:
    """The time per stage as bars; None if nothing was measured."""
    if not seconds:
        return None
    bars = bar_chart(
        list(seconds),
        list(seconds.values()),
        label="time per stage",
        largest=None,
        value_text=seconds_text,
    )
    return figure(bars, "Time per stage", f"{seconds_text(math.fsum(seconds.values()))} in all.")


def seen_warnings(seen: int | None, images: int) -> list[str]:
    """Say that images which are scored on were trained on, or that nobody knows.

    Args:
        seen: How many of the images the model was trained on; None if it does not say.
        images: How many are scored on.

    Returns:
        One sentence, or none where no image was seen.

    Example:
        >>> seen_warnings(3, 8), seen_warnings(0, 8)
        (['the model was trained on 3 of these 8 images: the figures are too high'], [])
    """
    if seen is None:
        return ["the model does not say which images it was trained on: these may be among them"]
    these = f"{seen} of these {images} images" if images > 1 else "this image"
    words = f"the model was trained on {these}"
    return [f"{words}: the figures are too high"] if seen else []


def add_warning_section(page: Page, warnings: Sequence[str]) -> None:
    """Append what a reader has to know before any figure; nothing without warnings.

    Args:
        page: Appended to.
        warnings: A sentence each.
    """
    if warnings:
        page.add_section("Warning", *(paragraph(f"{w[0].upper()}{w[1:]}.") for w in warnings))


def add_problem_section(page: Page, problems: Sequence[Problem]) -> None:
    """Append what was wrong with the input files, and what was done about it.

    Args:
        page: Appended to.
        problems: Findings; a long list is folded, a very long one cut, and it says so.
    """
    if not problems:
        page.add_section("Problems in the input", "None: every file could be used as it is.")
        return
    rows = [
        (entry.path, entry.line, entry.rule, entry.action or None, entry.code)
        for entry in problems[:MOST_PROBLEMS]
    ]
    listing = table(("file", "line", "what is wrong", "what was done", "code"), rows)
    number = f"{len(problems):,} finding{'s' if len(problems) > 1 else ''}"
    if len(problems) > MOST_PROBLEMS:
        number += f", the first {MOST_PROBLEMS} of them below"
    shown = listing if len(rows) <= LARGEST_OPEN_TABLE else details("Show all", listing)
    page.add_section("Problems in the input", paragraph(f"{number}. The rest was used."), shown)


def add_origin_section(
    page: Page, config: Mapping[str, object], versions: Mapping[str, str]
) -> None:
    """Append what is needed to make the page again: settings and versions.

    Args:
        page: Appended to.
        config: Every setting of the run.
        versions: Of the packages.
    """
    named = (("Configuration", config), ("Versions", versions))
    blocks = [details(title, name_values(values)) for title, values in named if values]
    if blocks:
        page.add_section("How this was made", *blocks)


def in_columns(*blocks: Markup | None) -> Markup:
    """Put the figures that are not None side by side."""
    return figures(*(block for block in blocks if block))


def counted(number: int, noun: str) -> str:
    """Write a number with its noun, on one line.

    Example:
        >>> [counted(n, "class").replace("\u00a0", " ") for n in (1, 1200)]
        ['1 class', '1,200 classes']
    """
    return count_of(number, noun).replace(" ", "\u00a0")


def class_bars(values: Mapping[str, float], title: str) -> Markup:
    """Bars of the classes, the best on top; of more than 30 only the best and the worst 15.

    Args:
        values: By class name, 0..1; NaN for a class that could not be measured.
        title: What is measured.

    Returns:
        A figure.
    """
    ranked, note = ranked_names(values), "Sorted; a full bar is 1."
    if len(ranked) > MOST_BARS:
        half = MOST_BARS // 2
        ranked = [*ranked[:half], *ranked[-half:]]
        note = f"The best {half} and the worst {half} classes; a full bar is 1."
    bars = bar_chart(ranked, [values[name] for name in ranked], label=title)
    return figure(bars, title, note)


def ranked_names(values: Mapping[str, float]) -> list[str]:
    """Names by value, the highest first, those without a value last.

    Example:
        >>> ranked_names({"a": 0.2, "b": float("nan"), "c": 0.9})
        ['c', 'a', 'b']
    """
    return sorted(values, key=lambda name: -values[name] if math.isfinite(values[name]) else 2.0)


def scene_pictures(
    entries: Sequence[ImageCounts],
    detections: Mapping[Any, Detections],
    names: Sequence[str],
    score_threshold: float,
    load: LoadImage,
    files: Mapping[Any, str] = MappingProxyType({}),
) -> list[Picture]:
    """Draw images with their true positives, false positives and false negatives.

    Args:
        entries: Images to show, in this order.
        detections: By image id.
        names: Class names.
        score_threshold: Lowest score that is drawn.
        load: Reads an image file; one that raises ``InputError`` is left out.
        files: By image id, the title of its picture; the name of the file if it is missing.

    Returns:
        Pictures of at most 640 pixels.
    """
    shown = []
    for entry in entries:
        try:
            pixels = load(Path(entry.image.path))
        except InputError:
            continue
        found = detections.get(entry.image.image_id, Detections.empty())
        title = files.get(entry.image.image_id, Path(entry.image.path).name)
        shown.append(_scene(entry, pixels, found, names, score_threshold, title))
    return shown


def _scene(
    entry: ImageCounts,
    pixels: Tensor,
    found: Detections,
    names: Sequence[str],
    score_threshold: float,
    title: str,
) -> Picture:
    """One image, reduced before it is drawn on, so that lines and letters are sharp."""
    picture, (scale_x, scale_y) = fit_picture(to_picture(pixels), SCENE_SIDE)
    scale = found.boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
    drawn = draw_matches(
        picture,
        entry.image.boxes * scale,
        entry.image.labels,
        Detections(found.boxes * scale, found.scores, found.labels, found.confidence),
        names,
        score_threshold=score_threshold,
        truth_ignored=entry.image.difficult | entry.image.crowd,
    )
    note = [
        (entry.true_positives, "true positive"),
        (entry.false_positives, "false positive"),
        (entry.false_negatives, "false negative"),
    ]
    text = ", ".join(count_of(number, noun) for number, noun in note if number)
    return Picture(to_jpeg_bytes(drawn), title, text or "nothing to find")


def thumbnails(entries: Sequence[tuple[str, str, str]], load: LoadImage) -> list[Picture]:
    """Small pictures with a caption.

    Args:
        entries: (Path, title, note) of each.
        load: Reads an image file; one that raises ``InputError`` is left out.

    Returns:
        Pictures of at most 224 pixels.
    """
    shown = []
    for path, title, note in entries:
        try:
            jpeg = to_jpeg_bytes(load(Path(path)), THUMBNAIL_SIDE)
        except InputError:
            continue
        shown.append(Picture(jpeg, title, note))
    return shown


def scene_legend() -> Markup:
    """Explain the colours of the boxes."""
    entries = [
        (_outline(TRUE_POSITIVE_COLOUR), "true positive, right", ""),
        (_outline(FALSE_POSITIVE_COLOUR), "false positive, wrong", ""),
        (_outline(FALSE_NEGATIVE_COLOUR, dashes="3.5 2"), "false negative, missed", ""),
    ]
    return legend(entries, above=True)


def _outline(colour: tuple[int, int, int], dashes: str | None = None) -> Markup:
    """An outline in a colour of the pictures, which are the same in light and dark."""
    line = svg_element(
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
    return svg_element("svg", line, width=20, height=14, viewBox="0 0 20 14", aria_hidden="true")
