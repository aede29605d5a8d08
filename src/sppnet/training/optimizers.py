"""Optimizers, and how their learning rate falls."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import mean
from typing import Any

from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW, Optimizer

KINDS = ("sgd", "adamw")
BIAS_FACTOR = 2.0
FACTORS = (1.0, 0.1, 0.01)  # "divided by 10 (twice)"
LATEST = (0.6, 0.85)  # part of the epochs after which a drop comes even without a plateau
LEAST_GAIN = 0.01  # a loss that falls by less than this part of it has not improved


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


def cosine_factor(step: int, total_steps: int) -> float:
    """Fall along half a cosine from 1 to nearly 0.

    Args:
        step: 0 for the first update.
        total_steps: Updates in all, at least 1.

    Example:
        >>> [round(cosine_factor(step, 4), 2) for step in range(4)]
        [1.0, 0.85, 0.5, 0.15]
    """
    return 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0)))


def count_drops(step: int, total_steps: int, drop_at: Sequence[float]) -> int:
    """Count how often a rate that falls in steps has fallen.

    Args:
        step: 0 for the first update.
        total_steps: Updates in all.
        drop_at: Parts of the updates after which the rate falls, 0..1.

    Example:
        >>> [count_drops(step, 10, (0.5, 0.8)) for step in (0, 4, 5, 7, 8, 9)]
        [0, 0, 1, 1, 2, 2]
    """
    return sum(step >= part * total_steps for part in drop_at)


def plateau_factor(losses: Sequence[float], epochs: int, patience: int, window: int = 1) -> float:
    """Divide the rate by 10 when the loss has stopped improving, twice at most.

    The mean loss of the last ``window`` epochs has to fall by 1 % within ``patience`` epochs. A run
    of few epochs may never come to rest, so the two drops come at the latest after 60 % and 85 % of
    them. After the second the training goes on to its last epoch. The factor follows from the
    losses alone, so a resumed run needs no other state.

    Args:
        losses: Training loss of each epoch so far.
        epochs: Epochs in all.
        patience: Epochs without improvement that count as a plateau.
        window: Epochs to average: a whole turn where sizes take turns, as their losses differ.

    Returns:
        1, 0.1 or 0.01.

    Example:
        >>> [plateau_factor([1.0] * count, 100, patience=3) for count in (3, 4, 8)]
        [1.0, 0.1, 0.01]

    Source:
        SPP-net, section 3.1: "divided by 10 (twice) when the error plateaus".
    """
    drops, waited, best, since = 0, 0, math.inf, 0
    for done in range(1, len(losses) + 1):
        if done - since >= window:  # a shorter mean could be of the easier sizes only
            loss = mean(losses[done - window : done])
            waited, best = (0, loss) if loss < best * (1 - LEAST_GAIN) else (waited + 1, best)
        if drops < len(LATEST) and (waited >= patience or done >= round(LATEST[drops] * epochs)):
            drops, waited, best, since = drops + 1, 0, math.inf, done
    return FACTORS[drops]
