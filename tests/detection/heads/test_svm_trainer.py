"""Positives are objects and proposals close to them; negatives overlap no object of the class."""

from dataclasses import replace

import pytest
import torch

from oracles.box_loops import iou
from sppnet.backbones import build_backbone
from sppnet.detection import CachedFeatures, Encoder
from sppnet.detection.heads.hard_negatives import NEVER
from sppnet.detection.heads.region_head import RegionFeatures
from sppnet.detection.heads.svm_trainer import (
    FeatureScaler,
    NormConfig,
    SvmConfig,
    SvmTrainer,
    keep_apart,
    mean_norm,
)
from sppnet.geometry import box_iou
from sppnet.images import draw_detection_set, open_detection_dataset
from sppnet.storage import FeatureCache

CONFIG = SvmConfig(extra_positives=0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    folder = draw_detection_set(tmp_path_factory.mktemp("scenes") / "data", 14, seed=0)
    return open_detection_dataset(folder, "train")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return FeatureCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def prepare(scenes, cache):
    def build(images=None, max_proposals: int = 150) -> CachedFeatures:
        torch.manual_seed(0)
        encoder = Encoder(build_backbone("small5"), (160,))
        images = scenes.images if images is None else images
        return CachedFeatures(images, encoder, cache, "grid", max_proposals)

    return build


def make_trainer(cached: CachedFeatures, names, config=CONFIG, scale=None) -> SvmTrainer:
    features = RegionFeatures()
    scale = scale or FeatureScaler(cached).factor(features)
    return SvmTrainer(cached, len(names), features, config, scale=scale)


def test_features_have_the_mean_norm_that_was_asked_for(prepare, scenes) -> None:
    trainer = make_trainer(prepare(), scenes.names)
    trainer.collect_positives()
    norms = [
        trainer.encoder.describe(encoded, proposals).norm(dim=1)
        for _, encoded, proposals in trainer.cached
    ]
    assert float(torch.cat(norms).mean() * trainer.scale) == pytest.approx(20, rel=1e-3)
    counted = torch.cat([image.labels for image in scenes]).bincount(minlength=len(scenes.names))
    assert [len(rows) for rows in trainer.positives] == trainer.counts == counted.tolist()


def test_proposals_close_to_an_object_are_positives_too(prepare, scenes) -> None:
    more = SvmConfig(extra_positives=2, positive_from=0.6)
    trainer = make_trainer(prepare(), scenes.names, more)
    trainer._extra_of = torch.full((len(scenes.names),), 2)
    close = 0
    for image in scenes.images:
        boxes, labels = trainer.positives_of(image)
        count = len(image.boxes)
        assert torch.equal(boxes[:count], image.boxes)
        assert torch.equal(labels[:count], image.labels)
        overlap, nearest = box_iou(boxes[count:], image.boxes).max(1)
        assert bool((overlap >= 0.6).all())
        assert torch.equal(labels[count:], image.labels[nearest])
        assert nearest.bincount(minlength=1).max() <= 2
        close += len(nearest)
    assert close > 0


def test_classes_with_many_objects_need_no_further_positives(prepare, scenes) -> None:
    trainer = make_trainer(prepare(), scenes.names, SvmConfig(extra_positives=6))
    few = trainer.count_extras()
    assert few.tolist() == [6] * len(scenes.names)
    trainer.cached = prepare(scenes.images * 100)
    counted = torch.cat([image.labels for image in scenes]).bincount(minlength=len(scenes.names))
    assert trainer.count_extras().tolist() == [min(6, 1200 // (100 * n)) for n in counted.tolist()]


def test_images_that_are_left_out_taught_nothing(prepare, scenes) -> None:
    held, rest = scenes.images[::2], scenes.images[1::2]
    trainer = make_trainer(prepare(max_proposals=60), scenes.names)
    trainer.collect_positives()
    whole = trainer.mine()
    apart, before = trainer.fit_without(held), whole.weights.clone()
    alone = make_trainer(prepare(rest, max_proposals=60), scenes.names, scale=trainer.scale)
    alone.collect_positives()
    mined = alone.mine()  # the truth: these images are all that there is
    for encoded, proposals in ((e, p) for _, e, p in trainer.cached):
        regions = trainer.encoder.assign_regions(encoded, proposals)
        scores = [each.score(trainer.encoder, encoded, regions) for each in (apart, mined, whole)]
        near, far = ((scores[0] - other).abs().mean() for other in scores[1:])
        assert near < 0.25 * far
    assert torch.equal(whole.weights, before)
    nothing = trainer.fit_without(scenes.images)
    assert bool((nothing.bias == NEVER).all())
    assert not nothing.weights.any()
    assert torch.equal(trainer.fit_without([]).weights, whole.weights)


def test_saved_weights_take_plain_features(prepare, scenes) -> None:
    trainer = make_trainer(prepare(max_proposals=60), scenes.names)
    trainer.collect_positives()
    classifier = trainer.mine()
    again = make_trainer(prepare(max_proposals=60), scenes.names, scale=1.0)
    again.collect_positives()
    plain = again.mine()  # fitted on features that are not scaled
    assert not torch.allclose(plain.weights, classifier.weights, rtol=0.1)
    _, encoded, proposals = next(iter(trainer.cached))
    regions = trainer.encoder.assign_regions(encoded, proposals)
    vectors = trainer.encoder.describe(encoded, proposals)
    scores = classifier.score(trainer.encoder, encoded, regions)
    torch.testing.assert_close(
        scores, vectors @ classifier.weights + classifier.bias, rtol=0, atol=1e-3
    )


def test_negatives_overlap_no_object_of_the_class(prepare, scenes, monkeypatch) -> None:
    image = max(scenes.images, key=lambda each: len(each.labels.unique()))
    trainer = make_trainer(prepare([image]), scenes.names)
    proposals = torch.cat([image.boxes, trainer.cached.propose_from_pixels(image)])
    negative = trainer.negatives_of(image, proposals)
    overlaps = box_iou(proposals, image.boxes)
    for row in range(len(proposals)):
        for label in range(len(scenes.names)):
            of_class = overlaps[row][image.labels == label].tolist()
            assert bool(negative[row, label]) == all(overlap < 0.3 for overlap in of_class)
    own = negative[torch.arange(len(image.labels)), image.labels]
    assert not own.any()


def test_negatives_that_overlap_one_another_are_thinned_class_by_class(make_boxes) -> None:
    boxes = make_boxes(40, 60, 80)
    boxes = torch.cat([boxes, (boxes + make_boxes(40, 6, 6, seed=1)).clamp(min=0)])
    negative = torch.rand(80, 3, generator=torch.Generator().manual_seed(0)) < 0.7
    negative[:, 2] = negative[:, 0]  # classes that are not in the image share their negatives
    found = keep_apart(boxes, negative, 0.7)
    for label in range(3):
        kept: list[int] = []
        for row in negative[:, label].nonzero().flatten().tolist():
            if all(iou(boxes[row].tolist(), boxes[one].tolist()) <= 0.7 for one in kept):
                kept.append(row)
        assert found[:, label].nonzero().flatten().tolist() == kept
        assert 0 < len(kept) < int(negative[:, label].sum())


def test_mining_and_kernel_see_thinned_negatives_only_if_asked(prepare, scenes) -> None:
    image = max(scenes.images, key=lambda each: len(each.labels.unique()))
    few = []
    for overlap in (1.0, 0.7):
        config = replace(CONFIG, negative_overlap=overlap)
        trainer = make_trainer(prepare([image]), scenes.names, config, scale=1.0)
        boxes = torch.cat([image.boxes, trainer.cached.propose_from_pixels(image)])
        few.append(trainer.negatives_of(image, boxes).sum(0))
    assert bool((few[1] < few[0]).all())


def test_proposals_of_equal_regions_are_scored_once(prepare, scenes) -> None:
    trainer = make_trainer(prepare(), scenes.names)
    image, encoded, proposals = next(iter(trainer.cached))
    boxes = torch.cat([image.boxes, proposals, proposals.flip(0)])
    kept, regions = trainer.distinct(encoded, boxes)
    every = [tuple(row) for row in trainer.encoder.assign_regions(encoded, boxes).tolist()]
    first = [row for row, region in enumerate(every) if region not in every[:row]]
    assert torch.equal(kept, boxes[first])
    assert [tuple(row) for row in regions.tolist()] == [every[row] for row in first]


def test_object_stands_for_the_proposals_of_its_region(prepare, scenes, monkeypatch) -> None:
    trainer = make_trainer(prepare(scenes.images[:3]), scenes.names)
    trainer.collect_positives()
    distinct, asked = trainer.distinct, []

    def watch(encoded, boxes):
        asked.append(boxes)
        return distinct(encoded, boxes)

    monkeypatch.setattr(trainer, "distinct", watch)
    trainer.mine()
    for image, boxes in zip(scenes.images[:3], asked, strict=True):
        assert torch.equal(boxes[: len(image.boxes)], image.boxes)
        assert len(boxes) > len(image.boxes)


def test_difficult_and_crowd_are_no_positives_and_no_negatives(prepare, scenes) -> None:
    image = max(scenes.images, key=lambda each: len(each.labels))
    marks = torch.zeros(len(image.labels), dtype=torch.bool)
    marks[0] = True
    for marked in (replace(image, difficult=marks), replace(image, crowd=marks)):
        trainer = make_trainer(prepare([marked]), scenes.names)
        trainer.collect_positives()
        assert sum(map(len, trainer.positives)) == len(image.labels) - 1
        own = trainer.negatives_of(marked, image.boxes)[:, image.labels[0]]
        assert not own[0]
    lenient = replace(CONFIG, use_difficult=True)
    trainer = make_trainer(prepare([replace(image, difficult=marks)]), scenes.names, lenient)
    trainer.collect_positives()
    assert sum(map(len, trainer.positives)) == len(image.labels)


def test_proposal_inside_a_crowd_is_no_negative(prepare, scenes) -> None:
    image = max(scenes.images, key=lambda each: len(each.labels))
    crowd = torch.zeros(len(image.labels), dtype=torch.bool)
    crowd[0] = True
    trainer = make_trainer(prepare([image]), scenes.names)
    x0, y0, x1, y1 = image.boxes[0].tolist()
    inside = torch.tensor([[x0, y0, x0 + (x1 - x0) / 4, y0 + (y1 - y0) / 4]])
    assert trainer.negatives_of(image, inside).any()
    assert not trainer.negatives_of(replace(image, crowd=crowd), inside).any()


def test_budget_of_the_mining_bounds_the_objects_and_they_stand_for_all(
    prepare, scenes, monkeypatch
) -> None:
    trainer = make_trainer(prepare(max_proposals=30), scenes.names)
    trainer.mining = replace(
        trainer.mining, budget_bytes=2 * trainer.encoder.length * 4 * len(scenes.names)
    )
    trainer.collect_positives()
    assert max(len(rows) for rows in trainer.positives) == 2
    counted = torch.cat([image.labels for image in scenes]).bincount(minlength=len(scenes.names))
    assert trainer.counts == counted.tolist()


def test_first_image_full_of_one_class_does_not_silence_it(prepare, scenes) -> None:
    # every proposal of the first image overlaps an object of the class, so it gives no negatives
    trainer = make_trainer(prepare(max_proposals=60), scenes.names)
    trainer.collect_positives()
    label = int(scenes[0].labels[0])
    negative_of = trainer.negatives_of

    def no_negatives_at_first(image, boxes):
        found = negative_of(image, boxes)
        if image is scenes[0]:
            found[:, label] = False
        return found

    trainer.negatives_of = no_negatives_at_first
    assert trainer.mine().weights[:, label].any()


def test_norm_of_no_proposals_is_one(prepare) -> None:
    assert mean_norm(prepare([]), RegionFeatures(), NormConfig()) == 1.0
