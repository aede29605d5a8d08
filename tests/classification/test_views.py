"""Every view of every image fits a network."""

import pytest
import torch

from sppnet.classification import View

CASES = [  # kind, size of the image, size of the view
    ("full", (100, 150), (64, 96)),
    ("full", (150, 100), (96, 64)),
    ("full", (1, 1), (64, 64)),
    ("full", (10, 200), (26, 512)),  # the long side is bounded by 8 times the short side
    ("full", (1, 20_000), (1, 512)),
    ("crop", (100, 150), (64, 64)),
    ("crop", (1, 20_000), (64, 64)),
    ("warp", (100, 150), (64, 64)),
    ("warp", (20_000, 1), (64, 64)),
    ("native", (3, 20), (3, 20)),
]


@pytest.mark.parametrize(("kind", "size_hw", "expected"), CASES)
def test_size_of_the_view(kind: str, size_hw: tuple[int, int], expected: tuple[int, int]) -> None:
    view = View(kind, 64).apply(torch.rand(3, *size_hw))
    assert view.shape == (3, *expected)
    assert view.isfinite().all()


def test_crop_is_the_centre() -> None:
    image = torch.zeros(3, 8, 24)
    image[:, :, 8:16] = 1
    assert torch.equal(View("crop", 8).apply(image), torch.ones(3, 8, 8))


def test_full_keeps_an_image_that_has_the_size() -> None:
    image = torch.rand(3, 64, 80)
    assert torch.equal(View("full", 64).apply(image), image)


def test_native_leaves_the_image_untouched() -> None:
    image = torch.rand(3, 30, 20)
    assert View("native", 64).apply(image) is image


def test_wrong_settings_are_named() -> None:
    rule = "view must be one of full, crop, warp, native, got 'half'"
    with pytest.raises(ValueError, match=rule):
        View("half")
    with pytest.raises(ValueError, match="short_side must be at least 1, got 0"):
        View("full", 0)
