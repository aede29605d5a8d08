"""Every view of every image fits a network.

Every plan has the paper's views, on images of any shape.
"""

import pytest
import torch

from sppnet.classification.views import (
    CROP,
    FULL,
    NINETY_EIGHT,
    NINETY_SIX,
    PLANS,
    TEN,
    View,
    ViewPlan,
    base_short_side,
    view_plan,
)

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
    with pytest.raises(ValueError, match="short_side must be at least 1 and at most 9999, got 0"):
        View("full", 0)


COUNTS = [  # plan, size of the image, views
    (CROP, (375, 500), 1),
    (TEN, (375, 500), 10),
    (FULL, (375, 500), 1),
    (NINETY_SIX, (375, 500), 96),
    (NINETY_SIX, (500, 375), 96),
    (NINETY_EIGHT, (375, 500), 98),
    (NINETY_SIX, (1, 1), 92),  # of a square, all nine windows are one at scale 224
    (NINETY_EIGHT, (400, 400), 94),
    (TEN, (400, 400), 10),
    (NINETY_SIX, (400, 401), 94),  # at 224 the long side is 225: start and middle are one
    (NINETY_SIX, (1, 20_000), 36),  # a strip is lower than the window at every scale
    (FULL, (1, 20_000), 1),
]


@pytest.mark.parametrize(("plan", "size_hw", "count"), COUNTS)
def test_count_of_views(plan: ViewPlan, size_hw: tuple[int, int], count: int) -> None:
    assert plan.count(size_hw) == count


def test_views_of_each_scale_are_the_papers() -> None:
    scales = list(NINETY_SIX.scales((375, 500)))
    assert [2 * len(scale.windows) for scale in scales] == [6, 18, 18, 18, 18, 18]
    assert [min(scale.size_hw) for scale in scales] == [224, 256, 300, 360, 448, 560]
    for scale in scales:
        assert all((x1 - x0, y1 - y0) == (224, 224) for x0, y0, x1, y1 in scale.windows)


def test_places_of_the_windows() -> None:
    (scale,) = TEN.scales((256, 356))
    assert scale.size_hw == (256, 356)
    assert scale.windows == (
        (0, 0, 224, 224),
        (132, 0, 356, 224),
        (0, 32, 224, 256),
        (132, 32, 356, 256),
        (66, 16, 290, 240),
    )
    (scale,) = CROP.scales((256, 356))
    assert scale.windows == ((66, 16, 290, 240),)


@pytest.mark.parametrize("size_hw", [(20, 400), (400, 20), (1, 20_000), (3, 3), (7, 13)])
def test_windows_stay_inside_images_of_any_shape(size_hw: tuple[int, int]) -> None:
    for plan in PLANS.values():
        for scale in plan.scales(size_hw):
            height, width = scale.size_hw
            assert scale.windows
            assert max(height, width) <= 8 * 560
            for x0, y0, x1, y1 in scale.windows:
                assert 0 <= x0 < x1 <= width
                assert 0 <= y0 < y1 <= height
                assert (x1 - x0, y1 - y0) == (min(224, width), min(224, height)) or plan.whole_side


def test_whole_image_comes_at_its_own_scale() -> None:
    whole = [
        scale.size_hw
        for scale in NINETY_EIGHT.scales((375, 500))
        if (0, 0, *scale.size_hw[::-1]) in scale.windows
    ]
    assert whole == [(256, 341)]


def test_other_sizes_are_in_proportion() -> None:
    assert [view_plan(name) for name in PLANS] == list(PLANS.values())
    half = view_plan("98", 128)
    assert half.short_sides == (112, 128, 150, 180, 224, 280)
    assert (half.window, half.whole_side) == (112, 128)
    assert half.count((375, 500)) == 98
    assert view_plan("10", 256, window=192).window == 192


def test_base_short_side_of_a_models_own_view() -> None:
    kinds = {kind: base_short_side(View(kind, 112)) for kind in ("full", "crop", "warp", "native")}
    assert kinds == {"full": 112, "crop": 128, "warp": 128, "native": 256}


def test_wrong_settings_are_named_of_view_plans() -> None:
    with pytest.raises(ValueError, match="view must be one of crop, 10, full, 96, 98, got '97'"):
        view_plan("97")
    with pytest.raises(ValueError, match="must be at least 1"):
        view_plan("full", 0)
    with pytest.raises(ValueError, match="places must be one of none, centre, corners, grid"):
        ViewPlan((256,), places="edges")
    with pytest.raises(ValueError, match="short_sides must be given exactly where places are"):
        ViewPlan((256,))
    with pytest.raises(ValueError, match="short_sides must be given exactly where places are"):
        ViewPlan(places="grid")
    with pytest.raises(ValueError, match="whole_side must be given where there are no windows"):
        ViewPlan()
    with pytest.raises(ValueError, match="must be at least 1"):
        ViewPlan((256,), window=0, places="grid")
