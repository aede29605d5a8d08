"""Where the bins of a pyramid level begin and end.

A level n cuts a side of L cells into n bins; bin i holds the cells from floor(i*L/n) up to, not
including, ceil((i+1)*L/n). Neighbouring bins share a cell where n does not divide L; no cell is
left out and no bin is empty, even when there are fewer cells than bins. A level (r, c) has r bins
from top to bottom and c from left to right; n stands for (n, n).
"""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

# A level of a pyramid: bins along each side, or (rows, columns) of them.
Level = int | tuple[int, int]

DEFAULT_LEVELS = (1, 2, 3, 6)


def check_levels(levels: Sequence[Level]) -> tuple[int, ...]:
    """Return the levels of a pyramid of squares as a tuple, or say what is wrong with them.

    Models, Keras and the sliding window take these; :func:`check_pyramid` knows rectangles, too.

    Args:
        levels: Bins along each side, one number per level, in the order of the pooled vector.

    Returns:
        The same numbers.

    Raises:
        TypeError: If a level is not an integer.
        ValueError: If there is no level, or one is below 1.

    Example:
        >>> check_levels([1, 2, 3, 6])
        (1, 2, 3, 6)
    """
    listed = tuple(levels) if isinstance(levels, Iterable) else (None,)
    numbers = tuple(n for n in listed if isinstance(n, int) and not isinstance(n, bool))
    if len(numbers) != len(listed):
        raise TypeError(f"levels must be a sequence of integers, got {levels!r}")
    if not numbers or min(numbers) < 1:
        raise ValueError(f"levels must be one or more positive integers, got {numbers}")
    return numbers


def check_pyramid(levels: int | Sequence[Level]) -> tuple[Level, ...]:
    """Return the levels of a pyramid as a tuple, or say what is wrong with them.

    Args:
        levels: One per level, in the order of the pooled vector: bins along each side, or a pair
            (rows, columns); or one number, a pyramid of that level alone.

    Returns:
        The same levels; a pair of equal numbers as one number.

    Raises:
        TypeError: If a level is neither an integer nor a pair of integers.
        ValueError: If there is no level, or a number is below 1.

    Example:
        >>> check_pyramid([1, (2, 3), (4, 4)]), check_pyramid(3)
        ((1, (2, 3), 4), (3,))
    """
    if type(levels) is tuple and levels and all(type(n) is int and n > 0 for n in levels):
        return levels  # as modules keep them: this is asked at every call
    whole = isinstance(levels, Iterable) and not isinstance(levels, str | bytes)
    listed: tuple[Any, ...] = tuple(levels) if whole else (levels,)  # type: ignore[arg-type]
    pairs = [tuple(n) if isinstance(n, list | tuple) else (n, n) for n in listed]
    numbers = [n for pair in pairs for n in pair]
    if any(isinstance(n, bool) or not isinstance(n, int) for n in numbers) or any(
        len(pair) != 2 for pair in pairs
    ):
        raise TypeError(
            f"levels must be a sequence of integers or pairs (rows, columns), got {levels!r}"
        )
    if not numbers or min(numbers) < 1:
        raise ValueError(f"levels must be one or more positive integers, got {listed}")
    return tuple(rows if rows == columns else (rows, columns) for rows, columns in pairs)


def choose_levels(
    levels: int | Sequence[Level], output_sizes: int | Sequence[Level] | None
) -> tuple[Level, ...]:
    """Take the levels of a module by either of the two names that people know.

    Args:
        levels: As :func:`check_pyramid` takes them.
        output_sizes: The same, as torch's adaptive pooling calls the size of one level; None if it
            was not given.

    Returns:
        The levels.

    Raises:
        TypeError: As :func:`check_pyramid`.
        ValueError: As :func:`check_pyramid`, or if both are given.

    Example:
        >>> choose_levels(DEFAULT_LEVELS, [(1, 1), (2, 2)])
        (1, 2)
    """
    if output_sizes is None:
        return check_pyramid(levels)
    if levels is not DEFAULT_LEVELS:
        raise ValueError(
            f"levels and output_sizes must not both be given, got {levels} and {output_sizes}"
        )
    return check_pyramid(output_sizes)


def level_shape(level: Level) -> tuple[int, int]:
    """Rows and columns of bins of a level.

    Example:
        >>> level_shape(3), level_shape((2, 3))
        ((3, 3), (2, 3))
    """
    return (level, level) if isinstance(level, int) else level


def num_bins(levels: int | Sequence[Level]) -> int:
    """Bins of a whole pyramid: the sum of n * n, or of rows * columns.

    Args:
        levels: As :func:`check_pyramid` takes them.

    Returns:
        Length of the pooled vector of one channel.

    Raises:
        TypeError: If a level is neither an integer nor a pair of integers.
        ValueError: If there is no level, or a number is below 1.

    Example:
        >>> num_bins((1, 2, 3, 6)), num_bins((1, (2, 3)))
        (50, 7)
    """
    return sum(rows * columns for rows, columns in map(level_shape, check_pyramid(levels)))


def bin_edges(size: int, n: int) -> list[tuple[int, int]]:
    """Half-open cell ranges of the n bins along a side.

    Args:
        size: Cells along the side, at least 1.
        n: Number of bins, at least 1.

    Returns:
        n pairs (start, end) with 0 <= start < end <= size.

    Raises:
        ValueError: If ``size`` or ``n`` is below 1.

    Example:
        >>> bin_edges(10, 6)
        [(0, 2), (1, 4), (3, 5), (5, 7), (6, 9), (8, 10)]
        >>> bin_edges(2, 3)
        [(0, 1), (0, 2), (1, 2)]

    Source:
        SPP-net, appendix A.
    """
    if size < 1 or n < 1:
        raise ValueError(f"size and n must be at least 1, got {size} and {n}")
    return [(i * size // n, ((i + 1) * size + n - 1) // n) for i in range(n)]


def bin_ranges(size: Tensor, index: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Start and end of bins for tensors of sizes and bin numbers, as :func:`bin_edges`.

    Args:
        size: Cells along a side, integers at least 1.
        index: Number of the bin, 0..n-1; broadcast against ``size``.
        n: Number of bins.

    Returns:
        Start and end, half-open, of the broadcast shape.

    Example:
        >>> import torch
        >>> bin_ranges(torch.tensor([10]), torch.tensor([1]), 6)
        (tensor([1]), tensor([4]))
    """
    return index * size // n, ((index + 1) * size + n - 1) // n


def sliding_window_bins(size: int, n: int) -> list[tuple[int, int]]:
    """Bins of the paper's sliding-window recipe: window ceil(size / n), stride floor(size / n).

    Section 2.3 of the paper uses it to train at one fixed size with ordinary pooling layers. It
    equals :func:`bin_edges` only where ``size % n <= 1``; elsewhere it makes another number of
    bins, or leaves the last cells of the map out. Use it to read networks that were trained with
    it, at the size they were trained for.

    Args:
        size: Cells along the side, at least n.
        n: Number of bins, at least 1.

    Returns:
        n pairs (start, end), half-open.

    Raises:
        ValueError: If the recipe does not give n bins at this size; names the number that it gives.

    Example:
        >>> sliding_window_bins(13, 6)
        [(0, 3), (2, 5), (4, 7), (6, 9), (8, 11), (10, 13)]
        >>> sliding_window_bins(10, 6)
        Traceback (most recent call last):
        ValueError: size must be one at which the sliding window gives n = 6 bins, got 10, ...

    Source:
        SPP-net, section 2.3 and figure 4.
    """
    if size < 1 or n < 1:
        raise ValueError(f"size and n must be at least 1, got {size} and {n}")
    window, stride = -(-size // n), size // n
    if stride == 0:
        raise ValueError(f"size must be at least n = {n}, got {size}: the stride would be 0")
    count = (size - window) // stride + 1
    if count != n:
        raise ValueError(
            f"size must be one at which the sliding window gives n = {n} bins, got {size}, "
            f"which gives {count} (window {window}, stride {stride})"
        )
    return [(i * stride, i * stride + window) for i in range(n)]
