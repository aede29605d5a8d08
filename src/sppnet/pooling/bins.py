"""Where the bins of a pyramid level begin and end, and what may be pooled.

A level n cuts a side of L cells into n bins; bin i holds the cells from floor(i*L/n) up to, not
including, ceil((i+1)*L/n). Neighbouring bins share a cell where n does not divide L; no cell is
left out and no bin is empty, even when there are fewer cells than bins. A level (r, c) has r bins
from top to bottom and c from left to right; n stands for (n, n).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

MODES = ("max", "avg")
# A level of a pyramid: bins along each side, or (rows, columns) of them.
Level = int | tuple[int, int]

DEFAULT_LEVELS = (1, 2, 3, 6)


def check_mode(mode: str) -> str:
    """Return the name of what is kept of a bin, or list the legal ones.

    Example:
        >>> check_mode("max")
        'max'
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    return mode


def check_numbers(**values: object) -> None:
    """Refuse a text or a list where a number, or None, is meant; names the argument.

    Example:
        >>> check_numbers(stride="16")
        Traceback (most recent call last):
        TypeError: stride must be a number, got '16'
    """
    for name, value in values.items():
        if isinstance(value, Sequence):  # a text is one, too
            raise TypeError(f"{name} must be a number, got {value!r}")


def as_maps(features: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Return feature maps as a list of (N_i, C, H_i, W_i), or say why they cannot be pooled.

    Args:
        features: (N, C, H, W); a nested tensor of (C, H_i, W_i); or a sequence of (C, H_i, W_i) or
            (N_i, C, H_i, W_i).

    Returns:
        Views of the same tensors.

    Raises:
        TypeError: If there is anything but floating-point tensors.
        ValueError: If a shape is wrong, a map is empty, or channels, dtype or device differ.

    Example:
        >>> [tuple(each.shape) for each in as_maps([torch.zeros(2, 3, 4), torch.zeros(5, 2, 7, 1)])]
        [(1, 2, 3, 4), (5, 2, 7, 1)]
    """
    if isinstance(features, Tensor) and not features.is_nested:
        return [_check_map(features, "features", (4,))]
    listed = features.unbind() if isinstance(features, Tensor) else features
    if not isinstance(listed, list | tuple):
        raise TypeError(f"features must be a floating-point tensor, got {type(features).__name__}")
    if not listed:
        raise ValueError("features must hold at least one map, got none")
    maps = []
    for i, each in enumerate(listed):
        _check_map(each, f"features[{i}]", (3, 4))
        maps.append(each if each.ndim == 4 else each.unsqueeze(0))
        alike = [each.dtype == listed[0].dtype, each.device == listed[0].device]
        if not all(alike) or maps[i].shape[1] != maps[0].shape[1]:
            raise ValueError(
                "features must have one number of channels, dtype and device, got "
                f"{_kind_of(maps[0])} and, at {i}, {_kind_of(maps[i])}"
            )
    return maps


def _kind_of(features: Tensor) -> str:
    return f"{features.shape[1]} channels of {features.dtype} on {features.device}"


def _check_map(features: Tensor, name: str, dimensions: tuple[int, ...]) -> Tensor:
    """Refuse anything but a floating-point map that has cells."""
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {kind}")
    # torch.jit.trace would warn that a comparison is frozen; the operators look at every map again
    empty = not torch.jit.is_tracing() and 0 in features.shape[-2:]
    if features.ndim not in dimensions or empty:
        shape = "(N, C, H, W)" if 3 not in dimensions else "(C, H, W) or (N, C, H, W)"
        raise ValueError(
            f"{name} must have shape {shape} with H and W at least 1, got {tuple(features.shape)}"
        )
    return features


def as_rows(regions: Tensor | Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Return regions as one (K, 5) int64 tensor on the device of the maps; values unchecked.

    Example:
        >>> as_rows([torch.tensor([[0, 0, 2, 3]])], [torch.zeros(1, 1, 3, 2)])
        tensor([[0, 0, 0, 2, 3]])
    """
    rows = regions if isinstance(regions, Tensor) else _number_images(regions, maps)
    _check_integers(rows, "regions")
    if rows.ndim != 2 or rows.shape[1] != 5:
        raise ValueError(
            f"regions must have shape (K, 5), or (K, 4) in a list, got {tuple(rows.shape)}"
        )
    return rows.to(device=maps[0].device, dtype=torch.int64)


def _check_integers(regions: Tensor, name: str) -> None:
    """Refuse anything but a tensor of integers."""
    if not isinstance(regions, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(regions).__name__}")
    if regions.is_floating_point() or regions.is_complex() or regions.dtype == torch.bool:
        raise TypeError(f"{name} must be integers (cells of the map), got {regions.dtype}")


def _number_images(regions: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """Put the number of the image before the regions of each image."""
    if not isinstance(regions, Sequence) or isinstance(regions, str):
        kind = type(regions).__name__
        raise TypeError(f"regions must be a tensor, or a list of them, got {kind}")
    images, device = sum(each.shape[0] for each in maps), maps[0].device
    if len(regions) != images:
        raise ValueError(f"regions must have one tensor per image ({images}), got {len(regions)}")
    numbered = [torch.zeros(0, 5, dtype=torch.int64, device=device)]
    for i, each in enumerate(regions):
        _check_integers(each, f"regions[{i}]")
        if each.ndim != 2 or each.shape[1] != 4:
            raise ValueError(f"regions[{i}] must have shape (K, 4), got {tuple(each.shape)}")
        cells = each.to(device=device, dtype=torch.int64)
        numbered.append(torch.cat([torch.full_like(cells[:, :1], i), cells], 1))
    return torch.cat(numbered)


def check_rows(rows: Tensor, maps: Sequence[Tensor]) -> None:
    """Name the first row that is not inside its map.

    Raises:
        ValueError: If a region is empty, reversed, outside its map, or of no image.

    Example:
        >>> check_rows(torch.tensor([[0, 0, 0, 2, 4]]), [torch.zeros(1, 1, 3, 2)])
        Traceback (most recent call last):
        ValueError: regions must lie in 0 <= x0 < x1 <= 2 and 0 <= y0 < y1 <= 3 of image 0..0,
        got [0, 0, 0, 2, 4] in row 0
    """
    sizes = [tuple(each.shape[2:]) for each in maps for _ in range(len(each))]
    image, x0, y0, x1, y1 = rows.unbind(1)
    good = (image >= 0) & (image < len(sizes))
    if sizes:
        # not [...], which wakes torch's threads for ever so few rows and waits for all of them
        table = torch.tensor(sizes, device=rows.device)
        height, width = table.index_select(0, torch.where(good, image, 0)).T
        good &= (x0 >= 0) & (x0 < x1) & (x1 <= width) & (y0 >= 0) & (y0 < y1) & (y1 <= height)
    if not bool(good.all()):
        row = int((~good).nonzero()[0, 0])
        bad = rows[row].tolist()
        height, width = sizes[bad[0]] if 0 <= bad[0] < len(sizes) else maps[0].shape[2:]
        raise ValueError(
            f"regions must lie in 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height} of image "
            f"0..{len(sizes) - 1}, got {bad} in row {row}"
        )


def check_regions(
    regions: Tensor | Sequence[Tensor], features: Tensor | Sequence[Tensor]
) -> Tensor:
    """Return regions as one (K, 5) int64 tensor, or name the row that is not inside its map.

    Args:
        regions: (K, 5) integers [image, x0, y0, x1, y1], or a sequence of (K_i, 4), one per image.
        features: (N, C, H, W) maps that the regions belong to, or a sequence of maps.

    Returns:
        (K, 5) int64 on the device of the features.

    Raises:
        TypeError: If regions are not tensors of integers.
        ValueError: If a shape is wrong, or a region is empty, reversed, outside its map, or of no
            image; names the row, counted over all images.

    Example:
        >>> check_regions([torch.tensor([[0, 0, 2, 3]])], torch.zeros(1, 1, 3, 2))
        tensor([[0, 0, 0, 2, 3]])
    """
    maps = as_maps(features)
    rows = as_rows(regions, maps)
    check_rows(rows, maps)
    return rows


def check_out(out: Tensor, like: Tensor, shape: tuple[int, int]) -> None:
    """Refuse an output that the pooled vectors do not fit into as they are.

    Example:
        >>> check_out(torch.zeros(3, 50), torch.zeros(1, 1, 2, 2), (3, 50))
    """
    if not isinstance(out, Tensor):
        raise TypeError(f"out must be a tensor, got {type(out).__name__}")
    alike = out.dtype == like.dtype and out.device == like.device
    if out.shape != shape or not alike or not out.is_contiguous():
        layout = "contiguous" if out.is_contiguous() else "not contiguous"
        raise ValueError(
            f"out must be contiguous, {like.dtype} on {like.device} and of shape {shape}, "
            f"got {layout}, {out.dtype} on {out.device} and of shape {tuple(out.shape)}"
        )


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


def vector_length(channels: int, levels: int | Sequence[Level]) -> int:
    """Length of the pooled vector of maps with so many channels.

    Args:
        channels: At least 1.
        levels: As :func:`check_pyramid` takes them.

    Raises:
        TypeError: If the channels are no integer, or as :func:`check_pyramid`.
        ValueError: If there are none, or as :func:`check_pyramid`.

    Example:
        >>> vector_length(256, (1, 2, 3, 6))
        12800
    """
    if not hasattr(channels, "__index__"):  # numbers of numpy and of torch's tracers have it
        raise TypeError(f"channels must be an integer, got {channels!r}")
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    return channels * num_bins(levels)


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
