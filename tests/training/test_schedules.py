"""Sizes follow from seed and epoch alone; the rate from the losses and the step alone."""

import itertools

import pytest

from sppnet.classification.train.config import InputSizes, TrainerConfig
from sppnet.training.optimizers import OptimizerConfig
from sppnet.training.schedules import cosine_factor, count_drops, plateau_factor
from sppnet.training.seeds import derive_seed


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


def test_cosine_falls_to_nearly_nothing() -> None:
    factors = [cosine_factor(step, 100) for step in range(100)]
    assert factors[0] == 1
    assert factors[50] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(factors))
    assert 0 < factors[-1] < 1e-3


def test_rate_rises_in_the_first_epoch() -> None:
    for schedule in ("plateau", "cosine"):
        config = TrainerConfig(epochs=10, optimizer=OptimizerConfig(0.1), schedule=schedule)
        rates = [config.rate_at([], step, 5) for step in range(5)]
        assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
        assert config.rate_at([2.0], 0, 5) == pytest.approx(0.1)


def test_falling_loss_keeps_the_rate_until_the_latest_moment() -> None:
    losses = [0.9**epoch for epoch in range(100)]
    factors = [plateau_factor(losses[:done], 100, patience=5) for done in range(101)]
    assert [factors.index(factor) for factor in (1.0, 0.1, 0.01)] == [0, 60, 85]


def test_plateau_drops_twice_and_never_again() -> None:
    losses = [*(0.8**epoch for epoch in range(10)), *[0.2] * 40]
    factors = [plateau_factor(losses[:done], 100, patience=4) for done in range(51)]
    drops = [done for done in range(1, 51) if factors[done] < factors[done - 1]]
    # 0.8**8 is the last loss to fall; 0.2 is above it and above what came after the first drop
    assert len(drops) == 2
    assert drops[0] == 10 + 4
    assert drops[1] == drops[0] + 1 + 4
    assert factors[-1] == 0.01


def test_losses_of_sizes_that_take_turns_are_no_plateau() -> None:
    falling = [0.95**epoch * (1.5 if epoch % 2 else 1.0) for epoch in range(40)]
    assert plateau_factor(falling, 1000, patience=2, window=2) == 1
    assert plateau_factor([1.0, 1.5] * 20, 1000, patience=5, window=2) < 1


def test_gain_below_a_hundredth_is_a_plateau() -> None:
    assert plateau_factor([1 - 0.0001 * epoch for epoch in range(20)], 1000, patience=8) < 1


def test_steps_fall_at_their_places() -> None:
    drops = [count_drops(step, 200, (0.5, 0.85)) for step in range(200)]
    assert [drops.index(count) for count in (0, 1, 2)] == [0, 100, 170]
    assert [count_drops(step, 3, (0.0, 1.0)) for step in range(3)] == [1, 1, 1]


def test_seeds_differ() -> None:
    seeds = {derive_seed(seed, word, n) for seed in range(9) for word in "ab" for n in range(9)}
    assert len(seeds) == 162
    assert max(seeds) < 1 << 63
