"""Box regression in stages: the first equals the released one, the second comes closer."""

from types import SimpleNamespace

import pytest
import torch

from sppnet.detection.box_cascade import BoxCascade, CascadeRule
from sppnet.detection.box_regression import BoxRegressor
from sppnet.geometry import box_iou

SIZE_HW = (100, 120)


class _Eye:
    """In place of an encoder: sees a blurred view of where the object is, from the window."""

    length, device = 4, torch.device("cpu")

    def describe(self, encoded, boxes):
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        return torch.tanh(3 * (encoded.boxes[0] - boxes) / sides)

    def locate(self, _encoded, boxes):
        return boxes

    def score_cells(self, encoded, cells, weights):
        return self.describe(encoded, cells) @ weights


def _image(seed: int):
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(1, 2, generator=draw) * 40 + 10
    box = torch.cat([corner, corner + 20 + 25 * torch.rand(1, 2, generator=draw)], 1)
    windows = (box + 7 * torch.randn(40, 4, generator=draw)).clamp(0, 100)
    flag = torch.tensor([False])
    label = torch.tensor([seed % 2])
    image = SimpleNamespace(boxes=box, labels=label, crowd=flag, difficult=flag)
    return image, SimpleNamespace(boxes=box, image_size_hw=SIZE_HW), windows


def _overlap(cascade: BoxCascade) -> float:
    """Mean overlap of moved windows with the objects of images that were not learnt from."""
    overlaps = []
    for seed in range(100, 120):
        image, encoded, windows = _image(seed)
        labels = image.labels.expand(len(windows))
        moved = cascade.apply(_Eye(), encoded, labels, windows)
        overlaps.append(box_iou(moved, image.boxes)[:, 0])
    return float(torch.cat(overlaps).mean())


def _fitted(**rule) -> BoxCascade:
    rule = {"strength": 1.0, **rule}
    return BoxCascade(2, CascadeRule(**rule)).fit([_image(seed) for seed in range(40)], _Eye())


def test_each_stage_comes_closer() -> None:
    one, two, three = (_overlap(_fitted(stages=stages)) for stages in (1, 2, 3))
    assert one + 0.02 < two <= three + 0.01


def test_one_stage_is_the_released_regression() -> None:
    samples = [_image(seed) for seed in range(0, 20, 2)]  # of one class
    cascade = BoxCascade(2, CascadeRule(stages=1, strength=50.0, per_image=999))
    cascade.fit(samples, _Eye())
    features, boxes, targets = [], [], []
    for image, encoded, windows in samples:
        every = torch.cat([image.boxes, windows])
        near = every[box_iou(every, image.boxes)[:, 0] > 0.5]
        features.append(_Eye().describe(encoded, near))
        boxes.append(near)
        targets.append(image.boxes.expand(len(near), 4))
    parts = ([torch.cat(part)] for part in (features, boxes, targets))
    expected = BoxRegressor(50.0).fit(*parts)
    (found,) = cascade.stages_
    assert torch.allclose(found.weights_[0], expected.weights_[0], atol=1e-4)
    assert torch.allclose(found.bias_[0], expected.bias_[0], atol=1e-4)
    assert torch.equal(found.weights_[1], torch.zeros(4, 4))  # no sample: boxes stay


def test_class_agnostic_has_one_regression_for_all() -> None:
    cascade = _fitted(class_agnostic=True)
    assert cascade.tensors()["weights"].shape == (2, 1, 4, 4)
    _, encoded, windows = _image(100)
    first, second = (
        cascade.apply(_Eye(), encoded, torch.full((40,), label), windows) for label in (0, 1)
    )
    assert torch.equal(first, second)


def test_feature_scale_goes_into_the_weights() -> None:
    samples = [_image(seed) for seed in range(10)]
    rule = CascadeRule(stages=1, strength=4.0)
    plain = BoxCascade(2, CascadeRule(stages=1, strength=1.0)).fit(samples, _Eye())
    scaled = BoxCascade(2, rule).fit(samples, _Eye(), feature_scale=2.0)
    # twice the features at four times the penalty: the same but for the constant's own penalty
    found, expected = scaled.tensors()["weights"], plain.tensors()["weights"]
    assert torch.allclose(found, expected, atol=0.02)
    assert not torch.allclose(found, expected / 2, atol=0.02)


def test_restored_moves_the_same() -> None:
    cascade = _fitted()
    restored = BoxCascade.restore(cascade.configuration(), cascade.tensors())
    image, encoded, windows = _image(7)
    labels = image.labels.expand(40)
    expected = cascade.apply(_Eye(), encoded, labels, windows)
    assert torch.equal(restored.apply(_Eye(), encoded, labels, windows), expected)
    other = BoxCascade(3, cascade.rule).configuration()
    with pytest.raises(ValueError, match="weights and bias must begin with shape"):
        BoxCascade.restore(other, cascade.tensors())


def test_boxes_stay_inside_the_image_and_keep_an_area() -> None:
    cascade = _fitted()
    _, encoded, _ = _image(3)
    corner = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) * 90
    wild = torch.cat([corner, corner + 5], 1)
    moved = cascade.apply(_Eye(), encoded, torch.zeros(50, dtype=torch.int64), wild)
    assert bool(((moved[:, 2:] - moved[:, :2]) > 0).all())
    assert float(moved.min()) >= 0
    assert bool((moved[:, 2] <= 120).all())


def test_marked_objects_teach_nothing() -> None:
    samples = [_image(seed) for seed in range(6)]
    for image, _, _ in samples:
        image.crowd = torch.tensor([True])
    cascade = BoxCascade(2).fit(samples, _Eye())
    assert not cascade.tensors()["weights"].any()


@pytest.mark.parametrize("name", ["stages", "per_image", "most_samples"])
def test_numbers_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        CascadeRule(**{name: 0})


def test_samples_must_last() -> None:
    with pytest.raises(TypeError, match="more than once"):
        BoxCascade(2).fit(iter([_image(0)]), _Eye())
