"""Suppression against the greedy loop, with ties, and what is refused.

Soft suppression against the slow loop, its limits, and what is refused."""

import math
from fractions import Fraction

import pytest
import torch
from torchvision.ops import nms as torchvision_nms

from oracles.box_loops import soften, suppress
from sppnet.geometry import nms, nms_per_class, soft_nms, soft_nms_per_class

THRESHOLDS = [
    Fraction(3, 10),
    Fraction(1, 2),
    Fraction(1, 3),
    Fraction(7, 10),
    Fraction(0),
    Fraction(1),
]


TWO = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]])  # overlap 3 / 10


def draw_case(seed: int, count: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw boxes with whole corners and few different scores; some boxes have no area."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 8, (count, 2), generator=generator)
    size = torch.randint(0, 10, (count, 2), generator=generator)
    scores = torch.randint(-2, 3, (count,), generator=generator) / 4
    labels = torch.randint(0, 3, (count,), generator=generator)
    return torch.cat([corner, corner + size], 1).float(), scores, labels


@pytest.mark.parametrize("seed", range(200))
def test_suppression_is_the_greedy_loop(seed: int) -> None:
    boxes, scores, _ = draw_case(seed)
    threshold = THRESHOLDS[seed % len(THRESHOLDS)]
    expected = suppress(boxes.tolist(), scores.tolist(), threshold)
    assert nms(boxes, scores, float(threshold)).tolist() == expected


@pytest.mark.parametrize("seed", range(40))
def test_suppression_per_class_is_the_greedy_loop_in_each(seed: int) -> None:
    boxes, scores, labels = draw_case(seed)
    kept = []
    for label in range(3):
        rows = (labels == label).nonzero().flatten().tolist()
        inside = suppress(boxes[rows].tolist(), scores[rows].tolist(), Fraction(3, 10))
        kept += [rows[i] for i in inside]
    expected = sorted(kept, key=lambda row: (-scores[row].item(), row))
    assert nms_per_class(boxes, scores, labels).tolist() == expected


def test_distinct_scores_agree_with_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(500, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + torch.rand(500, 2, generator=generator) * 30], 1)
    scores = torch.randperm(500, generator=generator).float()
    assert nms(boxes, scores, 0.4).tolist() == torchvision_nms(boxes, scores, 0.4).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_overlap_equal_to_the_threshold_is_kept(dtype: torch.dtype) -> None:
    scores = torch.tensor([1.0, 0.5])
    assert nms(TWO.to(dtype), scores, 0.3).tolist() == [0, 1]
    assert nms(TWO.to(dtype), scores, math.nextafter(0.3, 0)).tolist() == [0]


def test_equal_scores_keep_the_earlier_row() -> None:
    same = torch.tensor([[0.0, 0, 4, 4]] * 5)
    assert nms(same, torch.zeros(5)).tolist() == [0]
    assert nms(same, torch.tensor([0.0, 1, 1, 0, 1])).tolist() == [1]
    apart = torch.tensor([[10.0 * i, 0, 10 * i + 4, 4] for i in range(5)])
    assert nms(apart, torch.tensor([0.0, 1, 1, 0, 1])).tolist() == [1, 2, 4, 0, 3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_many_equal_scores_keep_their_order(dtype: torch.dtype) -> None:
    # more rows than half precision can number
    boxes = torch.tensor([[0.0, 0, 1, 1]]).repeat(5000, 1).to(dtype)
    assert nms(boxes, torch.zeros(5000, dtype=dtype)).tolist() == [0]
    flat = torch.zeros(5000, 4, dtype=dtype)
    assert nms(flat, torch.zeros(5000, dtype=dtype)).tolist() == list(range(5000))


def test_boxes_without_area_stay_and_huge_boxes_overlap() -> None:
    assert nms(torch.ones(3, 4), torch.zeros(3), 0.0).tolist() == [0, 1, 2]
    huge = torch.tensor([[0.0, 0, 1e30, 1e30]] * 2)
    assert nms(huge, torch.tensor([0.0, 1])).tolist() == [1]


def test_nothing_in_nothing_out() -> None:
    none, no_labels = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    for kept in (nms(none, torch.zeros(0)), nms_per_class(none, torch.zeros(0), no_labels)):
        assert kept.shape == (0,)
        assert kept.dtype == torch.int64


def test_classes_do_not_touch_each_other() -> None:
    same = torch.tensor([[0.0, 0, 4, 4]] * 4)
    scores, labels = torch.tensor([0.1, 0.9, 0.9, 0.5]), torch.tensor([7, -1, 7, -1])
    assert nms_per_class(same, scores, labels).tolist() == [1, 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused_by_row(bad: float) -> None:
    scores = torch.tensor([0.5, bad])
    rule = f"scores must be finite, got {bad} in row 1"
    with pytest.raises(ValueError, match=rule):
        nms(TWO, scores)
    with pytest.raises(ValueError, match=rule):
        nms_per_class(TWO, scores, torch.zeros(2).long())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_boxes_that_are_not_finite_are_refused_by_row(bad: float) -> None:
    boxes = TWO.clone()
    boxes[1, 2] = bad
    with pytest.raises(ValueError, match=r"boxes must be finite, got .* in row 1"):
        nms(boxes, torch.zeros(2))
    with pytest.raises(ValueError, match=r"boxes must be finite"):
        nms_per_class(boxes, torch.zeros(2), torch.zeros(2).long())


def test_reversed_boxes_and_integers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"boxes must have x1 <= x2 and y1 <= y2, got .* in row 0"):
        nms(-TWO, torch.zeros(2))
    with pytest.raises(TypeError, match=r"boxes must be a floating-point tensor, got torch.int64"):
        nms(TWO.long(), torch.zeros(2))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_counts_that_differ_are_refused(count: int) -> None:
    labels, scores = torch.zeros(2).long(), torch.zeros(2)
    with pytest.raises(ValueError, match=rf"scores must have shape \(2,\), got \({count},\)"):
        nms(TWO, torch.zeros(count))
    with pytest.raises(ValueError, match=rf"scores must have shape \(2,\), got \({count},\)"):
        nms_per_class(TWO, torch.zeros(count), labels)
    with pytest.raises(ValueError, match=rf"labels must have shape \(2,\), got \({count},\)"):
        nms_per_class(TWO, scores, torch.zeros(count).long())
    with pytest.raises(TypeError, match=r"labels must be integers, got torch.float32"):
        nms_per_class(TWO, scores, scores)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, math.inf])
def test_thresholds_outside_zero_to_one_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=rf"iou_threshold must be in 0..1, got {threshold}"):
        nms(TWO, torch.zeros(2), threshold)


def draw_soft_case(seed: int, count: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whole corners and few different scores, so that overlaps and scores are often equal."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 8, (count, 2), generator=generator)
    size = torch.randint(0, 10, (count, 2), generator=generator)
    shares = torch.randint(0, 5, (count,), generator=generator).double() / 4
    labels = torch.randint(0, 3, (count,), generator=generator)
    return torch.cat([corner, corner + size], 1).double(), shares, labels


@pytest.mark.parametrize("seed", range(60))
def test_scores_are_those_of_the_loop(seed: int) -> None:
    boxes, shares, _ = draw_soft_case(seed)
    sigma, least = (0.1, 0.5, 2.0)[seed % 3], (0.0, 1e-3, 0.3)[seed // 3 % 3]
    expected = soften(boxes.tolist(), shares.tolist(), sigma, least)
    assert soft_nms(boxes, shares, sigma, least).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_soft_nms_leaves_other_classes_alone(seed: int) -> None:
    boxes, shares, labels = draw_soft_case(seed)
    lowered = soft_nms_per_class(boxes, shares, labels)
    for label in range(3):
        rows = labels == label
        assert torch.equal(lowered[rows], soft_nms(boxes[rows], shares[rows]))


def test_a_narrow_bell_leaves_what_hard_suppression_keeps_at_zero() -> None:
    boxes, shares, _ = draw_soft_case(1)
    shares = 0.5 + torch.randperm(len(shares), generator=torch.Generator().manual_seed(0)) / 100
    survivors = soft_nms(boxes, shares, sigma=1e-9) > 0
    assert survivors.nonzero().flatten().tolist() == sorted(nms(boxes, shares, 0.0).tolist())


def test_soft_nms_of_nothing_is_nothing() -> None:
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


def test_a_score_of_the_least_stays_and_one_below_it_is_0() -> None:
    apart = torch.tensor([[0.0, 0, 4, 4], [10, 0, 14, 4], [20, 0, 24, 4]])
    shares = torch.tensor([0.5, 0.25, 0.125])
    assert soft_nms(apart, shares, least=0.25).tolist() == [0.5, 0.25, 0.0]


def test_unstated_settings_are_those_of_the_documentation() -> None:
    boxes, scores = TWO, torch.tensor([0.9, 0.8])  # overlap 3 / 10, which is kept
    assert nms(boxes, scores).tolist() == [0, 1]
    wider = torch.tensor([[0.0, 0, 100, 1], [0, 0, 31, 1]])
    assert nms(wider, scores).tolist() == [0]
    same = torch.tensor([2, 2])
    assert nms_per_class(boxes, scores, same).tolist() == [0, 1]
    assert nms_per_class(wider, scores, same).tolist() == [0]
    for lowered in (soft_nms(boxes, scores), soft_nms_per_class(boxes, scores, same)):
        assert lowered.tolist() == pytest.approx([0.9, 0.8 * math.exp(-0.09 / 0.5)])
    tiny = torch.tensor([0.9, 0.001, 0.0009])
    apart = torch.tensor([[0.0, 0, 4, 4], [10, 0, 14, 4], [20, 0, 24, 4]])
    assert [score > 0 for score in soft_nms(apart, tiny).tolist()] == [True, True, False]
