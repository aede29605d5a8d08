"""The report of the demo: one page with what was learnt, beside untrained models and chance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sppnet.app.demo.figures import (
    CHANCE,
    TRAINED,
    UNTRAINED,
    DemoScores,
    accuracy_figure,
    class_curve_figure,
    class_figure,
    draw_joined,
    join_scenes,
    joint_curve_figure,
    learning_figure,
    proposal_figure,
    score_figure,
)
from sppnet.detection import Detector, EncodedImage
from sppnet.evaluation import (
    OperatingPoint,
    best_and_worst,
    best_operating_point,
    count_matches,
    to_jpeg_bytes,
)
from sppnet.evaluation.report import (
    Page,
    Picture,
    Tile,
    add_origin_section,
    column,
    counted,
    details,
    figures,
    heading,
    paragraph,
    pictures,
    scene_legend,
    scene_pictures,
    score_text,
    seconds_text,
    table,
    tiles,
    whole_picture,
)
from sppnet.images import LabelledImage, load_image
from sppnet.pooling import num_bins
from sppnet.storage import write_text

if TYPE_CHECKING:
    from sppnet.app.demo.steps import DemoConfig, DemoSteps

NO_BREAK = "\u00a0"
STRIP_SIDE, TOWER_SIDE = 240, 260
STRIP_SCENES, TOWER_SCENES = 3, 2
FIRST_SCENES, WORST_SCENES = 8, 2


def write_demo_report(
    path: Path,
    steps: "DemoSteps",
    scores: DemoScores,
    seconds: Mapping[str, float],
    detector: Detector,
    about: Mapping[str, Any],
) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        steps: What was done.
        scores: What was measured.
        seconds: By step, and "total".
        detector: The trained one, for the pictures of odd shapes.
        about: The record of the run, with its configuration and versions.

    Raises:
        OutputError: If it cannot be written.
    """
    config = steps.config
    point = best_operating_point(scores.images, scores.detections[TRAINED])
    page = Page(
        "sppnet demo", _subtitle(config, scores), "Every figure: metrics.json, beside this page."
    )
    page.add_section("", tiles(_key_figures(scores, seconds)))
    page.add_section("What was found", *_scene_blocks(scores, point))
    page.add_section("Is it learning?", *_comparison_blocks(scores))
    page.add_section("One network, any size", *size_blocks(scores, steps, detector, point))
    page.add_section("What was done", *_step_blocks(config, scores, seconds))
    page.add_section("Closer", *_detail_blocks(scores, steps.history()))
    page.add_section("Go on from here", *_next_blocks(path.parent, config))
    add_origin_section(
        page, {"seed": steps.seed, **about.get("configuration", {})}, about.get("versions", {})
    )
    write_text(path, page.render())


def _subtitle(config: "DemoConfig", scores: DemoScores) -> str:
    """One line that says what the page shows."""
    return (
        f"Spatial pyramid pooling, from random weights to a detector on this machine: "
        f"{counted(config.train_scenes, 'scene')} to learn from, {config.test_scenes} kept back, "
        f"{counted(len(scores.names), 'class')}, nothing downloaded"
    )


def _key_figures(scores: DemoScores, seconds: Mapping[str, float]) -> list[Tile]:
    """Both scores and both times, for a reader in a hurry."""

    def beside(values: Mapping[str, Mapping[str, Any]], key: str) -> str:
        untrained, chance = values[UNTRAINED][key], values[CHANCE][key]
        words = f"untrained_{score_text(untrained)}, chance_{score_text(chance)}"
        return words.replace("_", NO_BREAK)

    detector, classifier = scores.detector, scores.classifier
    time = seconds_text(scores.seconds_per_image)
    return [
        Tile("Detector, AP50", score_text(detector[TRAINED]["ap50"]), beside(detector, "ap50")),
        Tile(
            "Classifier, top-1", score_text(classifier[TRAINED]["top1"]), beside(classifier, "top1")
        ),
        Tile("Time per scene", time, "from the file to the boxes, others beside it"),
        Tile(
            "From nothing to here", seconds_text(seconds["total"]), "drawing and scoring included"
        ),
    ]


def _scene_blocks(scores: DemoScores, point: OperatingPoint) -> list[object]:
    """The first held-out scenes and the worst ones, with what was found and missed."""
    found = scores.detections[TRAINED]
    counts = count_matches(scores.images, found, point.score_threshold)
    first = [entry for entry in counts if len(entry.image.labels)][:FIRST_SCENES]
    shown = {entry.image.image_id for entry in first}
    others = [entry for entry in counts if entry.image.image_id not in shown]
    worst = best_and_worst(others, WORST_SCENES)[1]

    def drawn(entries: Sequence[Any]) -> Markup:
        names, threshold = scores.names, point.score_threshold
        return pictures(scene_pictures(entries, found, names, threshold, load_image))

    text = (
        f"The first {len(first)} of the {len(scores.images)} scenes that nothing was learnt from, "
        f"not picked. Shown are detections that score at least {point.score_threshold:z.2f}: "
        f"of all objects in the {len(scores.images)} scenes {point.recall:.0%} are found, and "
        f"{point.precision:.0%} of the detections are right."
    )
    blocks: list[object] = [text, scene_legend(), drawn(first)]
    if worst:
        blocks += [heading("Most mistakes among the others"), drawn(worst)]
    return blocks


def _comparison_blocks(scores: DemoScores) -> list[object]:
    """The trained models beside untrained ones and chance."""
    text = (
        "Untrained: the same network, proposals and linear classifiers on convolutions of random "
        "weights, so that only their last layer has learnt. Chance: the same proposals with random "
        f"scores, and one guess in {len(scores.names)}. All three answer for the same held-out "
        "drawings."
    )
    return [
        text,
        figures(joint_curve_figure(scores), score_figure(scores)),
    ]


def size_blocks(
    scores: DemoScores, steps: "DemoSteps", detector: Detector, point: OperatingPoint
) -> list[object]:
    """Show the same weights on images of sizes that they were not trained for.

    Args:
        scores: With the held-out scenes.
        steps: Their configuration says which pyramid was used.
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
        "The pyramid pools every proposal, whatever its size and shape, into the same "
        f"{num_bins(steps.config.region_levels)} bins; so the layers after it fit every image. "
        "Here the detector looks at held-out scenes that were joined into a panorama and a tower. "
        "They are convolved as they are: nothing is cropped or squeezed."
    )
    chart = accuracy_figure(scores, steps.config)
    sizes = _size_table(encoded, detector.encoder.length)
    return [
        text,
        whole_picture(Picture(to_jpeg_bytes(wide, wide.width), f"Panorama, {strip.words}")),
        figures(
            whole_picture(
                Picture(to_jpeg_bytes(high, high.height), f"Tower, {tower.words}"), beside=True
            ),
            column(chart, sizes),
        ),
    ]


def _first(scenes: Sequence[LabelledImage], count: int, *, upright: bool) -> list[LabelledImage]:
    """The first scenes that are higher than wide, or the first of the others."""
    others_last = sorted(scenes, key=lambda each: (each.size_hw[0] > each.size_hw[1]) != upright)
    return others_last[:count]


def _extremes(scenes: Sequence[LabelledImage]) -> tuple[LabelledImage, LabelledImage]:
    """The scenes with the fewest and with the most pixels."""
    ranked = sorted(scenes, key=lambda image: image.size_hw[0] * image.size_hw[1])
    return ranked[0], ranked[-1]


def _size_table(encoded: Mapping[str, EncodedImage], length: int) -> Markup:
    """For some images: pixels, cells of the feature maps, and numbers that describe a proposal."""
    rows = [
        (
            name,
            _across(each.image_size_hw),
            ", ".join(_across((features.shape[2], features.shape[3])) for features in each.maps),
            f"{length:,}",
        )
        for name, each in encoded.items()
    ]
    return table(("image", "pixels", "cells of its maps", "numbers per proposal"), rows)


def _across(size_hw: tuple[int, int]) -> str:
    """Width and height in words that stay on one line."""
    return f"{size_hw[1]:,}{NO_BREAK}\u00d7{NO_BREAK}{size_hw[0]:,}"


def _step_blocks(
    config: "DemoConfig", scores: DemoScores, seconds: Mapping[str, float]
) -> list[object]:
    """The four steps with their seconds."""
    sizes = " and ".join(map(str, config.sizes))
    sides = " and ".join(map(str, config.short_sides))
    images = len(scores.names) * config.images_per_class
    proposals = scores.proposals.mean_proposals
    rows = [
        (
            "1. Draw",
            f"{config.scenes} scenes with clutter and overlap, {images} images of one object each",
            seconds["draw"],
        ),
        (
            "2. Train the classifier",
            f"from random weights, {config.epochs} epochs, inputs of {sizes} pixels in turn",
            seconds["classifier"],
        ),
        (
            "3. Train the detector",
            f"each scene is convolved once, at short sides of {sides}; about {proposals:.0f} "
            "proposals of it are pooled; one SVM per class with hard negatives; box regression",
            seconds["detector"],
        ),
        (
            "4. Score",
            "held-out drawings; and steps 2 and 3 with untrained convolutions, to compare",
            seconds["untrained"] + seconds["score"],
        ),
    ]
    timed = [
        (name.replace(" ", NO_BREAK), what, seconds_text(time).replace(" ", NO_BREAK))
        for name, what, time in rows
    ]
    whole = ("all", "", seconds_text(seconds["total"]).replace(" ", NO_BREAK))
    return [table(("step", "what", "time"), timed, total=whole)]


def _detail_blocks(scores: DemoScores, history: Sequence[Mapping[str, float]]) -> list[object]:
    """More curves, for a closer look."""
    return [
        figures(
            class_curve_figure(scores),
            class_figure(scores),
            proposal_figure(scores),
            learning_figure(history),
        )
    ]


def _next_blocks(folder: Path, config: "DemoConfig") -> list[object]:
    """Commands that use what the demo made."""
    sides, levels = (",".join(map(str, x)) for x in (config.short_sides, config.region_levels))
    rows = [
        (f"sppnet detect predict {folder}/detector IMAGES --out found", "boxes in your images"),
        (f"sppnet classify predict {folder}/classifier IMAGES --out named", "names for them"),
        (
            f"sppnet detect train {folder}/scenes --backbone small5 --weights "
            f"{folder}/trunk.safetensors --no-anchors --mirror off --crops off --imgsz {sides} "
            f"--levels {levels} --out again",
            "step 3 by hand",
        ),
        ("sppnet detect train DATA --out run", "the same on your own labelled photos"),
    ]
    return [
        paragraph(
            "This detector knows drawn objects only. What it takes to learn yours is in the README."
        ),
        details("Commands", table(("command", "what appears"), rows), is_open=True),
    ]
