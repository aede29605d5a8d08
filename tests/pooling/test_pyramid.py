"""Pooling of whole maps against the definition and against torch."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from oracles.pyramid_loops import pool_map
from sppnet.pooling import SpatialPyramidPool, num_bins, spatial_pyramid_pool

LEVELS = [(1, 2, 3, 6), (7, 5, 2), (2, 2), (6, 1, 4), (1,), (8,)]
SIZES = [(1, 1), (1, 9), (9, 1), (2, 3), (5, 5), (13, 13), (10, 10), (7, 30)]


def exact(actual: Tensor, expected: Tensor) -> None:
    """Fail unless two tensors are the same, NaN included."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def by_definition(features: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Pool by the slow loop."""
    return torch.tensor([pool_map(f.tolist(), levels) for f in features], dtype=features.dtype)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pooled_maps_are_the_definition(height: int, width: int, levels: tuple[int, ...]) -> None:
    features = torch.randn(2, 3, height, width)
    pooled = spatial_pyramid_pool(features, levels)
    assert pooled.shape == (2, 3 * num_bins(levels))
    exact(pooled, by_definition(features, levels))
    exact(SpatialPyramidPool(levels)(features), pooled)


@given(
    st.integers(1, 14),
    st.integers(1, 14),
    st.lists(st.integers(1, 8), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_pooled_maps_with_nan_and_infinities_are_the_definition(
    height, width, levels, random
) -> None:
    choices = [math.nan, -math.inf, math.inf, -2.0, -1.0, 0.0, 1.0]
    weights = [1, 6, 1, 5, 5, 5, 5]
    values = random.choices(choices, weights, k=height * width)
    features = torch.tensor(values).reshape(1, 1, height, width)
    pooled = spatial_pyramid_pool(features, tuple(levels))
    exact(pooled, by_definition(features, tuple(levels)))
    exact(pooled, torch.cat([adaptive_max_pool2d(features, n).flatten(1) for n in levels], 1))


def test_order_is_level_then_channel_then_row_then_column() -> None:
    features = torch.arange(8.0).reshape(1, 2, 2, 2)
    expected = [[3, 7, 0, 1, 2, 3, 4, 5, 6, 7]]
    assert spatial_pyramid_pool(features, (1, 2)).tolist() == expected
    assert spatial_pyramid_pool(features, (2, 1)).tolist() == [expected[0][2:] + expected[0][:2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_dtype_stays_and_is_exact(dtype: torch.dtype) -> None:
    features = torch.randn(2, 3, 7, 5).to(dtype)
    pooled = spatial_pyramid_pool(features)
    assert pooled.dtype == dtype
    exact(pooled.double(), by_definition(features.double(), (1, 2, 3, 6)))


def layouts(features: Tensor) -> dict[str, Tensor]:
    """Return the same kind of map in layouts that are not the default one."""
    return {
        "channels_last": features.to(memory_format=torch.channels_last),
        "transposed": features.transpose(2, 3),
        "expanded": features[:, :1].expand(-1, 4, -1, -1),
        "one cell everywhere": features[:, :, :1, :1].expand(-1, -1, 5, 4),
        "strided": features[:, :, ::2, 1::3],
        "flipped": features.flip(2, 3),
        "offset": features[1:, 1:, 2:, 1:],
    }


@pytest.mark.parametrize("layout", layouts(torch.zeros(2, 3, 4, 4)))
def test_every_layout_gives_the_same_numbers(layout: str) -> None:
    features = layouts(torch.randn(3, 4, 9, 8))[layout]
    exact(spatial_pyramid_pool(features), by_definition(features, (1, 2, 3, 6)))


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (0, 0, 1, 1)])
def test_nothing_in_nothing_out(shape: tuple[int, ...]) -> None:
    features = torch.zeros(shape, requires_grad=True)
    pooled = spatial_pyramid_pool(features, (1, 3))
    assert pooled.shape == (shape[0], shape[1] * 10)
    pooled.sum().backward()
    assert features.grad is not None
    assert features.grad.shape == shape


def test_levels_are_checked_even_without_channels() -> None:
    with pytest.raises(ValueError, match="levels must be one or more positive integers"):
        spatial_pyramid_pool(torch.zeros(1, 0, 2, 2), (0,))


@pytest.mark.parametrize("shape", [(4, 5), (1, 1, 3, 4, 5), (), (2, 3, 0, 4), (2, 3, 4, 0)])
def test_shapes_that_are_not_maps_are_refused(shape: tuple[int, ...]) -> None:
    rule = "features must have shape (N, C, H, W) with H and W at least 1, got "
    with pytest.raises(ValueError, match=re.escape(rule + str(tuple(shape)))):
        spatial_pyramid_pool(torch.zeros(shape))


@pytest.mark.parametrize(
    ("features", "kind"),
    [
        (torch.zeros(1, 1, 2, 2, dtype=torch.int64), "torch.int64"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.bool), "torch.bool"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.complex64), "torch.complex64"),
        (3.0, "float"),
    ],
)
def test_kinds_that_are_not_floating_point_are_refused(features, kind: str) -> None:
    rule = f"features must be a floating-point tensor, got {kind}"
    with pytest.raises(TypeError, match=rule):
        spatial_pyramid_pool(features)


def test_gradients_of_both_orders() -> None:
    distinct = torch.randperm(2 * 2 * 4 * 3).double().reshape(2, 2, 4, 3) / 10
    features = distinct.requires_grad_()
    assert torch.autograd.gradcheck(spatial_pyramid_pool, (features, (1, 2, 3)))
    assert torch.autograd.gradgradcheck(spatial_pyramid_pool, (features, (2, 1)))


def test_gradient_on_ties_goes_to_the_first_cell_of_each_bin() -> None:
    features = torch.zeros(1, 1, 3, 3, requires_grad=True)
    spatial_pyramid_pool(features, (1, 2)).sum().backward()
    # bins of level 2 start in cells 0 and 1 of either side; the whole map in cell (0, 0)
    assert features.grad is not None
    assert features.grad[0, 0].tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_mass_of_the_gradient_is_kept_and_maxima_obey_their_laws(height, width, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randint(-3, 4, (1, 2, height, width), generator=generator).double()
    features.requires_grad_()
    pooled = spatial_pyramid_pool(features, (3, 1, 4))
    pooled.sum().backward()
    assert features.grad is not None
    assert features.grad.sum() == pooled.numel()
    exact(spatial_pyramid_pool(features + 5, (3, 1, 4)), pooled + 5)
    swapped = spatial_pyramid_pool(features.flip(1), (3,))
    exact(swapped, pooled[:, :18].unflatten(1, (2, 9)).flip(1).flatten(1))


def test_modules_only_store_their_levels() -> None:
    pool = SpatialPyramidPool([2, 5])
    assert pool.levels == (2, 5)
    assert repr(pool) == "SpatialPyramidPool(levels=(2, 5))"
    assert not list(pool.state_dict())
    with pytest.raises(TypeError, match="levels must be a sequence of integers or pairs"):
        SpatialPyramidPool("3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="levels must be one or more positive integers"):
        SpatialPyramidPool([])
