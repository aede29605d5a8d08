"""Sizes follow from seed and epoch alone; the rate from the losses and the step alone."""

import pytest

from sppnet.classification.train.config import InputSizes, TrainerConfig
from sppnet.training.optimizers import OptimizerConfig


def _sizes(text: str, epochs: int, seed: int = 0) -> list[int]:
    return [InputSizes.parse(text).of_epoch(epoch, seed) for epoch in range(epochs)]


def test_two_sizes_alternate_whatever_their_order() -> None:
    assert _sizes("180,224", 5) == _sizes("224,180", 5) == [224, 180, 224, 180, 224]


def test_three_sizes_take_turns() -> None:
    assert _sizes("96,64,128", 4) == [128, 96, 64, 128]


def test_one_size_stays() -> None:
    assert set(_sizes("224", 5)) == {224}


def test_range_draws_every_size_about_as_often() -> None:
    drawn = _sizes("180-224", 45 * 40)
    counts = [drawn.count(size) for size in range(180, 225)]
    assert sum(counts) == len(drawn)
    assert min(counts) > 15
    assert max(counts) < 75
    assert drawn[:50] != _sizes("180-224", 50, seed=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("224", InputSizes((224,))),
        (" 180, 224 ", InputSizes((180, 224))),
        ("180-224", InputSizes((180, 224), is_range=True)),
        ("natural", InputSizes((224,), natural=True)),
        ("natural:180-224", InputSizes((180, 224), is_range=True, natural=True)),
    ],
)
def test_words_for_sizes(text: str, expected: InputSizes) -> None:
    assert InputSizes.parse(text) == expected
    assert InputSizes.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "0", "180,0", "180;224", "180-224-256", "180-224,3", "Natural", "natural:", "99999"],
)
def test_words_that_are_no_sizes_are_refused(text: str) -> None:
    if text == "natural:":  # nothing after the colon: the usual size
        assert InputSizes.parse(text) == InputSizes((224,), natural=True)
        return
    with pytest.raises(ValueError, match="imgsz must be"):
        InputSizes.parse(text)


def test_rate_rises_in_the_first_epoch() -> None:
    for schedule in ("plateau", "cosine"):
        config = TrainerConfig(epochs=10, optimizer=OptimizerConfig(0.1), schedule=schedule)
        rates = [config.rate_at([], step, 5) for step in range(5)]
        assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
        assert config.rate_at([2.0], 0, 5) == pytest.approx(0.1)
