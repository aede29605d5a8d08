"""Box regression against scikit-learn's ridge on targets that were whitened one by one.

Box regression in stages: the first equals the released one, the second comes closer."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from oracles.box_ridge import delta, predict_deltas, whiten
from sppnet.detection.heads.box_regression import (
    BoxCascade,
    BoxSamples,
    CascadeConfig,
    RidgeBoxRegressor,
    whiten_deltas,
)
from sppnet.geometry import box_iou, boxes_to_deltas, deltas_to_boxes


def _samples(count: int = 80, length: int = 30, seed: int = 0):
    """Features that tell where the object lies, proposals, objects."""
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform(0, 90, (count, 2)), rng.uniform(20, 80, (count, 2))
    shift, growth = rng.normal(0.05, 0.1, (count, 2)), rng.normal(0.1, 0.15, (count, 2))
    new_size = size * np.exp(growth)
    new_corner = corner + size / 2 + shift * size - new_size / 2
    mixing = rng.normal(size=(4, length))
    features = np.c_[shift, growth] @ mixing + rng.normal(0, 0.02, (count, length))
    features *= 20 / np.linalg.norm(features, axis=1).mean()
    arrays = (features, np.c_[corner, corner + size], np.c_[new_corner, new_corner + new_size])
    return tuple(torch.tensor(array, dtype=torch.float32) for array in arrays)


@pytest.mark.parametrize("strength", [10.0, 1000.0, 4000.0])
@pytest.mark.parametrize("length", [6, 30, 200])
def test_agrees_with_sklearns_ridge(strength: float, length: int) -> None:
    features, proposals, targets = _samples(length=length)
    regressor = RidgeBoxRegressor(strength).fit([features], [proposals], [targets])
    asked = _samples(12, length, seed=1)[0]
    found = asked @ regressor.weights_[0] + regressor.bias_[0]
    pairs = zip(proposals.tolist(), targets.tolist(), strict=True)
    deltas = np.array([delta(*pair) for pair in pairs])
    expected = predict_deltas(features.double().numpy(), deltas, strength, asked.double().numpy())
    assert np.allclose(found.numpy(), expected, atol=2e-5)


def test_whitened_targets_have_nearly_the_identity_as_covariance() -> None:
    _, proposals, targets = _samples(4000)
    deltas = boxes_to_deltas(proposals.double(), targets.double())
    mean, forth, back = whiten_deltas(deltas)
    white = (deltas - mean) @ forth
    covariance = white.T @ white / len(white)
    assert torch.allclose(covariance, torch.eye(4).double(), atol=0.15)  # 0.001 / smallest variance
    assert torch.allclose(white @ back + mean, deltas, atol=1e-9)
    expected, expected_mean, expected_back = whiten(deltas.numpy())
    assert np.allclose(white, expected)
    assert np.allclose(mean, expected_mean)
    assert np.allclose(back, expected_back)


def test_moves_boxes_closer_to_the_objects() -> None:
    features, proposals, targets = _samples(200)
    regressor = RidgeBoxRegressor(100.0).fit([features[:150]], [proposals[:150]], [targets[:150]])
    moved = regressor.refine(features[150:], torch.zeros(50, dtype=torch.int64), proposals[150:])
    before = (proposals[150:] - targets[150:]).abs().mean()
    assert (moved - targets[150:]).abs().mean() < 0.3 * before


def test_class_without_samples_leaves_boxes_as_they_are() -> None:
    features, proposals, targets = _samples(20)
    nothing = (torch.zeros(0, 30), torch.zeros(0, 4), torch.zeros(0, 4))
    parts = zip((features, proposals, targets), nothing, strict=True)
    regressor = RidgeBoxRegressor().fit(*(list(part) for part in parts))
    labels = torch.ones(20, dtype=torch.int64)
    assert torch.allclose(regressor.refine(features, labels, proposals), proposals, atol=1e-4)
    assert not torch.allclose(
        regressor.refine(features, 0 * labels, proposals), proposals, atol=0.1
    )


def test_each_proposal_is_moved_by_its_own_class() -> None:
    first, second = _samples(40), _samples(40, seed=5)
    both = RidgeBoxRegressor(50.0).fit(*(list(part) for part in zip(first, second, strict=True)))
    labels = torch.arange(40) % 2
    moved = both.refine(first[0], labels, first[1])
    for label, samples in enumerate((first, second)):
        alone = RidgeBoxRegressor(50.0).fit(*([part] for part in samples))
        rows = labels == label
        expected = alone.refine(first[0][rows], 0 * labels[rows], first[1][rows])
        assert torch.allclose(moved[rows], expected, atol=1e-4)


def test_one_sample_is_enough() -> None:
    box = torch.tensor([[10.0, 10.0, 30.0, 50.0]])
    goal = torch.tensor([[12.0, 10.0, 34.0, 48.0]])
    regressor = RidgeBoxRegressor().fit([torch.ones(1, 5)], [box], [goal])
    moved = regressor.refine(torch.ones(1, 5), torch.tensor([0]), box)
    assert torch.allclose(moved, goal, atol=1e-4)  # the mean alone explains it


def test_no_boxes() -> None:
    samples = _samples(10)
    regressor = RidgeBoxRegressor().fit(*([part] for part in samples))
    empty = torch.zeros(0, 4)
    moved = regressor.refine(torch.zeros(0, 30), torch.zeros(0, dtype=torch.int64), empty)
    assert moved.shape == (0, 4)


def test_deltas_are_those_of_the_slow_loop() -> None:
    _, proposals, targets = _samples(30)
    pairs = zip(proposals.tolist(), targets.tolist(), strict=True)
    expected = torch.tensor([delta(*pair) for pair in pairs])
    found = boxes_to_deltas(proposals, targets)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(deltas_to_boxes(proposals, found), targets, atol=1e-3)


def test_kept_samples_are_a_random_part_whose_rows_stay_together() -> None:
    samples = BoxSamples(limit=100, length=2)
    draw = torch.Generator().manual_seed(0)
    for start in range(0, 2000, 10):
        number = torch.arange(start, start + 10.0)
        boxes = number[:, None].expand(10, 4)
        samples.add(number[:, None].expand(10, 2), boxes, boxes + 1, draw)
    features, proposals, targets = samples.take()
    assert features.shape == (100, 2)
    assert torch.equal(features[:, :1].expand(100, 4), proposals)
    assert torch.equal(proposals + 1, targets)
    kept = features[:, 0]
    assert len(kept.unique()) == 100
    assert 800 < float(kept.mean()) < 1200  # neither the first nor the last are preferred
    assert bool((kept.diff() > 0).all())  # in the order in which they came


SIZE_HW = (100, 120)


class _Eye:
    """In place of an encoder: sees a blurred view of where the object is, from the proposal."""

    length, device = 4, torch.device("cpu")

    def describe(self, encoded, boxes):
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        return torch.tanh(3 * (encoded.boxes[0] - boxes) / sides)

    def assign_regions(self, _encoded, boxes):
        return boxes

    def pool_and_multiply(self, encoded, regions, weights):
        return self.describe(encoded, regions) @ weights


class _Coarse(_Eye):
    """Sees in whole cells of 12 pixels, unless it interpolates."""

    def describe(self, encoded, boxes):
        return super().describe(encoded, (boxes / 12).round() * 12 + torch.tensor([0, 0, 1, 1]))

    def interpolate(self, encoded, boxes):
        return super().describe(encoded, boxes)

    def interpolate_and_multiply(self, encoded, boxes, weights):
        return self.interpolate(encoded, boxes) @ weights


def _image(seed: int):
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(1, 2, generator=draw) * 40 + 10
    box = torch.cat([corner, corner + 20 + 25 * torch.rand(1, 2, generator=draw)], 1)
    proposals = (box + 7 * torch.randn(40, 4, generator=draw)).clamp(0, 100)
    flag = torch.tensor([False])
    label = torch.tensor([seed % 2])
    image = SimpleNamespace(boxes=box, labels=label, crowd=flag, difficult=flag)
    return image, SimpleNamespace(boxes=box, image_size_hw=SIZE_HW), proposals


def _overlap(cascade: BoxCascade) -> float:
    """Mean overlap of moved proposals with the objects of images that were not learnt from."""
    overlaps = []
    for seed in range(100, 120):
        image, encoded, proposals = _image(seed)
        labels = image.labels.expand(len(proposals))
        moved = cascade.apply(_Eye(), encoded, labels, proposals)
        overlaps.append(box_iou(moved, image.boxes)[:, 0])
    return float(torch.cat(overlaps).mean())


def _fitted(**config) -> BoxCascade:
    config = {"strength": 1.0, **config}
    return BoxCascade(2, CascadeConfig(**config)).fit([_image(seed) for seed in range(40)], _Eye())


def test_each_stage_comes_closer() -> None:
    one, two, three = (_overlap(_fitted(stages=stages)) for stages in (1, 2, 3))
    assert one + 0.02 < two <= three + 0.01


def test_one_stage_is_the_released_regression() -> None:
    samples = [_image(seed) for seed in range(0, 20, 2)]  # of one class
    cascade = BoxCascade(2, CascadeConfig(stages=1, strength=50.0, per_image=999))
    cascade.fit(samples, _Eye())
    features, boxes, targets = [], [], []
    for image, encoded, proposals in samples:
        every = torch.cat([image.boxes, proposals])
        near = every[box_iou(every, image.boxes)[:, 0] > 0.5]
        features.append(_Eye().describe(encoded, near))
        boxes.append(near)
        targets.append(image.boxes.expand(len(near), 4))
    parts = ([torch.cat(part)] for part in (features, boxes, targets))
    expected = RidgeBoxRegressor(50.0).fit(*parts)
    (found,) = cascade.stages_
    assert torch.allclose(found.weights_[0], expected.weights_[0], atol=1e-4)
    assert torch.allclose(found.bias_[0], expected.bias_[0], atol=1e-4)
    assert torch.equal(found.weights_[1], torch.zeros(4, 4))  # no sample: boxes stay


def test_class_agnostic_has_one_regression_for_all() -> None:
    cascade = _fitted(class_agnostic=True)
    assert cascade.tensors()["weights"].shape == (2, 1, 4, 4)
    _, encoded, proposals = _image(100)
    first, second = (
        cascade.apply(_Eye(), encoded, torch.full((40,), label), proposals) for label in (0, 1)
    )
    assert torch.equal(first, second)


def test_feature_scale_goes_into_the_weights() -> None:
    samples = [_image(seed) for seed in range(10)]
    config = CascadeConfig(stages=1, strength=4.0)
    plain = BoxCascade(2, CascadeConfig(stages=1, strength=1.0)).fit(samples, _Eye())
    scaled = BoxCascade(2, config).fit(samples, _Eye(), feature_scale=2.0)
    # twice the features at four times the penalty: the same but for the constant's own penalty
    found, expected = scaled.tensors()["weights"], plain.tensors()["weights"]
    assert torch.allclose(found, expected, atol=0.02)
    assert not torch.allclose(found, expected / 2, atol=0.02)


def test_restored_moves_the_same() -> None:
    cascade = _fitted()
    restored = BoxCascade.from_config(cascade.config(), cascade.tensors())
    image, encoded, proposals = _image(7)
    labels = image.labels.expand(40)
    expected = cascade.apply(_Eye(), encoded, labels, proposals)
    assert torch.equal(restored.apply(_Eye(), encoded, labels, proposals), expected)
    other = {**cascade.config(), "num_classes": 3}
    with pytest.raises(ValueError, match="weights and bias must begin with shape"):
        BoxCascade.from_config(other, cascade.tensors())


def test_boxes_stay_inside_the_image_and_keep_an_area() -> None:
    cascade = _fitted()
    _, encoded, _ = _image(3)
    corner = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 90
    wild = torch.cat([corner, corner + 5], 1)
    moved = cascade.apply(_Eye(), encoded, torch.zeros(50, dtype=torch.int64), wild)
    assert bool(((moved[:, 2:] - moved[:, :2]) > 0).all())
    assert float(moved.min()) >= 0
    assert bool((moved[:, 2] <= 120).all())


def test_points_between_cells_tell_how_far_a_box_is_off() -> None:
    samples, fits = [_image(seed) for seed in range(40)], {}
    for bins in ("cells", "points"):
        cascade = BoxCascade(2, CascadeConfig(strength=1.0, bins=bins)).fit(samples, _Coarse())
        image, encoded, proposals = _image(101)
        labels = image.labels.expand(len(proposals))
        moved = cascade.apply(_Coarse(), encoded, labels, proposals)
        fits[bins] = float(box_iou(moved, image.boxes).mean())
        again = BoxCascade.from_config(cascade.config(), cascade.tensors())
        assert torch.equal(again.apply(_Coarse(), encoded, labels, proposals), moved)
    assert fits["points"] > fits["cells"] + 0.02


def test_models_of_before_see_whole_cells() -> None:
    config = _fitted().config()
    del config["rule"]["bins"]
    assert BoxCascade.from_config(config, _fitted().tensors()).constants.bins == "cells"


def test_marked_objects_teach_nothing() -> None:
    samples = [_image(seed) for seed in range(6)]
    for image, _, _ in samples:
        image.crowd = torch.tensor([True])
    cascade = BoxCascade(2).fit(samples, _Eye())
    assert not cascade.tensors()["weights"].any()


@pytest.mark.parametrize("name", ["stages", "per_image", "most_samples"])
def test_numbers_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        CascadeConfig(**{name: 0})


def test_samples_must_last() -> None:
    with pytest.raises(TypeError, match="more than once"):
        BoxCascade(2).fit(iter([_image(0)]), _Eye())
