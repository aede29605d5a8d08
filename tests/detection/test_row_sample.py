"""A sample holds every row with the same chance, in order, within its limit."""

import pytest
import torch

from sppnet.detection.row_sample import RowSample


def _sampled(limit: int, count: int, seed: int, step: int = 7) -> torch.Tensor:
    sample = RowSample(limit, 1)
    draw = torch.Generator().manual_seed(seed)
    for rows in torch.arange(float(count))[:, None].split(step):
        taken, slots = sample.add(rows, draw)
        assert torch.equal(sample._rows[slots, 0], rows[taken, 0].half())
        assert len(slots.unique()) == len(slots)
        assert len(sample.take()) == min(limit, sample.seen)
    assert sample.seen == count
    return sample.take()[:, 0].long()


def test_every_row_has_the_same_chance() -> None:
    counts = sum(torch.bincount(_sampled(10, 50, seed), minlength=50) for seed in range(1000))
    assert float((counts / 1000 - 0.2).abs().max()) < 0.06


def test_rows_are_distinct_and_in_order() -> None:
    rows = _sampled(20, 400, seed=3)
    assert len(rows) == 20
    assert bool((rows.diff() > 0).all())


def test_few_rows_are_all_kept() -> None:
    assert _sampled(60, 50, seed=0).tolist() == list(range(50))
    assert RowSample(3, 2).take().shape == (0, 2)


def test_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        RowSample(0, 3)
