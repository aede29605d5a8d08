"""Rates follow from the losses and the step alone; seeds differ with all that decides them."""

import itertools

import pytest

from sppnet.training.schedules import cosine_factor, count_drops, plateau_factor
from sppnet.training.seeds import derive_seed


def test_cosine_falls_to_nearly_nothing() -> None:
    factors = [cosine_factor(step, 100) for step in range(100)]
    assert factors[0] == 1
    assert factors[50] == pytest.approx(0.5)
    assert all(a > b for a, b in itertools.pairwise(factors))
    assert 0 < factors[-1] < 1e-3


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
