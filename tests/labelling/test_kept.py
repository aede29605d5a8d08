"""What was learnt is there again after a restart, and never more than the labels say."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from labelled_scenes import CONFIG, Photos
from sppnet import LabelSession
from sppnet.config.detection import DetectionConfig
from sppnet.labelling.kept import FILE


def opened(photos: Photos, config: DetectionConfig = CONFIG) -> LabelSession:
    return LabelSession.open(photos.folder, config=config, background=False)


@pytest.fixture
def kept(photos: Photos) -> Photos:
    """A folder of which some photos were learnt, all the background's work done."""
    with opened(photos) as session:
        for photo in session.photos[:6]:
            photos.label(session, photo)
        session.refit(600)
        while session.improve(60) > 59:
            pass
        session.evaluate()
    return photos


def learnt(session: LabelSession) -> set[str]:
    return {path.name for path in session._loop.learner.learnt}


def test_opening_again_learns_nothing_anew(kept: Photos) -> None:
    with opened(kept) as first:
        before = first.suggest(first.photos[7])
        learner = first._loop.learner
        weights, rows = learner.miner.weights_.clone(), learner.miner.held
    with opened(kept) as again:
        assert again.state.waiting == 0
        assert again.state.model
        assert learnt(again) == set(again.photos[:6])
        found = again.suggest(again.photos[7])
        assert torch.equal(found.boxes, before.boxes)
        assert torch.equal(found.scores, before.scores)
        assert torch.equal(found.confidence, before.confidence)
        assert found.names == before.names
        assert torch.equal(again._loop.learner.miner.weights_, weights)
        assert again._loop.learner.miner.held == rows
        assert again.improve(60) < 59


def test_an_edit_after_opening_again_is_learnt_as_without_it(photos: Photos) -> None:
    def label(session: LabelSession, names: slice) -> None:
        for photo in session.photos[names]:
            photos.label(session, photo)
        session.refit(600)

    with opened(photos) as session:
        label(session, slice(0, 5))
    with opened(photos) as session:
        label(session, slice(5, 6))
        session.set_empty(session.photos[0])
        session.refit(600)
        assert learnt(session) == set(session.photos[:6])
        owners = {number for block in session._loop.learner.miner._svms.blocks
                  for number in block.owners[block.is_used].tolist()}  # fmt: skip
        numbers = session._loop.learner.numbers.values()
        assert len(set(numbers)) == 6
        assert {owner // 4 for owner in owners} <= set(numbers)


def test_what_was_edited_meanwhile_is_learnt_anew(kept: Photos) -> None:
    with opened(kept) as session:
        store, photos = session.store, session.photos
    with type(store)(store.folder, kept.folder) as other:  # another process
        other.put(photos[1], [], state="unlabelled")
        other.put(photos[2], other.labels(photos[2]).boxes[:1])
    os.utime(kept.folder / photos[3], (1, 1))
    with opened(kept) as session:
        assert photos[1] not in learnt(session)
        waiting = set(session._loop.pending)
        assert {photos[3]} <= waiting <= {photos[2], photos[3]}
        session.refit(600)
        assert learnt(session) == set(photos[:6]) - {photos[1]}


@pytest.mark.parametrize("place", [0, 100, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["torn", "changed"])
def test_a_damaged_file_costs_time_only(kept: Photos, kind: str, place: float) -> None:
    path = kept.folder / ".sppnet" / FILE
    data = bytearray(path.read_bytes())
    at = int(place * len(data)) if isinstance(place, float) else place
    if kind == "torn":
        path.write_bytes(data[:at])
    else:
        data[at] ^= 0x40
        path.write_bytes(data)
    with opened(kept) as session:
        assert session.state.waiting == 6
        assert not learnt(session)
        session.refit(600)
        assert len(learnt(session)) == 6


def test_other_settings_learn_anew(kept: Photos) -> None:
    with opened(kept, replace(CONFIG, svm_cost=2e-3)) as session:
        assert session.state.waiting == 6


def test_keeping_writes_only_what_is_new(kept: Photos) -> None:
    with opened(kept) as session:
        assert not session.keep()
        session.set_empty(session.photos[6])
        session.refit(600)
        assert session.keep()
        assert not session.keep()
    assert not list(Path(kept.folder / ".sppnet").glob("*.tmp"))


def test_views_of_a_photo_are_learnt_in_the_background_and_there_again(photos: Photos) -> None:
    config = replace(CONFIG, mirror="on", crops="on")

    def views(session: LabelSession) -> list[int]:
        learnt = session._loop.learner.learnt
        return [len(learnt[photos.folder / photo].views) for photo in session.photos[:3]]

    with opened(photos, config) as session:
        for photo in session.photos[:3]:
            photos.label(session, photo)
        session.refit(60)
        assert views(session) == [1, 1, 1]  # nothing but the photos is convolved yet
        while session.improve(60) > 59:
            pass
        assert views(session) == [4, 4, 4]
        truth = photos.truth[session.photos[1]]
        names = [photos.names[label] for label in truth.labels.tolist()]
        session.set_boxes(session.photos[1], truth.boxes + 1.0, names)
        session.refit(60)
        assert views(session) == [4, 2, 4]  # an edit waits for no part
        while session.improve(60) > 59:
            pass
        assert views(session) == [4, 4, 4]
        weights = session._loop.learner.miner.weights_.clone()
    with opened(photos, config) as again:
        assert views(again) == [4, 4, 4]
        assert torch.equal(again._loop.learner.miner.weights_, weights)
        assert again.improve(60) < 59
