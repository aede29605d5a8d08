"""Optimizers whose parts of a network learn at rates of their own, and one step of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW, Optimizer

KINDS = ("sgd", "adamw")
BIAS_FACTOR = 2.0


@dataclass(frozen=True)
class OptimizerConfig:
    """What an optimizer is made of.

    Args:
        rate: Highest learning rate of the parts whose factor is 1, above 0.
        kind: ``"sgd"``, stochastic gradient descent with momentum, or ``"adamw"``.
        momentum: Of the stochastic gradient descent; 0 or more and below 1.
        weight_decay: Pull of the weights towards 0; 0 or more.

    Raises:
        ValueError: If a number is out of range or the kind unknown.
    """

    rate: float
    kind: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"optimizer must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if not 0 < self.rate < inf:
            raise ValueError(f"rate must be above 0, got {self.rate}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in 0..1, below 1, got {self.momentum}")
        if not 0 <= self.weight_decay < inf:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")


def build_optimizer(
    parts: Iterable[tuple[Iterable[nn.Parameter], float]],
    config: OptimizerConfig,
    *,
    fast_biases: bool = False,
) -> Optimizer:
    """Build an optimizer of the parameters that learn.

    Args:
        parts: The parameters of each part of a network, and the factor by which its rate differs
            from the common one. Frozen parameters are left out.
        config: Kind and constants.
        fast_biases: Let biases (and all else of one dimension) learn at twice the rate and not
            decay, as in the networks of Caffe.

    Returns:
        The optimizer; each of its groups has a ``"factor"`` for :func:`set_rate`.

    Example:
        >>> layers = nn.Linear(4, 3), nn.Linear(3, 2)
        >>> parts = [(layers[0].parameters(), 0.1), (layers[1].parameters(), 1.0)]
        >>> optimizer = build_optimizer(parts, OptimizerConfig(rate=0.5), fast_biases=True)
        >>> [(group["factor"], group["weight_decay"]) for group in optimizer.param_groups]
        [(0.1, 0.0005), (0.2, 0.0), (1.0, 0.0005), (2.0, 0.0)]
    """
    groups: list[dict[str, Any]] = []
    for parameters, factor in parts:
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        fast = [parameter for parameter in learning if fast_biases and parameter.ndim == 1]
        usual = [parameter for parameter in learning if not (fast_biases and parameter.ndim == 1)]
        groups += [
            {"params": usual, "factor": factor, "weight_decay": config.weight_decay},
            {"params": fast, "factor": BIAS_FACTOR * factor, "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    if config.kind == "adamw":
        return AdamW(groups, lr=config.rate)
    return SGD(groups, lr=config.rate, momentum=config.momentum)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the rate of every group, by its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def clip_and_step(network: nn.Module, optimizer: Optimizer, clip_norm: float) -> None:
    """Clip the gradient and take a step.

    Args:
        network: Holds the gradients.
        optimizer: Of its parameters.
        clip_norm: Greatest norm of the gradient of all parameters together.
    """
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    clip_grad_norm_(learning, clip_norm)
    optimizer.step()
