"""From boxes to cells: the authors' formulas, the paper's rule, and what must always hold."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.box_loops import project
from sppnet.geometry import Projection, cell_centres, project_boxes
from sppnet.geometry.projection import PROJECTION_PRESETS

RELEASED, PAPER = Projection.released(), Projection.paper_v4()
PRESETS = [
    RELEASED,
    PAPER,
    Projection.released(stride=12, centre=14),
    Projection.paper_v4(stride=8, centre=3.5),
    Projection(16, 0, 6),
    Projection(32, -15.5, 0),
]
sides = st.integers(-400, 1600).map(lambda quarters: quarters / 4)


def cells(box: list[float], projection: Projection, grid_hw: tuple[int, int]) -> list[int]:
    """Project one box."""
    return project_boxes(torch.tensor([box], dtype=torch.float64), projection, grid_hw)[0].tolist()


@pytest.mark.parametrize(
    ("first", "last", "expected"),  # pixels and cells 1-based and inclusive, before clipping
    [
        (1, 224, (0, 13)),
        (101, 108, (6, 6)),
        (101, 116, (6, 7)),
        (101, 132, (6, 8)),
        (101, 164, (6, 10)),
    ],
)
def test_vectors_of_the_released_rule(first: int, last: int, expected: tuple[int, int]) -> None:
    left, right = max(expected[0], 1) - 1, expected[1]
    box = [first - 1.0, 0, last, 100]
    assert cells(box, RELEASED, (13, 13))[::2] == [left, right]
    assert cells([0, first - 1.0, 100, last], RELEASED, (13, 13))[1::2] == [left, right]


@pytest.mark.parametrize(
    ("first", "last", "expected"),  # pixels and cells 0-based and inclusive
    [
        (0, 223, (1, 13)),
        (100, 107, (6, 6)),  # (7, 6) before the collapse to the middle of the 1-based cells
        (100, 115, (7, 7)),
        (100, 163, (7, 10)),
    ],
)
def test_vectors_of_the_paper_rule(first: int, last: int, expected: tuple[int, int]) -> None:
    half_open = [expected[0], expected[1] + 1]
    assert cells([first, 0.0, last + 1, 50], PAPER, (14, 14))[::2] == half_open
    assert cells([0.0, first, 50, last + 1], PAPER, (14, 14))[1::2] == half_open


def test_view_at_the_corner_covers_its_whole_map() -> None:
    assert cells([0, 0, 224.0, 224], RELEASED, (13, 13)) == [0, 0, 13, 13]


@given(
    st.sampled_from(PRESETS),
    st.tuples(sides, sides, sides, sides),
    st.integers(1, 20),
    st.integers(1, 20),
)
@settings(max_examples=300, deadline=None)
def test_cells_are_those_of_the_authors_formulas(projection, corners, height, width) -> None:
    xs, ys = sorted(corners[:2]), sorted(corners[2:])
    box = [xs[0], ys[0], xs[1], ys[1]]
    numbers = (projection.stride, projection.centre, projection.offset)
    assert cells(box, projection, (height, width)) == project(box, *numbers, (height, width))


def all_boxes(top: int, step: int) -> torch.Tensor:
    """Every box along one diagonal whose sides are multiples of a step, sizes zero included."""
    marks = torch.arange(-top, 2 * top, step)
    first, last = torch.cartesian_prod(marks, marks).T
    fine = first <= last
    return torch.stack([first, first, last, last], 1)[fine].double()


@pytest.mark.parametrize("projection", PRESETS)
@pytest.mark.parametrize("grid_hw", [(1, 1), (1, 9), (7, 2), (13, 13)])
def test_every_region_is_inside_the_map_and_never_empty(projection, grid_hw) -> None:
    regions = project_boxes(all_boxes(160, 8), projection, grid_hw)
    assert regions.dtype == torch.int64
    height, width = grid_hw
    x0, y0, x1, y1 = regions.T
    assert ((x0 >= 0) & (x0 < x1) & (x1 <= width)).all()
    assert ((y0 >= 0) & (y0 < y1) & (y1 <= height)).all()


@pytest.mark.parametrize("projection", PRESETS)
def test_moving_a_box_right_never_moves_its_cells_left(projection: Projection) -> None:
    for side in (0, 1, 3, 10, 14, 18, 40, 200):
        start = torch.arange(-100.0, 400, 0.5)
        boxes = torch.stack([start, start * 0, start + side, start * 0 + 5], 1)
        x0, _, x1, _ = project_boxes(boxes, projection, (9, 11)).T
        assert (x0.diff() >= 0).all()
        assert (x1.diff() >= 0).all()


@pytest.mark.parametrize("projection", PRESETS)
def test_a_larger_box_keeps_its_cells(projection: Projection) -> None:
    boxes = all_boxes(160, 4)
    wide = boxes[(boxes[:, 2] - boxes[:, 0]) > 2 * projection.stride]  # never collapses
    small = project_boxes(wide, projection, (12, 12))
    large = project_boxes(wide + torch.tensor([-5, -5, 5, 5]), projection, (12, 12))
    assert (large[:, :2] <= small[:, :2]).all()
    assert (large[:, 2:] >= small[:, 2:]).all()


@pytest.mark.parametrize("projection", PRESETS)
def test_moving_by_one_stride_moves_by_one_cell(projection: Projection) -> None:
    grid = (100, 100)
    low, step = 20 * projection.stride, projection.stride
    boxes = all_boxes(40, 3) + low
    here = project_boxes(boxes, projection, grid)
    assert torch.equal(project_boxes(boxes + step, projection, grid), here + 1)


def test_strictly_inside_is_what_the_paper_rule_means() -> None:
    y, x = cell_centres(PAPER, (1, 40))
    assert y.tolist() == [0]
    for first in range(20, 60):
        for size in range(18, 60, 3):
            x0, _, x1, _ = cells([first, 0.0, first + size, 1], PAPER, (1, 40))
            inside = ((x > first) & (x < first + size - 1)).nonzero().flatten().tolist()
            assert list(range(x0, x1)) == inside


def test_sides_midway_between_centres_go_inwards() -> None:
    projection = Projection(stride=10, centre=0, offset=0)
    # first pixel 5 lies between cells 0 and 1, last pixel 25 between cells 2 and 3
    assert cells([5.0, 0, 26, 1], projection, (1, 9))[::2] == [1, 3]
    assert cells([5.01, 0, 26.01, 1], projection, (1, 9))[::2] == [1, 4]
    assert cells([4.99, 0, 25.99, 1], projection, (1, 9))[::2] == [0, 3]


@pytest.mark.parametrize("projection", PRESETS)
def test_boxes_outside_get_the_nearest_cell(projection: Projection) -> None:
    far = 1e4
    grid = (5, 7)
    assert cells([-far, -far, -far + 50, -far + 50], projection, grid) == [0, 0, 1, 1]
    assert cells([far, far, far + 50, far + 50], projection, grid) == [6, 4, 7, 5]
    assert cells([-far, -far, far, far], projection, grid) == [0, 0, 7, 5]


@pytest.mark.parametrize("huge", [2.0**31, 1e20, 3e38, 1e300, 1.7e308])
@pytest.mark.parametrize("stride", [1e-3, 16])
def test_huge_coordinates_stay_inside(huge: float, stride: float) -> None:
    projection, grid = Projection(stride, 0, 0.4 * stride), (5, 7)
    assert cells([-huge, -huge, huge, huge], projection, grid) == [0, 0, 7, 5]
    assert cells([huge, huge, huge, huge], projection, grid) == [6, 4, 7, 5]
    assert cells([-huge, -huge, -huge, -huge], projection, grid) == [0, 0, 1, 1]


def test_boxes_without_area_get_one_cell() -> None:
    for place in range(200):
        x0, y0, x1, y1 = cells([float(place)] * 4, RELEASED, (20, 20))
        assert (x1 - x0, y1 - y0) == (1, 1)
        assert abs(20 + 16 * x0 - place) <= 16 or x0 == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_will_do(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[0, 0, 224, 224], [100, 100, 164, 132]], dtype=dtype)
    expected = [[0, 0, 13, 13], [5, 5, 10, 8]]
    assert project_boxes(boxes, RELEASED, (13, 13)).tolist() == expected
    assert project_boxes(boxes[:0], RELEASED, (13, 13)).shape == (0, 4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", range(4))
def test_boxes_that_are_not_finite_are_refused_by_row(bad: float, column: int) -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 3)
    boxes[1, column] = bad
    with pytest.raises(ValueError, match=r"boxes must be finite, got .* in row 1"):
        project_boxes(boxes, RELEASED, (5, 5))


def test_reversed_boxes_integers_and_empty_grids_are_refused() -> None:
    fine = torch.tensor([[0.0, 0, 9, 9]])
    with pytest.raises(ValueError, match=r"boxes must have x1 <= x2 and y1 <= y2, got .* in row 0"):
        project_boxes(-fine, RELEASED, (5, 5))
    with pytest.raises(TypeError, match=r"boxes must be a floating-point tensor, got torch.int64"):
        project_boxes(fine.long(), RELEASED, (5, 5))
    for grid in ((0, 5), (5, 0), (-1, 3)):
        rule = re.escape(f"grid_hw must be at least (1, 1), got {grid}")
        with pytest.raises(ValueError, match=rule):
            project_boxes(fine, RELEASED, grid)


@pytest.mark.parametrize(
    ("numbers", "rule"),
    [
        ((0, 0, 0), "stride must be positive, got 0"),
        ((-16, 0, 0), "stride must be positive, got -16"),
        ((math.nan, 0, 0), "stride must be finite, got nan"),
        ((math.inf, 0, 0), "stride must be finite, got inf"),
        ((16, math.nan, 0), "centre must be finite, got nan"),
        ((16, 0, -math.inf), "offset must be finite, got -inf"),
    ],
)
def test_projections_that_make_no_sense_are_refused(numbers, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Projection(*numbers)


def test_presets() -> None:
    assert Projection(16, 20, 6.5) == RELEASED
    assert Projection(16, 0, 8) == PAPER
    assert Projection.released(8, 3).offset == 3.25
    assert Projection.paper_v4(12, 8) == Projection(12, 8, 6)
    assert {name: make() for name, make in PROJECTION_PRESETS.items()} == {
        "released": RELEASED,
        "paper_v4": PAPER,
    }


def test_centres_of_cells_project_onto_their_own_cell() -> None:
    for projection in PRESETS:
        y, x = cell_centres(projection, (6, 9))
        assert (y.diff() == projection.stride).all()
        for k, pixel in enumerate(x.tolist()):
            assert cells([pixel, 0, pixel + 1, 1], projection, (6, 9))[::2] == [k, k + 1]
