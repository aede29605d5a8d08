"""Windows of a grid lie inside the image; their scores are those of a slow loop."""

import pytest
import torch

from sppnet.detection.proposals.graph import enclosed_edges, grid_proposals, rank_within
from sppnet.geometry import box_iou


def _edge(image: torch.Tensor, y: int, x: int) -> float:
    """Differences to the pixels at the left and above, of the channel with the largest."""
    left = (image[:, y, x] - image[:, y, x - 1]).abs().max() if x else 0.0
    above = (image[:, y, x] - image[:, y - 1, x]).abs().max() if y else 0.0
    return float(left + above)


def _slow_score(image: torch.Tensor, box: list[int]) -> float:
    """The edges of a box outside its middle, pixel by pixel."""
    x0, y0, x1, y1 = box
    width, height = x1 - x0, y1 - y0
    across = range(x0 + width // 4, x1 - width // 4)
    down = range(y0 + height // 4, y1 - height // 4)
    total = sum(
        _edge(image, y, x)
        for y in range(y0, y1)
        for x in range(x0, x1)
        if not (x in across and y in down)
    )
    return total / (2 * (width + height)) ** 1.5


def test_scores_are_those_of_the_loop(make_picture) -> None:
    image = make_picture(24, 31)
    boxes = torch.tensor([[0, 0, 31, 24], [3, 2, 17, 20], [30, 23, 31, 24], [5, 5, 9, 8]])
    expected = [_slow_score(image, box) for box in boxes.tolist()]
    assert enclosed_edges(image, boxes).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 90), (60, 7), (48, 64)])
def test_windows_lie_inside_and_are_distinct(make_picture, size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    boxes = grid_proposals(make_picture(height, width))
    assert len(boxes) > 0
    assert len(boxes.unique(dim=0)) == len(boxes)
    assert bool((boxes >= 0).all())
    assert bool((boxes[:, 2:] <= torch.tensor([width, height])).all())
    assert bool((boxes[:, 2:] > boxes[:, :2]).all())


def test_window_around_an_object_comes_first_of_its_size() -> None:
    image = torch.zeros(3, 64, 64)
    image[:, 20:36, 20:36] = 1
    boxes = grid_proposals(image)
    alike = boxes[(boxes[:, 2:] - boxes[:, :2]).prod(1).log2().round() == 9]
    found = box_iou(alike, torch.tensor([[20.0, 20.0, 36.0, 36.0]]))[:, 0]
    assert float(found[0]) > 0.4
    assert float(found[0]) > 2 * float(found.mean())


def test_rank_counts_the_earlier_rows_of_a_group() -> None:
    groups = torch.tensor([2, 5, 2, 2, 5])
    assert rank_within(groups).tolist() == [0, 0, 1, 2, 1]
    assert rank_within(groups[:0]).tolist() == []
