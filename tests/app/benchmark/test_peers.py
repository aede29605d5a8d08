"""Peers agree with the definition; inputs are seeded and keep to their bounds."""

import torch
from torch.nn.functional import adaptive_max_pool2d

from sppnet.app.benchmark.peers import (
    TextbookPyramid,
    draw_regions,
    draw_shapes,
    draw_sizes,
    duplicate_share,
    pad_and_crop,
    pool_in_a_loop,
)
from sppnet.app.benchmark.timing import (
    LEVELS,
)
from sppnet.pooling import check_regions, spatial_pyramid_pool


def test_windows_are_seeded_inside_the_map_and_a_fifth_coincide() -> None:
    for size in ((40, 60), (38, 50), (1, 1), (200, 200)):
        rows = draw_regions(2_000, size, seed=1)
        assert torch.equal(rows, draw_regions(2_000, size, seed=1))
        assert torch.equal(check_regions(rows, torch.zeros(1, 1, *size)), rows)
    assert not torch.equal(draw_regions(99, (40, 60), 1), draw_regions(99, (40, 60), 2))
    assert 0.15 < duplicate_share(draw_regions(2_000, (40, 60), seed=0)) < 0.3


def test_shapes_and_sizes_keep_to_their_bounds() -> None:
    for n, c, h, w in draw_shapes(200, 4_000_000, seed=0):
        assert 1 <= n <= 32
        assert 1 <= c <= 512
        assert 1 <= h <= 64
        assert 1 <= w <= 64
        assert 4 * n * c * h * w <= 4_000_000
    sizes = draw_sizes(64, (6, 40), seed=0)
    assert len(set(sizes)) == 64
    assert all(6 <= side <= 40 for size in sizes for side in size)


def test_peers_agree_with_the_definition() -> None:
    maps = [torch.randn(3, h, w) for h, w in ((2, 9), (7, 7), (1, 4))]
    pooled = spatial_pyramid_pool(maps, LEVELS)
    textbook = TextbookPyramid(LEVELS)
    assert torch.equal(pool_in_a_loop(maps, textbook), pooled)
    assert torch.equal(pad_and_crop(maps, textbook), pooled)
    wanted = [each.clone().requires_grad_() for each in maps]
    assert torch.equal(pad_and_crop(wanted, textbook), pooled)  # the way that keeps a gradient
    finest = adaptive_max_pool2d(maps[0], 6).flatten()
    assert torch.equal(textbook(maps[0][None])[0, : len(finest)], finest)
