"""Which input size and which learning rate belong to which epoch."""

import math
from collections.abc import Sequence


def check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return training sizes as a tuple, or say what is wrong with them.

    Args:
        sizes: Side of the square training input in pixels, one per epoch in turn.

    Returns:
        The same numbers.

    Raises:
        ValueError: If there is none, or one is below 1.

    Example:
        >>> check_sizes([180, 224])
        (180, 224)
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"imgsz must be one or more positive numbers, got {tuple(sizes)}")
    return tuple(int(size) for size in sizes)


def size_of_epoch(sizes: Sequence[int], epoch: int) -> int:
    """Input size of an epoch: the sizes take turns, one whole epoch each, largest first.

    Args:
        sizes: Sides in pixels, in any order.
        epoch: 0 for the first.

    Returns:
        One of the sizes.

    Example:
        >>> [size_of_epoch((180, 224), epoch) for epoch in range(4)]
        [224, 180, 224, 180]

    Source:
        SPP-net, section 2.3: "one full epoch on one network, and then the other one for the next
        full epoch".
    """
    ordered = sorted(check_sizes(sizes), reverse=True)
    return ordered[epoch % len(ordered)]


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Rise in a straight line to the peak, then fall along half a cosine to zero.

    The rate depends on the step number alone, so a resumed run needs no other state.

    Args:
        step: 0 for the first update.
        total_steps: Updates in the whole training, at least 1.
        warmup_steps: Updates of the rise; 0 starts at the peak.
        peak: Highest rate.

    Returns:
        The rate of this update, above 0.

    Example:
        >>> [round(learning_rate(step, 10, 2, 1.0), 3) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
