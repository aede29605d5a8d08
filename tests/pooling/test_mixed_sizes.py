"""Maps of many sizes in one call: lists, nested tensors, padded batches, several scales."""

import re

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from oracles.pyramid_loops import pool_map
from sppnet.pooling import RegionPool, SpatialPyramidPool, pool_regions, spatial_pyramid_pool
from sppnet.pooling.kernels import cpu

SIZES = [(1, 1), (13, 10), (7, 31), (2, 3), (40, 6), (13, 10)]


def draw_maps(channels: int = 20, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Draw maps of all sizes, some with channels last."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(channels, *size, generator=generator).to(dtype) for size in SIZES]
    maps[1] = maps[1].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return maps


@pytest.fixture(params=["native", "torch"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here runs with the compiled kernel and in plain torch."""
    if request.param == "torch":
        monkeypatch.setattr(cpu, "kernel_name", lambda: None)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("levels", [(1, 2, 3, 6), (7, 5, 2)])
def test_a_list_is_the_definition_of_each_map(levels: tuple[int, ...]) -> None:
    maps = draw_maps(3)
    expected = torch.tensor([pool_map(each.tolist(), levels) for each in maps])
    assert torch.equal(spatial_pyramid_pool(maps, levels), expected)
    assert torch.equal(SpatialPyramidPool(levels)(tuple(maps)), expected)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_a_row_does_not_depend_on_the_rest_of_the_batch(dtype: torch.dtype, mode: str) -> None:
    maps = draw_maps(dtype=dtype)
    alone = [spatial_pyramid_pool(each[None], mode=mode) for each in maps]
    order = [3, 0, 5, 1, 4, 2]
    together = spatial_pyramid_pool([maps[i] for i in order], mode=mode)
    assert torch.equal(together, torch.cat([alone[i] for i in order]))
    spoiled = [*maps, torch.full((20, 3, 3), torch.nan, dtype=dtype)]
    assert torch.equal(spatial_pyramid_pool(spoiled, mode=mode)[:-1], torch.cat(alone))


@pytest.mark.usefixtures("kernel")
def test_batches_within_a_list_count_their_images() -> None:
    maps = [torch.randn(2, 4, 5, 6), torch.randn(4, 3, 3), torch.randn(3, 4, 1, 9)]
    expected = torch.cat(
        [
            torch.cat([adaptive_max_pool2d(each, n).flatten(1) for n in (1, 2, 3, 6)], 1)
            for each in (maps[0], maps[1][None], maps[2])
        ]
    )
    assert torch.equal(spatial_pyramid_pool(maps), expected)


@pytest.mark.usefixtures("kernel")
def test_training_works_through_a_list() -> None:
    maps = [each.requires_grad_() for each in draw_maps()]
    sent = torch.randint(-3, 4, (len(maps), 20 * 50)).float()
    spatial_pyramid_pool(maps).backward(sent)
    for each, row in zip(maps, sent, strict=True):
        leaf = each.detach()[None].requires_grad_()
        pooled = torch.cat([adaptive_max_pool2d(leaf, n).flatten(1) for n in (1, 2, 3, 6)], 1)
        pooled.backward(row[None])
        assert torch.equal(each.grad, leaf.grad[0])


def test_only_the_maps_that_ask_get_a_gradient() -> None:
    maps = draw_maps()
    maps[2].requires_grad_()
    spatial_pyramid_pool(maps).sum().backward()
    assert [each.grad is not None for each in maps] == [False, False, True, False, False, False]


@pytest.mark.usefixtures("kernel")
def test_a_padded_batch_is_pooled_within_its_sizes() -> None:
    maps = draw_maps()
    padded = torch.full((len(maps), 20, 41, 33), torch.inf)
    for row, each in zip(padded, maps, strict=True):
        row[:, : each.shape[1], : each.shape[2]] = each
    expected = spatial_pyramid_pool(maps)
    assert torch.equal(spatial_pyramid_pool(padded, sizes_hw=SIZES), expected)
    assert torch.equal(SpatialPyramidPool()(padded, sizes_hw=torch.tensor(SIZES)), expected)
    leaf = padded.requires_grad_()
    spatial_pyramid_pool(leaf, sizes_hw=SIZES).sum().backward()
    assert not leaf.grad[:, :, 40:].any()
    assert leaf.grad.sum() == expected.numel()


@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        ([(3, 4)], "sizes_hw must have shape (2, 2)"),
        ([(3, 4, 5), (3, 4, 5)], "sizes_hw must have shape (2, 2)"),
        ([(3, 4), (6, 4)], "0 <= y0 < y1 <= 5 of image 0..1, got [1, 0, 0, 4, 6] in row 1"),
        ([(0, 4), (3, 4)], "got [0, 0, 0, 4, 0] in row 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: list[tuple[int, ...]], rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(rule)):
        spatial_pyramid_pool(torch.zeros(2, 3, 5, 4), sizes_hw=sizes)


def test_sizes_must_be_whole_numbers_beside_one_batch() -> None:
    with pytest.raises(TypeError, match=r"sizes_hw must be integers, got torch.float32"):
        spatial_pyramid_pool(torch.zeros(1, 3, 5, 4), sizes_hw=torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"beside one padded batch, got \(2, 2\) and 2 batches"):
        spatial_pyramid_pool([torch.zeros(3, 5, 4)] * 2, sizes_hw=[(1, 1), (1, 1)])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_lists_of_their_maps() -> None:
    maps = draw_maps()
    strided = torch.nested.nested_tensor([each.contiguous() for each in maps])
    assert torch.equal(spatial_pyramid_pool(strided), spatial_pyramid_pool(maps))
    rows = [torch.randn(3, height, 7) for height in (4, 1, 9)]
    jagged = torch.nested.nested_tensor(
        [each.transpose(0, 1).contiguous() for each in rows], layout=torch.jagged
    )
    ragged_height = jagged.transpose(1, 2)  # (N, C, ragged height, W)
    assert torch.equal(spatial_pyramid_pool(ragged_height), spatial_pyramid_pool(rows))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_training_works_through_a_jagged_tensor() -> None:
    rows = [torch.randn(height, 3, 7) for height in (4, 1, 9)]
    leaf = torch.nested.nested_tensor(rows, layout=torch.jagged, requires_grad=True)
    spatial_pyramid_pool(leaf.transpose(1, 2)).sum().backward()
    plain = [each.transpose(0, 1).requires_grad_() for each in rows]
    spatial_pyramid_pool(plain).sum().backward()
    for found, wanted in zip(leaf.grad.unbind(), plain, strict=True):
        assert torch.equal(found.transpose(0, 1), wanted.grad)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_regions_name_their_map_among_several_scales(mode: str) -> None:
    maps = [torch.randn(1, 6, 20, 30), torch.randn(6, 10, 15), torch.randn(2, 6, 5, 7)]
    rows = torch.tensor(
        [[2, 0, 0, 7, 5], [0, 3, 4, 30, 20], [1, 0, 0, 15, 1], [3, 2, 2, 3, 3], [0, 3, 4, 30, 20]]
    )
    images = [maps[0][0], maps[1], maps[2][0], maps[2][1]]
    expected = [
        spatial_pyramid_pool(images[i][None, :, y0:y1, x0:x1], (1, 3), mode=mode)
        for i, x0, y0, x1, y1 in rows.tolist()
    ]
    pooled = pool_regions(maps, rows, (1, 3), mode=mode)
    assert torch.equal(pooled, torch.cat(expected))
    listed = [rows[rows[:, 0] == i][:, 1:] for i in range(4)]
    order = torch.cat([(rows[:, 0] == i).nonzero().flatten() for i in range(4)])
    assert torch.equal(RegionPool((1, 3), mode)(maps, listed), pooled[order])


@pytest.mark.usefixtures("kernel")
def test_gradients_reach_every_scale() -> None:
    maps = [torch.randn(1, 6, 20, 30).requires_grad_(), torch.randn(1, 6, 10, 15).requires_grad_()]
    rows = torch.tensor([[1, 0, 0, 15, 10], [0, 3, 4, 30, 20], [1, 2, 2, 9, 9]])
    pool_regions(maps, rows, (1, 2)).sum().backward()
    assert maps[0].grad.sum() == 6 * 5
    assert maps[1].grad.sum() == 2 * 6 * 5


def test_a_region_of_a_map_that_is_smaller_is_refused() -> None:
    maps = [torch.zeros(1, 2, 20, 30), torch.zeros(1, 2, 10, 15)]
    rule = "0 <= x0 < x1 <= 15 and 0 <= y0 < y1 <= 10 of image 0..1, got [1, 0, 0, 16, 3] in row 1"
    with pytest.raises(ValueError, match=re.escape(rule)):
        pool_regions(maps, torch.tensor([[0, 0, 0, 16, 3], [1, 0, 0, 16, 3]]))


@pytest.mark.parametrize(
    ("maps", "rule"),
    [
        ([], "features must hold at least one map, got none"),
        ([torch.zeros(2, 3)], "features[0] must have shape (C, H, W) or (N, C, H, W)"),
        ([torch.zeros(2, 3, 0)], "with H and W at least 1, got (2, 3, 0)"),
        (
            [torch.zeros(2, 3, 3), torch.zeros(3, 3, 3)],
            "features must have one number of channels, dtype and device, got "
            "2 channels of torch.float32 on cpu and, at 1, 3 channels of torch.float32 on cpu",
        ),
        ([torch.zeros(2, 3, 3), torch.zeros(2, 3, 3).half()], "at 1, 2 channels of torch.float16"),
    ],
)
def test_lists_that_are_not_maps_are_refused(maps: list[Tensor], rule: str) -> None:
    with pytest.raises(ValueError, match=re.escape(rule)):
        spatial_pyramid_pool(maps)


def test_what_is_not_a_map_in_a_list_is_refused_with_its_place() -> None:
    with pytest.raises(TypeError, match=r"features\[1\] must be a floating-point tensor, got int"):
        spatial_pyramid_pool([torch.zeros(1, 2, 2), 3])  # type: ignore[list-item]


def test_an_unknown_mode_is_refused() -> None:
    for pool in (
        lambda: spatial_pyramid_pool(torch.zeros(1, 1, 2, 2), mode="mean"),
        lambda: pool_regions(torch.zeros(1, 1, 2, 2), [torch.zeros(0, 4).long()], mode="mean"),
        lambda: SpatialPyramidPool(mode="mean"),
        lambda: RegionPool(mode="mean"),
    ):
        with pytest.raises(ValueError, match="mode must be one of max, avg, got 'mean'"):
            pool()


def test_modules_show_a_mode_that_is_not_the_papers() -> None:
    assert (
        repr(SpatialPyramidPool((2, 1), "avg")) == "SpatialPyramidPool(levels=(2, 1), mode='avg')"
    )
    assert repr(RegionPool((2, 1), "avg")) == "RegionPool(levels=(2, 1), mode='avg')"


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward mode
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_derivatives_of_every_kind(mode: str) -> None:
    """Numerical, second, and forward-mode, of whole maps, lists and regions."""
    maps = [torch.randperm(n).double().reshape(1, 2, -1, 3) / 10 for n in (24, 30)]
    rows = torch.tensor([[0, 0, 0, 3, 4], [1, 1, 1, 3, 5], [1, 1, 1, 3, 5]])

    def whole(*each: Tensor) -> Tensor:
        return spatial_pyramid_pool(each, (1, 2), mode=mode)

    def regions(*each: Tensor) -> Tensor:
        return pool_regions(each, rows, (1, 2), mode=mode)

    leaves = tuple(each.requires_grad_() for each in maps)
    for pool in (whole, regions):
        assert torch.autograd.gradcheck(pool, leaves, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(pool, leaves)
        tangents = tuple(torch.randn_like(each) for each in maps)
        plain = tuple(each.detach() for each in maps)
        _, moved = torch.func.jvp(pool, plain, tangents)
        step = 1e-6
        ahead = pool(*(a + step * b for a, b in zip(plain, tangents, strict=True)))
        behind = pool(*(a - step * b for a, b in zip(plain, tangents, strict=True)))
        torch.testing.assert_close(moved, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-6)
        summed = torch.func.grad(lambda first, f=pool, second=plain[1]: f(first, second).sum())(
            plain[0]
        )
        pool(*leaves).sum().backward()
        assert torch.equal(summed, leaves[0].grad)
        leaves[0].grad = None
