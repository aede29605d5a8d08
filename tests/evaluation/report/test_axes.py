"""Ticks, scales and texts: round numbers inside the range, and words that fit."""

import math

import pytest

from sppnet.evaluation.report.axes import (
    Scale,
    log_ticks,
    nice_ticks,
    number_text,
    seconds_text,
    shorten,
    text_width,
    thin,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, 6), (0, 0, 1), (0, 7.3, 4), (0.55, 0.6, 6)],
)
def test_ticks_are_few_and_inside(low, high, expected):
    ticks = nice_ticks(low, high)
    assert len(ticks) == expected
    assert all(low <= tick <= high for tick in ticks)


def test_logarithmic_ticks_are_inside():
    assert log_ticks(1, 2000) == [1, 10, 100, 1000]
    assert log_ticks(3, 40) == [5, 10, 20]


def test_scale_of_one_value_does_not_divide_by_zero():
    assert Scale(3, 3, 10, 20).pixel(3) == 10


def test_words_for_numbers():
    assert [seconds_text(s) for s in (0.0004, 59.94, 60, 3600, math.nan)] == [
        "< 1 ms", "59.9 s", "1 min 0 s", "1.0 h", "\u2013",
    ]  # fmt: skip
    assert number_text(1e6) == "1,000,000"


def test_shortened_text_fits():
    for room in range(0, 200, 7):
        assert text_width(shorten("many words in one name", room)) <= max(
            room + 1, text_width("\u2026")
        )
    assert shorten("short", text_width("short") - 1e-9) == "short"


def test_thinning_of_nothing():
    assert thin(0).tolist() == []
