"""Triton kernels against torch on crops, in Triton's interpreter.

``test_triton_kernels.py`` runs this file in a process of its own: whether kernels are interpreted
is decided when they are defined.
"""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from sppnet.pooling import num_bins, pool_regions, spatial_pyramid_pool
from sppnet.pooling.kernels import dispatch
from sppnet.pooling.kernels import triton_launch as triton_plan
from sppnet.pooling.kernels.triton_launch import make_plan, pool_cells, pool_cells_backward

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
Pool = Callable[[Tensor, int], Tensor]
KINDS = ["normal", "ties", "nan"]
# height, width, channels, views, levels, tables: the last one read from as many views as tables pay
CASES = [
    (13, 17, 3, 4, (1, 2, 3, 6), 0),
    (1, 40, 40, 5, (6, 3, 2, 1), 3),
    (5, 7, 16, 4, (7, 5, 2), 3),
    (6, 6, 3, 5, (2, 4, 2, 1), 0),
]


def draw_cells(rows: int, channels: int, kind: str, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Draw cells: distinct values; many equal ones and zeros of both signs; NaN and -inf."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randn(rows, channels, generator=generator)
    if kind != "normal":
        cells = torch.randint(-1, 2, (rows, channels), generator=generator).float()
    if kind == "ties":
        cells[torch.rand(cells.shape, generator=generator) < 0.3] = -0.0
    if kind == "nan":
        cells[torch.rand(cells.shape, generator=generator) < 0.05] = math.nan
        cells[torch.rand(cells.shape, generator=generator) < 0.4] = -math.inf
    return cells.to(dtype)


def draw_views(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Draw views of one map of all sizes, the first of which is the whole map."""
    generator = torch.Generator().manual_seed(seed)
    views = [[0, width, height, width]]
    for _ in range(count - 1):
        y, x = (int(torch.randint(0, side, (), generator=generator)) for side in (height, width))
        sides = [
            int(torch.randint(1, side + 1, (), generator=generator))
            for side in (height - y, width - x)
        ]
        views.append([y * width + x, width, *sides])
    return torch.tensor(views)


def by_crops(cells: Tensor, views: Tensor, levels: Sequence[int], pool: Pool) -> Tensor:
    """Pool with torch, one view at a time."""
    pooled = []
    for first, map_width, height, width in views.tolist():
        place = first + torch.arange(height)[:, None] * map_width + torch.arange(width)
        crop = cells[place].permute(2, 0, 1)[None]
        pooled.append(torch.cat([pool(crop, n).flatten(1) for n in levels], 1))
    return torch.cat(pooled)


def same_bits(actual: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are the same, signs of zero included; a NaN is like any other."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[expected.element_size()]
    nan = expected.isnan()
    bits = [each.masked_fill(nan, 0).view(kind) for each in (actual, expected)]
    return (
        actual.dtype == expected.dtype and torch.equal(actual.isnan(), nan) and torch.equal(*bits)
    )


def crop_gradient(
    sent: Tensor, cells: Tensor, views: Tensor, levels: Sequence[int], pool: Pool
) -> Tensor:
    """Gradient that torch sends back to the cells through crops."""
    leaf = cells.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(by_crops(leaf, views, levels, pool), leaf, sent)
    return gradient


def check_maxima(cells: Tensor, views: Tensor, levels: tuple[int, ...]) -> None:
    """Compare maxima and their gradient with torch's, bit by bit."""
    pooled = pool_cells(cells, views, levels, "max")
    assert same_bits(pooled, by_crops(cells, views, levels, adaptive_max_pool2d))
    whole_numbers = torch.arange(pooled.numel()).reshape(pooled.shape) % 7 - 3  # sums are exact
    sent = whole_numbers.to(cells.dtype)
    gradient = pool_cells_backward(sent, cells, views, levels, "max")
    assert same_bits(
        gradient + 0.0, crop_gradient(sent, cells, views, levels, adaptive_max_pool2d) + 0.0
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_maxima_are_those_of_torch_on_crops(case: int, kind: str) -> None:
    height, width, channels, count, levels, tables = CASES[case]
    cells = draw_cells(height * width, channels, kind, torch.float32, seed=case)
    views = draw_views(count, height, width, seed=case)
    assert make_plan(cells, count, levels, "max").tables == tables
    check_maxima(cells, views, levels)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [d for d in FLOATS if d != torch.float32])
def test_maxima_of_every_dtype(dtype: torch.dtype, kind: str) -> None:
    cells = draw_cells(7 * 5, 16, kind, dtype)
    check_maxima(cells, draw_views(2, 7, 5), (6, 3, 1))
    check_maxima(cells, torch.tensor([[5, 5, 4, 3]] * 4), (6, 3))


def test_sign_of_zero_is_that_of_the_first_cell() -> None:
    cells = torch.tensor([[-0.0], [0.0], [0.0], [-0.0], [-1.0], [-0.0]])
    views = torch.tensor([[0, 2, 2, 2], [1, 2, 1, 1], [2, 2, 2, 1], [4, 2, 1, 2]])
    signs = pool_cells(cells, views, (2, 1), "max").signbit()
    assert signs[:, 4].tolist() == [True, False, False, True]
    assert signs[0].tolist() == [True, False, False, True, True]


@pytest.mark.parametrize("tables", [0, 3])
def test_every_size_of_view_is_cut_into_the_bins_of_the_definition(tables: int) -> None:
    sides = range(1, 20)
    side = torch.tensor([[0, 1, height, 1] for height in sides] + [[0, 19, 1, w] for w in sides])
    cells = torch.randperm(19).float()[:, None]
    assert make_plan(cells, len(side) * tables, (7,), "max").tables == tables
    for views in side.split(len(side) if tables else 1):
        pooled = pool_cells(cells, views, (7,), "max")
        assert same_bits(pooled, by_crops(cells, views, (7,), adaptive_max_pool2d))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [(3, 2, 1), (7, 5)])
def test_averages_and_their_gradient(levels: tuple[int, ...], dtype: torch.dtype) -> None:
    cells = draw_cells(6 * 7, 5, "normal", dtype)
    views = draw_views(4, 6, 7)
    pooled = pool_cells(cells, views, levels, "avg")
    torch.testing.assert_close(pooled, by_crops(cells, views, levels, adaptive_avg_pool2d))
    sent = torch.randn(pooled.shape, dtype=dtype)
    torch.testing.assert_close(
        pool_cells_backward(sent, cells, views, levels, "avg"),
        crop_gradient(sent, cells, views, levels, adaptive_avg_pool2d),
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_averages_of_whole_numbers_are_rounded_once(dtype: torch.dtype) -> None:
    # bins of 4, 16 and 64 cells: every mean has few bits, which the interpreter rounds rightly
    cells = (torch.arange(64 * 3).reshape(64, 3) * 5 % 7 - 3).to(dtype)
    whole = torch.tensor([[0, 8, 8, 8]])
    pooled = pool_cells(cells, whole, (1, 2, 4), "avg")
    expected = by_crops(cells.double(), whole, (1, 2, 4), adaptive_avg_pool2d)
    assert same_bits(pooled, expected.to(dtype))
    sent = torch.full_like(pooled, 64)
    assert pool_cells_backward(sent, cells, whole, (1, 2, 4), "avg").unique().tolist() == [21]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_averages_are_quotients(dtype: torch.dtype) -> None:
    sums = torch.arange(40)
    cells = torch.zeros(49, 40, dtype=dtype)
    cells[30] = sums.to(dtype)
    averages = pool_cells(cells, torch.tensor([[0, 7, 7, 7]]), (1,), "avg")
    assert torch.equal(averages[0], (sums.double() / 49).to(dtype))


def test_float16_sums_beyond_its_range() -> None:
    cells = torch.full((64, 1), 60000.0, dtype=torch.float16)
    assert pool_cells(cells, torch.tensor([[0, 8, 8, 8]]), (1,), "avg").item() == 60000
    many = torch.tensor([[0, 1, 1, 1]] * 3)
    sent = torch.tensor([[40000.0], [40000.0], [-40000.0]], dtype=torch.float16)
    assert pool_cells_backward(sent, cells, many, (1,), "max")[0].item() == 40000


@pytest.mark.parametrize("layout", ["every second row", "some channels", "one row", "one channel"])
def test_cells_of_any_row_stride(layout: str) -> None:
    memory = draw_cells(12, 20, "normal", torch.float32)
    cells = {
        "every second row": memory[::2],
        "some channels": memory[:6, 3:16],
        "one row": memory[:1].expand(6, 20),
        "one channel": memory[:6, 7:8],
    }[layout]
    assert not cells.is_contiguous()
    views = torch.tensor([[0, 3, 2, 3], [1, 3, 2, 2]])
    for count in (1, 3):  # without and with tables
        check_maxima(cells, views.repeat(count, 1), (2, 1))
    averages = pool_cells(cells, views, (2, 1), "avg")
    torch.testing.assert_close(averages, by_crops(cells, views, (2, 1), adaptive_avg_pool2d))


@pytest.mark.parametrize("case", [0, 2])
def test_places_of_64_bits(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_plan, "FEW_PLACES", 0)
    height, width, channels, count, levels, _ = CASES[case]
    cells = draw_cells(height * width, channels, "normal", torch.float32)
    check_maxima(cells, draw_views(count, height, width), levels)
    averages = pool_cells(cells, draw_views(1, height, width), (2,), "avg")
    expected = by_crops(cells, draw_views(1, height, width), (2,), adaptive_avg_pool2d)
    torch.testing.assert_close(averages, expected)


def test_several_maps_of_other_widths() -> None:
    cells = draw_cells(3 * 4 + 5 * 2, 3, "normal", torch.float32)
    views = torch.tensor([[0, 4, 3, 4], [12, 2, 5, 2], [15, 2, 2, 1]])
    check_maxima(cells, views, (3, 1))


@pytest.mark.parametrize(("rows", "channels", "count"), [(4, 0, 2), (4, 3, 0), (0, 3, 0)])
def test_nothing_to_pool(rows: int, channels: int, count: int) -> None:
    cells, views = torch.ones(rows, channels), torch.tensor([[0, 2, 2, 2]] * 2)[:count]
    pooled = pool_cells(cells, views, (1, 2))
    assert pooled.shape == (count, channels * 5)
    gradient = pool_cells_backward(pooled, cells, views, (1, 2))
    assert torch.equal(gradient, torch.zeros(rows, channels))


def test_result_is_written_into_out_and_nowhere_else() -> None:
    cells, views = draw_cells(12, 3, "normal", torch.float32), draw_views(2, 3, 4)
    memory = torch.full((4, 3 * num_bins((2, 1))), math.nan)
    out = memory[1:3]
    assert pool_cells(cells, views, (2, 1), out=out) is out
    assert torch.equal(out, by_crops(cells, views, (2, 1), adaptive_max_pool2d))
    assert memory[[0, 3]].isnan().all()
    with pytest.raises(ValueError, match=r"out must be contiguous, torch\.float32 on cpu"):
        pool_cells(cells, views, (2, 1), out=memory[::2])


def test_gradient_of_any_layout() -> None:
    cells, views = draw_cells(12, 3, "normal", torch.float32), draw_views(2, 3, 4)
    sent = torch.arange(6.0).reshape(3, 2).T
    expected = pool_cells_backward(sent.contiguous(), cells, views, (1,))
    assert torch.equal(pool_cells_backward(sent, cells, views, (1,)), expected)


@pytest.fixture
def triton_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send CPU tensors where CUDA tensors go."""
    monkeypatch.setattr(dispatch, "kernel_for", lambda _maps: "triton")


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_the_operators_reach_the_kernels_with_their_maps_and_regions(
    mode: str, request: pytest.FixtureRequest
) -> None:
    maps = [
        torch.randn(2, 5, 6, 7),
        torch.randn(1, 5, 3, 9).contiguous(memory_format=torch.channels_last),
    ]
    rows = torch.tensor([[1, 2, 1, 7, 6], [2, 0, 0, 9, 3], [0, 3, 3, 4, 4], [2, 8, 0, 9, 2]])

    def pool_and_step() -> list[Tensor]:
        leaves = [each.clone().requires_grad_() for each in maps]
        pooled = [
            spatial_pyramid_pool(leaves, (3, 1), mode=mode),
            pool_regions(leaves, rows, (2, 1), mode=mode),
        ]
        (pooled[0].sum() + (pooled[1] * 2).sum()).backward()
        return [each.detach() for each in (*pooled, *(leaf.grad for leaf in leaves))]

    expected = pool_and_step()
    request.getfixturevalue("triton_serves")
    found = pool_and_step()
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    for gradient, wanted in zip(found[2:], expected[2:], strict=True):
        torch.testing.assert_close(gradient, wanted)
    out = torch.empty_like(expected[1])
    assert torch.equal(pool_regions(maps, rows, (2, 1), mode=mode, out=out), expected[1])


@pytest.mark.usefixtures("triton_serves")
def test_deterministic_gradients_are_those_of_plain_torch() -> None:
    features = torch.randint(0, 3, (1, 2, 5, 5)).float().requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        spatial_pyramid_pool(features, (2, 1)).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert features.grad is not None
    assert features.grad.sum() == 10
