"""Anchors on cells: places and averages against loops over windows, bins and cells."""

import pytest
import torch

from sppnet.detection.anchor_grid import AnchorGrid, table_of_sums

SHAPES = [(20.0, 20.0), (70.0, 33.0), (8.0, 130.0), (300.0, 300.0)]


def _average(features: torch.Tensor, x0: int, y0: int, x1: int, y1: int) -> torch.Tensor:
    """(C,) average of a rectangle of cells; those outside the map are zeros."""
    total = torch.zeros(len(features), dtype=torch.float64)
    for y in range(max(y0, 0), min(y1, features.shape[1])):
        for x in range(max(x0, 0), min(x1, features.shape[2])):
            total += features[:, y, x].double()
    return total / ((x1 - x0) * (y1 - y0))


@pytest.mark.parametrize(("width", "height"), SHAPES)
@pytest.mark.parametrize("bins", [1, 3])
def test_averages_equal_the_loop(width: float, height: float, bins: int) -> None:
    features = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    grid = AnchorGrid(width, height, stride=16, centre=15, bins=bins)
    found = grid.describe(table_of_sums(features), torch.arange(54))
    assert torch.equal(found[:, -1], torch.ones(54))
    for place in range(0, 54, 5):
        y, x = divmod(place, 9)
        bins_there = (grid.rectangles + torch.tensor([x, y, x, y])).tolist()
        expected = torch.stack([_average(features, *cells) for cells in bins_there], 1)
        assert torch.allclose(found[place, :-1], expected.flatten().float(), atol=1e-5)


@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_responses_equal_the_product_with_the_averages(width: float, height: float) -> None:
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(4, 11, 8, generator=draw)
    weights = torch.randn(4 * 9 + 1, 5, generator=draw)
    grid = AnchorGrid(width, height, stride=16, centre=15)
    expected = grid.describe(table_of_sums(features), torch.arange(88)) @ weights
    assert torch.allclose(grid.respond(features, weights), expected, atol=1e-4)


@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_bins_lie_on_the_window(width: float, height: float) -> None:
    grid = AnchorGrid(width, height, stride=16, centre=15)
    cells = torch.stack([grid.rectangles[:, :2].amin(0), grid.rectangles[:, 2:].amax(0)])
    # a cell reaches half a stride to each side of its centre, which is the middle of pixel 15
    edges = cells * 16.0 + 15 + 0.5 - 8
    window = grid.boxes((1, 1)).reshape(2, 2)
    assert torch.allclose(edges.mean(0), window.mean(0))
    assert bool(((edges - window).abs() <= 8).all())


def test_windows_are_a_stride_apart_and_of_one_size() -> None:
    boxes = AnchorGrid(50, 30, stride=8, centre=3).boxes((4, 5)).unflatten(0, (4, 5))
    assert torch.allclose(boxes[:, 1:] - boxes[:, :-1], torch.tensor([8.0, 0, 8, 0]))
    assert torch.allclose(boxes[1:] - boxes[:-1], torch.tensor([0.0, 8, 0, 8]))
    assert torch.allclose(boxes[..., 2:] - boxes[..., :2], torch.tensor([50.0, 30.0]))
