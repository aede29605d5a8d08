"""The warm learner: anchors and landmarks come with the photos, mirror images count as views."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from labelled_scenes import CONFIG
from sppnet.config.detection import DetectionConfig
from sppnet.detection import build_cached_features, build_encoder
from sppnet.detection.assign import Views
from sppnet.detection.heads.hard_negatives import HardNegativeMiner
from sppnet.labelling.folds import detect_held_out, summarise
from sppnet.labelling.learner import WarmLearner
from sppnet.storage import FeatureCache


@pytest.fixture
def begin(drawn, tmp_path: Path):
    def build(config: DetectionConfig = CONFIG) -> WarmLearner:
        torch.manual_seed(0)
        encoder = build_encoder(config)
        cached = build_cached_features(config, [], encoder, FeatureCache(tmp_path / "cache"))
        return WarmLearner(cached, config, drawn.names)

    return build


@pytest.fixture
def images(drawn):
    return [replace(image, image_id=str(image.path)) for image in drawn if len(image.boxes)]


def scores(learner: WarmLearner, image) -> torch.Tensor:
    detector = learner.detector()
    boxes = learner.cached.propose(image)
    return detector.score(learner.encoded(image), boxes)


def owners_that_count(miner: HardNegativeMiner) -> set[int]:
    blocks = miner._svms.blocks
    return {int(owner) for block in blocks for owner in block.owners[block.is_used]}


def test_learning_again_changes_nothing_but_what_changed(begin, images) -> None:
    learner = begin()
    for image in images[:3]:
        learner.learn([image])
    learner.fit(early=False)
    before = scores(learner, images[4])
    learner.learn([images[1]])
    learner.fit(early=False)
    learner.mine(images[1].path)
    learner.fit(early=False)
    assert float((scores(learner, images[4]) - before).abs().mean()) < 0.1
    assert len(learner.learnt) == 3


def test_a_photo_that_is_forgotten_leaves_the_scores_of_the_others(begin, images) -> None:
    never, learner = begin(), begin()
    for image in images[:3]:
        never.learn([image])
        learner.learn([image])
    learner.learn([images[3]])
    learner.fit()
    learner.forget(images[3].path)
    for each in (never, learner):
        each.fit(early=False)
        for image in images[:3]:
            each.mine(image.path)
        each.fit(early=False)
    ours, theirs = scores(learner, images[5]), scores(never, images[5])
    assert float((ours - theirs).abs().mean()) < 0.1


def test_a_detector_is_not_changed_by_later_fits(begin, images) -> None:
    learner = begin()
    learner.learn([images[0]])
    learner.fit()
    detector = learner.detector()
    before = {name: tensor.clone() for name, tensor in detector.tensors().items()}
    for image in images[1:4]:
        learner.learn([image])
    learner.fit()
    assert all(torch.equal(before[name], each) for name, each in detector.tensors().items())


@pytest.mark.parametrize(
    ("views", "expected"), [(Views(True, False), {0, 1}), (Views(True, True), {0, 1, 2, 3})]
)
def test_views_of_a_photo_own_rows_each(begin, images, views: Views, expected: set[int]) -> None:
    learner = begin()
    learner.learn(list(views.of(images[0])))
    learner.fit()
    assert len(learner.learnt[images[0].path].views) == views.each
    owners = {int(owner) for block in learner.miner._svms.blocks for owner in block.owners}
    assert owners == expected
    learner.forget(images[0].path)
    assert not any(block.is_used.any() for block in learner.miner._svms.blocks)


def test_anchors_are_learnt_when_there_are_enough_new_photos(begin, images) -> None:
    learner = begin(replace(CONFIG, anchors=True, anchor_shapes=2))
    assert not learner.wants_anchors
    learner.learn([images[0]])
    assert learner.wants_anchors
    learner.anchors_anew()()()
    assert not learner.wants_anchors
    learner.learn([images[1]])
    assert learner.wants_anchors  # twice as many
    learner.fit()
    assert learner.detector().anchors is not None


def test_photos_that_change_while_landmarks_are_chosen_are_summed_as_they_are(
    begin, images
) -> None:
    learner = begin()
    for image in images[:3]:
        learner.learn([image])
    assert learner.wants_landmarks
    use = learner.landmarks_anew()()
    learner.forget(images[0].path)
    learner.learn([images[3]])
    use()
    numbers = {each.number for each in learner.learnt.values()}
    assert {owner // 4 for owner in learner.boxes._samples} == numbers


def test_of_an_unfinished_photo_what_looks_like_its_thing_is_no_negative(
    begin, images, monkeypatch
) -> None:
    image = next(image for image in images if len(image.boxes) > 1)
    partly = replace(
        image, **{name: getattr(image, name)[:1] for name in
                  ("boxes", "labels", "difficult", "crowd", "truncated")},
        areas=None, stated_boxes=None,
    )  # fmt: skip
    choose, believed = HardNegativeMiner.choose, []

    def spy(miner: HardNegativeMiner, scores: Tensor, is_negative: Tensor) -> Tensor:
        believed.append(is_negative.any(1))
        return choose(miner, scores, is_negative)

    monkeypatch.setattr(HardNegativeMiner, "choose", spy)
    for unfinished in (False, True):
        learner = begin()
        learner.learn([partly], unfinished=unfinished)
    finished, suspicious = believed
    doubted = finished & ~suspicious
    assert not (suspicious & ~finished).any()
    assert 0 < doubted.sum() <= 0.05 * finished.sum() + 1
    encoder, encoded = learner.cached.encoder, learner.encoded(partly)
    trainer = learner._svm_trainer()
    boxes, _ = trainer.distinct(encoded, learner.cached.propose(partly))
    thing = encoder.describe(encoded, partly.boxes)[0]
    alike = cosine_similarity(encoder.describe(encoded, boxes), thing[None])
    assert alike[doubted].min() >= alike[suspicious].max() - 1e-5


@pytest.mark.parametrize("views", [Views(False, False), Views(True, False), Views(True, True)])
def test_a_model_without_a_photo_has_the_rows_of_all_others(
    begin, images, monkeypatch, views: Views
) -> None:
    learner = begin()
    for image in images[:4]:
        learner.learn(list(views.of(image)))
    learner.fit()
    whole = owners_that_count(learner.miner)
    left, leave_out = [], HardNegativeMiner.without

    def spy(*args: object, **kwargs: object) -> HardNegativeMiner:
        left.append(leave_out(*args, **kwargs))
        return left[-1]

    monkeypatch.setattr(HardNegativeMiner, "without", spy)
    for image in images[:4]:
        learner.without([image.path])
        known = learner.learnt[image.path]
        own = {known.owner_of(view) for view in known.views}
        assert own <= whole
        assert owners_that_count(left[-1]) == whole - own


def test_models_without_a_photo_do_not_know_it(begin, images) -> None:
    learner = begin()
    for image in images[:4]:
        learner.learn([image])
    learner.fit()
    path = images[0].path
    whole, without = learner.detector(), learner.without([path])
    assert not torch.equal(whole.classifier.weights, without.classifier.weights)
    again = learner.detector()
    assert torch.equal(whole.classifier.weights, again.classifier.weights)  # it is still known


def test_every_photo_is_held_out_once(begin, images) -> None:
    learner = begin()
    for image in images[:5]:
        learner.learn([image])
    learner.fit()
    held = detect_held_out(learner, {str(image.path): image for image in images[:5]}, folds=2)
    assert set(held.found) == {str(image.path) for image in images[:5]}
    expected = summarise(held)
    assert (expected.photos, expected.objects) == (5, sum(len(i.boxes) for i in images[:5]))
    assert "of 10 right" in str(expected)


def test_fine_tuning_cannot_be_kept_warm(begin) -> None:
    with pytest.raises(ValueError, match="tune none"):
        begin(replace(CONFIG, tune="head"))
