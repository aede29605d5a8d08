"""Soft suppression against the slow loop, its limits, and what is refused."""

import math

import pytest
import torch

from oracles.box_loops import soften
from sppnet.geometry import nms, soft_nms, soft_nms_per_class


def draw_case(seed: int, count: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whole corners and few different scores, so that overlaps and scores are often equal."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 8, (count, 2), generator=generator)
    size = torch.randint(0, 10, (count, 2), generator=generator)
    shares = torch.randint(0, 5, (count,), generator=generator).double() / 4
    labels = torch.randint(0, 3, (count,), generator=generator)
    return torch.cat([corner, corner + size], 1).double(), shares, labels


@pytest.mark.parametrize("seed", range(60))
def test_scores_are_those_of_the_loop(seed: int) -> None:
    boxes, shares, _ = draw_case(seed)
    sigma, least = (0.1, 0.5, 2.0)[seed % 3], (0.0, 1e-3, 0.3)[seed // 3 % 3]
    expected = soften(boxes.tolist(), shares.tolist(), sigma, least)
    assert soft_nms(boxes, shares, sigma, least).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_classes_do_not_touch_each_other(seed: int) -> None:
    boxes, shares, labels = draw_case(seed)
    lowered = soft_nms_per_class(boxes, shares, labels)
    for label in range(3):
        rows = labels == label
        assert torch.equal(lowered[rows], soft_nms(boxes[rows], shares[rows]))


def test_a_narrow_bell_leaves_what_hard_suppression_keeps_at_zero() -> None:
    boxes, shares, _ = draw_case(1)
    shares = 0.5 + torch.randperm(len(shares), generator=torch.Generator().manual_seed(0)) / 100
    survivors = soft_nms(boxes, shares, sigma=1e-9) > 0
    assert survivors.nonzero().flatten().tolist() == sorted(nms(boxes, shares, 0.0).tolist())


def test_nothing_in_nothing_out() -> None:
    none, labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    assert soft_nms(none, torch.zeros(0)).shape == (0,)
    assert soft_nms_per_class(none, torch.zeros(0), labels).shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1, math.inf])
def test_scores_outside_0_to_1_are_refused_by_row(bad: float) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4]] * 2)
    with pytest.raises(ValueError, match=r"shares must be in 0\.\.1, got .* in row 1"):
        soft_nms(boxes, torch.tensor([0.5, bad]))


def test_boxes_sigma_and_counts_are_checked() -> None:
    box = torch.tensor([[0.0, 0, 4, 4]])
    with pytest.raises(ValueError, match="boxes must be finite"):
        soft_nms(box * math.nan, torch.ones(1))
    with pytest.raises(ValueError, match="sigma must be positive, got 0"):
        soft_nms(box, torch.ones(1), sigma=0)
    with pytest.raises(ValueError, match=r"shares must have shape \(1,\)"):
        soft_nms(box, torch.ones(2))
