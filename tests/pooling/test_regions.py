"""Pooling of regions against the definition, torch on crops, and torchvision's roi_pool."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d
from torchvision.ops import roi_pool

from oracles.pyramid_loops import pool_region
from sppnet.pooling import RegionPool, check_regions, num_bins, pool_regions, spatial_pyramid_pool

LEVELS = [(1, 2, 3, 6), (7, 5, 2), (2, 2), (6, 1, 4), (1,), (8,), (4, 8, 2, 1)]
SIZES = [(1, 1), (1, 9), (9, 1), (2, 3), (13, 10)]
TABLE = torch.tensor([[0, 0, 0, 3, 3], [1, 1, 2, 6, 5], [1, 0, 0, 1, 1], [0, 2, 1, 7, 5]])


def exact(actual: Tensor, expected: Tensor) -> None:
    """Fail unless two tensors are the same, NaN included."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def draw_regions(count: int, images: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Draw regions of all sizes, (K, 5)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: Tensor | int, high: Tensor | int) -> Tensor:
        span = torch.as_tensor(high - low).expand(count)
        return low + (torch.rand(count, generator=generator) * span).long()

    x0, y0 = draw(0, width), draw(0, height)
    x1, y1 = draw(x0, torch.full_like(x0, width)) + 1, draw(y0, torch.full_like(y0, height)) + 1
    return torch.stack([draw(0, images), x0, y0, x1, y1], 1)


def by_definition(features: Tensor, rows: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Pool by the slow loop."""
    maps = features.tolist()
    pooled = [pool_region(maps[image], region, levels) for image, *region in rows.tolist()]
    return torch.tensor(pooled, dtype=features.dtype)


def by_crops(features: Tensor, rows: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Pool with torch, one region at a time."""
    pooled = []
    for image, x0, y0, x1, y1 in rows.tolist():
        crop = features[image : image + 1, :, y0:y1, x0:x1]
        pooled.append(torch.cat([adaptive_max_pool2d(crop, n).flatten(1) for n in levels], 1))
    return torch.cat(pooled)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pooled_regions_are_the_definition(height: int, width: int, levels) -> None:
    features = torch.randn(2, 3, height, width)
    rows = draw_regions(15, 2, height, width)
    expected = by_definition(features, rows, levels)
    exact(pool_regions(features, rows, levels), expected)
    exact(RegionPool(levels)(features, rows), expected)
    exact(pool_regions(features.requires_grad_(), rows, levels).detach(), expected)


@pytest.mark.parametrize("side", range(1, 41))
def test_every_side_under_every_level(side: int) -> None:
    """The whole side and a part of it, for levels 1..8, along both axes."""
    features, levels = torch.randn(1, 2, side, 40), tuple(range(1, 9))
    rows = torch.tensor([[0, 0, 0, 40, side], [0, 3, side // 3, 3 + side % 37 + 1, side]])
    exact(pool_regions(features, rows, levels), by_crops(features, rows, levels))
    turned = rows[:, [0, 2, 1, 4, 3]]
    flipped = features.transpose(2, 3)
    exact(pool_regions(flipped, turned, levels), by_crops(flipped, turned, levels))


def test_whole_map_is_spatial_pyramid_pool() -> None:
    features = torch.randn(3, 4, 11, 6)
    rows = torch.tensor([[i, 0, 0, 6, 11] for i in range(3)])
    exact(pool_regions(features, rows), spatial_pyramid_pool(features))


def test_many_regions_equal_roi_pool() -> None:
    features, rows = torch.randn(3, 5, 23, 31), draw_regions(3000, 3, 23, 31)
    rois = torch.cat([rows[:, :3], rows[:, 3:] - 1], 1).float()  # roi_pool's ends are inclusive
    expected = torch.cat([roi_pool(features, rois, n).flatten(1) for n in (1, 2, 3, 6)], 1)
    exact(pool_regions(features, rows), expected)


@pytest.mark.parametrize("images", [1, 4])
def test_duplicates_in_any_order_share_one_answer(images: int) -> None:
    features, rows = torch.randn(images, 2, 6, 7), draw_regions(20, images, 6, 7)
    again = rows[torch.randint(0, 20, (300,))]
    exact(pool_regions(features, again), by_crops(features, again, (1, 2, 3, 6)))


def test_list_form_numbers_the_images() -> None:
    features = torch.randn(4, 2, 6, 7)
    each = [draw_regions(count, 1, 6, 7, seed=count)[:, 1:] for count in (3, 0, 1, 5)]
    rows = torch.cat([torch.cat([torch.full((len(r), 1), i), r], 1) for i, r in enumerate(each)])
    exact(pool_regions(features, each), by_crops(features, rows, (1, 2, 3, 6)))
    exact(pool_regions(features, tuple(each)), pool_regions(features, rows))
    assert check_regions(each, features).tolist() == rows.tolist()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_any_integers_will_do_and_small_ones_do_not_wrap(dtype: torch.dtype) -> None:
    images = 300  # more than uint8 or int8 can number
    features = torch.arange(float(images)).reshape(images, 1, 1, 1)
    each = [torch.tensor([[0, 0, 1, 1]], dtype=dtype)] * images
    assert pool_regions(features, each, (1,)).flatten().tolist() == list(range(images))
    assert check_regions(each, features).dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("needs_grad", [False, True])
def test_every_floating_dtype_stays_and_is_exact(dtype: torch.dtype, needs_grad: bool) -> None:
    features = torch.randn(2, 3, 7, 9).to(dtype).requires_grad_(needs_grad)
    rows = draw_regions(40, 2, 7, 9)
    pooled = pool_regions(features, rows)
    assert pooled.dtype == dtype
    exact(pooled.detach().double(), by_definition(features.double(), rows, (1, 2, 3, 6)))


def layouts(features: Tensor) -> dict[str, Tensor]:
    """Return the same kind of map in layouts that are not the default one."""
    return {
        "channels_last": features.to(memory_format=torch.channels_last),
        "transposed": features.transpose(2, 3),
        "expanded": features[:, :1].expand(-1, 4, -1, -1),
        "one cell everywhere": features[:, :, :1, :1].expand(-1, -1, 5, 7),
        "strided": features[:, :, ::2, 1::2],
        "flipped": features.flip(2, 3),
        "offset": features[1:, 1:, 2:, 1:],
    }


@pytest.mark.parametrize("layout", layouts(torch.zeros(2, 3, 4, 4)))
@pytest.mark.parametrize("needs_grad", [False, True])
def test_every_layout_gives_the_same_numbers(layout: str, needs_grad: bool) -> None:
    features = layouts(torch.randn(3, 4, 15, 16))[layout].detach().requires_grad_(needs_grad)
    images, _, height, width = features.shape
    rows = draw_regions(30, images, height, width)
    before = features.detach().clone()
    pooled = pool_regions(features, rows, (7, 5, 2)).detach()
    exact(pooled, by_crops(features.detach(), rows, (7, 5, 2)))
    exact(features.detach(), before)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(LEVELS), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_nan_and_infinities_come_out_where_they_lie(height, width, levels, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    choices = torch.tensor([math.nan, -math.inf, -math.inf, -math.inf, math.inf, -1, 0, 0, 1])
    picks = torch.randint(0, len(choices), (2, 2, height, width), generator=generator)
    features, rows = choices[picks], draw_regions(6, 2, height, width, seed)
    expected = by_crops(features, rows, levels)
    exact(expected, by_definition(features, rows, levels))
    exact(pool_regions(features, rows, levels), expected)
    exact(pool_regions(features.requires_grad_(), rows, levels).detach(), expected)


def test_a_map_of_nothing_but_minus_infinity() -> None:
    features = torch.full((1, 1, 4, 4), -math.inf)
    assert (pool_regions(features, torch.tensor([[0, 1, 1, 4, 3]])) == -math.inf).all()


@pytest.mark.parametrize("regions", [torch.zeros(0, 5, dtype=torch.int64), "list"])
def test_no_regions_give_no_rows_and_a_gradient_of_zero(regions) -> None:
    features = torch.randn(2, 3, 4, 5, requires_grad=True)
    if isinstance(regions, str):
        regions = [torch.zeros(0, 4, dtype=torch.int64)] * 2
    pooled = pool_regions(features, regions)
    assert pooled.shape == (0, 150)
    (pooled.sum() + features.sum() * 0).backward()
    pool_regions(features, regions).sum().backward()
    assert features.grad is not None
    assert not features.grad.any()
    assert pool_regions(features.detach(), regions).shape == (0, 150)


def test_no_channels_and_no_images() -> None:
    region = torch.tensor([[0, 0, 0, 2, 2]])
    for needs_grad in (False, True):
        empty = torch.zeros(1, 0, 3, 3, requires_grad=needs_grad)
        assert pool_regions(empty, region).shape == (1, 0)
        none = torch.zeros(0, 2, 3, 3, requires_grad=needs_grad)
        assert pool_regions(none, []).shape == (0, 100)
    with pytest.raises(ValueError, match="in row 0"):
        pool_regions(torch.zeros(0, 2, 3, 3), region)


def test_out_is_filled_and_returned() -> None:
    features, rows = torch.randn(2, 3, 6, 7), draw_regions(70, 2, 6, 7)
    out = torch.full((70, 150), math.nan)
    pooled = pool_regions(features, rows, out=out)
    assert pooled is out
    exact(out, by_crops(features, rows, (1, 2, 3, 6)))
    rows = draw_regions(70, 2, 6, 7, seed=1)
    RegionPool()(features, rows, out=out)
    exact(out, by_crops(features, rows, (1, 2, 3, 6)))
    with torch.no_grad():
        assert pool_regions(features.requires_grad_(), rows, out=out) is out
    empty = torch.zeros(0, 150)
    assert pool_regions(features.detach(), rows[:0], out=empty) is empty


@pytest.mark.parametrize(
    ("out", "got"),
    [
        (torch.zeros(4, 151), "contiguous, torch.float32 on cpu and of shape (4, 151)"),
        (torch.zeros(3, 150), "contiguous, torch.float32 on cpu and of shape (3, 150)"),
        (torch.zeros(4, 150).double(), "contiguous, torch.float64 on cpu and of shape (4, 150)"),
        (torch.zeros(150, 4).T, "not contiguous, torch.float32 on cpu and of shape (4, 150)"),
        (torch.zeros(4, 150, device="meta"), "contiguous, torch.float32 on meta and of"),
    ],
)
def test_out_that_does_not_fit_is_refused(out: Tensor, got: str) -> None:
    rule = "out must be contiguous, torch.float32 on cpu and of shape (4, 150), got " + got
    with pytest.raises(ValueError, match=re.escape(rule)):
        pool_regions(torch.zeros(2, 3, 6, 7), TABLE, out=out)


@pytest.mark.parametrize(("features_need", "out_needs"), [(True, False), (False, True)])
def test_out_is_not_for_training(features_need: bool, out_needs: bool) -> None:
    features = torch.zeros(2, 3, 6, 7, requires_grad=features_need)
    out = torch.zeros(4, 150, requires_grad=out_needs)
    with pytest.raises(ValueError, match="out must not be given where a gradient is needed"):
        pool_regions(features, TABLE, out=out)


@pytest.mark.parametrize(
    "bad",
    [
        [-1, 0, 0, 1, 1],
        [2, 0, 0, 1, 1],
        [0, -1, 0, 1, 1],
        [0, 0, -1, 1, 1],
        [0, 0, 0, 8, 1],
        [0, 0, 0, 1, 7],
        [0, 3, 0, 3, 1],
        [0, 0, 2, 1, 2],
        [0, 4, 0, 2, 1],
        [0, 0, 4, 1, 2],
        [0, 0, 0, 2**62, 1],
        [0, -(2**62), 0, 1, 1],
    ],
)
@pytest.mark.parametrize("needs_grad", [False, True])
def test_a_bad_region_is_refused_by_row(bad: list[int], needs_grad: bool) -> None:
    features = torch.zeros(2, 3, 6, 7, requires_grad=needs_grad)
    rows = torch.cat([TABLE, torch.tensor([bad, bad])])
    rule = (
        "regions must lie in 0 <= x0 < x1 <= 7 and 0 <= y0 < y1 <= 6 of image 0..1, "
        f"got {bad} in row 4"
    )
    with pytest.raises(ValueError, match=re.escape(rule)):
        pool_regions(features, rows)


def test_a_bad_region_of_a_list_is_refused_with_its_image() -> None:
    fine, bad = torch.tensor([[0, 0, 1, 1]] * 3), torch.tensor([[0, 0, 1, 1], [0, 0, 9, 1]])
    with pytest.raises(ValueError, match=re.escape("got [1, 0, 0, 9, 1] in row 4")):
        pool_regions(torch.zeros(2, 3, 6, 7), [fine, bad])


@pytest.mark.parametrize(
    ("regions", "error", "rule"),
    [
        (
            torch.zeros(3, 4).long(),
            ValueError,
            "regions must have shape (K, 5), or (K, 4) in a list",
        ),
        (torch.zeros(5).long(), ValueError, "got (5,)"),
        (torch.zeros(1, 2, 5).long(), ValueError, "got (1, 2, 5)"),
        (
            torch.zeros(3, 5),
            TypeError,
            "regions must be integers (cells of the map), got torch.float32",
        ),
        (
            torch.zeros(3, 5).bool(),
            TypeError,
            "regions must be integers (cells of the map), got torch.bool",
        ),
        (torch.zeros(3, 5).cfloat(), TypeError, "got torch.complex64"),
        ([], ValueError, "regions must have one tensor per image (2), got 0"),
        ([torch.zeros(0, 4).long()] * 3, ValueError, "one tensor per image (2), got 3"),
        (
            [torch.zeros(0, 4).long(), torch.zeros(0, 5).long()],
            ValueError,
            "regions[1] must have shape (K, 4), got (0, 5)",
        ),
        ([torch.zeros(4).long()] * 2, ValueError, "regions[0] must have shape (K, 4), got (4,)"),
        (
            [torch.zeros(0, 4).long(), torch.zeros(0, 4)],
            TypeError,
            "regions[1] must be integers (cells of the map), got torch.float32",
        ),
        ([[[0, 0, 1, 1]], []], TypeError, "regions[0] must be a tensor, got list"),
    ],
)
def test_what_is_not_regions_is_refused(regions, error: type[Exception], rule: str) -> None:
    with pytest.raises(error, match=re.escape(rule)):
        pool_regions(torch.zeros(2, 3, 6, 7), regions)


def test_features_and_levels_are_checked_too() -> None:
    with pytest.raises(
        TypeError, match=r"features must be a floating-point tensor, got torch.int64"
    ):
        pool_regions(torch.zeros(2, 3, 6, 7).long(), TABLE)
    with pytest.raises(ValueError, match=r"features must have shape .* got \(6, 7\)"):
        pool_regions(torch.zeros(6, 7), TABLE)
    with pytest.raises(ValueError, match="levels must be one or more positive integers"):
        pool_regions(torch.zeros(2, 3, 6, 7), TABLE, ())
    with pytest.raises(TypeError, match="levels must be a sequence of integers"):
        RegionPool((1.5,))  # type: ignore[arg-type]


def test_module_only_stores_its_levels() -> None:
    pool = RegionPool([6, 3])
    assert repr(pool) == "RegionPool(levels=(6, 3))"
    assert not list(pool.state_dict())
    assert pool(torch.zeros(2, 3, 6, 7), TABLE).shape == (4, 3 * num_bins((6, 3)))
