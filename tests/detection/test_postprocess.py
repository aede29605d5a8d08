"""Votes of suppressed boxes against a loop over them; caps of an image and of each class."""

import math

import pytest
import torch

from sppnet.config.detection import InferenceConfig
from sppnet.detection.postprocess import (
    let_classes_compete,
    preselect,
    select_detections,
    vote_boxes,
)
from sppnet.geometry import Detections, box_iou


def _voters(count: int = 60, seed: int = 0) -> Detections:
    """Boxes of two classes, heaped so that many overlap."""
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=draw) * 30
    side = 20 + torch.rand(count, 2, generator=draw) * 20
    scores = torch.randn(count, generator=draw)
    labels = torch.randint(0, 2, (count,), generator=draw)
    return Detections(torch.cat([corner, corner + side], 1), scores, labels)


def test_equals_the_loop() -> None:
    voters = _voters()
    kept = voters.select(torch.arange(0, 60, 7))
    found = vote_boxes(kept, voters, 0.5)
    for box, label, voted in zip(kept.boxes, kept.labels, found.boxes, strict=True):
        total, weight = torch.zeros(4), 0.0
        for other, score, kind in zip(voters.boxes, voters.scores, voters.labels, strict=True):
            if kind == label and box_iou(box[None], other[None]) >= 0.5 and score > -1:
                total, weight = total + (1 + score) * other, weight + float(1 + score)
        expected = total / weight if weight else box
        assert torch.allclose(voted, expected, atol=1e-4)
    assert torch.equal(found.scores, kept.scores)
    assert torch.equal(found.labels, kept.labels)
    assert not torch.allclose(found.boxes, kept.boxes, atol=0.5)


def test_box_without_voters_stays() -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    kept = Detections(box, torch.tensor([-1.2]), torch.tensor([0]))
    assert torch.equal(vote_boxes(kept, kept).boxes, box)
    assert torch.equal(vote_boxes(kept, Detections.empty()).boxes, box)


def test_no_detections() -> None:
    assert vote_boxes(Detections.empty(), _voters()).count == 0


def test_no_cap_of_moved_boxes_keeps_all_of_them() -> None:
    voters = _voters()
    assert sorted(preselect(voters, 0).tolist()) == list(range(60))
    assert len(preselect(voters, 7)) == 14


@pytest.mark.parametrize("nms", ["hard", "soft"])
def test_cap_is_of_the_image_or_of_each_class(nms: str) -> None:
    voters = _voters()
    options = {"nms": nms, "nms_threshold": 0.6, "score_threshold": -9.0}
    every = select_detections(voters, InferenceConfig(max_detections=60, **options))
    of_image = select_detections(voters, InferenceConfig(max_detections=4, **options))
    of_class = InferenceConfig(max_detections=4, max_per="class", **options)
    found = select_detections(voters, of_class)
    assert torch.equal(of_image.scores, every.scores[:4])
    rows = [(every.labels == label).nonzero().flatten()[:4] for label in (0, 1)]
    assert found.count == 8
    assert torch.equal(found.boxes, every.boxes[torch.cat(rows).sort().values])


def test_soft_suppression_lowers_scores_once() -> None:
    config = InferenceConfig(nms="soft", max_detections=60, score_threshold=-9.0)
    once = select_detections(_voters(), config)
    again = select_detections(once, config, again=True)
    assert 0 < again.count < once.count
    assert set(_scored(again)) <= set(_scored(once))


def _scored(found: Detections) -> list[tuple[int, float]]:
    return list(zip(found.labels.tolist(), found.scores.tolist(), strict=True))


@pytest.mark.parametrize("temperature", [0.05, 0.125, 1.0, 10.0])
def test_competing_classes_have_the_log_odds_of_a_softmax_with_background(temperature) -> None:
    scores = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * 2
    found = let_classes_compete(scores, temperature)
    for row, competing in zip(scores.tolist(), found.tolist(), strict=True):
        shares = [math.exp(each / temperature) for each in [*row, 0.0]]
        for number, score in enumerate(competing):
            rest = sum(share for other, share in enumerate(shares) if other != number)
            expected = temperature * math.log(shares[number] / rest)
            assert score == pytest.approx(expected, abs=1e-5)


def test_a_class_without_rivals_keeps_its_score() -> None:
    alone = torch.tensor([[1.5], [-1.0]])
    assert torch.equal(let_classes_compete(alone, 0.125), alone)
    scores = torch.tensor([[1.5, -1.0, -1.0]])
    assert torch.equal(let_classes_compete(scores, 0.0), scores)
    assert float(let_classes_compete(scores, 0.125)[0, 0]) == pytest.approx(1.5, abs=1e-4)


def test_scores_far_apart_lose_no_digits() -> None:
    found = let_classes_compete(torch.tensor([[60.0, 20.0, -1e9]]), 0.125)
    assert found[0].tolist() == pytest.approx([40.0, -40.0, -1e9], rel=1e-6)
    never = torch.tensor([[2.0, -torch.inf]])
    assert let_classes_compete(never, 0.125)[0].tolist() == pytest.approx([2.0, -torch.inf])
    assert let_classes_compete(torch.zeros(0, 3), 0.125).shape == (0, 3)
