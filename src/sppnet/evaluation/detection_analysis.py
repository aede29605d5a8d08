"""Everything beyond the average precision that is worth knowing about a detector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sppnet.evaluation.coco_measures import CocoMeasures, coco_measures
from sppnet.evaluation.detection_confusion import DetectionConfusion, confuse_detections
from sppnet.evaluation.error_types import ErrorTypes, find_error_types
from sppnet.evaluation.operating_point import OperatingPoint, best_operating_point
from sppnet.evaluation.reliability import Reliability, judge_scores, measure_reliability
from sppnet.evaluation.score_calibration import ScoreCalibration
from sppnet.geometry import Detections
from sppnet.images.dataset import LabelledImage


@dataclass(frozen=True)
class DetectionAnalysis:
    """What a detector gets right and wrong, and whether its scores can be believed.

    Args:
        coco: COCO's twelve numbers.
        point: The threshold with the best F1; confusion and kinds of mistakes are counted there.
        confusion: Which class was taken for which, the background included.
        errors: Kinds of mistakes and what each costs.
        reliability: Probabilities against shares of hits; None if there is too little for it.
    """

    coco: CocoMeasures
    point: OperatingPoint
    confusion: DetectionConfusion
    errors: ErrorTypes
    reliability: Reliability | None

    @classmethod
    def measure(
        cls,
        images: Sequence[LabelledImage],
        detections: Mapping[Any, Detections],
        names: Sequence[str],
        calibration: ScoreCalibration | None = None,
    ) -> "DetectionAnalysis":
        """Take all these measures.

        Args:
            images: With their truth.
            detections: By image id; an image that is missing has none.
            names: Class names.
            calibration: Turns scores into probabilities, fitted on other images; see
                ``measure_reliability`` for what happens without one.

        Returns:
            The measures.

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
            measure_reliability(judge_scores(*scene), len(names), calibration),
        )

    def numbers(self) -> dict[str, object]:
        """All of it, for JSON."""
        return {
            "coco": {"mean": self.coco.mean, "per_class": self.coco.per_class},
            "operating_point": self.point.numbers(),
            "confusion": self.confusion.numbers(),
            "errors": self.errors.numbers(),
            "reliability": self.reliability.numbers() if self.reliability else None,
        }
