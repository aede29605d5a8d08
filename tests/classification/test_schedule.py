"""Sizes take turns by whole epochs; the rate follows from the step number alone."""

import itertools

import pytest

from sppnet.classification.schedule import check_sizes, learning_rate, size_of_epoch


def test_two_sizes_alternate() -> None:
    assert [size_of_epoch((180, 224), epoch) for epoch in range(5)] == [224, 180, 224, 180, 224]


def test_order_of_the_list_does_not_matter() -> None:
    assert [size_of_epoch((96, 64, 128), epoch) for epoch in range(4)] == [128, 96, 64, 128]


def test_one_size_stays() -> None:
    assert {size_of_epoch((224,), epoch) for epoch in range(5)} == {224}


def test_rate_rises_then_falls_to_nearly_nothing() -> None:
    rates = [learning_rate(step, 100, 10, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert max(rates) == pytest.approx(0.1)
    assert 0 < rates[-1] < 1e-4


@pytest.mark.parametrize("sizes", [(), (0,), (224, -1)])
def test_impossible_sizes_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="imgsz must be one or more positive numbers"):
        check_sizes(sizes)
