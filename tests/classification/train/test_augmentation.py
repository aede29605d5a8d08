"""Crops lie where they should, colours move along the components, natural images stay whole."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppnet.classification.train.config import (
    COMPONENTS,
    EIGENVALUES,
    STEP,
    Augmentation,
    cut,
    cut_natural,
    cut_square,
    natural_size,
    shift_colours,
)

SIDES = st.integers(1, 3000)


def _numbered(height: int, width: int) -> torch.Tensor:
    """Every pixel's column number, the same in all rows."""
    return torch.arange(width, dtype=torch.uint8).expand(3, height, width).contiguous()


def test_random_places_reach_every_border() -> None:
    photo = _numbered(8, 12)
    first, last = cut(photo, (0.0, 0.0), (8, 8)), cut(photo, (0.999, 0.999), (8, 8))
    assert first[0, 0].tolist() == list(range(8))
    assert last[0, 0].tolist() == list(range(4, 12))
    draws = Augmentation().draw(4000, seed=0)
    columns = {int(cut(photo, draw[:2], (8, 8))[0, 0, 0]) for draw in draws.tolist()}
    assert columns == {0, 1, 2, 3, 4}


def test_paper_cuts_the_centre_and_the_corners_of_the_whole_image() -> None:
    photo = torch.arange(20 * 30, dtype=torch.int32).reshape(1, 20, 30).expand(3, 20, 30)
    draws = Augmentation("paper").draw(500, seed=3)
    corners = [int(cut(photo, draw[:2], (10, 10))[0, 0, 0]) for draw in draws.tolist()]
    wanted = [(y, x) for y in (0, 10) for x in (0, 20)] + [(5, 10)]
    assert set(corners) == {30 * y + x for y, x in wanted}
    assert min(corners.count(place) for place in set(corners)) > 60


def test_centre_stays() -> None:
    assert (Augmentation("centre").draw(50, seed=0)[:, :2] == 0.5).all()


def test_each_part_can_be_turned_off() -> None:
    plain = Augmentation("centre", flip=False, colour_noise=0.0).draw(300, seed=0)
    assert (plain[:, 2] == 1).all()
    assert (plain[:, 3:] == 0).all()
    usual = Augmentation().draw(300, seed=0)
    assert 100 < int((usual[:, 2] < 0).sum()) < 200
    assert usual[:, 3:].std() == pytest.approx(0.1, rel=0.1)


def test_draws_of_an_image_do_not_depend_on_what_is_turned_on() -> None:
    kinds = [Augmentation(flip=False), Augmentation(colour_noise=0), Augmentation()]
    places = [kind.draw(20, seed=5)[:, :2] for kind in kinds]
    assert torch.equal(places[0], places[1])
    assert torch.equal(places[0], places[2])


def test_components_are_orthonormal() -> None:
    components = torch.tensor(COMPONENTS, dtype=torch.float64)
    assert torch.allclose(components.T @ components, torch.eye(3, dtype=torch.float64), atol=1e-3)


def test_colour_noise_has_the_covariance_of_its_components() -> None:
    """The covariance of what is added is C diag((0.1 * eigenvalue) ** 2) C^T."""
    amounts = Augmentation().draw(200_000, seed=1)[:, 3:]
    grey = torch.full((len(amounts), 3, 1, 1), 0.5)
    added = (shift_colours(grey, amounts) - 0.5).flatten(1).double().numpy()
    components, values = np.array(COMPONENTS), np.array(EIGENVALUES)
    expected = components @ np.diag((0.1 * values) ** 2) @ components.T
    assert np.allclose(np.cov(added.T), expected, rtol=0.02, atol=1e-7)


def test_colours_stay_in_range() -> None:
    images = torch.rand(4, 3, 5, 6)
    shifted = shift_colours(images, torch.full((4, 3), 5.0))
    assert shifted.min() >= 0
    assert shifted.max() <= 1
    assert torch.equal(shift_colours(images, torch.zeros(4, 3)), images)


@given(SIDES, SIDES, st.sampled_from([32, 180, 224]))
def test_natural_size_cuts_less_than_a_step_of_the_long_side(
    height: int, width: int, short_side: int
) -> None:
    size = natural_size((height, width), short_side)
    scale = short_side / min(height, width)
    is_strip = max(height, width) > 8 * min(height, width)
    if is_strip:
        assert max(size) == 8 * short_side
        return
    whole = [int(side * scale + 0.5) for side in (height, width)]
    assert min(size) == min(whole)
    assert 0 <= max(whole) - max(size) < STEP
    assert max(size) % STEP == 0 or max(size) == min(size)


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0, 1), st.integers(8, 64))
def test_natural_cut_has_its_natural_size(
    height: int, width: int, place: float, short_side: int
) -> None:
    photo = torch.zeros(3, height, width, dtype=torch.uint8)
    part = cut_natural(photo, (place, place), short_side)
    assert tuple(part.shape[1:]) == natural_size((height, width), short_side)


def test_natural_cut_of_a_resized_image_only_cuts() -> None:
    photo = torch.randint(0, 256, (3, 40, 75), dtype=torch.uint8)
    assert torch.equal(cut_natural(photo, (0.0, 0.0), 40), photo[:, :, :64])
    assert torch.equal(cut_natural(photo, (1.0, 1.0), 40), photo[:, :, 11:])


def test_small_images_are_enlarged_to_the_crop() -> None:
    assert cut_square(_numbered(5, 9), (0.5, 0.5), 16).shape == (3, 16, 16)


@pytest.mark.parametrize("wrong", [{"crops": "corner"}, {"colour_noise": -0.1}])
def test_impossible_augmentation_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="must be"):
        Augmentation(**wrong)
