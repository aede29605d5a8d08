"""Gradients of region pooling against torch's on crops, ties and NaN included."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from sppnet.pooling import pool_regions

LEVELS = [(1, 2, 3, 6), (7, 5, 2), (2, 2), (1, 2, 4, 8), (3, 1)]


def draw_case(seed: int, *, nan: bool) -> tuple[Tensor, Tensor]:
    """Draw maps of two or three different values and regions of them."""
    generator = torch.Generator().manual_seed(seed)
    images, height, width = (
        int(torch.randint(1, top, (), generator=generator)) for top in (4, 15, 15)
    )
    features = torch.randint(0, 2 + seed % 2, (images, 2, height, width), generator=generator)
    features = features.float()
    if nan:
        features[torch.rand(features.shape, generator=generator) < 0.08] = math.nan
        features[torch.rand(features.shape, generator=generator) < 0.3] = -math.inf
    low = [torch.rand(25, generator=generator) for _ in range(4)]
    x0, y0 = (low[0] * width).long(), (low[1] * height).long()
    x1, y1 = x0 + 1 + (low[2] * (width - x0)).long(), y0 + 1 + (low[3] * (height - y0)).long()
    image = torch.randint(0, images, (25,), generator=generator)
    return features, torch.stack([image, x0, y0, x1, y1], 1)


def crop_gradient(features: Tensor, rows: Tensor, levels: tuple[int, ...], sent: Tensor) -> Tensor:
    """Gradient that adaptive_max_pool2d sends back to the maps through crops of them."""
    features = features.clone().requires_grad_()
    pooled = []
    for image, x0, y0, x1, y1 in rows.tolist():
        crop = features[image : image + 1, :, y0:y1, x0:x1]
        pooled.append(torch.cat([adaptive_max_pool2d(crop, n).flatten(1) for n in levels], 1))
    (gradient,) = torch.autograd.grad(torch.cat(pooled), features, sent)
    return gradient


def region_gradient(
    features: Tensor, rows: Tensor, levels: tuple[int, ...], sent: Tensor
) -> Tensor:
    """Gradient of pool_regions."""
    features = features.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(pool_regions(features, rows, levels), features, sent)
    return gradient


@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("seed", range(32))
def test_gradient_on_ties_is_that_of_torch_bit_by_bit(seed: int, nan: bool) -> None:
    features, rows = draw_case(seed, nan=nan)
    levels = LEVELS[seed % len(LEVELS)]
    length = 2 * sum(n * n for n in levels)
    sent = torch.randint(-8, 9, (len(rows), length)).float()  # whole numbers: sums are exact
    expected = crop_gradient(features, rows, levels, sent)
    assert torch.equal(region_gradient(features, rows, levels, sent), expected)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    assert torch.equal(region_gradient(channels_last, rows, levels, sent), expected)


def test_gradient_of_ties_goes_to_the_first_cell_and_of_nan_to_the_last() -> None:
    region = torch.tensor([[0, 1, 1, 4, 4]])
    first = region_gradient(torch.zeros(1, 1, 5, 5), region, (1,), torch.ones(1, 1))
    assert first.nonzero().tolist() == [[0, 0, 1, 1]]
    last = region_gradient(torch.full((1, 1, 5, 5), math.nan), region, (1,), torch.ones(1, 1))
    assert last.nonzero().tolist() == [[0, 0, 3, 3]]


@pytest.mark.parametrize("levels", [(1, 2), (2, 2), (3, 2)])
def test_gradients_of_both_orders(levels: tuple[int, ...]) -> None:
    distinct = torch.randperm(2 * 5 * 4).double().reshape(2, 1, 5, 4) / 10
    features = distinct.requires_grad_()
    rows = torch.tensor([[0, 0, 0, 4, 5], [1, 1, 2, 4, 5], [1, 1, 2, 4, 5], [0, 2, 2, 3, 3]])
    assert torch.autograd.gradcheck(pool_regions, (features, rows, levels))
    assert torch.autograd.gradgradcheck(pool_regions, (features, rows, levels))


def test_overlapping_and_equal_regions_add_up() -> None:
    features = torch.zeros(1, 1, 3, 3)
    features[0, 0, 1, 1] = 1
    rows = torch.tensor([[0, 0, 0, 2, 2], [0, 1, 1, 3, 3], [0, 0, 0, 3, 3], [0, 0, 0, 3, 3]])
    sent = torch.tensor([[1.0], [10], [100], [1000]])
    gradient = region_gradient(features, rows, (1,), sent)
    assert gradient[0, 0].tolist() == [[0, 0, 0], [0, 1111, 0], [0, 0, 0]]


def test_mass_of_the_gradient_is_kept() -> None:
    features, rows = draw_case(3, nan=False)
    sent = torch.randint(0, 9, (len(rows), 100)).float()
    assert region_gradient(features, rows, (1, 2, 3, 6), sent).sum() == sent.sum()


def test_gradient_is_the_same_in_every_run_and_for_any_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(1, 64, 16, 20, generator=generator)
    rows = torch.tensor([[0, x, y, 20, 16] for x in range(6) for y in range(6)] * 5)
    sent = torch.randn(len(rows), 64 * 50, generator=generator)
    threads = torch.get_num_threads()
    try:
        gradients = []
        for count in (1, 2, 4, 2):
            torch.set_num_threads(count)
            gradients.append(region_gradient(features, rows, (1, 2, 3, 6), sent))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_no_gradient_is_kept_where_none_is_asked_for() -> None:
    features = torch.rand(1, 2, 4, 4, requires_grad=True)
    rows = torch.tensor([[0, 0, 0, 3, 3]])
    with torch.no_grad():
        assert not pool_regions(features, rows).requires_grad
    with torch.inference_mode():
        assert not pool_regions(features, rows).requires_grad
    assert pool_regions(features, rows).requires_grad
    assert not pool_regions(features.detach(), rows).requires_grad


def test_function_transforms_see_the_gradient() -> None:
    features, rows = torch.rand(1, 2, 4, 4), torch.tensor([[0, 0, 0, 3, 3]])
    gradient = torch.func.grad(lambda maps: pool_regions(maps, rows).sum())(features)
    assert torch.equal(gradient, region_gradient(features, rows, (1, 2, 3, 6), torch.ones(1, 100)))
