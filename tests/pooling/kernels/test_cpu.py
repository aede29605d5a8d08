"""The compiled kernel against torch on crops, bit by bit; every generation of processors of it."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from processors import capabilities_to_ask_for
from sppnet.pooling import pool_regions, spatial_pyramid_pool
from sppnet.pooling.kernels import cpu, native_library, torch_reference

LEVELS = [(6, 3, 2, 1), (7, 5, 2), (1,), (2, 2), (1, 4, 8), (12, 5)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SHAPES = [(2, 5, 7, 9), (1, 37, 13, 13), (2, 16, 1, 1), (1, 33, 40, 60), (3, 64, 2, 30)]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(actual: Tensor, expected: Tensor) -> None:
    """Fail unless two tensors hold the same bits; the sign and payload of a NaN are free."""
    kind = BITS[expected.element_size()]
    nan = expected.isnan()
    assert actual.dtype == expected.dtype
    assert torch.equal(actual.isnan(), nan)
    assert torch.equal(actual[~nan].view(kind), expected[~nan].view(kind))


def fill(kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Draw a map: distinct values, ties with zeros of both signs, or NaN and infinities."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    if kind == "ties":
        values = values.round()
    if kind == "odd":
        choices = torch.tensor([math.nan, -math.inf, -math.inf, math.inf, 0.0, -0.0, 1.0])
        values = choices[torch.randint(0, 7, shape, generator=generator)]
    return values.to(dtype)


def lay_out(features: Tensor, layout: str) -> Tensor:
    """Return the same map in another layout."""
    if layout == "channels_last":
        return features.to(memory_format=torch.channels_last)
    if layout == "transposed":
        return features.transpose(2, 3).contiguous().transpose(2, 3)
    return features.contiguous()


def draw_rows(count: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Draw regions of all sizes with duplicates among them."""
    images, _, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, width, (count, 2), generator=generator).sort(1)[0]
    y = torch.randint(0, height, (count, 2), generator=generator).sort(1)[0]
    image = torch.randint(0, images, (count, 1), generator=generator)
    rows = torch.cat([image, x[:, :1], y[:, :1], x[:, 1:] + 1, y[:, 1:] + 1], 1)
    return torch.cat([rows, rows[: count // 3].flip(0)])


def by_crops(features: Tensor, rows: Tensor, levels: tuple[int, ...], mode: str = "max") -> Tensor:
    """Pool with torch, one region at a time."""
    pool = adaptive_max_pool2d if mode == "max" else adaptive_avg_pool2d
    pooled = []
    for image, x0, y0, x1, y1 in rows.tolist():
        crop = features[image : image + 1, :, y0:y1, x0:x1].contiguous()
        pooled.append(torch.cat([pool(crop, n).flatten(1) for n in levels], 1))
    return torch.cat(pooled)


def test_this_machine_has_a_kernel() -> None:
    """Tests of a kernel that is not there would prove nothing."""
    assert cpu.kernel_name() is not None, "reinstall: pip install -e '.[dev]' compiles it"
    assert cpu.serves([torch.zeros(1, 1, 1, 1)])
    assert not cpu.serves([torch.zeros(1, 1, 1, 1, device="meta")])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind", ["distinct", "ties", "odd"])
def test_maxima_are_torchs_bit_by_bit(dtype: torch.dtype, levels, kind: str) -> None:
    for shape in SHAPES:
        for layout in ("plain", "channels_last", "transposed"):
            features = lay_out(fill(kind, shape, dtype), layout)
            whole = [adaptive_max_pool2d(features, n).flatten(1) for n in levels]
            same_bits(spatial_pyramid_pool(features, levels), torch.cat(whole, 1))
            for count in (3, 30):  # read where they lie, and from tables
                rows = draw_rows(count, shape)
                same_bits(pool_regions(features, rows, levels), by_crops(features, rows, levels))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind", ["distinct", "ties", "odd"])
@pytest.mark.parametrize("count", [None, 1, 20])
def test_gradients_are_torchs(dtype: torch.dtype, levels, kind: str, count: int | None) -> None:
    """Whole numbers small enough for sums to be exact in any order."""
    for shape in SHAPES[:3]:
        for layout in ("plain", "channels_last", "transposed"):
            features = lay_out(fill(kind, shape, dtype), layout)
            ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
            if count is None:
                pooled, expected = spatial_pyramid_pool(ours, levels), by_levels(theirs, levels)
            else:
                rows = draw_rows(count, shape)
                pooled = pool_regions(ours, rows, levels)
                expected = by_crops(theirs, rows, levels)
            sent = torch.randint(-1, 2, expected.shape).to(dtype)
            pooled.backward(sent)
            expected.backward(sent)
            assert torch.equal(ours.grad, theirs.grad)
            assert ours.grad.stride() == ours.stride()


def by_levels(features: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Pool whole maps the textbook way."""
    return torch.cat([adaptive_max_pool2d(features, n).flatten(1) for n in levels], 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", LEVELS)
def test_averages_and_their_gradients_are_those_of_plain_torch(dtype: torch.dtype, levels) -> None:
    """Sums in float64 in another order: equal after rounding to anything narrower."""
    steps = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
    for shape in SHAPES[:3]:
        for layout in ("plain", "channels_last", "transposed"):
            features = lay_out(fill("distinct", shape, dtype), layout)
            for rows in (None, draw_rows(2, shape), draw_rows(30, shape)):
                count = shape[0] if rows is None else len(rows)
                expected = features.new_empty(count, shape[1] * sum(n * n for n in levels))
                torch_reference.pool([features], rows, levels, "avg", expected)
                actual = torch.empty_like(expected)
                cpu.pool([features], rows, levels, "avg", actual, fresh=True)
                step = 1e-14 if dtype == torch.float64 else 0
                torch.testing.assert_close(actual, expected, rtol=step, atol=step)
                sent = torch.randn(expected.shape).to(dtype)
                (gradient,) = cpu.backward(sent, [features], rows, levels, "avg")
                exact = torch_reference.backward(
                    sent.double(), [features.double()], rows, levels, "avg"
                )
                step = steps[dtype]
                torch.testing.assert_close(gradient.double(), exact[0], rtol=step, atol=step)


def test_average_keeps_nan_and_infinity_in_the_bins_that_hold_them() -> None:
    features = torch.ones(1, 1, 4, 6)
    features[0, 0, 0, 0], features[0, 0, 3, 5] = math.nan, math.inf
    pooled = spatial_pyramid_pool(features, (1, 2), mode="avg")
    expected = torch.tensor([[math.nan, math.nan, 1, 1, math.inf]])
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("levels", [(1,), (2, 5), (6, 3)])
@pytest.mark.parametrize("kind", ["distinct", "ties"])
def test_bins_of_more_cells_than_any_table_holds(levels: tuple[int, ...], kind: str) -> None:
    shape = (1, 19, 150, 310)
    features, rows = fill(kind, shape, torch.float32).abs(), draw_rows(90, shape)
    same_bits(pool_regions(features, rows, levels), by_crops(features, rows, levels))
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    pool_regions(ours, rows, levels).sum().backward()
    by_crops(theirs, rows, levels).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["plain", "channels_last", "transposed"])
def test_gradients_with_winners_that_were_kept(dtype: torch.dtype, layout: str) -> None:
    for shape in ((3, 105, 13, 7), (40, 3, 5, 9)):
        features = lay_out(fill("odd", shape, dtype), layout)
        ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
        pooled, expected = spatial_pyramid_pool(ours, (6, 5, 1)), by_levels(theirs, (6, 5, 1))
        assert cpu.empty_winners([ours], pooled) is not None
        same_bits(pooled.detach(), expected.detach())
        sent = torch.randint(-1, 2, expected.shape).to(dtype)
        pooled.backward(sent)
        expected.backward(sent)
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("layout", ["plain", "channels_last"])
@pytest.mark.parametrize("hw", [(5, 9), (13, 13), (21, 38), (18, 90)])
@pytest.mark.parametrize("odd", [math.nan, -0.0])
def test_one_odd_cell_among_many_is_found(layout: str, hw: tuple[int, int], odd: float) -> None:
    """NaN wins wherever it lies; of two zeros the first one in row-major order does."""
    height, width = hw
    for seed in range(24):
        draw = torch.Generator().manual_seed(seed)
        features = torch.rand((1, 160, *hw), generator=draw).neg_().sub_(1)
        channel = int(torch.randint(0, 160, (1,), generator=draw))
        first, second = torch.randperm(height * width, generator=draw)[:2].tolist()
        plane = features[0, channel].view(-1)
        plane[first], plane[second] = odd, 0.0
        features = lay_out(features, layout)
        leaf, expected = features.clone().requires_grad_(), by_levels(features, (6, 3, 2, 1))
        same_bits(spatial_pyramid_pool(features, (6, 3, 2, 1)), expected)
        same_bits(spatial_pyramid_pool(leaf, (6, 3, 2, 1)).detach(), expected)


@pytest.mark.parametrize("shape", [(12, 1, 9, 5), (7, 3, 4, 11), (40, 5, 1, 3), (3, 105, 6, 2)])
@pytest.mark.parametrize("layout", ["plain", "channels_last"])
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_few_channels_and_rests_of_blocks(shape: tuple[int, ...], layout: str, mode: str) -> None:
    features = lay_out(fill("ties", shape, torch.float64), layout)
    pool = adaptive_max_pool2d if mode == "max" else adaptive_avg_pool2d
    ours, theirs = features.clone().requires_grad_(), features.clone().requires_grad_()
    pooled = spatial_pyramid_pool(ours, (6, 2, 1), mode=mode)
    expected = torch.cat([pool(theirs, n).flatten(1) for n in (6, 2, 1)], 1)
    sent = torch.randint(-3, 4, expected.shape).double()
    pooled.backward(sent)
    expected.backward(sent)
    torch.testing.assert_close(pooled, expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-13, atol=1e-13)


@given(
    st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(1, 60), st.integers(1, 60)),
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.sampled_from(DTYPES),
    st.sampled_from(["distinct", "ties", "odd"]),
    st.sampled_from(["plain", "channels_last", "transposed"]),
    st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_any_shape_any_levels(shape, levels, dtype, kind, layout, seed) -> None:
    features = lay_out(fill(kind, shape, dtype, seed), layout)
    pooled = spatial_pyramid_pool(features, levels)
    assert pooled.shape == (shape[0], shape[1] * sum(n * n for n in levels))
    if not features.numel():
        return
    same_bits(pooled, by_levels(features, tuple(levels)))
    rows = draw_rows(12, shape, seed)
    same_bits(pool_regions(features, rows, levels), by_crops(features, rows, tuple(levels)))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_strides(data: st.DataObject) -> None:
    """Expanded, sliced and permuted memory, read where it lies."""
    base = fill("ties", (3, 20, 15, 14), torch.float32, data.draw(st.integers(0, 99)))
    features = data.draw(
        st.sampled_from(
            [
                base[:, ::2, 1::3, ::2],
                base.permute(0, 2, 1, 3),
                base.permute(0, 3, 1, 2),
                base[:, :1].expand(-1, 18, -1, -1),
                base[:1].expand(4, -1, -1, -1),
                base[:, :, :1, :1].expand(-1, -1, 9, 5),
                base.permute(1, 0, 2, 3)[:, :, 2:, 3:],
                base.permute(3, 1, 0, 2),
            ]
        )
    )
    rows = draw_rows(data.draw(st.sampled_from([2, 40])), tuple(features.shape))
    same_bits(spatial_pyramid_pool(features), by_levels(features, (1, 2, 3, 6)))
    expected = by_crops(features, rows, (7, 5, 2))
    same_bits(pool_regions(features, rows, (7, 5, 2)), expected)


def test_every_number_of_threads_gives_the_same_bits() -> None:
    features, rows = fill("ties", (1, 48, 30, 40), torch.float32), draw_rows(400, (1, 48, 30, 40))
    sent = torch.randn(len(rows), 48 * 50)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            leaf = features.clone().requires_grad_()
            pooled = pool_regions(leaf, rows)
            pooled.backward(sent)
            found.append((pooled.detach(), leaf.grad, spatial_pyramid_pool(features)))
    finally:
        torch.set_num_threads(before)
    for each in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(each, found[0], strict=True))


def test_threads_of_its_own_give_the_same_bits() -> None:
    """Where there is no OpenMP, and in forked children, which have none of their parent's."""
    features, rows = fill("ties", (1, 48, 30, 40), torch.float32), draw_rows(400, (1, 48, 30, 40))
    expected, before = pool_regions(features, rows), torch.get_num_threads()
    library = native_library._load(str(cpu.LIBRARY._path(cpu.kernel_name())))
    library.sppnet_use_team(None)
    try:
        torch.set_num_threads(3)
        assert torch.equal(pool_regions(features, rows), expected)
    finally:
        torch.set_num_threads(before)
        library.sppnet_use_team(native_library._openmp_function())


def test_eight_python_threads_at_once_get_their_own_answers() -> None:
    def work(seed: int) -> bool:
        shape = (1, 24, 11 + seed % 7, 30 - seed % 5)
        features, rows = fill("ties", shape, torch.float32, seed), draw_rows(60, shape, seed)
        pooled = pool_regions(features, rows)
        return torch.equal(pooled, by_crops(features, rows, (1, 2, 3, 6))) and torch.equal(
            spatial_pyramid_pool(features), by_levels(features, (1, 2, 3, 6))
        )

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(work, range(64)))


def test_other_python_threads_run_while_the_kernel_does() -> None:
    """The GIL is free: a thread that counts gets on while one big call is under way."""
    features, rows = torch.rand(1, 256, 40, 60), draw_rows(1500, (1, 256, 40, 60))
    counted, done = [0], []

    def count() -> None:
        while not done:
            counted[0] += 1

    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(count)
        out = torch.empty(len(rows), 256 * 50)
        cpu.pool([features], rows, (1, 2, 3, 6), "max", out, fresh=True)
        seen = counted[0]
        done.append(True)
        waiting.result()
    assert seen > 100


PROGRAM = """
import torch
from sppnet.pooling.kernels import cpu
from test_cpu import DTYPES, by_crops, by_levels, draw_rows, fill, lay_out, same_bits
from sppnet.pooling import pool_regions, spatial_pyramid_pool
for dtype in DTYPES:
    for kind in ("distinct", "ties", "odd"):
        for layout in ("plain", "channels_last"):
            features = lay_out(fill(kind, (2, 37, 11, 19), dtype), layout)
            rows = draw_rows(50, (2, 37, 11, 19))
            same_bits(spatial_pyramid_pool(features), by_levels(features, (1, 2, 3, 6)))
            same_bits(pool_regions(features, rows, (7, 5, 2)), by_crops(features, rows, (7, 5, 2)))
print(cpu.kernel_name())
"""


@pytest.mark.parametrize("capability", capabilities_to_ask_for()[:2])
def test_older_processors_get_a_kernel_of_their_own(capability: str) -> None:
    kernel = {"default": "baseline"}.get(capability, capability)
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    folder = Path(__file__).parent
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(folder.parents[1])])
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == kernel


def test_without_a_kernel_plain_torch_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, rows = fill("ties", (2, 9, 8, 7), torch.float32), draw_rows(30, (2, 9, 8, 7))
    leaf = features.clone().requires_grad_()
    pool_regions(leaf, rows).sum().backward()
    expected = pool_regions(features, rows), spatial_pyramid_pool(features), leaf.grad
    monkeypatch.setattr(cpu, "kernel_name", lambda: None)
    other = features.clone().requires_grad_()
    pool_regions(other, rows).sum().backward()
    found = pool_regions(features, rows), spatial_pyramid_pool(features), other.grad
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_no_memory_is_an_error_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_function", lambda _name: lambda *_arguments: 1)
    with pytest.raises(
        MemoryError, match=r"not enough memory to pool maps of shape \[\(1, 2, 3, 4\)"
    ):
        spatial_pyramid_pool(torch.zeros(1, 2, 3, 4))


@pytest.mark.slow
def test_maps_of_more_than_two_thousand_million_cells() -> None:
    """The far corner is found, of the whole map and by regions, and gets its gradient."""
    side = 46_400
    features = torch.zeros(1, 1, side, side, dtype=torch.bfloat16)  # 4.3 GB
    features[0, 0, -1, -1], features[0, 0, side // 2, 1] = 2, 1
    pooled = spatial_pyramid_pool(features, (2, 1))
    assert pooled.tolist() == [[0, 0, 1, 2, 2]]
    corner = torch.tensor([[0, side - 3, side - 2, side, side], [0, 0, 0, side, side]])
    assert pool_regions(features, corner, (1,)).flatten().tolist() == [2, 2]
    (gradient,) = cpu.backward(torch.ones(2, 1).bfloat16(), [features], corner, (1,), "max")
    assert gradient[0, 0, -1, -1] == 2
    assert gradient.sum() == 2
