"""The scale of a window: the published vectors, ties, any order of scales, a slow loop."""

import numpy as np
import pytest
import torch

from oracles.scale_choice import choose_scale
from sppnet.detection import choose_scales

FIVE = (480, 576, 688, 874, 1200)


def _square(side: float) -> torch.Tensor:
    return torch.tensor([[0.0, 0.0, side, side]])


@pytest.mark.parametrize(
    ("side", "short_side"),
    [(75, 1200), (76, 874), (99, 874), (100, 688), (123, 688), (124, 576), (147, 576), (148, 480)],
)
def test_vectors_of_the_released_code(side: int, short_side: int) -> None:
    (scale,) = choose_scales(_square(side), (375, 500), FIVE, target_side=208).tolist()
    assert FIVE[scale] == short_side


@pytest.mark.parametrize(("side", "short_side"), [(80, 1200), (81, 874), (108, 688), (159, 480)])
def test_default_target_is_the_papers(side: int, short_side: int) -> None:
    assert FIVE[int(choose_scales(_square(side), (500, 375), FIVE))] == short_side


@pytest.mark.parametrize("short_sides", [(480, 576), (576, 480), (576, 480, 576), (480, 480, 576)])
def test_smaller_scale_wins_a_tie(short_sides: tuple[int, ...]) -> None:
    # wanted: 528, as far from 480 as from 576
    (scale,) = choose_scales(_square(100), (100, 100), short_sides, target_side=528).tolist()
    assert scale == short_sides.index(480)


def test_halves_are_rounded_up_as_matlab_does() -> None:
    # wanted: 528.5 -> 529, closer to 576; rounding to even would give 528 and with it 480
    assert choose_scales(_square(100), (100, 100), (480, 576), target_side=528.5).tolist() == [1]


def test_agrees_with_the_slow_loop_for_scales_in_any_order(make_boxes) -> None:
    rng = np.random.default_rng(0)
    for trial in range(25):
        height, width = (int(side) for side in rng.integers(1, 900, size=2))
        short_sides = tuple(int(side) for side in rng.integers(20, 1300, size=rng.integers(1, 6)))
        boxes = make_boxes(40, height, width, seed=trial)
        side = float(rng.choice([208, 216, 224]))
        expected = [
            choose_scale(box, (height, width), short_sides, side) for box in boxes.double().tolist()
        ]
        assert choose_scales(boxes, (height, width), short_sides, side).tolist() == expected


def test_box_without_area_gets_the_largest_scale() -> None:
    assert choose_scales(_square(0), (100, 100), (480, 1200, 688)).tolist() == [1]


def test_no_boxes() -> None:
    scales = choose_scales(torch.zeros(0, 4), (10, 10), FIVE)
    assert scales.shape == (0,)
    assert scales.dtype == torch.int64
