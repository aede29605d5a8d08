"""Scores of detectors and classifiers, files of detections, overlays and reports.

The parts of a page are in the submodules ``page`` and ``charts``.
"""

from sppnet.evaluation.average_precision import (
    AveragePrecision,
    evaluate_detections,
    summarise_detections,
)
from sppnet.evaluation.classification_metrics import (
    confusion_matrix,
    mean_class_accuracy,
    per_class_accuracy,
    top_k_accuracy,
)
from sppnet.evaluation.classification_report import (
    ClassificationFigures,
    write_classification_report,
)
from sppnet.evaluation.coco_measures import CocoMeasures, coco_measures
from sppnet.evaluation.detection_analysis import DetectionAnalysis
from sppnet.evaluation.detection_confusion import DetectionConfusion, confuse_detections
from sppnet.evaluation.detection_figures import DetectionFigures
from sppnet.evaluation.detection_report import write_detection_report
from sppnet.evaluation.detections_file import read_detections, write_coco_results, write_csv
from sppnet.evaluation.error_types import ErrorTypes, find_error_types
from sppnet.evaluation.hits_and_misses import Judgement, judge_detections
from sppnet.evaluation.overlays import draw_detections, draw_hits_and_misses, to_jpeg_bytes
from sppnet.evaluation.proposal_recall import ProposalRecall, proposal_recall_curve
from sppnet.evaluation.reliability import Reliability, judge_scores, measure_reliability
from sppnet.evaluation.score_calibration import ScoreCalibration

__all__ = [
    "AveragePrecision",
    "ClassificationFigures",
    "CocoMeasures",
    "DetectionAnalysis",
    "DetectionConfusion",
    "DetectionFigures",
    "ErrorTypes",
    "Judgement",
    "ProposalRecall",
    "Reliability",
    "ScoreCalibration",
    "coco_measures",
    "confuse_detections",
    "confusion_matrix",
    "draw_detections",
    "draw_hits_and_misses",
    "evaluate_detections",
    "find_error_types",
    "judge_detections",
    "judge_scores",
    "mean_class_accuracy",
    "measure_reliability",
    "per_class_accuracy",
    "proposal_recall_curve",
    "read_detections",
    "summarise_detections",
    "to_jpeg_bytes",
    "top_k_accuracy",
    "write_classification_report",
    "write_coco_results",
    "write_csv",
    "write_detection_report",
]
