"""Regions score by the overlap that their features promise; each class has its own solution."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from oracles.box_loops import iou
from sppnet.backbones import build_backbone
from sppnet.detection import CachedFeatures, Encoder
from sppnet.detection.heads.hard_negatives import NEVER
from sppnet.detection.heads.overlap_ridge import (
    GAIN,
    Basis,
    OverlapRidgeConfig,
    OverlapRidgeTrainer,
    overlap_targets,
    solve_overlaps,
)
from sppnet.detection.heads.region_head import RegionFeatures
from sppnet.errors import NothingUsableError
from sppnet.images import LabelledImage, draw_detection_set, open_detection_dataset
from sppnet.storage import FeatureCache

SMALL = OverlapRidgeConfig(components=200, basis_rows=400)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    folder = draw_detection_set(tmp_path_factory.mktemp("scenes") / "data", 14, seed=0)
    return open_detection_dataset(folder, "train")


@pytest.fixture(scope="module")
def cached(scenes, tmp_path_factory: pytest.TempPathFactory) -> CachedFeatures:
    torch.manual_seed(0)
    encoder = Encoder(build_backbone("small5"), (160,), levels=(1, 2))
    cache = FeatureCache(tmp_path_factory.mktemp("cache"))
    return CachedFeatures(scenes.images, encoder, cache, "grid", 150)


def weighted_least_squares(rows, targets, usable, config: OverlapRidgeConfig):
    """One class by numpy's least squares: rows times the root of their weight, and the penalty."""
    near = [i for i in range(len(rows)) if usable[i] and targets[i] >= config.near_from]
    far = [i for i in range(len(rows)) if usable[i] and targets[i] < config.near_from]
    weight = np.zeros(len(rows))
    weight[near] = config.near_share / len(near)
    if far:
        weight[far] = (1 - config.near_share) / len(far)
    weight /= weight.sum()
    goals = GAIN * (2 * targets - 1)
    mean, goal = weight @ rows, weight @ goals
    centred = rows - mean
    strength = config.penalty * np.mean(weight @ centred**2)
    above = np.sqrt(weight)[:, None] * centred
    below = np.sqrt(strength) * np.eye(rows.shape[1])
    right = np.concatenate([np.sqrt(weight) * (goals - goal), np.zeros(rows.shape[1])])
    solved = np.linalg.lstsq(np.concatenate([above, below]), right, rcond=None)[0]
    return solved, goal - mean @ solved


@pytest.mark.parametrize("near_share", [0.5, 0.2])
@pytest.mark.parametrize("penalty", [0.1, 10.0])
def test_the_solution_is_that_of_weighted_least_squares(near_share: float, penalty: float) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 7, generator=draw) + 3
    targets = torch.rand(60, 3, generator=draw)
    targets[:, 2] = 0.4 + targets[:, 2] / 2  # no region away from an object of this class
    usable = torch.rand(60, 3, generator=draw) > 0.2
    config = OverlapRidgeConfig(near_share=near_share, penalty=penalty)
    weights, bias = solve_overlaps(rows, targets, usable, config)
    for label in range(3):
        parts = (each.double().numpy() for each in (rows, targets[:, label]))
        wanted, offset = weighted_least_squares(*parts, usable[:, label].numpy(), config)
        assert weights[:, label].numpy() == pytest.approx(wanted, abs=2e-4)
        assert float(bias[label]) == pytest.approx(offset, abs=2e-3)


def test_a_class_without_objects_never_scores() -> None:
    rows = torch.randn(20, 4, generator=torch.manual_seed(0))
    targets = torch.zeros(20, 2)
    targets[:5, 0] = 0.9
    weights, bias = solve_overlaps(rows, targets, torch.ones(20, 2).bool(), OverlapRidgeConfig())
    assert not weights[:, 1].any()
    assert float(bias[1]) == NEVER


def test_rows_that_cannot_be_used_change_nothing() -> None:
    draw = torch.Generator().manual_seed(1)
    rows, targets = torch.randn(40, 5, generator=draw), torch.rand(40, 1, generator=draw)
    usable = torch.ones(40, 1, dtype=torch.bool)
    usable[30:] = False
    few = solve_overlaps(rows[:30], targets[:30], usable[:30], OverlapRidgeConfig())
    rows[30:] = 5.0
    for one, other in zip(
        few, solve_overlaps(rows, targets, usable, OverlapRidgeConfig()), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-4)


def label(boxes, labels, *, difficult=(), crowd=()) -> LabelledImage:
    flags = (torch.tensor([i in which for i in range(len(boxes))]) for which in (difficult, crowd))
    values = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    of = torch.tensor(labels, dtype=torch.int64)
    hard, many = (each.bool() for each in flags)
    return LabelledImage(Path("a"), 1, (60, 80), values, of, hard, many, torch.zeros_like(many))


def test_targets_are_the_largest_overlaps_of_a_loop() -> None:
    draw = np.random.default_rng(0)
    corners = draw.integers(0, 30, (30, 2))
    boxes = np.concatenate([corners, corners + draw.integers(1, 30, (30, 2))], 1).astype(float)
    objects, labels = boxes[:4].tolist(), [0, 2, 2, 0]
    targets, usable = overlap_targets(torch.tensor(boxes).float(), label(objects, labels), 3)
    assert usable.all()
    for row, box in enumerate(boxes.tolist()):
        for kind in range(3):
            found = [iou(box, each) for each, of in zip(objects, labels, strict=True) if of == kind]
            wanted = float(max(found, default=0))
            assert float(targets[row, kind]) == pytest.approx(wanted, abs=1e-6)


def test_difficult_objects_and_crowds_teach_neither_that_they_are_nor_that_they_are_not() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [30.0, 0, 40, 10], [60.0, 40, 70, 50]])
    image = label(boxes[:2].tolist(), [0, 1], difficult=(0,), crowd=(1,))
    targets, usable = overlap_targets(boxes, image, 2)
    assert not targets.any()
    assert usable.tolist() == [[False, True], [False, False], [True, True]]
    config = OverlapRidgeConfig(use_difficult=True)
    targets, usable = overlap_targets(boxes, image, 2, config)
    assert targets[0].tolist() == [1, 0]
    assert usable[0].tolist() == [True, True]


def test_no_object_is_no_overlap() -> None:
    targets, usable = overlap_targets(torch.tensor([[0.0, 0, 5, 5]]), label([], []), 2)
    assert targets.tolist() == [[0, 0]]
    assert usable.all()


def test_a_basis_is_orthonormal_and_keeps_the_widest_directions() -> None:
    draw = torch.Generator().manual_seed(0)
    wide = torch.randn(50, 3, generator=draw) @ torch.randn(3, 40, generator=draw)
    rows = torch.cat([wide + 0.01 * torch.randn(50, 40, generator=draw)] * 2)
    basis = Basis.of(rows, 3)
    assert torch.allclose(basis.axes.T @ basis.axes, torch.eye(3), atol=1e-4)
    _, _, axes = np.linalg.svd((rows - rows.mean(0)).numpy(), full_matrices=False)
    overlap = np.linalg.norm(axes[:3] @ basis.axes.numpy(), 2)
    assert overlap == pytest.approx(1, abs=1e-3)
    assert Basis.of(rows[:1].repeat(4, 1), 3).axes.shape[0] == 40  # nothing varies


def test_objects_score_above_windows_beside_them(cached, scenes) -> None:
    classifier = OverlapRidgeTrainer(cached, len(scenes.names), RegionFeatures(), SMALL).fit()
    on, off = [], []
    for image, encoded, proposals in cached.samples(""):
        overlaps, _ = overlap_targets(proposals, image, len(scenes.names))
        far = proposals[overlaps.amax(1) < 0.1]
        for boxes, found in ((image.boxes, on), (far, off)):
            regions = cached.encoder.assign_regions(encoded, boxes)
            scores = classifier.score(cached.encoder, encoded, regions)
            own = image.labels if found is on else scores.argmax(1)
            found += scores[torch.arange(len(boxes)), own].tolist()
    assert np.mean(on) > 1.0
    assert np.mean(off) < -1.0


def test_a_solution_without_some_photos_is_that_of_training_without_them(cached, scenes) -> None:
    config = replace(SMALL, near=10**6, far=10**6)
    trainer = OverlapRidgeTrainer(cached, len(scenes.names), RegionFeatures(), config)
    trainer.fit()
    held, rest = scenes.images[:3], scenes.images[3:]
    without = trainer.fit_without(held)
    alone = OverlapRidgeTrainer(cached.subset(rest), len(scenes.names), RegionFeatures(), config)
    alone.basis_ = trainer.basis_
    alone._find_basis = lambda *_: trainer.basis_
    assert torch.allclose(without.weights, alone.fit().weights, atol=1e-3)
    assert not torch.allclose(without.weights, trainer.fit().weights, atol=1e-3)


def test_training_twice_gives_the_same_bits_and_the_seed_counts(cached, scenes) -> None:
    def fit(seed: int) -> torch.Tensor:
        config = replace(SMALL, near=5, far=5, seed=seed)
        trainer = OverlapRidgeTrainer(cached, len(scenes.names), RegionFeatures(), config)
        return trainer.fit().weights

    assert torch.equal(fit(0), fit(0))
    assert not torch.equal(fit(0), fit(1))


def test_many_images_give_fewer_regions_each(cached, scenes) -> None:
    def rows(most: int) -> int:
        config = replace(SMALL, most_rows=most)
        trainer = OverlapRidgeTrainer(cached, len(scenes.names), RegionFeatures(), config)
        return sum(len(boxes) for _, _, boxes, _ in trainer._sample("", lambda x, *_, **__: x))

    objects = sum(len(image.boxes) for image in scenes.images)
    assert rows(100) <= 100 + objects + len(scenes.images)
    assert rows(10**6) > 400


def test_nothing_to_learn_from_is_an_error(cached, scenes) -> None:
    empty = [
        replace(
            image,
            boxes=image.boxes[:0],
            labels=image.labels[:0],
            difficult=image.difficult[:0],
            truncated=image.truncated[:0],
            crowd=image.crowd[:0],
        )
        for image in scenes.images
    ]
    trainer = OverlapRidgeTrainer(
        replace(cached, images=empty), len(scenes.names), RegionFeatures(), SMALL
    )
    with pytest.raises(NothingUsableError, match="no image has an object"):
        trainer.fit()
