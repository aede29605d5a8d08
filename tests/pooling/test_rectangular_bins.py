"""Bins of any number of rows and columns, one number as a pyramid, and maps without a batch."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from oracles.pyramid_loops import pool_map, pool_region
from sppnet.pooling import (
    RegionPool,
    SpatialPyramidPool,
    check_pyramid,
    num_bins,
    pool_regions,
    score_regions,
    spatial_pyramid_pool,
)

PYRAMIDS: list[tuple[Any, ...]] = [
    ((2, 3),),
    (1, (2, 3), 6),
    ((1, 5), (4, 1), 2),
    ((6, 4), (3, 2), (2, 4), (3, 2)),
]
SIZES = [(1, 1), (1, 9), (5, 5), (13, 10), (3, 20)]
VALUES = torch.tensor([math.nan, -math.inf, math.inf, -2.0, -0.0, 1.0])


def exact(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def fill(*shape: int, special: bool) -> Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    if not special:
        return torch.randn(shape, generator=draw)
    shares = torch.tensor([1.0, 6, 1, 9, 9, 9])
    return VALUES[torch.multinomial(shares, math.prod(shape), True, generator=draw)].reshape(shape)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("levels", PYRAMIDS)
def test_maps_and_regions_are_the_definition(levels: tuple[Any, ...], special: bool) -> None:
    for height, width in SIZES:
        features = fill(2, 2, height, width, special=special)
        expected = torch.tensor([pool_map(each.tolist(), levels) for each in features])
        exact(spatial_pyramid_pool(features, levels), expected)
        exact(SpatialPyramidPool(levels)(features), expected)
        rows = torch.tensor(
            [
                [1, 0, 0, width, height],
                [0, width // 2, height // 3, width, height],
                [1, 0, 0, width, height],
                [0, 0, 0, 1, 1],
            ]
        )
        loops = [pool_region(features[i].tolist(), cells, levels) for i, *cells in rows.tolist()]
        exact(pool_regions(features, rows, levels), torch.tensor(loops))
        exact(RegionPool(levels)(features, rows), torch.tensor(loops))
        out = torch.empty(4, 2 * num_bins(levels))
        exact(pool_regions(features, rows, levels, out=out), torch.tensor(loops))


@pytest.mark.parametrize("levels", PYRAMIDS)
def test_averages_are_those_of_torch(levels: tuple[Any, ...]) -> None:
    features = fill(2, 3, 7, 9, special=False)
    grids = [adaptive_avg_pool2d(features.double(), n).float().flatten(1) for n in levels]
    exact(spatial_pyramid_pool(features, levels, mode="avg"), torch.cat(grids, 1))
    whole = torch.tensor([[0, 0, 0, 9, 7], [1, 0, 0, 9, 7]])
    exact(pool_regions(features, whole, levels, mode="avg"), torch.cat(grids, 1))


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("levels", PYRAMIDS)
def test_gradients_go_where_torch_sends_them(levels: tuple[Any, ...], special: bool) -> None:
    features = fill(2, 2, 7, 5, special=special).double().requires_grad_()
    plain = torch.cat([adaptive_max_pool2d(features, n).flatten(1) for n in levels], 1)
    weights = torch.arange(float(plain.numel()), dtype=torch.float64).reshape(plain.shape)
    (expected,) = torch.autograd.grad(plain, features, weights)
    whole = torch.tensor([[0, 0, 0, 5, 7], [1, 0, 0, 5, 7]])
    for pooled in (spatial_pyramid_pool(features, levels), pool_regions(features, whole, levels)):
        exact(torch.autograd.grad(pooled, features, weights)[0], expected)
    if not special:
        assert torch.autograd.gradgradcheck(lambda x: spatial_pyramid_pool(x, levels), (features,))


def test_equal_pairs_are_squares_and_squares_keep_their_kernel() -> None:
    from_json: Any = [[3, 3], [2, 1], 4]
    assert check_pyramid([(3, 3), (2, 1), 4]) == check_pyramid(from_json) == (3, (2, 1), 4)
    assert repr(SpatialPyramidPool([(3, 3), (2, 1)])) == "SpatialPyramidPool(levels=(3, (2, 1)))"
    features = fill(2, 3, 7, 9, special=False)
    exact(spatial_pyramid_pool(features, [(3, 3), 1]), spatial_pyramid_pool(features, (3, 1)))


def test_maps_of_several_sizes_and_scores() -> None:
    maps, levels = [fill(2, 7, 9, special=False), fill(2, 3, 20, special=False)], (1, (2, 3))
    each = [spatial_pyramid_pool(one, levels) for one in maps]
    exact(spatial_pyramid_pool(maps, levels), torch.stack(each))
    rows, weights = torch.tensor([[0, 1, 1, 8, 6]]), torch.ones(14, 2)
    found = score_regions(maps[0][None], rows, weights, levels)
    torch.testing.assert_close(found, pool_regions(maps[0][None], rows, levels) @ weights)


def test_rectangles_under_tracers() -> None:
    pool, other = SpatialPyramidPool((1, (2, 3))), fill(3, 2, 4, 11, special=False)
    example = fill(2, 2, 7, 9, special=False)
    free = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(pool, (example,), dynamic_shapes=(free,)).module()
    for recorded in (program, torch.fx.symbolic_trace(pool)):
        exact(recorded(other), pool(other))
    exact(torch.func.vmap(pool)(torch.stack([example, -example]))[1], pool(-example))


def test_one_number_is_a_pyramid_of_one_level() -> None:
    features = fill(2, 3, 7, 9, special=False)
    exact(spatial_pyramid_pool(features, 3), spatial_pyramid_pool(features, (3,)))
    assert SpatialPyramidPool(3).levels == RegionPool(3).levels == (3,)
    assert num_bins(3) == 9


def test_a_map_without_a_batch_gives_a_vector_without_one() -> None:
    features = fill(3, 7, 9, special=False).requires_grad_()
    pooled = spatial_pyramid_pool(features)
    assert pooled.shape == (150,) == adaptive_max_pool2d(features, (5, 10)).flatten().shape
    exact(pooled, spatial_pyramid_pool(features[None])[0])
    pooled.sum().backward()
    assert features.grad is not None
    assert int(features.grad.sum()) == 150
    exact(SpatialPyramidPool((2, 1))(features), spatial_pyramid_pool(features, (2, 1)))
    valid = spatial_pyramid_pool(features, sizes_hw=torch.tensor([4, 5]))
    exact(valid, spatial_pyramid_pool(features[:, :4, :5]))


def test_regions_of_a_map_without_a_batch() -> None:
    features, cells = fill(3, 7, 9, special=False), torch.tensor([[0, 1, 5, 6], [2, 2, 3, 3]])
    rows = torch.cat([torch.zeros(2, 1, dtype=torch.int64), cells], 1)
    expected = pool_regions(features[None], rows)
    weights = torch.ones(150, 1)
    for regions in (cells, rows, [cells]):
        exact(pool_regions(features, regions), expected)
        exact(
            score_regions(features, regions, weights), score_regions(features[None], rows, weights)
        )


def test_modules_say_what_the_next_layer_takes_in() -> None:
    pool = SpatialPyramidPool((1, (2, 3), 4))
    layer = nn.Linear(pool.out_features(8), 2)
    assert layer(pool(torch.rand(3, 8, 5, 6))).shape == (3, 2)
    assert pool.out_features(8) == RegionPool((1, (2, 3), 4)).out_features(8) == 8 * 23


@pytest.mark.parametrize(
    ("levels", "error"),
    [
        ((1, (2, 3, 4)), TypeError),
        ((1, (2,)), TypeError),
        (((2, 1.5),), TypeError),
        (((True, 2),), TypeError),
        ("12", TypeError),
        (2.0, TypeError),
        (((2, 0),), ValueError),
        (0, ValueError),
        ((), ValueError),
    ],
)
def test_what_is_no_pyramid_is_refused(levels: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=re.escape("levels must be")):
        spatial_pyramid_pool(torch.zeros(1, 1, 2, 2), levels)
