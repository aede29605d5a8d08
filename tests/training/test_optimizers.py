"""Parts of a network learn at their own rates; the steps are those of torch's plain optimizers.

Rates follow from the losses and the step alone; seeds differ with all that decides them."""

import itertools

import pytest
import torch
from torch import nn

from sppnet.training.checkpoints import derive_seed
from sppnet.training.optimizers import (
    OptimizerConfig,
    build_optimizer,
    clip_and_step,
    cosine_factor,
    count_drops,
    plateau_factor,
    set_rate,
)


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    for parameter in network[1:].parameters():
        parameter.grad = torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("fast_biases", [False, True])
def test_step_is_written_out(network, *, fast_biases: bool) -> None:
    config = OptimizerConfig(1.0, momentum=0.9, weight_decay=0.1)
    parts = [(part.parameters(), factor) for part, factor in zip(network, (9, 0.1, 1), strict=True)]
    optimizer = build_optimizer(parts, config, fast_biases=fast_biases)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    set_rate(optimizer, 0.5)
    clip_and_step(network, optimizer, 1e9)
    for name, parameter in network.named_parameters():
        is_fast = fast_biases and name.endswith("bias")
        rate = 0.5 * {"0": 0.0, "1": 0.1, "2": 1.0}[name[0]] * (2 if is_fast else 1)
        pull = (0.0 if is_fast else 0.1) * before[name]
        gradient = torch.zeros(()) if parameter.grad is None else parameter.grad
        expected = before[name] - rate * (gradient + pull)
        torch.testing.assert_close(parameter.detach(), expected)


def test_adamw_is_torchs(network) -> None:
    config = OptimizerConfig(1e-3, "adamw", weight_decay=0.01)
    optimizer = build_optimizer([(network.parameters(), 1.0)], config)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01]


def test_gradient_is_shortened_to_the_longest(network) -> None:
    config = OptimizerConfig(1.0, momentum=0.0, weight_decay=0.0)
    optimizer = build_optimizer([(network.parameters(), 1.0)], config)
    before = torch.cat([p.detach().flatten() for p in network.parameters()])
    clip_and_step(network, optimizer, 0.25)
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"rate": 0.0}, "rate must be above 0"),
        ({"rate": -1.0}, "rate must be above 0"),
        ({"rate": float("inf")}, "rate must be above 0"),
        ({"momentum": float("nan")}, "momentum must be in 0..1, below 1"),
        ({"momentum": 1.0}, "momentum must be in 0..1, below 1"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"kind": "adam"}, "optimizer must be one of sgd, adamw"),
    ],
)
def test_impossible_configurations_are_refused(wrong: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        OptimizerConfig(**{"rate": 0.1, **wrong})


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
