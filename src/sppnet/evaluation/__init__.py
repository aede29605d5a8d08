"""Evaluation: how good answers are, where they are wrong, and pages that show it.

- ``matching``: which detections are true positives, by the rules of VOC and of COCO. Start here.
- ``average_precision``: scores of a detector from these matches, COCO's twelve among them.
- ``error_analysis``: kinds of mistakes, confusion of classes.
- ``comparison``: two runs over the same photos, and whether the difference is chance.
- ``calibration``: scores as probabilities, and whether those can be believed.
- ``operating_point``: from which score on a detection counts.
- ``overlaps``: of boxes, in blocks; how many objects the proposals cover.
- ``results_io`` reads detections of a data set, ``result_formats`` knows the formats, row by row;
  ``visualize`` draws detections on images.
- ``report``: all of it as one HTML page; how often a classifier is right.
"""

from sppnet.evaluation.average_precision import (
    AveragePrecision,
    CocoMeasures,
    average_precision_voc07,
    coco_measures,
    evaluate_detections,
    precision_and_recall,
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
    ImageCounts,
    best_and_worst,
    confuse_detections,
    count_matches,
    find_error_types,
)
from sppnet.evaluation.matching import ImageMatches, match_detections
from sppnet.evaluation.operating_point import (
    OperatingPoint,
    OperatingPoints,
    best_operating_point,
)
from sppnet.evaluation.overlaps import ProposalRecall, proposal_recall_curve
from sppnet.evaluation.report.classification import (
    ClassificationFigures,
    confusion_matrix,
    mean_class_accuracy,
    per_class_accuracy,
    top_k_accuracy,
    write_classification_report,
)
from sppnet.evaluation.report.detection import write_detection_report
from sppnet.evaluation.report.detection_figures import DetectionAnalysis, DetectionFigures
from sppnet.evaluation.result_formats import write_coco_results, write_counts, write_csv
from sppnet.evaluation.results_io import read_detections
from sppnet.evaluation.visualize import (
    FALSE_NEGATIVE_COLOUR,
    FALSE_POSITIVE_COLOUR,
    TRUE_POSITIVE_COLOUR,
    BoxPainter,
    draw_detections,
    draw_matches,
    to_jpeg_bytes,
    to_picture,
)

__all__ = [
    "FALSE_NEGATIVE_COLOUR",
    "FALSE_POSITIVE_COLOUR",
    "TRUE_POSITIVE_COLOUR",
    "AveragePrecision",
    "BoxPainter",
    "ClassificationFigures",
    "CocoMeasures",
    "DetectionAnalysis",
    "DetectionConfusion",
    "DetectionFigures",
    "ErrorTypes",
    "ImageCounts",
    "ImageMatches",
    "OperatingPoint",
    "OperatingPoints",
    "ProposalRecall",
    "ReliabilityDiagram",
    "ScoreCalibration",
    "average_precision_voc07",
    "best_and_worst",
    "best_operating_point",
    "coco_measures",
    "confuse_detections",
    "confusion_matrix",
    "count_matches",
    "draw_detections",
    "draw_matches",
    "evaluate_detections",
    "find_error_types",
    "match_detections",
    "match_scores",
    "mean_class_accuracy",
    "measure_reliability",
    "per_class_accuracy",
    "precision_and_recall",
    "proposal_recall_curve",
    "read_detections",
    "summarise_detections",
    "to_jpeg_bytes",
    "to_picture",
    "top_k_accuracy",
    "write_classification_report",
    "write_coco_results",
    "write_counts",
    "write_csv",
    "write_detection_report",
]
