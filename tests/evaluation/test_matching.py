"""The detections of one image, matched with its objects by the rule of VOC.

The tables over many images, and COCO's rule, are compared with loops in ``test_average_precision``.
"""

import math
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
import torch

from evaluation_scenes import as_detections, as_images, random_scene
from oracles import slow_mistakes as slow
from oracles.coco_references import STATS, pycocotools_says
from sppnet.evaluation import (
    DetectionFigures,
    coco_measures,
    confuse_detections,
    error_analysis,
    evaluate_detections,
    find_error_types,
    matching,
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


def cut_small(monkeypatch, pairs, most):
    """Let blocks be tiny, and few pairs be kept."""
    monkeypatch.setattr(overlaps, "BLOCK_PAIRS", pairs)
    monkeypatch.setattr(matching, "BLOCK_PAIRS", pairs)
    monkeypatch.setattr(overlaps, "NEIGHBOURS", 4)
    monkeypatch.setattr(error_analysis, "MOST_PAIRS", most)


@pytest.mark.parametrize(("pairs", "most"), [(130, 1000), (20, 0), (1, 1000)])
@pytest.mark.parametrize("seed", range(3))
def test_blocks_change_no_answer(monkeypatch, seed, pairs, most):
    image, detections = crowded_image(40, seed)
    whole = everything(image, detections)
    matching._LAST.clear()
    cut_small(monkeypatch, pairs, most)
    assert repr(everything(image, detections)) == repr(whole)


@pytest.mark.parametrize("seed", range(40))
def test_small_blocks_give_what_the_loops_give(monkeypatch, seed):
    cut_small(monkeypatch, 8, 1000 if seed % 2 else 0)
    truth, things, images, _ = random_scene(seed, difficult=True, crowd=False, many=seed < 5)
    names = [f"class {label}" for label in range(4)]
    scene = as_images(truth, images), as_detections(things), names
    table = confuse_detections(*scene, -math.inf)
    ranked = sorted(things, key=lambda thing: thing.image)
    assert table.counts.tolist() == slow.confusion(truth, ranked, 4)
    kinds = find_error_types(*scene).counts
    expected = Counter(slow.kinds_of(truth, ranked)[0].values())
    assert {kind: count for kind, count in kinds.items() if kind != "missed"} == {
        kind: expected[kind] for kind in error_analysis.FALSE_POSITIVE_TYPES
    }


@pytest.mark.parametrize("seed", range(5))
def test_crowded_images_are_scored_as_pycocotools_does(monkeypatch, seed):
    cut_small(monkeypatch, 8, 0)
    truth, things, images, _ = random_scene(seed, difficult=False, crowd=True, many=True)
    ours = coco_measures(as_images(truth, images), as_detections(things), ["a", "b", "c", "d"])
    said = pycocotools_says(truth, things, images, 4, None).stats
    for name, value in zip(STATS, list(said)[:12], strict=True):
        assert math.isnan(ours.mean[name]) if value < 0 else ours.mean[name] == pytest.approx(value)


def spread_image(count, seed=0, size=4000.0):
    """Small boxes all over a large image, and detections near them, of three classes."""
    draw = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=draw) * size
    boxes = torch.cat([corners, corners + 10 + 40 * torch.rand(count, 2, generator=draw)], 1)
    moved = boxes + torch.randn(count, 4, generator=draw)
    labels, no = torch.randint(0, 3, (count,), generator=draw), torch.zeros(count).bool()
    image = LabelledImage(
        path=Path("a.jpg"),
        image_id="a",
        size_hw=(int(size), int(size)),
        boxes=boxes,
        labels=labels,
        difficult=no,
        crowd=no,
        truncated=no,
    )
    return image, Detections(moved, torch.rand(count, generator=draw), labels.flip(0))


def test_boxes_that_lie_apart_are_not_compared(monkeypatch):
    pairs = []
    plain = overlaps.any_overlaps

    def count(truth, found, detected, objects):
        pairs.append(len(detected) * len(objects))
        return plain(truth, found, detected, objects)

    monkeypatch.setattr(overlaps, "any_overlaps", count)
    image, detections = spread_image(3000)
    scene = [image], {"a": detections}, ["x", "y", "z"]
    evaluate_detections(*scene)
    confuse_detections(*scene, -1.0)
    find_error_types(*scene)
    assert sum(pairs) < 0.1 * 3 * 3000**2  # it was three looks at all of them


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_thirty_thousand_objects_and_detections(seed):
    """Spread over the image, and all over each other: within half a minute and 500 MB."""
    image, detections = spread_image(30_000) if seed else crowded_image(30_000, 0)
    names = ["x", "y", "z"]
    begin = time.process_time()
    tracemalloc.start()
    try:
        evaluate_detections([image], {"a": detections}, names, "coco")
        DetectionFigures.measure([image], {"a": detections}, names, problems=[])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500_000_000
    assert time.process_time() - begin < 60  # with the counting of memory


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
