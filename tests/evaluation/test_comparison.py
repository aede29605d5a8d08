"""Two runs on the same photos: counted by hand, refused where they cannot be compared."""

import numpy as np
import pytest

from sppnet.errors import UsageError
from sppnet.evaluation.comparison import Change, ScoredRun, compare_runs

NAMES = ("cat", "dog")


def run(rows: list[tuple], objects: list[tuple], files: str = "abc", names=NAMES) -> ScoredRun:
    """A run of which each row is (photo, label, score, right, shown)."""
    columns = list(zip(*rows, strict=True))
    kinds = (np.int64, np.int64, np.float64, bool, bool)
    made = [np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return ScoredRun(names, tuple(files), np.array(objects), *made)


OBJECTS = [(1, 0), (1, 1), (0, 0)]
FIRST = [(0, 0, 0.9, True, True), (1, 0, 0.8, False, True), (1, 1, 0.2, True, False),
         (2, 1, 0.7, False, True)]  # fmt: skip
SECOND = [(0, 0, 0.9, True, True), (1, 0, 0.8, True, True), (1, 1, 0.6, True, True),
          (2, 1, 0.7, False, True)]  # fmt: skip


def test_measures_and_changes_are_those_counted_by_hand() -> None:
    found = compare_runs(run(FIRST, OBJECTS), run(SECOND, OBJECTS), 20, 0)
    values = {each.name: (each.first, each.second) for each in found.differences}
    assert list(values) == ["AP50", "finds", "right", "AP50 cat", "AP50 dog"]
    assert values["finds"] == pytest.approx((1 / 3, 1))
    assert values["right"] == pytest.approx((1 / 3, 3 / 4))
    assert values["AP50 cat"] == pytest.approx((0.5, 1))  # one of two, before any mistake
    assert values["AP50 dog"] == pytest.approx((0.5, 0.5))  # behind one mistake
    assert values["AP50"] == pytest.approx((0.5, 0.75))
    assert found.changes == (Change("b", (0, 1, 2), (2, 0, 0)),)
    assert found.changes[0].gain == 3
    assert (found.photos, found.left_out) == (3, 0)
    back = compare_runs(run(SECOND, OBJECTS), run(FIRST, OBJECTS), 20, 0)
    assert [each.gain for each in back.changes] == [-3]


def test_a_run_is_no_better_than_itself() -> None:
    found = compare_runs(run(FIRST, OBJECTS), run(FIRST, OBJECTS), 50, 1)
    assert found.changes == ()
    assert {(each.low, each.high) for each in found.differences} == {(0, 0)}
    assert found.verdict().startswith("no difference is shown: AP50 of B minus A is +0.000")


def test_only_photos_of_both_count_in_any_order() -> None:
    more = run([*FIRST, (3, 0, 0.99, False, True)], [*OBJECTS, (1, 0)], "abcd")
    back = [(2 - photo, *rest) for photo, *rest in SECOND]
    found = compare_runs(more, run(back, OBJECTS[::-1], "cba"), 20, 0)
    assert (found.photos, found.left_out) == (3, 1)
    same = compare_runs(run(FIRST, OBJECTS), run(SECOND, OBJECTS), 20, 0)
    assert [each[:3] for each in found.differences] == [each[:3] for each in same.differences]
    assert found.changes == same.changes


def test_runs_that_cannot_be_compared_are_refused() -> None:
    one = run(FIRST, OBJECTS)
    with pytest.raises(UsageError, match="the same classes in the same order"):
        compare_runs(one, run(FIRST, OBJECTS, names=("dog", "cat")), 5, 0)
    with pytest.raises(UsageError, match="have none in common"):
        compare_runs(one, run(FIRST, OBJECTS, "xyz"), 5, 0)
    with pytest.raises(UsageError, match="the labels of the photos differ"):
        compare_runs(one, run(FIRST, [(1, 0), (1, 2), (0, 0)]), 5, 0)


def test_the_better_run_is_named() -> None:
    objects = [(1, 0)] * 30
    good = [(photo, 0, 0.9, True, True) for photo in range(30)]
    bad = [(photo, 0, 0.9, photo % 2 == 0, True) for photo in range(30)]
    files = [f"{number:02d}" for number in range(30)]
    runs = [run(rows, objects, files) for rows in (good, bad)]
    assert compare_runs(*runs, 200, 0).verdict().startswith("A is better: AP50 of B minus A is -")
    assert compare_runs(*runs[::-1], 200, 0).verdict().startswith("B is better")
