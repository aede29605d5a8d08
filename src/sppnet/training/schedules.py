"""How the learning rate falls."""

import math
from collections.abc import Sequence
from statistics import mean

FACTORS = (1.0, 0.1, 0.01)  # "divided by 10 (twice)"
LATEST = (0.6, 0.85)  # part of the epochs after which a drop comes even without a plateau
LEAST_GAIN = 0.01  # a loss that falls by less than this part of it has not improved


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
