"""Sections of the report of a detector: COCO's numbers, mistakes, reliability of the scores."""

import numpy as np

from sppnet.evaluation.chart_axes import score_text
from sppnet.evaluation.charts import Series, confusion_chart, line_chart
from sppnet.evaluation.coco_measures import RECALL_LIMITS, CocoMeasures
from sppnet.evaluation.detection_analysis import DetectionAnalysis
from sppnet.evaluation.detection_confusion import DetectionConfusion
from sppnet.evaluation.error_types import ERROR_TYPES, ErrorTypes
from sppnet.evaluation.markup import Html
from sppnet.evaluation.page import Page, details, figure, figures, paragraph, table
from sppnet.evaluation.reliability import Reliability

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


def add_analysis_sections(page: Page, analysis: DetectionAnalysis) -> None:
    """Append what is known beyond the average precision.

    Args:
        page: Appended to.
        analysis: The measures.
    """
    page.add_section("By size, as COCO counts", coco_table(analysis.coco), _coco_note())
    page.add_section(
        "Mistakes",
        f"Counted are detections that score at least {analysis.point.score_threshold:.2f}, the "
        "threshold with the best balance here.",
        figures(_error_figure(analysis.errors), _confusion_figure(analysis.confusion)),
        _pairs(analysis.confusion),
    )
    if analysis.reliability is not None:
        page.add_section("Reliability of the scores", *_reliability_blocks(analysis.reliability))


def coco_table(coco: CocoMeasures) -> Html:
    """COCO's twelve numbers, sizes by column."""
    rows: list[list[object]] = []
    for measure in ("AP", "AP50", "AP75", *(f"AR{limit}" for limit in RECALL_LIMITS)):
        stem = {"AP": "AP", "AR100": "AR"}.get(measure)
        by_size = [coco.mean[f"{stem}{size}"] if stem else None for size in SIZES]
        rows.append([measure, coco.mean[measure], *by_size])
    return table(["measure", "all", *SIZES], rows)


def _coco_note() -> Html:
    """What the rows and columns are."""
    return paragraph(
        "AP: mean over overlaps 0.50 to 0.95. AR: share of the objects found with 1, 10 and 100 "
        "detections per image and class. Small is up to 32\u00d732 pixels, large from 96\u00d796.",
        note=True,
    )


def _error_figure(errors: ErrorTypes) -> Html:
    """Kinds of mistakes: how many, and what they cost."""
    rows: list[list[object]] = [
        [kind, MEANINGS[kind], errors.counts[kind], errors.ap_cost[kind]] for kind in ERROR_TYPES
    ]
    listing = table(["kind", "what it is", "count", "costs AP50"], rows)
    note = "The cost is what AP50 would gain, all scores counted, if this kind alone were mended."
    return figure(listing, "Kinds of mistakes", note)


def _confusion_figure(confusion: DetectionConfusion) -> Html:
    """The confusion matrix; nothing if there is nothing in it or too much."""
    if not confusion.counts.any() or len(confusion.names) > MOST_DRAWN_CLASSES:
        return Html()
    chart = confusion_chart(confusion.counts, confusion.names)
    note = "Last column: objects not found. Last row: detections where nothing is."
    return figure(chart, "Confusion", note)


def _pairs(confusion: DetectionConfusion) -> Html:
    """The pairs of classes that are mixed up most; nothing if none is."""
    mixed = confusion.counts[:-1, :-1].copy()
    np.fill_diagonal(mixed, 0)
    places = np.argsort(-mixed, axis=None, kind="stable")[:MOST_PAIRS]
    rows: list[list[object]] = [
        [confusion.names[row], confusion.names[column], int(mixed[row, column])]
        for row, column in zip(*np.unravel_index(places, mixed.shape), strict=True)
        if mixed[row, column]
    ]
    if not rows:
        return Html()
    return details("Classes mixed up most", table(["is", "was taken for", "times"], rows))


def _reliability_blocks(reliability: Reliability) -> list[Html]:
    """The diagram, in words and as a table."""
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
    chart = line_chart(series, x_label="probability", y_label="share of hits")
    note = "Expected calibration error: mean distance from the diagonal."
    width = 1 / len(reliability.counts)
    columns = (reliability.counts, reliability.probability, reliability.share)
    rows: list[list[object]] = [
        [f"{n * width:.1f} to {(n + 1) * width:.1f}", *values]
        for n, values in enumerate(zip(*(column.tolist() for column in columns), strict=True))
    ]
    listing = table(["probability", "detections", "mean probability", "share of hits"], rows)
    return [
        paragraph(_SOURCES[reliability.source]),
        figures(figure(chart, "Reliability", note)),
        details("The numbers", listing),
    ]


_SOURCES = {
    "scores": "The scores are taken as probabilities, as they are.",
    "calibration": "Probabilities are from the model's calibration, fitted on other images.",
    "cross-calibration": (
        "The scores are margins. For this diagram they became probabilities by a sigmoid per "
        "class, fitted on four fifths of these images and shown on the rest, in turn."
    ),
}
