"""Recall of proposals against a loop, and on empty input."""

import numpy as np
import pytest
import torch

from evaluation_scenes import as_images, half_open, random_scene
from oracles.slow_average_precision import overlap_plus_one
from sppnet.evaluation import proposal_recall_curve


@pytest.mark.parametrize("seed", range(30))
def test_equals_a_loop(seed: int) -> None:
    truth, found, images, _ = random_scene(seed, difficult=True, crowd=True)
    proposals = {
        number: half_open([thing for thing in found if thing.image == number])
        for number in range(images)
    }
    result = proposal_recall_curve(as_images(truth, images), proposals, (0.3, 0.7), (1, 3, 100))
    objects = [thing for thing in truth if not (thing.difficult or thing.crowd)]
    assert result.num_truth == len(objects)
    for threshold, recall in result.recall.items():
        for count, share in zip((1, 3, 100), recall, strict=True):
            covered = 0
            for thing in objects:
                first = [other for other in found if other.image == thing.image][:count]
                covered += any(overlap_plus_one(thing.box, o.box) >= threshold for o in first)
            expected = covered / len(objects) if objects else np.nan
            np.testing.assert_allclose(share, expected)


def test_numbers_of_proposals_are_round_and_end_at_the_largest() -> None:
    box = torch.tensor([[0.0, 0, 4, 4]])
    images = as_images([], 2)
    result = proposal_recall_curve(images, {0: box.expand(130, 4), 1: box})
    assert result.num_proposals.tolist() == [1, 2, 5, 10, 20, 50, 100, 130]
    assert result.mean_proposals == 65.5
    assert result.recall.keys() == {0.5, 0.7}


def test_nothing_proposed_or_nothing_to_find() -> None:
    for images in ([], as_images([], 2)):
        result = proposal_recall_curve(images, {0: torch.zeros(0, 4)})
        assert result.num_proposals.tolist() == []
        assert result.num_truth == 0
    truth, _, count, _ = random_scene(1, difficult=False, crowd=False)
    result = proposal_recall_curve(as_images(truth, count), {}, (0.5,), (10,))
    assert result.recall[0.5].tolist() == [0]


def test_bad_proposals_are_named() -> None:
    truth, _, count, _ = random_scene(1, difficult=False, crowd=False)
    bad = {number: torch.tensor([[0.0, 0, float("nan"), 1]]) for number in range(count)}
    with pytest.raises(ValueError, match="proposals of 0 must be finite"):
        proposal_recall_curve(as_images(truth, count), bad)
