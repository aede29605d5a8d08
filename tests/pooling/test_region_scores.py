"""Scores of regions equal the product of their pooled vectors with the matrix."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sppnet.pooling import num_bins, pool_regions, score_regions


def random_regions(count: int, height: int, width: int, images: int) -> torch.Tensor:
    """(count, 5) regions of maps of one size."""
    x = torch.stack([torch.randperm(width + 1)[:2].sort().values for _ in range(count)])
    y = torch.stack([torch.randperm(height + 1)[:2].sort().values for _ in range(count)])
    image = torch.randint(images, (count, 1))
    return torch.cat([image, x[:, :1], y[:, :1], x[:, 1:], y[:, 1:]], 1)


@pytest.mark.parametrize("levels", [(1, 2, 3, 6), (6, 3, 2, 1), (7, 5, 2), (1,), (4, 2, 2)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (13, 13), (40, 3)])
def test_scores_equal_the_product(levels, height: int, width: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 5, height, width, dtype=torch.float64)
    regions = random_regions(60, height, width, 2)
    weights = torch.randn(5 * num_bins(levels), 3, dtype=torch.float64)
    expected = pool_regions(features, regions, levels) @ weights
    torch.testing.assert_close(score_regions(features, regions, weights, levels), expected)


def test_no_regions_give_no_scores() -> None:
    none = torch.zeros(0, 5, dtype=torch.int64)
    assert score_regions(torch.rand(1, 2, 3, 3), none, torch.rand(100, 4)).shape == (0, 4)


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
    monkeypatch.setattr("sppnet.pooling.region_scores.CHUNK_BYTES", 3000)
    torch.manual_seed(0)
    for number, dtype in enumerate((torch.float32, torch.float64, torch.float32) * 2):
        features = torch.randn(1, 3 + number, 9, 7, dtype=dtype)
        regions = random_regions(20 + 7 * number, 9, 7, 1)
        weights = torch.randn((3 + number) * 5, 2, dtype=dtype)
        with torch.inference_mode(number % 2 == 0):
            found = score_regions(features, regions, weights, (2, 1))
        torch.testing.assert_close(found, pool_regions(features, regions, (2, 1)) @ weights)


def test_threads_do_not_share_the_memory() -> None:
    torch.manual_seed(0)
    features, weights = torch.randn(1, 16, 30, 30), torch.randn(16 * 50, 3)
    regions = [random_regions(400, 30, 30, 1) for _ in range(8)]
    expected = [score_regions(features, each, weights) for each in regions]
    with ThreadPoolExecutor(4) as executor:
        found = list(executor.map(lambda each: score_regions(features, each, weights), regions))
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
