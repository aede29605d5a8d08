"""Sizes of convolution follow the labelled objects: all classes alike, crowds and limits apart."""

from types import SimpleNamespace

import pytest
import torch

from sppnet.detection.assign import choose_short_sides


def _image(sides: list[float], labels: list[int], crowd: list[bool] | None = None):
    """An image of short side 480 with square objects."""
    length = torch.tensor(sides)[:, None]
    return SimpleNamespace(
        boxes=torch.cat([torch.zeros(len(sides), 2), length, length], 1),
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor(crowd or [False] * len(sides), dtype=torch.bool),
        difficult=torch.zeros(len(sides), dtype=torch.bool),
        size_hw=(480, 640),
    )


def test_objects_of_one_size_get_the_scale_at_which_they_have_the_target_size() -> None:
    assert choose_short_sides([_image([224 * 480 / 608] * 5, [0] * 5)]) == (608,)


def test_limits_hold() -> None:
    small, huge = _image([70.0] * 3, [0] * 3), _image([470.0] * 3, [0] * 3)
    assert choose_short_sides([small]) == (800,)
    assert choose_short_sides([huge]) == (400,)
    assert choose_short_sides([small, huge]) == (400, 800)


def test_where_most_objects_are_tiny_the_largest_scale_is_larger() -> None:
    """At 800, a tiny object of a photo of 480 has less than half of 224 pixels: 67 of the photo."""
    tiny, small, huge = (_image([side] * 3, [0] * 3) for side in (66.0, 68.0, 470.0))
    assert choose_short_sides([tiny]) == (1200,)
    assert choose_short_sides([small]) == (800,)
    assert choose_short_sides([tiny, tiny, huge]) == (400, 1200)
    assert choose_short_sides([tiny, huge, huge]) == (400, 800)
    assert choose_short_sides([tiny], largest=800) == (800,)


def test_a_rare_class_counts_as_much_as_a_frequent_one() -> None:
    image = _image([100.0] * 98 + [300.0], [0] * 98 + [1])
    assert choose_short_sides([image]) == (400, 800)
    one_class = _image([100.0] * 98 + [300.0], [0] * 99)
    assert choose_short_sides([one_class]) == (800,)


def test_crowds_do_not_count() -> None:
    image = _image([470.0, 10.0, 10.0], [0, 0, 0], [False, True, True])
    assert choose_short_sides([image]) == (400,)


def test_difficult_objects_count_if_asked() -> None:
    image = _image([200.0] * 2 + [30.0] * 4, [0] * 6)
    image.difficult = torch.tensor([False] * 2 + [True] * 4)
    assert choose_short_sides([image]) == choose_short_sides([_image([200.0] * 2, [0] * 2)])
    assert choose_short_sides([image], use_difficult=True) != choose_short_sides([image])


def test_without_objects_the_middle() -> None:
    assert choose_short_sides([]) == choose_short_sides([_image([], [])]) == (560,)


@pytest.mark.parametrize("limits", [(8, 800), (800, 400)])
def test_limits_must_be_in_order(limits: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="smallest and largest must be in order"):
        choose_short_sides([], smallest=limits[0], largest=limits[1])
