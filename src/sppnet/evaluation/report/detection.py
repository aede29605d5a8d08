"""The report of a detector as one HTML file, and the numbers of its plots as JSON beside it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from markupsafe import Markup

from sppnet.evaluation.average_precision import RECALL_LIMITS, CocoMeasures
from sppnet.evaluation.calibration import ReliabilityDiagram
from sppnet.evaluation.comparison import PHOTOS
from sppnet.evaluation.error_analysis import (
    ERROR_TYPES,
    DetectionConfusion,
    ErrorTypes,
    best_and_worst,
    count_matches,
)
from sppnet.evaluation.operating_point import best_operating_point
from sppnet.evaluation.report.axes import score_text, seconds_text
from sppnet.evaluation.report.charts import Series, grouped_bar_chart, line_chart
from sppnet.evaluation.report.detection_figures import (
    MEASURES,
    DetectionAnalysis,
    DetectionFigures,
    comparable_paper_ap,
)
from sppnet.evaluation.report.html import (
    Page,
    Tile,
    column,
    details,
    figure,
    heading,
    paragraph,
    table,
    tiles,
)
from sppnet.evaluation.report.sections import (
    LoadImage,
    add_origin_section,
    add_problem_section,
    add_warning_section,
    class_bars,
    counted,
    in_columns,
    ranked_names,
    scene_legend,
    time_figure,
)
from sppnet.evaluation.report.thresholds import SCRIPT_FILE, LivePart, ThresholdSweep
from sppnet.geometry import Detections
from sppnet.images.dataset import LabelledImage
from sppnet.images.decode import load_compact
from sppnet.storage.files import json_text, write_json, write_text

MOST_DRAWN_CLASSES = 60
MOST_PAIRS = 12
SIZES = ("small", "medium", "large")
MEANINGS = {
    "localisation": "right class, overlap between 0.1 and 0.5",
    "classification": "an object of another class",
    "duplicate": "an object that was found already",
    "background": "nothing there",
    "both": "wrong class and too little overlap",
    "missed": "objects that nothing found",
}
_SOURCES = {
    "scores": "The scores are taken as probabilities, as they are.",
    "calibration": "Probabilities are from the model's calibration, fitted on other images.",
    "cross-calibration": (
        "The scores are margins. For this diagram they became probabilities by a sigmoid per "
        "class, fitted on four fifths of these images and shown on the rest, in turn."
    ),
}
MOST_COLOURED = 6
# More rows are folded, and only the bars shown.
LARGEST_OPEN_TABLE = 20


def write_detection_report(
    path: Path,
    images: Sequence[LabelledImage],
    detections: Mapping[Any, Detections],
    figures: DetectionFigures,
    *,
    files: Mapping[Any, str] = MappingProxyType({}),
    title: str = "Detection report",
    subtitle: str = "",
    load: LoadImage = load_compact,
) -> dict[str, object]:
    """Write ``report.html`` and, beside it, ``report.json`` with the numbers of its plots.

    The page shows the average precision of each class, precision-recall curves, the recall of the
    proposals, COCO's numbers, mistakes by kind and by class, the reliability of the scores, images
    with what was found and missed, the time of each stage, problems in the input, and the
    configuration. It needs nothing but itself: images lie inside it, reduced to 640 pixels.

    A third file, ``photos.json``, says photo by photo what is right and wrong, for
    ``sppnet compare``.

    Args:
        path: The HTML file; the JSON file has its name with another ending.
        images: What was scored, with the truth.
        detections: By image id; an image that is missing has none.
        figures: What was measured.
        files: By image id, what to call its file; the name of the file if it is missing.
        title: Heading of the page.
        subtitle: What was scored on what, for example the data set and its split.
        load: Reads the images that are shown; one that fails is left out.

    Returns:
        The numbers in the JSON file.

    Raises:
        OutputError: If a file cannot be written.
    """
    analysis = figures.analysis
    live = LivePart(ThresholdSweep.measure(images, detections, figures.names), figures.names)
    point = analysis.point if analysis else best_operating_point(images, detections)
    counts = [
        counted(len(images), "image"),
        counted(sum(len(image.labels) for image in images), "object"),
        counted(len(figures.names), "class"),
    ]
    page = Page(
        title,
        " \u00b7 ".join([*filter(None, [subtitle]), *counts]),
        f"The numbers behind every plot are in {path.with_suffix('.json').name}, beside this page.",
    )
    add_warning_section(page, figures.warnings)
    page.add_section("", tiles([live.tile(), *_key_figures(figures)]))
    page.add_section("Threshold", *_threshold_blocks(live))
    page.add_section("Average precision", *_precision_blocks(images, figures))
    if analysis is not None:
        add_analysis_sections(page, analysis, live)
    shown = _add_image_section(page, images, detections, live, files, load)
    add_problem_section(page, figures.problems)
    add_origin_section(page, figures.config, figures.versions)
    page.add_section("", live.bar())
    page.script, page.data = SCRIPT_FILE.read_text(encoding="utf-8"), live.data()
    numbers = {
        **figures.to_json(),
        "operating_point": point.to_json(),
        "sentence": live.sweep.sentence(),
        "by_threshold": live.sweep.to_json(),
        "images": shown,
    }
    write_text(path, page.render())
    write_json(path.with_suffix(".json"), numbers)
    photos = live.sweep.by_photo(images, detections, figures.names, files)
    write_text(path.with_name(PHOTOS), json_text(photos, indent=None))
    return numbers


def _key_figures(figures: DetectionFigures) -> list[Tile]:
    """The measures that there are, and the time per image."""
    entries = [
        Tile(name, score_text(figures.mean[key]), hint)
        for key, (name, hint) in MEASURES.items()
        if key in figures.mean
    ]
    if figures.seconds_per_image is not None:
        time = seconds_text(figures.seconds_per_image)
        entries.append(Tile("Time per image", time, "proposals included"))
    return entries


def _threshold_blocks(live: LivePart) -> list[Markup]:
    """What the threshold decides, by class, and all of it against the threshold."""
    columns = ("class", "objects", "found", "false", "finds", "right")
    listing = table(columns, live.class_rows())
    if len(live.names) > LARGEST_OPEN_TABLE:
        listing = details(f"All {len(live.names)} classes", listing)
    said = {
        "confidence": "A confidence is the probability that a detection is right.",
        "score": "Too few detections are right to know confidences: these are scores.",
    }[live.sweep.scale]
    text = paragraph(
        f"{said} At first the threshold with the best balance of finding and being right is set; "
        "the slider below moves it, and numbers and pictures follow.",
        note=True,
    )
    chart = figure(live.chart(), "What a threshold gives", "The dashed line is the threshold.")
    return [in_columns(chart, column(listing, text))]


def _precision_blocks(images: Sequence[LabelledImage], figures: DetectionFigures) -> list[Markup]:
    """All measures by class, with the paper's numbers if the data are the same; curves and time."""
    keys = [key for key in MEASURES if key in figures.per_class]
    paper = comparable_paper_ap(figures.names, len(images))
    counts = _object_counts(images, figures.names)
    rows: list[list[object]] = []
    for name in figures.names:
        values = [figures.per_class[key].get(name) for key in keys]
        rows.append([name, counts[name], *values, *([paper[name]] if paper else [])])
    columns = ["class", "objects", *(MEASURES[key][0] for key in keys)]
    total: list[object] = ["all", sum(counts.values()), *(figures.mean.get(key) for key in keys)]
    if paper:
        columns.append("paper (VOC07)")
        total.append(math.fsum(paper.values()) / len(paper))
    listing = table(columns, rows, total=total if len(rows) > 1 else None)
    note = "Objects marked difficult are neither asked for nor counted."
    if paper:
        note += " The paper's column: ZF-5, five scales, with box regression (He et al. 2014)."
    listed = column(listing, paragraph(note, note=True))
    bars, curves = _class_bars(figures), _curves(figures)
    if len(rows) > LARGEST_OPEN_TABLE:
        folded = details(f"All {len(rows)} classes", listing)
        return [in_columns(bars, *curves), paragraph(note, note=True), folded]
    if bars and len(rows) <= MOST_COLOURED and len(curves) % 2:  # so that no half is empty
        return [in_columns(column(listed, bars), *curves)]
    return [in_columns(listed, bars, *curves)]


def _object_counts(images: Sequence[LabelledImage], names: Sequence[str]) -> dict[str, int]:
    """Objects of each class that count."""
    counts = np.zeros(len(names), dtype=np.int64)
    for image in images:
        labels = image.labels[~(image.difficult | image.crowd)].numpy()
        counts += np.bincount(labels, minlength=len(names))[: len(names)]
    return dict(zip(names, counts.tolist(), strict=True))


def _class_bars(figures: DetectionFigures) -> Markup | None:
    """AP50 of each class; a single class needs no bars."""
    values = figures.per_class.get("ap50", {})
    return class_bars(values, "AP50 by class") if len(values) > 1 else None


def _curves(figures: DetectionFigures) -> list[Markup]:
    """Precision against recall, recall of the proposals, and the time of each stage."""
    drawn = _precision_recall_figure(figures), _proposal_figure(figures)
    return [each for each in (*drawn, time_figure(figures.seconds)) if each]


def _precision_recall_figure(figures: DetectionFigures) -> Markup | None:
    """One curve per class; of many classes only the best and the worst three are coloured."""
    if not figures.curves:
        return None
    values = {
        name: figures.per_class.get("ap50", {}).get(name, math.nan) for name in figures.curves
    }
    ranked = ranked_names(values)
    coloured = ranked if len(ranked) <= MOST_COLOURED else [*ranked[:3], *ranked[-3:]]
    series = [
        Series(name, *figures.curves[name], score_text(values[name]), name not in coloured)
        for name in ranked
    ]
    note = "At overlap 0.5; the figure after each name is its AP50."
    if len(coloured) < len(ranked):
        note += " Coloured: the best three and the worst three classes."
    chart = line_chart(series, x_label="recall", y_label="precision")
    return figure(chart, "Precision and recall", note)


def _proposal_figure(figures: DetectionFigures) -> Markup | None:
    """Share of the objects that some proposal covers, against how many are looked at."""
    if figures.proposal_recall is None:
        return None
    counts = figures.proposal_recall.num_proposals
    if not len(counts):
        return None
    series = [
        Series(f"overlap {overlap:g}", counts, shares, score_text(float(shares[-1])))
        for overlap, shares in figures.proposal_recall.recall.items()
    ]
    ends = (max(1.0, float(counts.min())), max(2.0, float(counts.max())))
    chart = line_chart(
        series, x_label="proposals per image", y_label="recall", x_range=ends, log_x=True
    )
    return figure(chart, "Recall of the proposals", f"At right: with {counts.max():,} proposals.")


def add_analysis_sections(page: Page, analysis: DetectionAnalysis, live: LivePart) -> None:
    """Append what is known beyond the average precision.

    Args:
        page: Appended to.
        analysis: The measures.
        live: What follows the threshold.
    """
    page.add_section(
        "By size, as COCO counts",
        in_columns(coco_table(analysis.coco), _size_figure(analysis.coco)),
        _coco_note(),
    )
    page.add_section(
        "Mistakes",
        "Counted are detections from the threshold on.",
        in_columns(_error_figure(analysis.errors, live), _confusion_figure(live)),
        _pairs(analysis.confusion),
    )
    if analysis.reliability is not None:
        page.add_section("Reliability of the scores", *_reliability_blocks(analysis.reliability))


def _size_figure(coco: CocoMeasures) -> Markup:
    """AP and AR by size as bars."""
    stems = {"AP": "AP", "AR": "AR100"}
    series = {name: [coco.mean[f"{stem}{size}"] for size in SIZES] for stem, name in stems.items()}
    return figure(grouped_bar_chart(SIZES, series, label="AP and AR by size"), "AP and AR by size")


def coco_table(coco: CocoMeasures) -> Markup:
    """COCO's twelve numbers, with a column for each size."""
    rows: list[list[object]] = []
    for measure in ("AP", "AP50", "AP75", *(f"AR{limit}" for limit in RECALL_LIMITS)):
        stem = {"AP": "AP", "AR100": "AR"}.get(measure)
        by_size = [coco.mean[f"{stem}{size}"] if stem else None for size in SIZES]
        rows.append([measure, coco.mean[measure], *by_size])
    return table(["measure", "all", *SIZES], rows)


def _coco_note() -> Markup:
    """What the rows and columns are."""
    return paragraph(
        "AP: mean over overlaps 0.50 to 0.95. AR: share of the objects found with 1, 10 and 100 "
        "detections per image and class. Small is up to 32\u00d732 pixels, large from 96\u00d796.",
        note=True,
    )


def _error_figure(errors: ErrorTypes, live: LivePart) -> Markup:
    """Kinds of mistakes: how many, and what they cost."""
    rows: list[list[object]] = [
        [kind, MEANINGS[kind], live.numbers(live.sweep.counts.kinds[:, n]), errors.ap_cost[kind]]
        for n, kind in enumerate(ERROR_TYPES)
    ]
    listing = table(["kind", "what it is", "count", "costs AP50"], rows)
    note = "The cost is what AP50 would gain, all scores counted, if this kind alone were mended."
    return figure(listing, "Kinds of mistakes", note)


def _confusion_figure(live: LivePart) -> Markup | None:
    """The confusion matrix, unless it is empty or too large to draw."""
    if not live.sweep.counts.confusion.any() or len(live.names) >= MOST_DRAWN_CLASSES:
        return None
    note = (
        "The shade is the share of the row, whose number stands at its right. Last column: objects "
        "not found. Last row: detections where nothing is."
    )
    return figure(live.confusion(), "Confusion", note)


def _pairs(confusion: DetectionConfusion) -> Markup:
    """The pairs of classes that are mixed up most, if any are."""
    mixed = confusion.counts[:-1, :-1].copy()
    np.fill_diagonal(mixed, 0)
    places = np.argsort(-mixed, axis=None, kind="stable")[:MOST_PAIRS]
    rows: list[list[object]] = [
        [confusion.names[row], confusion.names[column], int(mixed[row, column])]
        for row, column in zip(*np.unravel_index(places, mixed.shape), strict=True)
        if mixed[row, column]
    ]
    if not rows:
        return Markup()
    return details("Classes mixed up most", table(["is", "was taken for", "times"], rows))


def _reliability_blocks(reliability: ReliabilityDiagram) -> list[Markup]:
    """The reliability diagram, with its numbers as a table."""
    is_filled = reliability.counts > 0
    series = [
        Series(
            "detections",
            reliability.probability[is_filled],
            reliability.share[is_filled],
            f"error {score_text(reliability.ece)}",
        ),
        Series("as it should be", [0.0, 1.0], [0.0, 1.0]),
    ]
    chart = line_chart(series, x_label="probability", y_label="share of true positives")
    note = "Expected calibration error: mean distance from the diagonal."
    width = 1 / len(reliability.counts)
    columns = (reliability.counts, reliability.probability, reliability.share)
    rows: list[list[object]] = [
        [f"{n * width:.1f} to {(n + 1) * width:.1f}", *values]
        for n, values in enumerate(zip(*(column.tolist() for column in columns), strict=True))
    ]
    listing = table(["probability", "detections", "their mean", "right"], rows)
    return [
        paragraph(_SOURCES[reliability.source]),
        in_columns(figure(chart, "Reliability", note), listing),
    ]


def _add_image_section(
    page: Page,
    images: Sequence[LabelledImage],
    detections: Mapping[Any, Detections],
    live: LivePart,
    files: Mapping[Any, str],
    load: LoadImage,
) -> dict[str, list[str | int]]:
    """Append images with what was found and missed; returns their files, or ids without files."""
    point = live.sweep.point
    counts = count_matches(images, live.sweep.sure, point.score_threshold)
    best, worst = best_and_worst(counts)
    if not best and not worst:
        return {"worst": [], "best": []}
    text = f"The number at a box is its {live.sweep.scale}. The slider shows and hides boxes."
    if not point.true_positives:
        text = "No detection is right."
    blocks: list[object] = [text, scene_legend()]
    for title, entries in (("Most mistakes", worst), ("Most found, fewest mistakes", best)):
        drawn = live.pictures(entries, detections, load, files)
        blocks += [heading(title), drawn] if drawn else []
    page.add_section("Images", *blocks)
    return {
        kind: [files.get(each.image.image_id, each.image.image_id) for each in entries]
        for kind, entries in (("worst", worst), ("best", best))
    }
