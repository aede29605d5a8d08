"""Anchors on cells: places and averages against loops over proposals, bins and cells.

Shapes of anchors: overlap against boxes on one centre, groups against sizes made in groups."""

import pytest
import torch

from sppnet.detection.proposals.anchor_boxes import (
    AnchorGrid,
    cluster_shapes,
    integral_image,
    size_overlap,
)
from sppnet.geometry import box_iou

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
    found = grid.describe(integral_image(features), torch.arange(54))
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
    expected = grid.describe(integral_image(features), torch.arange(88)) @ weights
    assert torch.allclose(grid.respond(features, weights), expected, atol=1e-4)


@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_bins_lie_on_the_proposal(width: float, height: float) -> None:
    grid = AnchorGrid(width, height, stride=16, centre=15)
    cells = torch.stack([grid.rectangles[:, :2].amin(0), grid.rectangles[:, 2:].amax(0)])
    # a cell reaches half a stride to each side of its centre, which is the middle of pixel 15
    edges = cells * 16.0 + 15 + 0.5 - 8
    proposal = grid.boxes((1, 1)).reshape(2, 2)
    assert torch.allclose(edges.mean(0), proposal.mean(0))
    assert bool(((edges - proposal).abs() <= 8).all())


def test_proposals_are_a_stride_apart_and_of_one_size() -> None:
    boxes = AnchorGrid(50, 30, stride=8, centre=3).boxes((4, 5)).unflatten(0, (4, 5))
    assert torch.allclose(boxes[:, 1:] - boxes[:, :-1], torch.tensor([8.0, 0, 8, 0]))
    assert torch.allclose(boxes[1:] - boxes[:-1], torch.tensor([0.0, 8, 0, 8]))
    assert torch.allclose(boxes[..., 2:] - boxes[..., :2], torch.tensor([50.0, 30.0]))


def _sizes(count: int, seed: int = 0):
    return 5 + 100 * torch.rand(count, 2, generator=torch.Generator().manual_seed(seed))


def test_overlap_is_that_of_boxes_on_one_centre() -> None:
    sizes, others = _sizes(9), _sizes(4, seed=1)
    expected = box_iou(
        torch.cat([-sizes / 2, sizes / 2], 1), torch.cat([-others / 2, others / 2], 1)
    )
    assert torch.allclose(size_overlap(sizes, others), expected, atol=1e-6)


def test_finds_the_groups_that_sizes_were_made_in() -> None:
    middles = torch.tensor([[20.0, 20.0], [100.0, 40.0], [40.0, 160.0]])
    noise = torch.randn(3, 50, 2, generator=torch.Generator().manual_seed(0)) * 0.03
    sizes = (middles[:, None].log() + noise).exp().flatten(0, 1)
    shapes = cluster_shapes(sizes, torch.ones(150), 3)
    shapes = shapes[shapes.prod(1).argsort()]
    assert torch.allclose(shapes, middles, rtol=0.02)


def test_more_shapes_cover_the_sizes_better() -> None:
    sizes, weights = _sizes(200), torch.ones(200)
    covered = [
        float(size_overlap(sizes, cluster_shapes(sizes, weights, count)).amax(1).mean())
        for count in (1, 3, 9)
    ]
    assert covered == sorted(covered)
    by_lot = [size_overlap(sizes, _sizes(9, seed)).amax(1).mean() for seed in range(1, 50)]
    assert covered[-1] > max(by_lot)


def test_heavy_sizes_pull_the_middle() -> None:
    sizes = torch.tensor([[10.0, 10.0], [20.0, 20.0]])
    (shape,) = cluster_shapes(sizes, torch.tensor([1.0, 3.0]), 1)
    assert torch.allclose(shape, torch.full((2,), 10 * 2**0.75), rtol=1e-5)


def test_no_more_shapes_than_distinct_sizes() -> None:
    assert cluster_shapes(torch.full((6, 2), 30.0), torch.ones(6), 4).tolist() == [[30.0, 30.0]]
