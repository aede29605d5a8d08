"""What the demo measured, and the charts and pictures of it on its page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sppnet.detection import Detector, EncodedImage, propose
from sppnet.evaluation import (
    FALSE_NEGATIVE_COLOUR,
    FALSE_POSITIVE_COLOUR,
    TRUE_POSITIVE_COLOUR,
    BoxPainter,
    ProposalRecall,
    draw_detections,
    match_detections,
    to_picture,
)
from sppnet.evaluation.report import (
    Series,
    figure,
    grouped_bar_chart,
    line_chart,
    ranked_names,
    score_text,
)
from sppnet.geometry import Detections
from sppnet.images import LabelledImage, load_image, resize_image

if TYPE_CHECKING:
    from sppnet.app.demo.steps import DemoConfig

TRAINED, UNTRAINED, CHANCE = "trained", "untrained", "chance"
CONTENDERS = (TRAINED, UNTRAINED, CHANCE)
TITLES = {TRAINED: "trained", UNTRAINED: "untrained", CHANCE: "chance"}
MONTAGE_WIDTH, MONTAGE_ROW, GAP = 1200, 250, 8
PAPER = (255, 255, 255)
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class DemoScores:
    """What the demo measured, as its report shows it.

    Args:
        names: Classes.
        images: Held-out scenes with their truth.
        detections: By contender, then by image id.
        detector: By contender, what ``summarise_detections`` gives.
        classifier: By contender, what ``score_predictions`` gives; chance has top1 alone.
        curves: By contender, recall and precision over all classes together.
        class_curves: By class, recall and precision of the trained detector.
        proposals: How many objects the proposals cover.
        accuracy_by_size: Short side of the input and the top-1 of the one trained classifier there.
        num_test_images: Held-out images of the classifier.
        seconds_per_image: Of the trained detector, from the file to the boxes.
    """

    names: tuple[str, ...]
    images: tuple[LabelledImage, ...]
    detections: Mapping[str, Mapping[Any, Detections]]
    detector: Mapping[str, Mapping[str, Any]]
    classifier: Mapping[str, Mapping[str, Any]]
    curves: Mapping[str, Curve]
    class_curves: Mapping[str, Curve]
    proposals: ProposalRecall
    accuracy_by_size: Mapping[int, float]
    num_test_images: int
    seconds_per_image: float

    def to_json(self) -> dict[str, Any]:
        """Everything but the curves, for metrics.json."""
        recall = self.proposals.recall
        return {
            "classifier": {name: dict(self.classifier[name]) for name in CONTENDERS},
            "detector": {name: dict(self.detector[name]) for name in CONTENDERS},
            "proposals": {
                "windows_per_image": self.proposals.mean_proposals,
                "recall50": float(recall[0.5][-1]),
                "recall70": float(recall[0.7][-1]),
            },
            "top1_by_short_side": {str(k): v for k, v in self.accuracy_by_size.items()},
            "names": list(self.names),
            "test_scenes": len(self.images),
            "test_objects": sum(len(image.labels) for image in self.images),
            "test_things": self.num_test_images,
            "seconds_per_image": self.seconds_per_image,
        }


def joint_curve_figure(scores: DemoScores) -> Markup:
    """Precision against recall of the three contenders, all classes together."""
    series = [Series(TITLES[name], *scores.curves[name]) for name in CONTENDERS]
    chart = line_chart(series, x_label="recall", y_label="precision")
    return figure(chart, "Detector", "All classes together, at overlap 0.5.")


def score_figure(scores: DemoScores) -> Markup:
    """Scores of the three contenders, as bars."""
    measures: list[tuple[str, Mapping[str, Mapping[str, Any]], str]] = [
        ("detector AP50", scores.detector, "ap50"),
        ("detector AP75", scores.detector, "ap75"),
        ("classifier top-1", scores.classifier, "top1"),
    ]
    bars = {TITLES[name]: [values[name][key] for _, values, key in measures] for name in CONTENDERS}
    chart = grouped_bar_chart([title for title, *_ in measures], bars, label="scores")
    return figure(chart, "Both", "A full bar is 1.")


def class_figure(scores: DemoScores) -> Markup:
    """Average precision of each class."""
    values = {
        name: {each: _number(scores.detector[name]["per_class"].get(each)) for each in scores.names}
        for name in (TRAINED, UNTRAINED)
    }
    ranked = ranked_names(values[TRAINED])
    bars = {TITLES[name]: [values[name][each] for each in ranked] for name in values}
    chart = grouped_bar_chart(ranked, bars, label="AP50 by class")
    return figure(chart, "AP50 by class", "A full bar is 1.")


def class_curve_figure(scores: DemoScores) -> Markup:
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


def proposal_figure(scores: DemoScores) -> Markup:
    """How many objects the proposals cover."""
    counts = scores.proposals.num_proposals
    series = [
        Series(f"overlap {overlap:g}", counts, shares, score_text(float(shares[-1])))
        for overlap, shares in scores.proposals.recall.items()
    ]
    chart = line_chart(
        series,
        x_label="proposals per scene",
        y_label="recall",
        x_range=(1.0, max(2.0, float(counts.max()))),
        log_x=True,
    )
    return figure(chart, "Recall of the proposals", f"At right: with {counts.max():,} proposals.")


def accuracy_figure(scores: DemoScores, config: "DemoConfig") -> Markup:
    """Top-1 of one classifier at several sizes of its input."""
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
    trained_at = " and ".join(map(str, config.sizes))
    note = (
        f"{scores.num_test_images} whole held-out images, landscape, portrait and panorama, "
        f"through the same weights; trained on squares of {trained_at} pixels."
    )
    return figure(chart, "The classifier at other sizes", note)


def learning_figure(history: Sequence[Mapping[str, float]]) -> Markup:
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
    """A value for a chart; NaN for None."""
    return float("nan") if value is None else value


@dataclass(frozen=True)
class Joined:
    """Held-out scenes side by side, or one above the other, as one image with its truth.

    Args:
        pixels: (3, H, W).
        boxes: (T, 4) xyxy in pixels.
        labels: (T,).
        count: Scenes in it.
    """

    pixels: Tensor
    boxes: Tensor
    labels: Tensor
    count: int

    @property
    def words(self) -> str:
        """Width and height in words."""
        height, width = self.pixels.shape[1:]
        return f"{width:,} \u00d7 {height:,} pixels"


def join_scenes(images: Sequence[LabelledImage], side: int, *, upright: bool = False) -> Joined:
    """Join scenes into a strip.

    Args:
        images: At least one.
        side: Height of the strip; of an upright one the width.
        upright: Whether they stand one above the other.

    Returns:
        The strip with the boxes of all objects in it.
    """
    parts, boxes, at = [], [], 0
    for image in images:
        height, width = image.size_hw
        zoom = side / (width if upright else height)
        size_hw = (max(1, round(height * zoom)), max(1, round(width * zoom)))
        parts.append(resize_image(load_image(image.path), size_hw))
        scale = torch.tensor([size_hw[1] / width, size_hw[0] / height]).repeat(2)
        shift = torch.tensor([0.0, at, 0.0, at] if upright else [at, 0.0, at, 0.0])
        boxes.append(image.boxes * scale + shift)
        at += size_hw[0] if upright else size_hw[1]
    labels = torch.cat([image.labels for image in images])
    return Joined(torch.cat(parts, dim=1 if upright else 2), torch.cat(boxes), labels, len(images))


def draw_joined(
    joined: Joined, detector: Detector, encoded: EncodedImage, score_threshold: float
) -> Image.Image:
    """Draw the true and false positives and the false negatives of a strip, without labels.

    Labels would cover the strip.

    Args:
        joined: The strip.
        detector: Looks at as many proposals per scene as on a single one.
        encoded: The strip's maps.
        score_threshold: Lowest score that is drawn.

    Returns:
        RGB image of the same size.
    """
    inference = detector.inference
    count = inference.max_proposals * joined.count
    proposals = propose(joined.pixels, inference.proposals, count, inference.seed)
    found = detector.detect(encoded, proposals)
    found = found.select(found.scores >= score_threshold)
    matches = match_detections(joined.boxes, joined.labels, found)
    painter = BoxPainter(to_picture(joined.pixels))
    for boxes, colour, is_dashed in (
        (joined.boxes[matches.is_false_negative], FALSE_NEGATIVE_COLOUR, True),
        (found.boxes[matches.is_false_positive], FALSE_POSITIVE_COLOUR, False),
        (found.boxes[matches.is_true_positive], TRUE_POSITIVE_COLOUR, False),
    ):
        for x1, y1, x2, y2 in boxes.tolist():
            painter.box((x1, y1, x2, y2), "", colour, is_dashed=is_dashed)
    return painter.finish()


def draw_montage(
    images: Sequence[LabelledImage],
    detections: Mapping[Any, Detections],
    names: Sequence[str],
    score_threshold: float,
) -> Image.Image:
    """Lay scenes with what was found in them out in rows of one width.

    Args:
        images: In the order in which they are laid; as many as fill whole rows are used.
        detections: By image id.
        names: Class names.
        score_threshold: Lowest score that is drawn.

    Returns:
        RGB image, ``MONTAGE_WIDTH`` wide.
    """
    drawn = [
        draw_detections(load_image(image.path), detections[image.image_id], names, score_threshold)
        for image in images
    ]
    rows = [_fit_row(row) for row in _rows(drawn)]
    height = sum(row.height for row in rows) + GAP * (len(rows) - 1)
    montage = Image.new("RGB", (MONTAGE_WIDTH, max(1, height)), PAPER)
    top = 0
    for row in rows:
        montage.paste(row, (0, top))
        top += row.height + GAP
    return montage


def _rows(pictures: Sequence[Image.Image]) -> list[list[Image.Image]]:
    """Break pictures into rows that are about ``MONTAGE_ROW`` high when they are full."""
    rows: list[list[Image.Image]] = [[]]
    for picture in pictures:
        rows[-1].append(picture)
        if sum(each.width / each.height for each in rows[-1]) >= MONTAGE_WIDTH / MONTAGE_ROW:
            rows.append([])
    return [row for row in rows[:-1] if row] or [row for row in rows if row]


def _fit_row(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures side by side, all of the height that fills the width."""
    room = MONTAGE_WIDTH - GAP * (len(pictures) - 1)
    height = max(1, round(room / sum(each.width / each.height for each in pictures)))
    row = Image.new("RGB", (MONTAGE_WIDTH, height), PAPER)
    left = 0
    for number, picture in enumerate(pictures, start=1):
        width = max(1, round(picture.width * height / picture.height))
        if number == len(pictures):
            width = max(1, MONTAGE_WIDTH - left)
        row.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, 0))
        left += width + GAP
    return row
