"""The detections of one image, matched with its objects by the rule of VOC.

The tables over many images, and COCO's rule, are compared with loops in ``test_average_precision``.
"""

import tracemalloc
from pathlib import Path

import pytest
import torch

from sppnet.evaluation import (
    DetectionFigures,
    confuse_detections,
    evaluate_detections,
    overlaps,
    proposal_recall_curve,
)
from sppnet.evaluation.matching import match_detections
from sppnet.geometry import Detections
from sppnet.images import LabelledImage

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


# --- many boxes in one image ---------------------------------------------------------------------


def crowded_image(count, seed):
    """An image with boxes of three classes that overlap a lot, with ties, and its detections."""
    draw = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 12, (2 * count, 2), generator=draw).float()
    boxes = torch.cat([corners, corners + torch.randint(3, 9, (2 * count, 2), generator=draw)], 1)
    labels = torch.randint(0, 3, (2 * count,), generator=draw)
    scores = torch.randint(0, 20, (count,), generator=draw).float()
    some = torch.arange(count) % 7 == 3
    image = LabelledImage(
        path=Path("a.jpg"),
        image_id="a",
        size_hw=(30, 30),
        boxes=boxes[:count],
        labels=labels[:count],
        difficult=some,
        crowd=torch.arange(count) % 11 == 5,
        truncated=some,
    )
    return image, Detections(boxes[count:], scores, labels[count:])


def everything(image, detections):
    """All that is made of the overlaps of one image."""
    truth, found = [image], {"a": detections}
    names = ["x", "y", "z"]
    return (
        [evaluate_detections(truth, found, names, metric) for metric in ("voc10", "coco")],
        DetectionFigures.measure(truth, found, names, problems=[]).to_json(),
        confuse_detections(truth, found, names, 3.0).counts.tolist(),
        proposal_recall_curve(truth, {"a": detections.boxes}).recall[0.5].tolist(),
        match_detections(image.boxes, image.labels, detections).counts(),
    )


@pytest.mark.parametrize("seed", range(3))
def test_blocks_change_no_answer(monkeypatch, seed):
    image, detections = crowded_image(40, seed)
    whole = everything(image, detections)
    monkeypatch.setattr(overlaps, "BLOCK_PAIRS", 130)
    assert repr(everything(image, detections)) == repr(whole)


def test_memory_grows_with_the_boxes_and_not_with_their_pairs():
    image, detections = crowded_image(1500, 0)
    truth, found = [image], {"a": detections}
    tracemalloc.start()
    try:
        evaluate_detections(truth, found, ["x", "y", "z"])
        confuse_detections(truth, found, ["x", "y", "z"], 3.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000  # 1500 x 1500 overlaps are 18 MB, with what they are made of 180
