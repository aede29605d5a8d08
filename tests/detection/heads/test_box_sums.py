"""Sums that images come to and go from give the regression of the images that are there."""

from pathlib import Path

import pytest
import torch

from sppnet.detection.heads.box_regression import CascadeConfig, RidgeBoxRegressor
from sppnet.detection.heads.box_sums import BoxSums, Landmarks, RidgeSums
from sppnet.geometry import boxes_to_deltas
from sppnet.images import LabelledImage

NO = torch.zeros(1, dtype=torch.bool)


@pytest.fixture
def samples(make_encoder, make_picture, make_boxes):
    """Three images with one object each, their maps and proposals near the objects."""
    encoder = make_encoder()
    made = []
    for number in range(3):
        encoded = encoder.encode(make_picture(80, 110, seed=number))
        box = torch.tensor([[20.0 + 9 * number, 15.0, 70.0 + 9 * number, 60.0]])
        shifts = torch.randn(25, 4, generator=torch.Generator().manual_seed(number)) * 3
        label = torch.tensor([number % 2])
        image = LabelledImage(Path(str(number)), number, (80, 110), box, label, NO, NO, NO)
        made.append((image, encoded, (box + shifts).clamp(0, 80)))
    return encoder, made


def test_with_all_samples_as_landmarks_it_is_ridge_regression() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 50, generator=draw) * 3
    boxes = torch.tensor([[10.0, 10.0, 50.0, 40.0]]) + torch.randn(30, 4, generator=draw)
    goals = torch.tensor([[12.0, 9.0, 55.0, 41.0]]).expand(30, 4)
    expected = RidgeBoxRegressor(strength=40.0).fit([rows], [boxes], [goals])
    landmarks = Landmarks(rows)
    sums = RidgeSums(31)
    coordinates = torch.cat([rows @ landmarks.basis, torch.ones(30, 1)], 1)
    sums.add(coordinates, boxes_to_deltas(boxes, goals))
    weights, bias = sums.solve(40.0)
    assert landmarks.basis @ weights == pytest.approx(expected.weights_[0], abs=1e-4)
    assert bias == pytest.approx(expected.bias_[0], abs=1e-4)


def _sums(encoder, made, owners, *, agnostic: bool = False) -> BoxSums:
    rows = torch.cat([encoder.describe(encoded, boxes) for _, encoded, boxes in made])
    config = CascadeConfig(stages=1, strength=1.0, class_agnostic=agnostic)
    sums = BoxSums(encoder, Landmarks(rows).basis, 2, config)
    for owner in owners:
        image, encoded, boxes = made[owner]
        sums.add(owner, image, encoded, boxes, most=60)
    sums.solve()
    return sums


def test_an_image_that_was_dropped_leaves_no_trace(samples) -> None:
    encoder, made = samples
    sums, never = _sums(encoder, made, [0, 1, 2]), _sums(encoder, made, [0, 1])
    assert not torch.allclose(sums.cascade.stages_[0].weights_, never.cascade.stages_[0].weights_)
    sums.drop(2)
    sums.solve()
    ours, theirs = sums.cascade.stages_[0], never.cascade.stages_[0]
    assert ours.weights_ == pytest.approx(theirs.weights_, abs=1e-4)
    assert ours.bias_ == pytest.approx(theirs.bias_, abs=1e-4)


def test_an_image_that_is_added_again_counts_once(samples) -> None:
    encoder, made = samples
    sums, once = _sums(encoder, made, [0, 1, 0, 0]), _sums(encoder, made, [0, 1])
    ours, theirs = sums.cascade.stages_[0], once.cascade.stages_[0]
    assert ours.weights_ == pytest.approx(theirs.weights_, abs=1e-4)


def test_a_new_class_leaves_boxes_as_they_are_until_it_has_samples(samples) -> None:
    encoder, made = samples
    sums = _sums(encoder, made, [0, 1])
    before = sums.cascade.stages_[0].weights_.clone()
    sums.grow(3)
    assert torch.equal(sums.cascade.stages_[0].weights_[:2], before)
    boxes = made[0][2]
    moved = sums.cascade.apply(encoder, made[0][1], torch.full((len(boxes),), 2), boxes)
    assert moved == pytest.approx(boxes, abs=1e-4)


def test_boxes_come_closer_to_their_objects(samples) -> None:
    encoder, made = samples
    sums = _sums(encoder, made, [0, 1, 2])
    image, encoded, boxes = made[0]
    moved = sums.cascade.apply(encoder, encoded, image.labels.expand(len(boxes)), boxes)
    before, after = (each.sub(image.boxes).abs().mean() for each in (boxes, moved))
    assert float(after) < 0.8 * float(before)


def test_one_regression_serves_all_classes_and_new_ones(samples) -> None:
    encoder, made = samples
    sums = _sums(encoder, made, [0, 1, 2], agnostic=True)
    sums.grow(5)
    assert sums.cascade.tensors()["weights"].shape[:2] == (1, 1)
    image, encoded, boxes = made[0]
    by_class = [
        sums.cascade.apply(encoder, encoded, torch.full((len(boxes),), label), boxes)
        for label in (0, 4)
    ]
    assert torch.equal(*by_class)
    assert float((by_class[0] - image.boxes).abs().mean()) < 0.8 * float(
        boxes.sub(image.boxes).abs().mean()
    )
    sums.drop(1)
    sums.solve()
    never = _sums(encoder, made, [0, 2], agnostic=True)
    ours, theirs = sums.cascade.stages_[0], never.cascade.stages_[0]
    assert ours.weights_ == pytest.approx(theirs.weights_, abs=1e-4)


@pytest.mark.parametrize("agnostic", [False, True])
def test_what_was_written_in_parts_goes_on_as_if_it_never_stopped(samples, agnostic: bool) -> None:
    encoder, made = samples
    first = _sums(encoder, made, [0, 1], agnostic=agnostic)
    parts = iter(list(first.parts()))
    again = BoxSums.restored(parts, encoder, 2, CascadeConfig(stages=1, strength=1.0))
    for sums in (first, again):
        assert sums.config.class_agnostic is agnostic
        sums.drop(0)
        sums.add(2, *made[2], most=60)
        sums.solve()
    (one,), (two,) = first.cascade.stages_, again.cascade.stages_
    assert torch.equal(one.weights_, two.weights_)
    assert torch.equal(one.bias_, two.bias_)


def test_a_copy_of_sums_leaves_the_first_alone(samples) -> None:
    encoder, made = samples
    first = _sums(encoder, made, [0, 1])
    before = first.cascade.stages_[0].weights_.clone()
    other = first.copy()
    other.drop(0)
    other.add(2, *made[2], most=60)
    other.solve()
    first._changed = {(0, 0), (0, 1)}
    first.solve()
    assert torch.equal(first.cascade.stages_[0].weights_, before)
