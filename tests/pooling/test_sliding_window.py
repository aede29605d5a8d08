"""The paper's recipe of ordinary pooling layers, where it is valid and where it is not."""

import pytest
import torch

from oracles.pyramid_loops import slide_window
from sppnet.pooling import SlidingWindowPool, sliding_window_pool, spatial_pyramid_pool


@pytest.mark.parametrize("side", [13, 1, 6, 7, 12, 10, 14])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
def test_windows_are_the_papers_or_are_refused(side: int, n: int) -> None:
    features = torch.randn(2, 3, side, side)
    windows = slide_window(side, n)
    if windows is None or len(windows) != n:
        with pytest.raises(ValueError, match=r"size must be"):
            sliding_window_pool(features, (n,))
        return
    expected = torch.stack(
        [features[:, :, y0:y1, x0:x1].amax((2, 3)) for y0, y1 in windows for x0, x1 in windows], 2
    )
    assert torch.equal(sliding_window_pool(features, (n,)), expected.flatten(1))
    if side % n <= 1:
        assert torch.equal(expected.flatten(1), spatial_pyramid_pool(features, (n,)))


def test_the_papers_pyramid_at_its_training_size() -> None:
    features = torch.randn(2, 8, 13, 13)
    pool = SlidingWindowPool((6, 3, 2, 1))
    assert torch.equal(pool(features), spatial_pyramid_pool(features, (6, 3, 2, 1)))
    assert repr(pool) == "SlidingWindowPool(levels=(6, 3, 2, 1))"
    assert not list(pool.state_dict())


def test_sides_of_different_lengths_have_their_own_windows() -> None:
    features = torch.arange(91.0).reshape(1, 1, 7, 13)
    assert torch.equal(
        sliding_window_pool(features, (3, 2)), spatial_pyramid_pool(features, (3, 2))
    )
    with pytest.raises(ValueError, match=r"got 10, which gives 9"):
        sliding_window_pool(torch.zeros(1, 1, 13, 10), (6,))


def test_where_the_recipe_leaves_cells_out_it_is_not_the_pyramid() -> None:
    """Its known fault: 14 cells in 4 windows of 4 at strides of 3 never see the last cell."""
    features = torch.zeros(1, 1, 14, 14)
    features[0, 0, 13, 13] = 1
    assert slide_window(14, 4) == [(0, 4), (3, 7), (6, 10), (9, 13)]
    assert sliding_window_pool(features, (4,)).max() == 0
    assert spatial_pyramid_pool(features, (4,)).max() == 1
