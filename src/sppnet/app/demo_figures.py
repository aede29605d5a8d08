"""The charts of the demo's report."""

from collections.abc import Mapping, Sequence
from typing import Any

from sppnet.app.demo_plan import DemoPlan
from sppnet.app.demo_scores import CHANCE, CONTENDERS, TRAINED, UNTRAINED, DemoScores
from sppnet.evaluation.report.axes import score_text
from sppnet.evaluation.report.charts import Series, grouped_bar_chart, line_chart
from sppnet.evaluation.report.html import Html, figure
from sppnet.evaluation.report.sections import ranked_names

TITLES = {TRAINED: "trained", UNTRAINED: "untrained", CHANCE: "chance"}


def joint_curve_figure(scores: DemoScores) -> Html:
    """Precision against recall of the three contenders, all classes together."""
    series = [Series(TITLES[name], *scores.curves[name]) for name in CONTENDERS]
    chart = line_chart(series, x_label="recall", y_label="precision")
    return figure(chart, "Detector", "All classes together, at overlap 0.5.")


def score_figure(scores: DemoScores) -> Html:
    """The two key figures of the three contenders, as bars."""
    measures: list[tuple[str, Mapping[str, Mapping[str, Any]], str]] = [
        ("detector AP50", scores.detector, "ap50"),
        ("detector AP75", scores.detector, "ap75"),
        ("classifier top-1", scores.classifier, "top1"),
    ]
    bars = {TITLES[name]: [values[name][key] for _, values, key in measures] for name in CONTENDERS}
    chart = grouped_bar_chart([title for title, *_ in measures], bars, label="scores")
    return figure(chart, "Both", "A full bar is 1.")


def class_figure(scores: DemoScores) -> Html:
    """Average precision of each class."""
    values = {
        name: {each: _number(scores.detector[name]["per_class"].get(each)) for each in scores.names}
        for name in (TRAINED, UNTRAINED)
    }
    ranked = ranked_names(values[TRAINED])
    bars = {TITLES[name]: [values[name][each] for each in ranked] for name in values}
    chart = grouped_bar_chart(ranked, bars, label="AP50 by class")
    return figure(chart, "AP50 by class", "A full bar is 1.")


def class_curve_figure(scores: DemoScores) -> Html:
    """Precision against recall of the trained detector, by class."""
    values = {
        name: _number(scores.detector[TRAINED]["per_class"].get(name)) for name in scores.names
    }
    series = [
        Series(name, *scores.class_curves[name], score_text(values[name]))
        for name in ranked_names(values)
    ]
    chart = line_chart(series, x_label="recall", y_label="precision")
    return figure(chart, "Precision and recall by class", "The figure after each name is its AP50.")


def proposal_figure(scores: DemoScores) -> Html:
    """How many things the windows cover."""
    counts = scores.proposals.windows
    series = [
        Series(f"overlap {overlap:g}", counts, shares, score_text(float(shares[-1])))
        for overlap, shares in scores.proposals.recall.items()
    ]
    chart = line_chart(
        series,
        x_label="windows per scene",
        y_label="recall",
        x_range=(1.0, max(2.0, float(counts.max()))),
        log_x=True,
    )
    return figure(chart, "Recall of the windows", f"At right: with {counts.max():,} windows.")


def accuracy_figure(scores: DemoScores, plan: DemoPlan) -> Html:
    """Top-1 of one classifier whose input has one size after the other."""
    sides, values = [*scores.accuracy_by_size], [*scores.accuracy_by_size.values()]
    chance = scores.classifier[CHANCE]["top1"]
    series = [
        Series("the classifier", sides, values),
        Series("chance", [sides[0], sides[-1]], [chance, chance]),
    ]
    chart = line_chart(
        series,
        x_label="short side of the input, pixels",
        y_label="top-1",
        x_range=(float(sides[0]), float(sides[-1])),
        log_x=True,
    )
    trained_at = " and ".join(map(str, plan.sizes))
    note = (
        f"{scores.test_things} whole held-out images, landscape, portrait and panorama, through "
        f"the same weights; trained on squares of {trained_at} pixels."
    )
    return figure(chart, "The classifier at other sizes", note)


def learning_figure(history: Sequence[Mapping[str, float]]) -> Html:
    """Accuracy of the classifier on its training images, one curve per size."""
    series = []
    for size in sorted({int(epoch["size"]) for epoch in history}):
        rows = [epoch for epoch in history if int(epoch["size"]) == size]
        x = [epoch["epoch"] + 1 for epoch in rows]
        series.append(Series(f"{size} pixels", x, [epoch["accuracy"] for epoch in rows]))
    chart = line_chart(
        series, x_label="epoch", y_label="accuracy", x_range=(1.0, max(2.0, float(len(history))))
    )
    return figure(chart, "Training of the classifier", "On the training images, as it saw them.")


def _number(value: float | None) -> float:
    """A figure for a chart; NaN where there is none."""
    return float("nan") if value is None else value
