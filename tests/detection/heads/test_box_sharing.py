"""Predictions for photos that are left out equal fits without them; the choice follows the fit."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from sppnet.config.detection import DetectionConfig
from sppnet.detection.heads.box_regression import CascadeConfig, RidgeBoxRegressor
from sppnet.detection.heads.box_sums import (
    NearBoxes,
    classes_share,
    predict_left_out,
    refine_left_out,
)
from sppnet.detection.train import _Training
from sppnet.progress import no_tracking


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.1, 3.0, 400.0])
def test_equals_ridge_regressions_fitted_without_each_photo(strength: float) -> None:
    rows, goals = _random(30, 50), _random(30, 4, seed=1)
    photos = torch.tensor([0] * 9 + [1] + [2] * 12 + [3] * 8)
    found = predict_left_out(rows @ rows.T, goals, photos, strength)
    for photo in range(4):
        held = photos == photo
        model = Ridge(strength, fit_intercept=False).fit(rows[~held].numpy(), goals[~held].numpy())
        assert np.allclose(found[held], model.predict(rows[held].numpy()), atol=1e-8)


def _near(shapes: list[tuple[float, float]], per_class: int, photos: int) -> NearBoxes:
    """Boxes of classes, each of which has to be grown by factors of its own."""
    features, boxes, targets, labels = [], [], [], []
    for label, (wider, higher) in enumerate(shapes):
        draw = torch.Generator().manual_seed(label)
        shown = torch.rand(per_class, 6, generator=draw) * 4
        side = 20 + shown[:, :2] * 5
        box = torch.cat([torch.zeros(per_class, 2), side], 1) + 50
        box[:, 2:] = box[:, :2] + side
        # how far an object reaches beyond its box shows in its features
        goal = box.clone()
        goal[:, 2] += side[:, 0] * wider * shown[:, 2] / 4
        goal[:, 3] += side[:, 1] * higher * shown[:, 3] / 4
        features.append(shown)
        boxes.append(box)
        targets.append(goal)
        labels.append(torch.full((per_class,), label))
    order = torch.arange(per_class * len(shapes)) % photos
    parts = (torch.cat(each) for each in (features, boxes, targets, labels))
    return NearBoxes(*parts, order)


def test_refines_as_a_regressor_of_the_other_photos() -> None:
    near = _near([(0.5, 0.2)], 40, 2)
    config = CascadeConfig(strength=1e-3, spread=1e-6)
    found = refine_left_out(near, config, near.labels)
    for photo in (0, 1):
        held = near.photos == photo
        rest = [[each[~held]] for each in (near.features, near.boxes, near.targets)]
        model = RidgeBoxRegressor(1e-3, 1e-6).fit(*rest)
        expected = model.refine(near.features[held], near.labels[held], near.boxes[held])
        assert torch.allclose(
            found[held], expected, atol=0.3
        )  # whitened by all photos, not by some
        before = (near.boxes[held] - near.targets[held]).abs().mean()
        assert float((found[held] - near.targets[held]).abs().mean()) < 0.2 * float(before)


class _Encoder:
    """Gives the features that a box was made with."""

    def __init__(self, near: NearBoxes) -> None:
        self.near = near

    def describe(self, _: object, boxes: torch.Tensor) -> torch.Tensor:
        rows = [int((self.near.boxes == box).all(1).nonzero()[0]) for box in boxes]
        return self.near.features[rows]


@pytest.mark.parametrize(
    ("shapes", "per_class", "share"),
    [
        ([(0.6, 0.3), (0.6, 0.3), (0.6, 0.3)], 6, True),  # alike, and few of each
        ([(0.9, 0.0), (0.0, 0.9)], 60, False),  # each in its own way, and many of each
    ],
)
def test_few_and_alike_share_many_and_different_do_not(
    shapes, per_class, share, monkeypatch
) -> None:
    near = _near(shapes, per_class, 6)
    config = CascadeConfig(strength=0.3, spread=1e-6)
    samples = [(photo, None, torch.zeros(0, 4)) for photo in range(6)]
    monkeypatch.setattr(
        "sppnet.detection.heads.box_regression.BoxCascade.near_objects",
        lambda _, photo, *_rest: (
            near.boxes[near.photos == photo],
            near.targets[near.photos == photo],
            near.labels[near.photos == photo],
        ),
    )
    assert classes_share(samples, _Encoder(near), config) is share


def test_one_photo_or_none_says_nothing_so_classes_share(make_encoder) -> None:
    assert classes_share([], make_encoder(), CascadeConfig())


def test_class_of_one_photo_is_not_refined_by_that_photo() -> None:
    near = _near([(0.9, 0.0), (0.0, 0.9)], 12, 2)
    alone = NearBoxes(
        near.features,
        near.boxes,
        near.targets,
        near.labels,
        torch.where(near.labels == 1, 7, near.photos),
    )
    found = refine_left_out(alone, CascadeConfig(strength=0.3, spread=1e-6), alone.labels)
    assert torch.equal(found[alone.labels == 1], alone.boxes[alone.labels == 1])
    assert not torch.equal(found[alone.labels == 0], alone.boxes[alone.labels == 0])


@pytest.mark.parametrize("classes", [20, 400])
def test_classes_alike_share_whatever_their_number(classes, monkeypatch) -> None:
    near = _near([(0.5, 0.3)] * classes, 1200 // classes, 6)
    config = CascadeConfig(strength=0.3, spread=1e-6)
    monkeypatch.setattr("sppnet.detection.heads.box_sums.collect_near", lambda *_: near)
    assert classes_share([], _Encoder(near), config)


@pytest.mark.parametrize(("classes", "asked"), [(400, True), (401, False)])
def test_beyond_400_classes_share_without_a_look_at_photos(classes, asked, monkeypatch) -> None:
    looks = []
    monkeypatch.setattr(
        "sppnet.detection.train.classes_share", lambda *_: bool(looks.append(1)) or False
    )
    cached = SimpleNamespace(
        usable=[], encoder=None, subset=lambda _: SimpleNamespace(samples=lambda _: [])
    )
    training = _Training(cached, ("x",) * classes, DetectionConfig(), no_tracking, nullcontext)
    assert training._classes_share(1.0) is not asked
    assert bool(looks) is asked
