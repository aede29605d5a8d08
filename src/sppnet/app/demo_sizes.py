"""The section of the demo's report that shows one network on images of any size and shape."""

import base64
from collections.abc import Mapping, Sequence

from sppnet.app.demo_figures import accuracy_figure
from sppnet.app.demo_pictures import draw_joined, join_scenes
from sppnet.app.demo_scores import DemoScores
from sppnet.app.demo_steps import DemoSteps
from sppnet.detection import Detector, EncodedImage
from sppnet.evaluation import to_jpeg_bytes
from sppnet.evaluation.error_analysis import OperatingPoint
from sppnet.evaluation.report.html import Html, Picture, element, figures, table
from sppnet.images import LabelledImage, load_image
from sppnet.pooling import num_bins

NO_BREAK = "\u00a0"
STRIP_SIDE, TOWER_SIDE = 240, 260
STRIP_SCENES, TOWER_SCENES = 3, 2


def size_blocks(
    scores: DemoScores, steps: DemoSteps, detector: Detector, point: OperatingPoint
) -> list[object]:
    """Show the same weights on shapes that nobody trained them for.

    Args:
        scores: With the held-out scenes.
        steps: With the plan.
        detector: The trained one.
        point: The score threshold of the pictures.

    Returns:
        What the section holds.
    """
    scenes = [image for image in scores.images if len(image.labels)]
    strip = join_scenes(_first(scenes, STRIP_SCENES, upright=False), STRIP_SIDE)
    tower = join_scenes(_first(scenes, TOWER_SCENES, upright=True), TOWER_SIDE, upright=True)
    encoded = {"panorama": detector.encode(strip.pixels), "tower": detector.encode(tower.pixels)}
    threshold = point.score_threshold
    wide = draw_joined(strip, detector, encoded["panorama"], threshold)
    high = draw_joined(tower, detector, encoded["tower"], threshold)
    for name, image in zip(("smallest scene", "largest scene"), _extremes(scenes), strict=True):
        encoded[name] = detector.encode(load_image(image.path))
    text = (
        "The pyramid pools every window, whatever its size and shape, into the same "
        f"{num_bins(steps.plan.window_levels)} bins; so the layers after it fit every image. Here "
        "the detector looks at held-out scenes that were joined into a panorama and a tower. They "
        "are convolved as they are: nothing is cropped or squeezed."
    )
    chart = accuracy_figure(scores, steps.plan)
    sizes = _size_table(encoded, detector.encoder.length)
    return [
        text,
        _wide_picture(Picture(to_jpeg_bytes(wide, wide.width), f"Panorama, {strip.words}")),
        figures(
            _side_picture(Picture(to_jpeg_bytes(high, high.height), f"Tower, {tower.words}")),
            element("div", chart, sizes, style="flex:0 1 28.75rem;min-width:0"),
        ),
    ]


def _first(scenes: Sequence[LabelledImage], count: int, *, upright: bool) -> list[LabelledImage]:
    """The first scenes that are higher than wide, or the first of the others."""
    others_last = sorted(scenes, key=lambda each: (each.size_hw[0] > each.size_hw[1]) != upright)
    return others_last[:count]


def _extremes(scenes: Sequence[LabelledImage]) -> tuple[LabelledImage, LabelledImage]:
    """The scenes of the fewest and of the most pixels."""
    ranked = sorted(scenes, key=lambda image: image.size_hw[0] * image.size_hw[1])
    return ranked[0], ranked[-1]


def _size_table(encoded: Mapping[str, EncodedImage], length: int) -> Html:
    """Pixels of some images, cells of their maps, and the numbers that describe a window."""
    rows = [
        (
            name,
            _across(each.image_size_hw),
            ", ".join(_across((features.shape[2], features.shape[3])) for features in each.maps),
            f"{length:,}",
        )
        for name, each in encoded.items()
    ]
    return table(("image", "pixels", "cells of its maps", "numbers per window"), rows)


def _across(size_hw: tuple[int, int]) -> str:
    """Width and height, as people write them, on one line."""
    return f"{size_hw[1]:,}{NO_BREAK}\u00d7{NO_BREAK}{size_hw[0]:,}"


def _wide_picture(picture: Picture) -> Html:
    """A picture as wide as the page."""
    return _framed(picture, "width:100%;margin:0 0 1.75rem")


def _side_picture(picture: Picture) -> Html:
    """A tall picture beside a chart."""
    return _framed(picture, "flex:0 1 13rem")


def _framed(picture: Picture, style: str) -> Html:
    """A picture of any shape with its title below."""
    source = "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode("ascii")
    image = element(
        "img",
        src=source,
        alt=picture.title,
        style="display:block;width:100%;border-radius:.375rem",
    )
    caption = element("figcaption", picture.title, style="margin-top:.35rem")
    return element("figure", image, caption, style=style)
