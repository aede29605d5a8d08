"""Resizing keeps range, reports the scales it really used, and never makes a side of 0."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sppnet.images import (
    centre_crop,
    flip_left_right,
    group_equal_sizes,
    resize_image,
    resize_short_side,
    short_side_size,
    stack_images,
    to_image,
)

SIDES = st.integers(1, 60)


def test_resizing_is_pillows_bilinear():
    image = torch.rand(3, 37, 53, generator=torch.Generator().manual_seed(0))
    image = (image * 255).round() / 255
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    for size in ((20, 20), (74, 30), (37, 10)):
        theirs = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
        assert (resize_image(image, size) - to_image(theirs)).abs().max() <= 1.6 / 255


@given(SIDES, SIDES, SIDES, SIDES)
def test_resized_images_stay_in_range_and_flat_ones_flat(height, width, new_height, new_width):
    image = torch.rand(3, height, width)
    resized = resize_image(image, (new_height, new_width))
    assert resized.shape == (3, new_height, new_width)
    assert resized.min() >= image.min() - 1e-5
    assert resized.max() <= image.max() + 1e-5
    flat = resize_image(torch.full((1, height, width), 0.3), (new_height, new_width))
    assert torch.allclose(flat, torch.tensor(0.3), atol=1e-6)


def test_batches_and_equal_sizes():
    batch = torch.rand(2, 3, 8, 9)
    assert resize_image(batch, (4, 5))[1].equal(resize_image(batch[1], (4, 5)))
    assert resize_image(batch, (8, 9)) is batch


@given(SIDES, SIDES, st.integers(1, 80), st.none() | st.integers(1, 100))
def test_short_side(height, width, short_side, max_long_side):
    image, (scale_y, scale_x) = resize_short_side(
        torch.zeros(1, height, width), short_side, max_long_side
    )
    new = tuple(image.shape[1:])
    assert min(new) >= 1
    assert new == (round(height * scale_y), round(width * scale_x))
    if max_long_side is None:
        assert min(new) == short_side
    else:
        assert max(new) <= max(max_long_side, 1)
        assert min(new) <= short_side


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((1, 1), 1, None, (1, 1)),
        ((375, 500), 600, None, (600, 800)),
        ((500, 375), 600, 1000, (800, 600)),
        ((100, 1000), 600, 1000, (100, 1000)),
        ((1, 5000), 224, 500, (1, 500)),
        ((3, 2), 3, None, (5, 3)),  # 4.5 rounds up
    ],
)
def test_short_side_table(size, short, longest, expected):
    assert short_side_size(size, short, longest) == expected


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: short_side_size((0, 5), 10), "size_hw must be at least 1, got 0"),
        (lambda: short_side_size((5, 5), 0), "short_side must be at least 1, got 0"),
        (lambda: short_side_size((5, 5), 5, 0), "max_long_side must be at least 1, got 0"),
        (lambda: resize_image(torch.zeros(3, 4, 4), (0, 4)), "size_hw"),
        (lambda: resize_image(torch.zeros(4, 4), (2, 2)), "dimensions"),
        (lambda: centre_crop(torch.zeros(3, 4, 4), (5, 4)), "got 5 x 4"),
        (lambda: centre_crop(torch.zeros(3, 4, 4), (0, 4)), "got 0 x 4"),
        (lambda: group_equal_sizes([], 0), "batch_size must be at least 1, got 0"),
        (lambda: stack_images([]), "one shape"),
        (lambda: stack_images([torch.zeros(3, 1, 1), torch.zeros(3, 1, 2)]), "one shape"),
    ],
)
def test_callers_mistakes(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_centre_crop_and_flip():
    image = torch.arange(20).reshape(1, 4, 5)
    assert centre_crop(image, (2, 3)).tolist() == [[[6, 7, 8], [11, 12, 13]]]
    assert centre_crop(image, (4, 5)).equal(image)
    assert flip_left_right(image)[0, 0].tolist() == [4, 3, 2, 1, 0]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=30), st.integers(1, 5))
def test_groups_hold_every_index_once_and_one_size_each(sizes, batch_size):
    batches = group_equal_sizes(sizes, batch_size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    assert [batch[0] for batch in batches] == sorted(batch[0] for batch in batches)
    for batch in batches:
        assert len(batch) <= batch_size
        assert len({sizes[index] for index in batch}) == 1
    smaller = [batch for batch in batches if len(batch) < batch_size]
    assert len({sizes[batch[0]] for batch in smaller}) == len(smaller)


def test_stack():
    assert stack_images([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)]).shape == (2, 3, 2, 2)
