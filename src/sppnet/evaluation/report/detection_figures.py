"""The measures that the report of a detector shows, taken from detections and truth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sppnet.errors import Problem
from sppnet.evaluation.average_precision import (
    CocoMeasures,
    coco_measures,
    evaluate_detections,
    summarise_detections,
)
from sppnet.evaluation.calibration import (
    ReliabilityDiagram,
    ScoreCalibration,
    match_scores,
    measure_reliability,
)
from sppnet.evaluation.error_analysis import (
    DetectionConfusion,
    ErrorTypes,
    confuse_detections,
    find_error_types,
)
from sppnet.evaluation.operating_point import OperatingPoint, best_operating_point
from sppnet.evaluation.overlaps import ProposalRecall
from sppnet.evaluation.report.axes import thin
from sppnet.geometry import Detections
from sppnet.images.dataset import LabelledImage

MEASURES = {
    "ap50": ("AP50", "overlap 0.5, area under the curve"),
    "ap75": ("AP75", "overlap 0.75"),
    "ap": ("AP", "mean over overlaps 0.50 to 0.95, COCO's rule"),
    "ap50_voc07": ("VOC07", "overlap 0.5, mean of 11 points"),
}
VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
NUM_VOC07_TEST_IMAGES = 4952
# Table 11, last row: SPP-net (ZF-5), five scales, fine-tuned fc layers, box regression.
PAPER_AP = (
    0.686, 0.697, 0.571, 0.412, 0.405, 0.663, 0.713, 0.725, 0.344, 0.673, 0.617, 0.631, 0.710,
    0.698, 0.576, 0.297, 0.590, 0.502, 0.652, 0.680,
)  # fmt: skip


@dataclass(frozen=True)
class DetectionAnalysis:
    """What a detector gets right and wrong, and whether its scores can be believed.

    Args:
        coco: COCO's twelve numbers.
        point: The threshold with the best F1; confusion and kinds of mistakes are counted there.
        confusion: Which class was taken for which, the background included.
        errors: Kinds of mistakes and what each costs.
        reliability: Probabilities against shares of true positives; None with too few detections.
    """

    coco: CocoMeasures
    point: OperatingPoint
    confusion: DetectionConfusion
    errors: ErrorTypes
    reliability: ReliabilityDiagram | None

    @classmethod
    def measure(
        cls,
        images: Sequence[LabelledImage],
        detections: Mapping[Any, Detections],
        names: Sequence[str],
        calibration: ScoreCalibration | None = None,
    ) -> "DetectionAnalysis":
        """Measure detections against the truth.

        Args:
            images: With their truth.
            detections: By image id; an image that is missing has none.
            names: Class names.
            calibration: Turns scores into probabilities, fitted on other images; see
                ``measure_reliability`` for what happens without one.

        Returns:
            All of them.

        Raises:
            ValueError: If detections and truth do not belong together.
        """
        point = best_operating_point(images, detections)
        scene = images, detections, names
        return cls(
            coco_measures(*scene),
            point,
            confuse_detections(*scene, point.score_threshold),
            find_error_types(*scene, point.score_threshold),
            measure_reliability(match_scores(*scene), len(names), calibration),
        )

    def to_json(self) -> dict[str, object]:
        """All of it, for JSON."""
        return {
            "coco": {"mean": self.coco.mean, "per_class": self.coco.per_class},
            "operating_point": self.point.to_json(),
            "confusion": self.confusion.to_json(),
            "errors": self.errors.to_json(),
            "reliability": self.reliability.to_json() if self.reliability else None,
        }


@dataclass(frozen=True)
class DetectionFigures:
    """Everything that a report of a detector shows, apart from the images.

    Args:
        names: Class names.
        mean: Mean over the classes, by measure: ap50, ap75, ap, ap50_voc07.
        per_class: By measure, then by class name; NaN for a class without objects.
        curves: (recall, precision) at overlap 0.5 by class name; either may be empty.
        analysis: COCO's numbers, kinds of mistakes, confusion and reliability; None if they were
            not measured.
        proposal_recall: How many objects the proposals cover; None if it was not measured.
        seconds: By stage, in the order of the work.
        seconds_per_image: Of the whole detector; None if it was not measured.
        problems: Findings about input files.
        config: Every setting of the run.
        versions: Of the packages.
        warnings: What has to be known before any figure, a sentence each.
    """

    names: Sequence[str]
    mean: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]] = field(default_factory=dict)
    analysis: DetectionAnalysis | None = None
    proposal_recall: ProposalRecall | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    seconds_per_image: float | None = None
    problems: Sequence[Problem] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @classmethod
    def measure(
        cls,
        images: Sequence[LabelledImage],
        detections: Mapping[Any, Detections],
        names: Sequence[str],
        *,
        calibration: ScoreCalibration | None = None,
        **others: Any,
    ) -> "DetectionFigures":
        """Score detections, and put the result beside the other figures.

        Args:
            images: With their truth.
            detections: By image id; an image that is missing has none.
            names: Class names.
            calibration: Turns the scores into probabilities, fitted on other images.
            others: The remaining fields, such as ``seconds``.

        Returns:
            All figures.

        Raises:
            ValueError: If detections and truth do not belong together.
        """
        summary = summarise_detections(images, detections, names)
        per_class = {
            measure: {name: math.nan if value is None else value for name, value in values.items()}
            for measure, values in summary["per_class_by_measure"].items()
        }
        curves = evaluate_detections(images, detections, names, "area", 0.5).curves
        mean = {measure: summary[measure] for measure in MEASURES}
        analysis = DetectionAnalysis.measure(images, detections, names, calibration)
        return cls(names, mean, per_class, curves, analysis, **others)

    def to_json(self) -> dict[str, object]:
        """What the plots show, as plain lists for JSON."""
        numbers: dict[str, object] = {
            "mean": dict(self.mean),
            "per_class": {measure: dict(values) for measure, values in self.per_class.items()},
            "precision_recall": {name: _curve(*curve) for name, curve in self.curves.items()},
            "seconds": dict(self.seconds),
            "seconds_per_image": self.seconds_per_image,
            "warnings": list(self.warnings),
            "problems": [vars(problem) for problem in self.problems],
        }
        if self.analysis is not None:
            numbers |= self.analysis.to_json()
        if self.proposal_recall is not None:
            shares = self.proposal_recall.recall
            numbers["proposal_recall"] = {
                "windows": self.proposal_recall.num_proposals.tolist(),
                "recall": {f"{overlap:g}": share.tolist() for overlap, share in shares.items()},
            }
        return numbers


def _curve(recall: ArrayLike, precision: ArrayLike) -> dict[str, list[float]]:
    """The points of a curve that are drawn."""
    columns = {"recall": np.asarray(recall), "precision": np.asarray(precision)}
    kept = thin(len(columns["recall"]))
    return {name: values[kept].tolist() for name, values in columns.items()}


def comparable_paper_ap(names: Sequence[str], num_images: int) -> Mapping[str, float]:
    """Average precision of the paper's detector, if the data are the test images of VOC 2007.

    Args:
        names: Class names of the data.
        num_images: How many images were scored.

    Returns:
        VOC07 11-point average precision by class; empty for any other data.

    Example:
        >>> comparable_paper_ap(["raccoon"], 40)
        {}
        >>> comparable_paper_ap(VOC_NAMES, 4952)["cat"]
        0.725

    Source:
        He et al. 2014, table 11: ZF-5, five scales, with box regression (59.2 % on average).
    """
    if num_images != NUM_VOC07_TEST_IMAGES or set(names) != set(VOC_NAMES):
        return {}
    return dict(zip(VOC_NAMES, PAPER_AP, strict=True))
