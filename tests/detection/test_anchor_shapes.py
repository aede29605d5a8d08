"""Shapes of anchors: overlap against boxes on one centre, groups against sizes made in groups."""

import torch

from sppnet.detection.anchor_shapes import find_shapes, size_overlap
from sppnet.geometry import box_iou


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
    shapes = find_shapes(sizes, torch.ones(150), 3)
    shapes = shapes[shapes.prod(1).argsort()]
    assert torch.allclose(shapes, middles, rtol=0.02)


def test_more_shapes_cover_the_sizes_better() -> None:
    sizes, weights = _sizes(200), torch.ones(200)
    covered = [
        float(size_overlap(sizes, find_shapes(sizes, weights, count)).amax(1).mean())
        for count in (1, 3, 9)
    ]
    assert covered == sorted(covered)
    by_lot = [size_overlap(sizes, _sizes(9, seed)).amax(1).mean() for seed in range(1, 50)]
    assert covered[-1] > max(by_lot)


def test_heavy_sizes_pull_the_middle() -> None:
    sizes = torch.tensor([[10.0, 10.0], [20.0, 20.0]])
    (shape,) = find_shapes(sizes, torch.tensor([1.0, 3.0]), 1)
    assert torch.allclose(shape, torch.full((2,), 10 * 2**0.75), rtol=1e-5)


def test_no_more_shapes_than_distinct_sizes() -> None:
    assert find_shapes(torch.full((6, 2), 30.0), torch.ones(6), 4).tolist() == [[30.0, 30.0]]
