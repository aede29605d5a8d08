"""Where bins begin and end, and where the paper's sliding window agrees."""

import re

import numpy as np
import pytest
import torch

from oracles.pyramid_loops import bin_cells, slide_window
from sppnet.pooling import bin_edges, check_levels, num_bins, sliding_window_bins
from sppnet.pooling.bins import bin_ranges

# a -> outputs of the floor-mode window; 0 where the stride would be 0
WRONG_COUNT = {
    2: {1: 0},
    3: {1: 0, 2: 0, 5: 4},
    4: {1: 0, 2: 0, 3: 0, 6: 5, 7: 6, 11: 5},
    6: dict.fromkeys(range(1, 6), 0)
    | {8: 7, 9: 8, 10: 9, 11: 10, 15: 7, 16: 7, 17: 8, 22: 7, 23: 7, 29: 7},
}
OTHER_BINS = {
    2: [],
    3: [8, 11, 14, 17, 20, 23, 26, 29, 32, 35],
    4: [10, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31, 34, 35],
    6: [14, 20, 21, 26, 27, 28, 32, 33, 34, 35],
}


@pytest.mark.parametrize("n", range(1, 9))
def test_bins_are_the_definition_cover_all_and_are_never_empty(n: int) -> None:
    for size in range(1, 41):
        edges = bin_edges(size, n)
        cells = [list(range(*edge)) for edge in edges]
        assert cells == [bin_cells(size, n, i) for i in range(n)]
        assert all(cells)
        assert set().union(*cells) == set(range(size))
        assert edges == sorted(edges)


def test_bins_of_whole_tensors_are_the_same() -> None:
    sizes = torch.arange(1, 41)
    for n in range(1, 9):
        start, end = bin_ranges(sizes[:, None], torch.arange(n), n)
        pairs = torch.stack([start, end], -1).tolist()
        assert pairs == [[list(edge) for edge in bin_edges(size, n)] for size in range(1, 41)]


@pytest.mark.parametrize(
    ("size", "n", "edges"),
    [
        (13, 6, [(0, 3), (2, 5), (4, 7), (6, 9), (8, 11), (10, 13)]),
        (13, 2, [(0, 7), (6, 13)]),
        (10, 6, [(0, 2), (1, 4), (3, 5), (5, 7), (6, 9), (8, 10)]),
        (14, 4, [(0, 4), (3, 7), (7, 11), (10, 14)]),
        (18, 4, [(0, 5), (4, 9), (9, 14), (13, 18)]),
        (1, 6, [(0, 1)] * 6),
        (2, 6, [(0, 1)] * 3 + [(1, 2)] * 3),
        (4, 6, [(0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4)]),
        # where the authors' single precision was one cell off
        (25, 5, [(0, 5), (5, 10), (10, 15), (15, 20), (20, 25)]),
        (21, 7, [(3 * i, 3 * i + 3) for i in range(7)]),
    ],
)
def test_bins_written_out(size: int, n: int, edges: list[tuple[int, int]]) -> None:
    assert bin_edges(size, n) == edges


def test_bins_of_huge_sides_are_exact() -> None:
    size = 2**61 + 7
    assert bin_edges(size, 3)[2] == (2 * size // 3, size)


@pytest.mark.parametrize("cut", [bin_edges, sliding_window_bins])
@pytest.mark.parametrize(("size", "n"), [(0, 1), (-1, 2), (3, 0), (3, -1)])
def test_bins_refuse_nothing_to_cut(cut, size: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"size and n must be at least 1, got {size} and {n}"):
        cut(size, n)


@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_sliding_window_table_of_the_paper(n: int) -> None:
    other = []
    for size in range(1, 61):
        wrong = WRONG_COUNT[n].get(size)
        if wrong == 0:
            with pytest.raises(ValueError, match=f"size must be at least n = {n}, got {size}: "):
                sliding_window_bins(size, n)
        elif wrong:
            rule = f"gives n = {n} bins, got {size}, which gives {wrong} "
            with pytest.raises(ValueError, match=rule):
                sliding_window_bins(size, n)
        elif sliding_window_bins(size, n) != bin_edges(size, n):
            other.append(size)
    assert [size for size in other if size <= 35] == OTHER_BINS[n]


@pytest.mark.parametrize("n", range(1, 9))
def test_sliding_window_is_the_recipe_and_equals_the_bins_only_for_small_remainders(n: int) -> None:
    for size in range(1, 61):
        windows = slide_window(size, n)
        if windows is None or len(windows) != n:
            with pytest.raises(ValueError, match="size must be"):
                sliding_window_bins(size, n)
            assert size < n or size % n > size // n
            continue
        assert sliding_window_bins(size, n) == windows
        assert (windows == bin_edges(size, n)) == (size % n <= 1)
        assert (windows[-1][1] == size) == (size % n <= 1)


def test_sliding_window_error_names_window_and_stride() -> None:
    with pytest.raises(ValueError, match=re.escape("which gives 9 (window 2, stride 1)")):
        sliding_window_bins(10, 6)


@pytest.mark.parametrize("levels", [[1, 2, 3, 6], (7, 5, 2), (2, 2), range(1, 4), [1]])
def test_levels_come_back_as_a_tuple_in_their_order(levels) -> None:
    assert check_levels(levels) == tuple(levels)
    assert check_levels(iter(levels)) == tuple(levels)
    assert num_bins(levels) == sum(n**2 for n in levels)


@pytest.mark.parametrize(
    "levels", [3, None, True, 2.0, "123", [1.0], [1, True], [np.int64(2)], [None]]
)
def test_levels_that_are_not_integers_are_refused(levels) -> None:
    rule = re.escape(f"levels must be a sequence of integers, got {levels!r}")
    with pytest.raises(TypeError, match=rule):
        check_levels(levels)
    if isinstance(levels, int) and not isinstance(levels, bool):
        assert num_bins(levels) == levels**2  # one level, as torch's own layers take it
        return
    rule = re.escape(
        f"levels must be a sequence of integers or pairs (rows, columns), got {levels!r}"
    )
    with pytest.raises(TypeError, match=rule):
        num_bins(levels)


@pytest.mark.parametrize("levels", [(), (0,), (1, -2), (3, 0, 1)])
def test_levels_that_cut_nothing_are_refused(levels) -> None:
    rule = re.escape(f"levels must be one or more positive integers, got {levels}")
    with pytest.raises(ValueError, match=rule):
        check_levels(list(levels))
