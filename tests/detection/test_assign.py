"""Proposals get the labels of a slow loop over them and the objects; batches are fair shares."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sppnet.detection.assign import (
    UNUSED,
    SamplingConfig,
    label_proposals,
    sample_proposals,
    target_boxes,
    trainable_objects,
)
from sppnet.images import LabelledImage

K = 3


def _image(boxes: Tensor, labels: list[int], difficult=(), crowd=()) -> LabelledImage:
    flags = torch.zeros(3, len(labels), dtype=torch.bool)
    flags[0, list(difficult)] = True
    flags[1, list(crowd)] = True
    return LabelledImage(Path("a.jpg"), 1, (100, 120), boxes, torch.tensor(labels), *flags)


def _overlap(box: list[float], other: list[float]) -> tuple[float, float]:
    """Shared area over joint area, and over the area of the first box."""
    width = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
    height = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
    area = (box[2] - box[0]) * (box[3] - box[1])
    joint = area + (other[2] - other[0]) * (other[3] - other[1]) - width * height
    return width * height / joint, width * height / area


def _slow_label(
    box: list[float], image: LabelledImage, config: SamplingConfig, use_difficult: bool
):
    """One proposal, one object at a time: its label and its object."""
    if not len(image.boxes):
        return K, None
    best, best_wanted, label, thing, hidden = 0.0, -1.0, UNUSED, None, False
    for place, other in enumerate(image.boxes.tolist()):
        joint, inside = _overlap(box, other)
        if image.crowd[place]:
            hidden |= inside >= 0.5
            continue
        best = max(best, joint)
        if (use_difficult or not image.difficult[place]) and joint > best_wanted:
            best_wanted, label, thing = joint, int(image.labels[place]), place
    if best_wanted >= config.positive_from:
        return label, thing
    near = config.negative_from <= best < config.negative_below and not hidden
    return (K if near else UNUSED), None


@pytest.mark.parametrize("use_difficult", [False, True])
@pytest.mark.parametrize("config", [SamplingConfig(), SamplingConfig(64, 0.5, 0.7, 0.0, 0.3)])
def test_labels_and_targets_are_those_of_the_loop(make_boxes, config, use_difficult: bool) -> None:
    things = make_boxes(7, 100, 120, seed=1)
    image = _image(things, [0, 1, 2, 2, 1, 0, 1], difficult=[1, 4], crowd=[3])
    near = (things.repeat(30, 1) + make_boxes(210, 12, 12, seed=2) - 6).clamp(0, 100)
    proposals = torch.cat([things, make_boxes(150, 100, 120, seed=3), near])
    proposals[:, 2:] = torch.maximum(proposals[:, 2:], proposals[:, :2] + 1)
    labels = label_proposals(proposals, image, K, config, use_difficult)
    targets = target_boxes(proposals, image, labels, use_difficult)
    expected = [_slow_label(box, image, config, use_difficult) for box in proposals.tolist()]
    assert labels.tolist() == [label for label, _ in expected]
    assert {-1, 0, 1, 2, K} <= set(labels.tolist())
    for box, target, (_, thing) in zip(proposals.tolist(), targets.tolist(), expected, strict=True):
        if thing is None:
            assert target == box
        else:
            assert target == image.boxes[thing].tolist()


def test_crowds_are_never_learnt_from_and_difficult_objects_if_asked(make_boxes) -> None:
    image = _image(make_boxes(4, 100, 120), [0, 1, 2, 0], difficult=[1, 3], crowd=[2, 3])
    assert trainable_objects(image).tolist() == [True, False, False, False]
    assert trainable_objects(image, use_difficult=True).tolist() == [True, True, False, False]


def test_every_proposal_of_an_image_without_objects_is_a_negative(make_boxes) -> None:
    image = _image(torch.zeros(0, 4), [])
    proposals = make_boxes(5, 100, 120)
    labels = label_proposals(proposals, image, K)
    assert labels.tolist() == [K] * 5
    assert torch.equal(target_boxes(proposals, image, labels), proposals)


def test_no_proposal_gives_no_label(make_boxes) -> None:
    image = _image(make_boxes(2, 100, 120), [0, 1])
    nothing = torch.zeros(0, 4)
    labels = label_proposals(nothing, image, K)
    assert labels.shape == (0,)
    assert target_boxes(nothing, image, labels).shape == (0, 4)


@pytest.mark.parametrize(
    ("of_positives", "of_negatives", "positives", "distinct"),
    [
        (50, 200, 16, 64),  # enough of both
        (5, 200, 5, 64),  # negatives fill up
        (0, 200, 0, 64),
        (50, 10, 16, 26),  # negatives come again
        (50, 0, 64, 50),  # nothing but positives: all of them appear
        (0, 0, 0, 0),
    ],
)
def test_draws_the_share_and_repeats_only_what_lacks(
    of_positives: int, of_negatives: int, positives: int, distinct: int
) -> None:
    labels = torch.tensor([UNUSED] * 9 + [1] * of_positives + [K] * of_negatives)
    drawn = sample_proposals(labels, K, 64, generator=torch.Generator().manual_seed(0))
    assert len(drawn) == (64 if distinct else 0)
    assert int((labels[drawn] == 1).sum()) == positives
    assert bool((labels[drawn] != UNUSED).all())
    if of_negatives:
        assert len(drawn.unique()) == distinct


def test_every_usable_proposal_is_drawn_equally_often() -> None:
    labels = torch.tensor([0] * 8 + [K] * 24)
    draw = torch.Generator().manual_seed(0)
    drawn = torch.cat([sample_proposals(labels, K, 16, generator=draw) for _ in range(2000)])
    counts = torch.bincount(drawn, minlength=32) / 2000
    assert float((counts - 0.5).abs().max()) < 0.05  # 4 of 8 and 12 of 24


def test_same_generator_state_draws_the_same() -> None:
    labels = torch.randint(-1, K + 1, (300,), generator=torch.Generator().manual_seed(1))
    first, second = (
        sample_proposals(labels, K, 40, generator=torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"positive_share": 1.0}, "positive_share must lie inside 0..1, got 1.0"),
        ({"negative_below": 0.6}, "must rise within 0..1"),
        ({"negative_from": 0.5}, "must rise within 0..1"),
    ],
)
def test_impossible_rules_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**options)
