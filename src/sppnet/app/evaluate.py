"""``sppnet evaluate``: score any detections against any truth."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.app.console import report_problems, say, say_table
from sppnet.app.options import Debug, JsonFile, Split, command_app, number_option
from sppnet.errors import NothingUsableError

if TYPE_CHECKING:
    from sppnet.evaluation import AveragePrecision
app = command_app("Score any detections against any truth.")

Truth = Annotated[
    Path,
    typer.Argument(metavar="TRUTH", help="Data set in VOC, COCO or YOLO layout: folder or JSON."),
]
Found = Annotated[
    Path,
    typer.Argument(
        metavar="DETECTIONS",
        help="COCO results JSON, or a folder of text files: class score x1 y1 x2 y2.",
    ),
]
Overlap = Annotated[
    float | None,
    number_option(
        "--iou",
        low=0,
        high=1,
        above=True,
        text="Least overlap of a hit; 0.5, and the mean over 0.5:0.95 for coco.",
    ),
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
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Score detections against the truth of a data set, class by class."""
    from sppnet.evaluation import evaluate_detections, read_detections
    from sppnet.images import open_detection_dataset

    dataset = open_detection_dataset(truth, split)
    problems = list(dataset.problems)
    found = read_detections(detections, dataset, problems)
    code = report_problems(problems)
    if problems and not found:
        rule = "no detection in it is of an image and a class of the truth"
        raise NothingUsableError(rule, path=detections)
    score = evaluate_detections(dataset.images, found, dataset.names, metric.value, iou)
    if json_file is not None:
        from sppnet.storage import write_json

        write_json(json_file, _figures(score))
    _say_score(score)
    raise typer.Exit(code)


def _figures(score: "AveragePrecision") -> dict[str, Any]:
    """What the JSON file holds; a class without objects has null."""
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
        [name, score.num_truth[name], "-" if value is None else f"{value:.4f}"]
        for name, value in score.per_class.items()
    ]
    say_table(["class", "objects", "AP"], rows)
    overlaps = score.iou_thresholds
    at = f"{overlaps[0]:g}" + (f":{overlaps[-1]:g}" if len(overlaps) > 1 else "")
    say(f"mean AP ({score.metric}, IoU {at}): {score.mean_ap:.4f}")
