"""What depends on the threshold in the report of a detector, and the slider that moves it.

Everything is measured at some 50 thresholds while the page is made and lies in it as JSON; a script
in the page, ``page.js``, shows the numbers and the boxes of the threshold that is chosen. Without
scripts the page shows the threshold with the best balance.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from markupsafe import Markup

from sppnet.errors import InputError
from sppnet.evaluation.error_analysis import ImageCounts, MistakesByThreshold, count_by_threshold
from sppnet.evaluation.matching import collect_detections, collect_truth, match_voc
from sppnet.evaluation.operating_point import OperatingPoint, OperatingPoints, best_operating_point
from sppnet.evaluation.report.axes import text_width
from sppnet.evaluation.report.charts import Series, confusion_chart, line_chart, svg_element
from sppnet.evaluation.report.html import FOLDER, Tile, live_pictures, live_text, threshold_bar
from sppnet.evaluation.visualize import (
    FONT_SHARE,
    LARGEST_COVER,
    MOST_LABELLED_TRUE_POSITIVES,
    SCENE_SIDE,
    SMALLEST_FONT,
    LoadImage,
    fit_picture,
    to_jpeg_bytes,
    to_picture,
)
from sppnet.geometry import Detections
from sppnet.images.dataset import LabelledImage

STEPS = 50
MOST_BOXES = 100  # that are drawn on a picture, the surest
NEVER = -1.0  # an object that nothing finds is missed at every threshold
WORDS = (
    ("tp", "true positive", "true positives"),
    ("fp", "false positive", "false positives"),
    ("fn", "false negative", "false negatives"),
)
NOTHING = "nothing to find"
SCRIPT_FILE = FOLDER / "page.js"


@dataclass(frozen=True)
class ThresholdSweep:
    """What a detector gets right and wrong at many thresholds.

    Args:
        scale: "confidence" (0..1, the probability that a detection is right) or "score", where too
            few detections are right to know confidences.
        thresholds: (T,) rising.
        start: The one with the best F1 over all classes.
        counts: What is right and wrong at each of them.
        sure: By image id, what is compared with the thresholds, in place of the scores.
    """

    scale: str
    thresholds: tuple[float, ...]
    start: int
    counts: MistakesByThreshold
    sure: Mapping[Any, Detections]

    @classmethod
    def measure(
        cls,
        images: Sequence[LabelledImage],
        detections: Mapping[Any, Detections],
        names: Sequence[str],
    ) -> "ThresholdSweep":
        """Count at many thresholds.

        Detections without confidence have their scores for it if all are 0..1; otherwise a sigmoid
        per class, fitted on these images, gives it.

        Args:
            images: With their truth.
            detections: By image id; an image that is missing has none.
            names: Class names.

        Returns:
            The counts, at 50 thresholds and at the best one.

        Raises:
            ValueError: If detections and truth do not belong together.
        """
        known = {image.image_id for image in images} & detections.keys()
        detections = {key: detections[key] for key in known}
        scale, sure = _confidences(images, detections, names)
        best = best_operating_point(images, sure).score_threshold
        values = np.concatenate([np.zeros(0), *(np.asarray(one.scores) for one in sure.values())])
        if scale == "confidence":
            grid = np.arange(1, STEPS) / STEPS
        else:
            grid = np.linspace(*_ends(values), STEPS)
        chosen = np.unique(np.r_[grid, [best] if math.isfinite(best) else []])
        counts = count_by_threshold(images, detections, names, chosen, sure=sure)
        start = int(np.searchsorted(chosen, best)) if math.isfinite(best) else len(chosen) - 1
        return cls(scale, tuple(chosen.tolist()), start, counts, sure)

    @property
    def point(self) -> OperatingPoint:
        """What is found and right at the start."""
        right = int(self.counts.true_positives[self.start].sum())
        wrong = int(self.counts.false_positives[self.start].sum())
        missed = int(self.counts.objects.sum()) - right
        return OperatingPoint(self.thresholds[self.start], right, wrong, missed)

    def sentence(self) -> str:
        """Say in one line what the detector finds, and how much of what it says is right."""
        point = self.point
        if not point.true_positives:
            return "nothing that it finds is right"
        at = f"at a {self.scale} of {point.score_threshold:z.2f}"
        return f"{at}: finds {point.recall:.0%}, {point.precision:.0%} of what it says is right"

    def by_photo(
        self,
        images: Sequence[LabelledImage],
        detections: Mapping[Any, Detections],
        names: Sequence[str],
        files: Mapping[Any, str],
    ) -> dict[str, object]:
        """What ``sppnet compare`` reads: of each photo its objects and what is right and wrong.

        Args:
            images: With their truth.
            detections: By image id.
            names: K class names.
            files: By image id, what to call its file.

        Returns:
            Plain values: by photo the objects of each class, and a row for each detection that
            counts: class, score, confidence (or score), and 1 if it is right.
        """
        truth = collect_truth(images, len(names))
        known = {image.image_id for image in images} & detections.keys()
        found = collect_detections(images, {key: detections[key] for key in known}, len(names))
        values = collect_detections(images, self.sure, len(names)).scores
        matches = match_voc(truth, found, np.array([0.5]))
        objects = np.zeros((len(images), len(names)), np.int64)
        np.add.at(objects, (truth.image, truth.label), ~truth.ignored)
        kept = ~matches.ignored[0]
        right = matches.true_positive[0].astype(np.int64)
        columns = found.label, found.scores, values, right
        rows: list[list[tuple[float, ...]]] = [[] for _ in images]
        for image, *row in zip(
            found.image[kept].tolist(), *(c[kept].tolist() for c in columns), strict=True
        ):
            rows[image].append(tuple(row))
        titles = [files.get(one.image_id, Path(one.path).name) for one in images]
        photos = [
            {"file": title, "objects": asked, "found": some}
            for title, asked, some in zip(titles, objects.tolist(), rows, strict=True)
        ]
        threshold = self.thresholds[self.start]
        return {"names": list(names), "scale": self.scale, "threshold": threshold, "photos": photos}

    def to_json(self) -> dict[str, object]:
        """The counts of all classes together, for JSON."""
        return {
            "scale": self.scale,
            "thresholds": list(self.thresholds),
            "start": self.start,
            "true_positives": self.counts.true_positives.sum(1).tolist(),
            "false_positives": self.counts.false_positives.sum(1).tolist(),
            "objects": int(self.counts.objects.sum()),
        }


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest of some scores."""
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)


def _confidences(
    images: Sequence[LabelledImage], detections: Mapping[Any, Detections], names: Sequence[str]
) -> tuple[str, dict[Any, Detections]]:
    """What the thresholds are of, and the detections with it as their scores."""
    every = list(detections.values())
    if not all(each.confidence is not None for each in every):
        if all(bool(((each.scores >= 0) & (each.scores <= 1)).all()) for each in every):
            return "confidence", dict(detections)
        points = OperatingPoints.fit(images, detections, names, "val")
        if points is None:
            return "score", dict(detections)
        detections = {key: points.with_confidence(each) for key, each in detections.items()}
    sure = {
        key: Detections(each.boxes, each["confidence"], each.labels)
        for key, each in detections.items()
    }
    return "confidence", sure


@dataclass
class LivePart:
    """Builds the parts of a page that move with the threshold, and collects their numbers.

    Args:
        sweep: What was measured.
        names: K class names.
    """

    sweep: ThresholdSweep
    names: Sequence[str]
    _texts: list[list[str]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._shown = self.text([f"{value:z.2f}" for value in self.sweep.thresholds])

    def text(self, values: Sequence[str]) -> Markup:
        """A text that follows the slider.

        Args:
            values: (T,) one for each threshold.
        """
        self._texts.append(list(values))
        return live_text(len(self._texts) - 1, values[self.sweep.start])

    def share(self, part: np.ndarray, whole: np.ndarray) -> Markup:
        """A share in per cent that follows the slider; a dash where there is nothing to divide."""
        pairs = zip(part.tolist(), whole.tolist(), strict=True)
        return self.text(
            [f"{a / b:.0%}".replace("%", "\u00a0%") if b else "\u2013" for a, b in pairs]
        )

    def numbers(self, values: np.ndarray) -> Markup:
        """A whole number that follows the slider."""
        return self.text([f"{value:,}" for value in values.tolist()])

    def totals(self) -> tuple[Markup, Markup]:
        """What share of the objects is found, and what share of the detections is right."""
        counts = self.sweep.counts
        right, wrong = counts.true_positives.sum(1), counts.false_positives.sum(1)
        objects = np.full(len(right), counts.objects.sum())
        return self.share(right, objects), self.share(right, right + wrong)

    def tile(self) -> Tile:
        """The first figure of the page: what a user gets."""
        found, right = self.totals()
        return Tile(
            Markup("At a {} of {}").format(self.sweep.scale, self._shown),
            Markup("finds {}").format(found),
            Markup("<b>{}</b> of what it says is right").format(right),
            is_wide=True,
        )

    def bar(self) -> Markup:
        """The slider, at the lower edge of the window."""
        last = len(self.sweep.thresholds) - 1
        return threshold_bar(self.sweep.scale, self._shown, last, self.sweep.start, *self.totals())

    def class_rows(self) -> list[list[object]]:
        """Class, objects, found, false and both shares, by class."""
        counts = self.sweep.counts
        rows: list[list[object]] = []
        for label, name in enumerate(self.names):
            right, wrong = counts.true_positives[:, label], counts.false_positives[:, label]
            asked = np.full(len(right), counts.objects[label])
            shares = self.share(right, asked), self.share(right, right + wrong)
            number = int(counts.objects[label])
            rows.append([name, number, self.numbers(right), self.numbers(wrong), *shares])
        return rows

    def chart(self) -> Markup:
        """What is found and what is right against the threshold, which is marked."""
        counts, thresholds = self.sweep.counts, self.sweep.thresholds
        right, wrong = counts.true_positives.sum(1), counts.false_positives.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = right / counts.objects.sum(), right / (right + wrong)
        words = ("finds, of the objects", "right, of what it says")
        series = [
            Series(word, thresholds, share) for word, share in zip(words, shares, strict=True)
        ]
        ends = (0.0, 1.0) if self.sweep.scale == "confidence" else (thresholds[0], thresholds[-1])
        mark = thresholds[self.sweep.start]
        return line_chart(
            series, x_label=self.sweep.scale, y_label="share", x_range=ends, marker=mark
        )

    def confusion(self) -> Markup:
        """The confusion matrix; empty where there were too many pairs."""
        if not len(self.sweep.counts.confusion):
            return Markup()
        names = (*self.names, "background")
        table = self.sweep.counts.confusion[self.sweep.start]
        return confusion_chart(table, names, every_cell=True)

    def pictures(
        self,
        entries: Sequence[ImageCounts],
        detections: Mapping[Any, Detections],
        load: LoadImage,
        files: Mapping[Any, str] = MappingProxyType({}),
    ) -> Markup:
        """Images with boxes that come and go with the threshold.

        Args:
            entries: Images to show, in this order.
            detections: By image id.
            load: Reads an image file; one that raises ``InputError`` is left out.
            files: By image id, the title of its picture; the name of the file if it is missing.
        """
        shown = []
        threshold = self.sweep.thresholds[self.sweep.start]
        for entry in entries:
            image = entry.image
            try:
                picture = to_picture(load(Path(image.path)))
            except InputError:
                continue
            small, factors = fit_picture(picture, SCENE_SIDE)
            painter = _BoxDrawing(small.size, factors, self.names, threshold)
            one = {image.image_id: detections.get(image.image_id, Detections.empty())}
            sure = self.sweep.sure.get(image.image_id, Detections.empty())
            drawing, note = painter.draw(image, one, {image.image_id: sure})
            title = files.get(image.image_id, Path(image.path).name)
            shown.append((to_jpeg_bytes(small), title, note, drawing))
        return live_pictures(shown)

    def data(self) -> dict[str, object]:
        """What the script needs."""
        sides = len(self.names) + 1
        tables = self.sweep.counts.confusion.reshape(-1, sides * sides)
        filled = [[[n, int(row[n])] for n in np.flatnonzero(row).tolist()] for row in tables]
        return {
            "thresholds": self.sweep.thresholds,
            "texts": self._texts,
            "names": [*self.names, "background"],
            "confusion": filled,
            "cover": LARGEST_COVER,
            "crowd": MOST_LABELLED_TRUE_POSITIVES,
            "words": WORDS,
            "nothing": NOTHING,
        }


class _BoxDrawing:
    """Draws the boxes of one picture as SVG, so that a script can show and hide each of them."""

    def __init__(
        self,
        size: tuple[int, int],
        factors: tuple[float, float],
        names: Sequence[str],
        threshold: float,
    ) -> None:
        self.size, self.names, self.threshold = size, names, threshold
        self.factors = np.array([*factors, *factors])
        self.font = max(SMALLEST_FONT, round(max(size) * FONT_SHARE))
        self._taken: list[tuple[float, ...]] = []

    def draw(
        self,
        image: LabelledImage,
        detections: Mapping[Any, Detections],
        sure: Mapping[Any, Detections],
    ) -> tuple[Markup, str]:
        """The drawing, and what is shown of it at first, in words."""
        truth = collect_truth([image], len(self.names))
        found = collect_detections([image], detections, len(self.names))
        values = collect_detections([image], sure, len(self.names)).scores
        matches = match_voc(truth, found, np.array([0.5]))
        target, right = matches.target[0], matches.true_positive[0]
        until = np.full(len(truth.label), NEVER)
        until[target[right]] = values[right]
        best = np.argsort(-values, kind="stable")[:MOST_BOXES]
        best = best[~matches.ignored[0][best]]
        kinds = {"fn": until < self.threshold, "fp": ~right, "tp": right}
        asked = np.flatnonzero(~truth.ignored)
        counts = {
            "fn": int((until[asked] < self.threshold).sum()),
            "fp": int((~right & ~matches.ignored[0] & (values >= self.threshold)).sum()),
            "tp": int((right & (values >= self.threshold)).sum()),
        }
        crowded = counts["tp"] > MOST_LABELLED_TRUE_POSITIVES
        parts = [
            self._box(truth.boxes[row], "fn", until[row], self._name(truth.label[row], "missed"))
            for row in asked.tolist()
        ]
        for kind in ("fp", "tp"):
            for row in best[kinds[kind][best]].tolist():
                label = self._name(found.label[row], f"{values[row]:z.2f}")
                parts.append(
                    self._box(
                        found.boxes[row], kind, values[row], label, bare=crowded and kind == "tp"
                    )
                )
        words = [
            f"{counts[k]} {one if counts[k] == 1 else many}" for k, one, many in WORDS if counts[k]
        ]
        view = f"0 0 {self.size[0]} {self.size[1]}"
        drawing = svg_element("svg", *parts, viewBox=view, aria_hidden="true", font_size=self.font)
        return drawing, ", ".join(words) or NOTHING

    def _name(self, label: int, text: str) -> str:
        """A label; a single class is not written into every one."""
        return f"{self.names[label]} {text}" if len(self.names) > 1 else text

    def _box(
        self, box: np.ndarray, kind: str, value: float, label: str, *, bare: bool = False
    ) -> Markup:
        """One box with its label."""
        width, height = self.size
        x1, y1, x2, y2 = (box * self.factors).clip(0, [width, height, width, height]).tolist()
        place = {"x": x1, "y": y1, "width": max(2.0, x2 - x1), "height": max(2.0, y2 - y1)}
        is_on = value < self.threshold if kind == "fn" else value >= self.threshold
        wide, high = text_width(label, self.font) + self.font * 0.6, self.font * 1.35
        left = max(0.0, min(x1, width - wide))
        tag = (left, y1 - high if y1 >= high else y1, wide, high)
        fits = is_on and not bare and not any(_covers(tag, other) for other in self._taken)
        if fits:
            self._taken.append(tag)
        sign = svg_element(
            "g",
            svg_element("rect", x=tag[0], y=tag[1], width=wide, height=high),
            svg_element("text", label, x=left + self.font * 0.3, y=tag[1] + self.font),
            data_place=" ".join(f"{value:.1f}" for value in tag),
            display=None if fits else "none",
        )
        lines = [svg_element("rect", **place, class_=each) for each in ("case", "line")]
        limit = {"data_until" if kind == "fn" else "data_from": f"{value:.6g}"}
        shown = None if is_on else "none"
        return svg_element("g", *lines, sign, class_=kind, display=shown, **limit)


def _covers(tag: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two labels cover each other too much."""
    width = min(tag[0] + tag[2], other[0] + other[2]) - max(tag[0], other[0])
    height = min(tag[1] + tag[3], other[1] + other[3]) - max(tag[1], other[1])
    smaller = min(tag[2] * tag[3], other[2] * other[3])
    return width > 0 and height > 0 and width * height > LARGEST_COVER * smaller
