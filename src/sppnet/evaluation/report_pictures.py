"""Images of a report: hits and misses drawn, thumbnails; a file that fails is left out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from sppnet.errors import InputError
from sppnet.evaluation.markup import Html, element
from sppnet.evaluation.operating_point import JudgedImage
from sppnet.evaluation.overlays import (
    FALSE_ALARM,
    HIT,
    MISS,
    draw_hits_and_misses,
    fit_picture,
    to_jpeg_bytes,
    to_picture,
)
from sppnet.evaluation.page import Picture
from sppnet.evaluation.svg import swatch
from sppnet.geometry import Detections

LoadImage = Callable[[Path], Tensor]

SCENE_SIDE = 640
THUMBNAIL_SIDE = 224


def scene_pictures(
    entries: Sequence[JudgedImage],
    detections: Mapping[Any, Detections],
    names: Sequence[str],
    score_threshold: float,
    load: LoadImage,
) -> list[Picture]:
    """Draw images with their hits, false alarms and misses.

    Args:
        entries: Images to show, in this order.
        detections: By image id.
        names: Class names.
        score_threshold: Lowest score that is drawn.
        load: Reads an image file; one that raises ``InputError`` is left out.

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
        shown.append(_scene(entry, pixels, found, names, score_threshold))
    return shown


def _scene(
    entry: JudgedImage,
    pixels: Tensor,
    found: Detections,
    names: Sequence[str],
    score_threshold: float,
) -> Picture:
    """One image, reduced before drawing so that lines and letters come out sharp."""
    picture, (scale_x, scale_y) = fit_picture(to_picture(pixels), SCENE_SIDE)
    scale = found.boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
    drawn = draw_hits_and_misses(
        picture,
        entry.image.boxes * scale,
        entry.image.labels,
        Detections(found.boxes * scale, found.scores, found.labels),
        names,
        score_threshold=score_threshold,
        truth_ignored=entry.image.difficult | entry.image.crowd,
    )
    note = [(entry.hits, "hit"), (entry.false_alarms, "false alarm"), (entry.misses, "missed")]
    text = ", ".join(
        f"{number} {noun}{'' if number == 1 or noun == 'missed' else 's'}"
        for number, noun in note
        if number
    )
    return Picture(to_jpeg_bytes(drawn), Path(entry.image.path).name, text or "nothing to find")


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


def scene_legend() -> Html:
    """What the colours of hits and misses mean."""
    entries = [
        (HIT, False, "found (tick, with its score)"),
        (FALSE_ALARM, False, "false alarm (cross)"),
        (MISS, True, "missed (dashed)"),
    ]
    items = [
        element("li", swatch(colour, is_dashed=is_dashed), element("span", text))
        for colour, is_dashed, text in entries
    ]
    return element("ul", *items, class_="legend above")
