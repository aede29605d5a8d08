"""``sppnet evaluate``: score any detections against any truth."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sppnet.app.console import options_to_blame, report_problems
from sppnet.app.options import Debug, JsonFile, Split, command_app, number_option

if TYPE_CHECKING:
    pass

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
    float, number_option("--iou", low=0, high=1, above=True, text="Least overlap of a hit.")
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
        help="voc07: mean of 11 points; voc10: area; coco: 101 points, IoU 0.5:0.95 unless --iou.",
    ),
]


@app.command()
def evaluate(
    truth: Truth,
    detections: Found,
    metric: MetricName = Metric.voc10,
    iou: Overlap = 0.5,
    split: Split = None,
    json_file: JsonFile = None,
    debug: Debug = False,
) -> None:
    """Score detections against the truth of a data set, class by class."""
    from sppnet.evaluation import evaluate_detections, read_detections
    from sppnet.images import open_detection_dataset

    dataset = open_detection_dataset(truth, split)
    found = read_detections(detections, dataset)
    with options_to_blame():
        score = evaluate_detections(dataset.images, found, dataset.names, metric=metric, iou=iou)
    if json_file is not None:
        _write_figures(json_file, score, metric, iou, dataset)
    _say_score(score, metric, iou, dataset)
    raise typer.Exit(report_problems(dataset.problems))
