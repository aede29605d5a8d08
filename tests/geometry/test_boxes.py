"""Boxes: what is refused, areas, overlap, clipping, and the deltas of box regression."""

import math
import re
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from oracles.box_loops import iou
from sppnet.geometry import (
    box_area,
    box_iou,
    boxes_to_deltas,
    check_boxes,
    clip_boxes,
    deltas_to_boxes,
    flip_boxes,
)
from sppnet.geometry.boxes import box_intersection, reject_rows

FINE = [[0.0, 0, 4, 2], [1, 1, 1, 1]]


def draw_boxes(count: int, seed: int, smallest: int = 0) -> torch.Tensor:
    """Draw boxes with whole corners, so that overlaps and ties are common."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(-4, 8, (count, 2), generator=generator)
    size = torch.randint(smallest, 8, (count, 2), generator=generator)
    return torch.cat([corner, corner + size], 1).double()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_fine_boxes_come_back_as_they_are(dtype: torch.dtype) -> None:
    for boxes in (torch.zeros(0, 4, dtype=dtype), torch.tensor(FINE, dtype=dtype)):
        assert check_boxes(boxes) is boxes


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ([math.nan, 0, 4, 2], "proposals must be finite, got [nan, 0.0, 4.0, 2.0] in row 2"),
        ([0, 0, math.inf, 2], "proposals must be finite, got [0.0, 0.0, inf, 2.0] in row 2"),
        ([0, -math.inf, 4, 2], "proposals must be finite, got [0.0, -inf, 4.0, 2.0] in row 2"),
        (
            [5, 0, 4, 2],
            "proposals must have x1 <= x2 and y1 <= y2, got [5.0, 0.0, 4.0, 2.0] in row 2",
        ),
        (
            [0, 3, 4, 2],
            "proposals must have x1 <= x2 and y1 <= y2, got [0.0, 3.0, 4.0, 2.0] in row 2",
        ),
    ],
)
def test_a_bad_box_is_refused_by_row_under_its_name(row: list[float], rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(rule)):
        check_boxes(torch.tensor([*FINE, row, row]), "proposals")


@pytest.mark.parametrize("shape", [(4,), (3, 5), (1, 2, 4), (4, 0), ()])
def test_shapes_that_are_not_boxes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"boxes must have shape (K, 4), got {shape}")):
        check_boxes(torch.zeros(shape))


@pytest.mark.parametrize(
    ("boxes", "kind"),
    [
        ([[0, 0, 1, 1]], "list"),
        (torch.zeros(1, 4).long(), "torch.int64"),
        (torch.zeros(1, 4).cfloat(), "torch.complex64"),
    ],
)
def test_kinds_that_are_not_boxes_are_refused(boxes, kind: str) -> None:
    with pytest.raises(TypeError, match=f"boxes must be a floating-point tensor, got {kind}"):
        check_boxes(boxes)


def test_reject_rows_lets_good_rows_pass() -> None:
    reject_rows(torch.zeros(2, dtype=torch.bool), torch.ones(2), "x must y")
    reject_rows(torch.zeros(0, dtype=torch.bool), torch.ones(0), "x must y")


def test_area_counts_pixels_of_half_open_boxes() -> None:
    assert box_area(torch.tensor([FINE])).tolist() == [[8, 0]]
    assert box_area(torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_overlap_is_the_exact_fraction(seed: int) -> None:
    boxes, others = draw_boxes(30, seed), draw_boxes(20, seed + 100)
    expected = [[float(iou(a, b)) for b in others.tolist()] for a in boxes.tolist()]
    assert box_iou(boxes, others).tolist() == expected
    assert torch.equal(box_iou(others, boxes), box_iou(boxes, others).T)
    single = box_iou(boxes.float(), others.float()).double()
    torch.testing.assert_close(single, torch.tensor(expected).double(), rtol=1e-6, atol=0)


def test_overlap_of_edges_nothing_and_itself() -> None:
    box = torch.tensor([[0.0, 0, 4, 2]])
    # touching, apart, inside without area, itself
    others = torch.tensor([[4.0, 0, 8, 2], [5, 5, 6, 6], [1, 1, 1, 2], [0, 0, 4, 2]])
    assert box_iou(box, others).tolist() == [[0, 0, 0, 1]]
    assert box_intersection(box, others).tolist() == [[0, 0, 0, 8]]
    nothing = torch.tensor([[1.0, 1, 1, 1]])
    assert box_iou(nothing, nothing).tolist() == [[0]]
    assert box_iou(torch.zeros(0, 4), box).shape == (0, 1)
    assert box_iou(box, torch.zeros(0, 4)).shape == (1, 0)


def test_overlap_never_leaves_zero_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(300, 2, generator=generator) * 1000
    boxes = torch.cat([corner, corner + torch.rand(300, 2, generator=generator)], 1)
    nearly = boxes * (1 + 1e-7)
    overlap = box_iou(boxes, nearly)
    assert overlap.min() >= 0
    assert overlap.max() <= 1


def test_voc_rule_of_plus_one_gives_the_same_overlap() -> None:
    inclusive = [(1, 1, 4, 2), (3, 2, 6, 5), (4, 2, 4, 2)]

    def plus_one(a: tuple[int, ...], b: tuple[int, ...]) -> float:
        width = min(a[2], b[2]) - max(a[0], b[0]) + 1
        height = min(a[3], b[3]) - max(a[1], b[1]) + 1
        shared = max(width, 0) * max(height, 0)
        first, second = ((c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b))
        return shared / (first + second - shared)

    half_open = torch.tensor([[x1 - 1, y1 - 1, x2, y2] for x1, y1, x2, y2 in inclusive]).double()
    expected = [[plus_one(a, b) for b in inclusive] for a in inclusive]
    assert box_iou(half_open, half_open).tolist() == expected


def test_clipping_ends_at_width_and_height() -> None:
    boxes = torch.tensor([[-3.0, -1, 9, 5], [9, 9, 10, 10], [-5, -5, -2, -2], [1, 1, 2, 2]])
    clipped = clip_boxes(boxes, (4, 8))
    assert clipped.tolist() == [[0, 0, 8, 4], [8, 4, 8, 4], [0, 0, 0, 0], [1, 1, 2, 2]]
    assert check_boxes(clipped) is clipped
    assert torch.equal(clip_boxes(clipped, (4, 8)), clipped)
    assert clip_boxes(torch.zeros(2, 0, 4).half(), (4, 8)).shape == (2, 0, 4)


def test_deltas_written_out() -> None:
    deltas = boxes_to_deltas(torch.tensor([[0.0, 0, 4, 2]]), torch.tensor([[2.0, -1, 10, 0]]))
    # centres (2, 1) and (6, -0.5); sizes 4 x 2 and 8 x 1
    expected = torch.tensor([[1.0, -0.75, math.log(2), -math.log(2)]])
    torch.testing.assert_close(deltas, expected)


@pytest.mark.parametrize("seed", range(5))
def test_deltas_are_inverses(seed: int) -> None:
    proposals, targets = draw_boxes(200, seed, smallest=1), draw_boxes(200, seed + 50, smallest=1)
    deltas = boxes_to_deltas(proposals, targets)
    torch.testing.assert_close(deltas_to_boxes(proposals, deltas), targets)
    there = deltas_to_boxes(proposals, deltas / 3)
    torch.testing.assert_close(boxes_to_deltas(proposals, there), deltas / 3)
    assert not boxes_to_deltas(proposals, proposals).any()


def test_deltas_do_not_depend_on_place_or_scale() -> None:
    proposals, targets = draw_boxes(50, 1, smallest=1), draw_boxes(50, 2, smallest=1)
    moved = boxes_to_deltas(proposals * 8 + 32, targets * 8 + 32)
    torch.testing.assert_close(moved, boxes_to_deltas(proposals, targets))


def test_wild_growth_is_cut_off_and_shrinking_is_not() -> None:
    wild = torch.tensor([[0.0, 0, 1e4, -1e4]])
    (box,) = deltas_to_boxes(torch.tensor([[0.0, 0, 16, 16]]), wild).tolist()
    assert box == pytest.approx([8 - 500, 8, 8 + 500, 8])


def test_no_boxes_have_no_deltas() -> None:
    none = torch.zeros(0, 4)
    assert boxes_to_deltas(none, none).shape == (0, 4)
    assert deltas_to_boxes(none, none).shape == (0, 4)


def test_flipping_twice_gives_the_boxes_again_and_sides_stay_in_order() -> None:
    boxes = torch.tensor([[1.0, 2, 5, 9], [0.0, 0, 10, 3], [4.0, 4, 4, 4]])
    flipped = flip_boxes(boxes, 10)
    assert flipped.tolist() == [[5, 2, 9, 9], [0, 0, 10, 3], [6, 4, 6, 4]]
    assert torch.equal(flip_boxes(flipped, 10), boxes)


def test_nothing_is_refused_where_there_are_no_values() -> None:
    bad, rows = torch.tensor([True]), torch.zeros(1)
    with pytest.raises(ValueError, match="rows must be good"):
        reject_rows(bad, rows, "rows must be good")
    reject_rows(bad.to("meta"), rows.to("meta"), "rows must be good")
    with FakeTensorMode():
        reject_rows(torch.tensor([True]), torch.zeros(1), "rows must be good")


def test_a_recorded_program_holds_no_refusal() -> None:
    def area(boxes: torch.Tensor) -> torch.Tensor:
        reject_rows(boxes[:, 0] < 0, boxes, "boxes must begin at 0")
        return box_area(boxes)

    good, bad = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[-1.0, 0, 2, 2]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is old
        traced = torch.jit.trace(area, bad, check_trace=False)
    assert traced(good).tolist() == [4]
    assert traced(bad).tolist() == [6]
