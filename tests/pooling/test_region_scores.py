"""Scores of regions equal the product of their pooled vectors with the matrix."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from processors import capabilities_to_ask_for
from sppnet.pooling import num_bins, pool_regions, score_regions
from sppnet.pooling.regions import FEW_COLUMNS


def random_regions(count: int, height: int, width: int, images: int) -> torch.Tensor:
    """(count, 5) regions of maps of one size."""
    x = torch.stack([torch.randperm(width + 1)[:2].sort().values for _ in range(count)])
    y = torch.stack([torch.randperm(height + 1)[:2].sort().values for _ in range(count)])
    image = torch.randint(images, (count, 1))
    return torch.cat([image, x[:, :1], y[:, :1], x[:, 1:], y[:, 1:]], 1)


@pytest.mark.parametrize("levels", [(1, 2, 3, 6), (6, 3, 2, 1), (7, 5, 2), (1,), (4, 2, 2)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (13, 13), (40, 3)])
@pytest.mark.parametrize(("channels", "columns"), [(5, 1), (8, 3), (21, 19), (5, FEW_COLUMNS + 1)])
def test_scores_equal_the_product(
    levels, height: int, width: int, channels: int, columns: int
) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, channels, height, width, dtype=torch.float64)
    regions = random_regions(60, height, width, 2)
    regions[50:] = regions[:10]  # some come twice
    weights = torch.randn(channels * num_bins(levels), columns, dtype=torch.float64)
    expected = pool_regions(features, regions, levels) @ weights
    torch.testing.assert_close(score_regions(features, regions, weights, levels), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("columns", [2, FEW_COLUMNS + 1])
def test_scores_of_every_dtype(dtype: torch.dtype, columns: int) -> None:
    torch.manual_seed(0)
    maps = [torch.randn(n, 19, h, w).to(dtype) for n, h, w in ((2, 9, 8), (1, 30, 4))]
    views = [maps[0].contiguous(memory_format=torch.channels_last), maps[1].flip(3)]
    regions = torch.tensor([[0, 0, 0, 8, 9], [1, 2, 1, 3, 9], [2, 0, 0, 4, 30], [2, 1, 29, 2, 30]])
    weights = torch.randn(19 * 50, columns).to(dtype)
    exact = pool_regions([each.double() for each in views], regions) @ weights.double()
    found = score_regions(views, regions, weights)
    assert found.dtype == dtype
    width = 19 * 50 * torch.finfo(dtype).eps * weights.abs().max()
    assert (found.double() - exact).abs().max() <= width


def test_maps_in_many_threads_have_the_bits_of_one() -> None:
    torch.manual_seed(0)
    features, weights = torch.randn(1, 100, 40, 50), torch.randn(100 * 50, 11)
    regions = random_regions(900, 40, 50, 1)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found += [score_regions(features, regions, weights) for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each, found[0]) for each in found)


def scores_of_fixed_numbers() -> str:
    """Hexadecimal bits of scores of numbers that do not come from torch."""
    draw = np.random.default_rng(0)
    features = torch.from_numpy(draw.standard_normal((1, 40, 20, 30)).astype(np.float32))
    weights = torch.from_numpy(draw.standard_normal((40 * 50, 9)).astype(np.float32))
    corners = np.sort(draw.integers(0, (21, 31), (2, 60, 2)), 0)
    (y0, x0), (y1, x1) = corners[0].T, corners[1].T
    rows = np.stack([y0 * 0, x0, y0, np.maximum(x1, x0 + 1), np.maximum(y1, y0 + 1)], 1)
    rows[:, 3:] = np.minimum(rows[:, 3:], (30, 20))
    rows[:, 1:3] = np.minimum(rows[:, 1:3], rows[:, 3:] - 1)
    return score_regions(features, torch.from_numpy(rows), weights).numpy().tobytes().hex()


@pytest.mark.parametrize("capability", capabilities_to_ask_for())
def test_every_generation_of_processors_gives_the_same_bits(capability: str) -> None:
    program = "import test_region_scores as t; print(t.scores_of_fixed_numbers())"
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "ATEN_CPU_CAPABILITY": capability,
            "PYTHONPATH": os.pathsep.join(map(str, Path(__file__).parents[:2])),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stdout.strip() == scores_of_fixed_numbers()


@pytest.mark.parametrize("columns", [1, FEW_COLUMNS + 1])
def test_region_outside_its_map_is_refused(columns: int) -> None:
    with pytest.raises(ValueError, match="row 1"):
        score_regions(
            torch.rand(1, 2, 3, 3),
            torch.tensor([[0, 0, 0, 3, 3], [0, 0, 0, 4, 3]]),
            torch.rand(100, columns),
        )


def test_channels_do_not_leak_into_blocks_that_are_not_full() -> None:
    features = torch.full((1, 40, 6, 6), torch.inf)  # what lies behind the 17 channels
    features[:, :17] = 1.0
    regions = torch.tensor([[0, 0, 0, 6, 6], [0, 1, 2, 3, 4]])
    for maps in (features, features.contiguous(memory_format=torch.channels_last)):
        scores = score_regions(maps[:, :17], regions, torch.ones(17 * 50, 2))
        assert torch.equal(scores, torch.full((2, 2), 850.0))


def test_no_regions_give_no_scores() -> None:
    none = torch.zeros(0, 5, dtype=torch.int64)
    assert score_regions(torch.rand(1, 2, 3, 3), none, torch.rand(100, 4)).shape == (0, 4)


def test_many_regions_come_in_several_calls(monkeypatch) -> None:
    torch.manual_seed(0)
    features, weights = torch.randn(1, 6, 9, 7), torch.randn(300, 2)
    regions = random_regions(50, 9, 7, 1)
    expected = score_regions(features, regions, weights)
    monkeypatch.setattr("sppnet.pooling.regions.MOST_ROWS", 7)
    assert torch.equal(score_regions(features, regions, weights), expected)


def test_weights_on_another_device_are_refused() -> None:
    whole = torch.tensor([[0, 0, 0, 3, 3]])
    with pytest.raises(ValueError, match="weights must be on cpu, got meta"):
        score_regions(torch.rand(1, 2, 3, 3), whole, torch.rand(100, 2, device="meta"))


def test_no_classes_give_no_scores() -> None:
    whole = torch.tensor([[0, 0, 0, 3, 3]])
    assert score_regions(torch.rand(1, 2, 3, 3), whole, torch.rand(100, 0)).shape == (1, 0)


def test_nan_reaches_the_scores_of_regions_that_hold_it_only() -> None:
    features = torch.rand(1, 1, 4, 4)
    features[0, 0, 0, 0] = torch.nan
    regions = torch.tensor([[0, 0, 0, 2, 2], [0, 1, 1, 4, 4]])
    scores = score_regions(features, regions, torch.ones(50, 1))
    assert scores.isnan().flatten().tolist() == [True, False]


@pytest.mark.parametrize("rows", [49, 51])
def test_weights_of_another_length_are_refused(rows: int) -> None:
    whole = torch.tensor([[0, 0, 0, 3, 3]])
    with pytest.raises(ValueError, match=rf"weights must have shape \(50, K\), got \({rows}, 1\)"):
        score_regions(torch.rand(1, 1, 3, 3), whole, torch.rand(rows, 1))


def test_memory_is_kept_and_still_right_for_other_sizes_dtypes_and_modes(monkeypatch) -> None:
    monkeypatch.setattr("sppnet.pooling.regions.CHUNK_BYTES", 3000)
    monkeypatch.setattr("sppnet.pooling.regions.FEW_COLUMNS", 0)
    torch.manual_seed(0)
    for number, dtype in enumerate((torch.float32, torch.float64, torch.float32) * 2):
        features = torch.randn(1, 3 + number, 9, 7, dtype=dtype)
        regions = random_regions(20 + 7 * number, 9, 7, 1)
        weights = torch.randn((3 + number) * 5, 2, dtype=dtype)
        with torch.inference_mode(number % 2 == 0):
            found = score_regions(features, regions, weights, (2, 1))
        torch.testing.assert_close(found, pool_regions(features, regions, (2, 1)) @ weights)


@pytest.mark.parametrize("columns", [3, FEW_COLUMNS + 1])
def test_threads_do_not_share_the_memory(columns: int) -> None:
    torch.manual_seed(0)
    features, weights = torch.randn(1, 16, 30, 30), torch.randn(16 * 50, columns)
    regions = [random_regions(400, 30, 30, 1) for _ in range(8)]
    expected = [score_regions(features, each, weights) for each in regions]
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(lambda each: score_regions(features, each, weights), regions))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
