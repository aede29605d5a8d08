"""Parts of a network learn at their own rates; the steps are those of torch's plain optimizers."""

import pytest
import torch
from torch import nn

from sppnet.training.optimizers import OptimizerConfig, build_optimizer, clip_and_step, set_rate


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
