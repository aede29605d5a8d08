"""The detections of one image, matched with its objects by the rule of VOC.

The tables over many images, and COCO's rule, are compared with loops in ``test_average_precision``.
"""

import pytest
import torch

from sppnet.evaluation.matching import match_detections
from sppnet.geometry import Detections

TRUTH = torch.tensor([[100.0, 100.0, 200.0, 200.0], [400.0, 300.0, 500.0, 400.0]])


def found(boxes, scores, labels):
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.int64),
    )


def counts(detections, labels=(0, 0), **options):
    return match_detections(TRUTH, torch.tensor(labels), detections, **options).counts()


# (detections, (true positives, false positives, false negatives)) against two objects of class 0
CASES = {
    "nothing found": (([], [], []), (0, 0, 2)),
    "exact": (([[100, 100, 200, 200]], [0.9], [0]), (1, 0, 1)),
    "another class": (([[100, 100, 200, 200]], [0.9], [1]), (0, 1, 2)),
    "overlap of exactly a half": (([[100, 100, 200, 150]], [0.9], [0]), (1, 0, 1)),
    "overlap just below a half": (([[100, 100, 200, 149]], [0.9], [0]), (0, 1, 2)),
    "found twice": (([[100, 100, 200, 200], [101, 100, 200, 200]], [0.5, 0.9], [0, 0]), (1, 1, 1)),
    "elsewhere": (([[0, 0, 50, 50]], [0.9], [0]), (0, 1, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_matches_are_counted_by_the_rule_of_voc(name):
    detections, expected = CASES[name]
    assert counts(found(*detections)) == expected


def test_of_two_on_one_object_the_better_score_is_right():
    detections = found([[100, 100, 200, 200], [105, 100, 200, 200]], [0.5, 0.9], [0, 0])
    matches = match_detections(TRUTH, torch.tensor([0, 0]), detections)
    assert matches.is_true_positive.tolist() == [False, True]


def test_objects_that_do_not_count_are_neither_found_nor_missed():
    detections = found([[100, 100, 200, 200]] * 2, [0.9, 0.8], [0, 0])
    assert counts(detections, truth_ignored=torch.tensor([True, False])) == (0, 0, 1)


def test_image_without_objects():
    matches = match_detections(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), found([[0, 0, 9, 9]], [0.1], [0])
    )
    assert matches.counts() == (0, 1, 0)
