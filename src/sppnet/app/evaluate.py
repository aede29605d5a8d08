"""``sppnet evaluate`` scores detections against a truth; ``sppnet compare`` compares two scores."""

import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.app.console import report_problems, say, say_table, warn
from sppnet.app.options import (
    Debug,
    JsonFile,
    MaxPixels,
    Seed,
    Split,
    command_app,
    number_option,
)
from sppnet.config.fields import Within
from sppnet.errors import NothingUsableError, count_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sppnet.evaluation import AveragePrecision, DetectionAnalysis, DetectionFigures
    from sppnet.evaluation.comparison import Comparison, Difference
    from sppnet.geometry import Detections
    from sppnet.images import DetectionDataset
app = command_app("Score any detections against any truth.")
compare_app = command_app("Compare two scored runs over the same photos.")

Truth = Annotated[
    Path,
    typer.Argument(metavar="TRUTH", help="Data set in VOC, COCO or YOLO layout: folder or JSON."),
]
Found = Annotated[
    Path,
    typer.Argument(
        metavar="DETECTIONS",
        help="COCO results JSON, CSV, or a folder of text files: class score x1 y1 x2 y2.",
    ),
]
Overlap = Annotated[
    float | None,
    number_option(
        "--iou",
        rule=Within(0, 1, above=True),
        text="Least overlap of a hit; 0.5, and the mean over 0.5:0.95 for coco.",
    ),
]
PageFolder = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Write report.html and report.json there, too."),
]


class Metric(StrEnum):
    """Rule by which precision and recall become one number."""

    voc07 = "voc07"
    voc10 = "voc10"
    coco = "coco"


MetricName = Annotated[
    Metric,
    typer.Option(
        "--metric",
        help="voc07: mean at 11 recalls; voc10: area under the curve; coco: mean at 101 recalls.",
    ),
]


@app.command()
def evaluate(
    truth: Truth,
    detections: Found,
    metric: MetricName = Metric.voc10,
    iou: Overlap = None,
    split: Split = None,
    out: PageFolder = None,
    json_file: JsonFile = None,
    max_pixels: MaxPixels = None,
    debug: Debug = False,
) -> None:
    """Score detections against the truth of a data set, class by class, and sort the mistakes."""
    from sppnet.errors import BOX_LEFT_OUT
    from sppnet.evaluation import DetectionFigures, evaluate_detections, read_detections
    from sppnet.images import open_detection_dataset

    dataset = open_detection_dataset(truth, split)
    problems = list(dataset.problems)
    lost = sum(problem.action == BOX_LEFT_OUT for problem in problems)
    if lost:
        warn(
            f"{count_of(lost, 'box', 'boxes')} of the truth cannot be used, such as those of less "
            "than 1 px, and will not be asked for; pycocotools may count them"
        )
    found = read_detections(detections, dataset, problems)
    code = report_problems(problems)
    if problems and not found:
        rule = "no detection in it is of an image and a class of the truth"
        raise NothingUsableError(rule, path=detections)
    score = evaluate_detections(dataset.images, found, dataset.names, metric.value, iou)
    figures = DetectionFigures.measure(dataset.images, found, dataset.names, problems=problems)
    if out is not None:
        _write_page(out, dataset, found, figures, detections)
    if json_file is not None:
        from sppnet.storage import write_json

        numbers = figures.to_json()
        by_measure = {"per_class_by_measure": numbers["per_class"]}
        write_json(json_file, {**numbers, **by_measure, **_chosen(score)})
    _say_score(score)
    if figures.analysis is not None:
        _say_analysis(figures.analysis)
    if out is not None:
        say(f"report: {out / 'report.html'}")
    raise typer.Exit(code)


def _write_page(
    out: Path,
    dataset: "DetectionDataset",
    found: "Mapping[Any, Detections]",
    figures: "DetectionFigures",
    detections: Path,
) -> None:
    """Leave the page and the numbers of its plots."""
    from sppnet.evaluation import write_detection_report
    from sppnet.storage import ensure_output_folder

    place = dataset.root.name + (f", split {dataset.split}" if dataset.split else "")
    write_detection_report(
        ensure_output_folder(out) / "report.html",
        dataset.images,
        found,
        figures,
        files=dataset.files,
        title=f"Detections of {detections.name}",
        subtitle=place,
    )


def _chosen(score: "AveragePrecision") -> dict[str, Any]:
    """The measure that was asked for; a class without objects has null."""
    return {
        "metric": score.metric,
        "iou_thresholds": list(score.iou_thresholds),
        "mean_ap": score.mean_ap,
        "per_class": score.per_class,
        "num_truth": score.num_truth,
    }


def _say_score(score: "AveragePrecision") -> None:
    """Print a line per class and the mean."""
    rows = [
        [name, score.num_truth[name], "-" if value is None else f"{value:z.4f}"]
        for name, value in score.per_class.items()
    ]
    say_table(["class", "objects", "AP"], rows)
    overlaps = score.iou_thresholds
    at = f"{overlaps[0]:g}" + (f":{overlaps[-1]:g}" if len(overlaps) > 1 else "")
    say(f"mean AP ({score.metric}, IoU {at}): {score.mean_ap:.4f}")


def _say_analysis(analysis: "DetectionAnalysis") -> None:
    """Print COCO's numbers, the kinds of mistakes and how far the scores can be believed."""
    say()
    say_table(
        ["COCO", "value"], [[name, _text(value)] for name, value in analysis.coco.mean.items()]
    )
    say()
    errors = analysis.errors
    rows = [[kind, n, _text(errors.ap_cost[kind])] for kind, n in errors.counts.items()]
    say_table([f"mistakes from score {errors.score_threshold:z.3g}", "count", "costs AP50"], rows)
    if analysis.reliability is not None:
        say()
        reliability = analysis.reliability
        say(f"expected calibration error ({reliability.source}): {reliability.ece:.4f}")


def _text(value: float) -> str:
    """A number, or a dash where there is nothing to measure."""
    return "-" if math.isnan(value) else f"{value:z.4f}"


MOST_CHANGED = 40  # photos that the page lists in each direction
Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN/val", help="Folder that detect val, or evaluate --out, left a report in."
    ),
]
CompareFolder = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Write compare.html and compare.json there.")
]
Resamples = Annotated[
    int, typer.Option("--resamples", metavar="N", min=100, help="How many draws.")
]


@compare_app.command()
def compare(
    first: Run,
    second: Annotated[Path, typer.Argument(metavar="RUN/val", help="The same of another run.")],
    out: CompareFolder = Path("runs/compare"),
    resamples: Resamples = 1000,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Compare two runs that were scored on the same photos: B minus A.

    The photos are drawn again with replacement, the same ones for both runs; the interval holds 95
    of 100 of the differences. If it leaves out 0, the difference is more than luck.
    """
    from sppnet.evaluation.comparison import compare_runs, read_scored
    from sppnet.storage import ensure_output_folder, write_json, write_text

    one, two = read_scored(first), read_scored(second)
    compared = compare_runs(one, two, resamples, seed)
    folder = ensure_output_folder(out)
    titles = (str(first), str(second))
    write_json(folder / "compare.json", compared.to_json(titles))
    write_text(folder / "compare.html", _compare_page(compared, titles, one.names))
    say_table(
        ["", "A", "B", "B - A", "95 % interval"], [_difference_row(d) for d in compared.differences]
    )
    say(compared.verdict())
    gains = [change.gain for change in compared.changes]
    better = count_of(sum(gain > 0 for gain in gains), "photo has", "photos have")
    say(f"{better} fewer mistakes in B, {sum(gain < 0 for gain in gains)} more")
    say(f"page: {folder / 'compare.html'}")


def _difference_row(each: "Difference") -> list[str]:
    """One measure as texts."""
    values = [f"{each.first:.3f}", f"{each.second:.3f}", f"{each.second - each.first:+.3f}"]
    return [each.name, *values, f"{each.low:+.3f} to {each.high:+.3f}"]


def _compare_page(compared: "Comparison", titles: Sequence[str], names: Sequence[str]) -> str:
    """Write the page."""
    from sppnet.evaluation import report

    page = report.Page("Two runs compared", f"A: {titles[0]} \u00b7 B: {titles[1]}")
    gap, words = compared.differences[0], compared.verdict()
    entries = [
        report.Tile(
            "AP50 of B minus A",
            f"{gap.second - gap.first:+.3f}",
            f"{gap.low:+.3f} to {gap.high:+.3f}",
        ),
        report.Tile("AP50 of A", f"{gap.first:.3f}"),
        report.Tile("AP50 of B", f"{gap.second:.3f}"),
        report.Tile("Photos", f"{compared.photos:,}", f"{len(compared.changes):,} of them changed"),
    ]
    page.add_section(
        "", report.paragraph(f"{words[:1].upper()}{words[1:]}."), report.tiles(entries)
    )
    listing = report.table(
        ("", "A", "B", "B - A", "95 % interval"), [_difference_row(d) for d in compared.differences]
    )
    series = {
        title: [getattr(each, field) for each in compared.differences[3:]]
        for title, field in (("A", "first"), ("B", "second"))
    }
    bars = report.figure(
        report.grouped_bar_chart(list(names), series, label="AP50 by class"), "AP50 by class"
    )
    note = report.paragraph(
        "The photos were drawn again and again, the same for both runs; 95 of 100 differences lie "
        "in the interval. Finds and right: at the threshold of each run.",
        note=True,
    )
    page.add_section("Measures", report.figures(report.column(listing, note), bars))
    blocks = []
    for title, some in (
        ("Fewer mistakes in B", [each for each in compared.changes if each.gain > 0]),
        ("More mistakes in B", [each for each in reversed(compared.changes) if each.gain < 0]),
    ):
        rows = [
            [each.file, *(f"{a} \u2192 {b}" for a, b in zip(each.first, each.second, strict=True))]
            for each in some[:MOST_CHANGED]
        ]
        shown = (
            report.table(("photo", "found", "false", "missed"), rows)
            if rows
            else report.paragraph("None.")
        )
        more = f" (the first {MOST_CHANGED} of {len(some)})" if len(some) > MOST_CHANGED else ""
        blocks.append(report.column(report.heading(f"{title}{more}"), shown))
    page.add_section("Photos that changed", report.figures(*blocks))
    if compared.left_out:
        page.add_section(
            "Left out",
            f"{count_of(compared.left_out, 'photo was', 'photos were')} scored in one run only.",
        )
    return page.render()
