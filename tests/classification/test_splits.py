"""Images to fit on and images to score on never meet, and the draw can be repeated."""

import pytest
import torch

from sppnet.classification import SplitConfig, holdout_split, protocol_splits

LABELS = torch.arange(3).repeat_interleave(torch.tensor([10, 40, 100]))


def test_protocol_counts() -> None:
    splits = protocol_splits(LABELS, 5, 50, splits=3, seed=0)
    for split in splits:
        assert torch.bincount(LABELS[split.train]).tolist() == [5, 5, 5]
        assert torch.bincount(LABELS[split.test]).tolist() == [5, 35, 50]
        assert not set(split.train.tolist()) & set(split.test.tolist())
    assert not torch.equal(splits[0].train, splits[1].train)


def test_protocol_is_repeatable() -> None:
    first, second = (protocol_splits(LABELS, 5, None, splits=2, seed=7) for _ in range(2))
    assert all(torch.equal(a.train, b.train) for a, b in zip(first, second, strict=True))


def test_holdout_keeps_both_sides_of_every_class() -> None:
    labels = torch.tensor([0] * 2 + [1] * 3 + [2] * 50)
    split = holdout_split(labels, 0.2, seed=3)
    assert torch.bincount(labels[split.test]).tolist() == [1, 1, 10]
    assert sorted([*split.train.tolist(), *split.test.tolist()]) == list(range(55))


def test_lone_image_is_fitted_on() -> None:
    split = holdout_split(torch.tensor([0, 1, 1]), 0.2)
    assert 0 in split.train.tolist()


@pytest.mark.parametrize(
    "wrong", [{"test_per_class": 5}, {"splits": 2}, {"train_per_class": 0}, {"splits": 0}]
)
def test_impossible_splits_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        SplitConfig(**wrong)
