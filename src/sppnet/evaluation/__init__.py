"""Scores of detectors and classifiers, files of detections, overlays and reports.

The parts of a page are in the submodules ``page`` and ``charts``.
"""

from sppnet.evaluation.average_precision import (
    AveragePrecision,
    evaluate_detections,
    summarise_detections,
)
from sppnet.evaluation.calibration import (
    Reliability,
    ScoreCalibration,
    match_scores,
    measure_reliability,
)
from sppnet.evaluation.classification import (
    confusion_matrix,
    mean_class_accuracy,
    per_class_accuracy,
    top_k_accuracy,
)
from sppnet.evaluation.coco import CocoMeasures, coco_measures
from sppnet.evaluation.error_analysis import (
    DetectionConfusion,
    ErrorTypes,
    confuse_detections,
    find_error_types,
)
from sppnet.evaluation.matching import ImageMatches, match_detections
from sppnet.evaluation.proposal_recall import ProposalRecall, proposal_recall_curve
from sppnet.evaluation.report.classification import (
    ClassificationFigures,
    write_classification_report,
)
from sppnet.evaluation.report.detection import write_detection_report
from sppnet.evaluation.report.detection_figures import DetectionAnalysis, DetectionFigures
from sppnet.evaluation.results_io import read_detections, write_coco_results, write_csv
from sppnet.evaluation.visualize import draw_detections, draw_matches, to_jpeg_bytes

__all__ = [
    "AveragePrecision",
    "ClassificationFigures",
    "CocoMeasures",
    "DetectionAnalysis",
    "DetectionConfusion",
    "DetectionFigures",
    "ErrorTypes",
    "ImageMatches",
    "ProposalRecall",
    "Reliability",
    "ScoreCalibration",
    "coco_measures",
    "confuse_detections",
    "confusion_matrix",
    "draw_detections",
    "draw_matches",
    "evaluate_detections",
    "find_error_types",
    "match_detections",
    "match_scores",
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
