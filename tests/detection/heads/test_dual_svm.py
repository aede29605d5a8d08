"""Block ascent reaches the optimum of a slow solver, never goes down, and forgets without harm."""

import numpy as np
import pytest
import torch
from torch import Tensor

from oracles.support_vectors import descend, hinge_objective
from sppnet.detection.heads import example_blocks
from sppnet.detection.heads.dual_svm import BLOCK, DualCoordinateDescentSvm
from sppnet.errors import UsageError

COST = 0.001


def _rows(count: int = 3 * BLOCK + 7, length: int = 6) -> tuple[Tensor, np.ndarray]:
    """Rows of two classes that overlap, exact in float16, and their signs."""
    draw = torch.Generator().manual_seed(0)
    signs = torch.where(torch.rand(count, generator=draw) < 0.3, 1.0, -1.0)
    rows = 8 * torch.randn(count, length, generator=draw) + 4 * signs[:, None]
    return rows.half().float(), signs.double().numpy()


def _bounds(signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.where(signs < 0, -COST, 0.0)[:, None],
        np.where(signs > 0, COST, 0.0)[:, None],
    )


def _fitted(bias_factor: float, tolerance: float = 1e-7) -> tuple[DualCoordinateDescentSvm, float]:
    rows, signs = _rows()
    svms = DualCoordinateDescentSvm(rows.shape[1], 1, bias_factor)
    svms.add(rows, *_bounds(signs))
    return svms, *svms.fit([0], tolerance)


def test_optimum_is_that_of_subgradient_descent() -> None:
    rows, signs = _rows()
    weights, bias = descend(rows.double().numpy(), signs, COST, steps=40_000)
    best = hinge_objective(weights, bias, rows.double().numpy(), signs, COST)
    svms, value = _fitted(bias_factor=10.0)
    assert 0.97 * best <= value <= 1.001 * best  # descent never quite arrives
    assert svms.weights[0].numpy() == pytest.approx(weights, abs=0.01)


@pytest.mark.parametrize("bias_factor", [0.0, 1.0, 10.0])
def test_dual_and_primal_meet(bias_factor: float) -> None:
    svms, value = _fitted(bias_factor)
    assert svms.dual_objective(0) <= value * (1 + 1e-6)
    assert svms.dual_objective(0) == pytest.approx(value, rel=2e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 65_520.0])
def test_rows_that_are_not_finite_as_they_are_kept_are_no_silent_nan(value: float) -> None:
    rows, signs = _rows()
    rows[5, 2] = value
    svms = DualCoordinateDescentSvm(rows.shape[1], 1)
    svms.add(rows, *_bounds(signs))
    with pytest.raises(UsageError, match="must be finite and below 65,520"):
        svms.fit([0], 1e-3)


def test_objective_is_the_sum_written_out() -> None:
    svms, value = _fitted(bias_factor=2.0)
    rows, signs = _rows()
    weights, bias = svms.weights[0].double().numpy(), float(svms.bias[0])
    written = hinge_objective(weights, bias, rows.double().numpy(), signs, COST)
    assert value == pytest.approx(written + 0.5 * (bias / 2.0) ** 2, rel=1e-5)


def test_weights_are_the_sum_of_the_rows_by_their_dual_variables() -> None:
    svms, _ = _fitted(bias_factor=3.0)
    total = sum(
        svms.store.take(block.places[block.rows]).double().T @ torch.from_numpy(block.duals)
        for block in svms.blocks
    )
    assert torch.allclose(total.float(), svms.weights[0], atol=1e-5)
    of_bias = 9 * sum(block.duals.sum() for block in svms.blocks)
    assert float(svms.bias[0]) == pytest.approx(of_bias, abs=1e-4)


def test_dual_objective_never_falls() -> None:
    rows, signs = _rows()
    svms = DualCoordinateDescentSvm(rows.shape[1], 1)
    svms.add(rows, *_bounds(signs))
    svms._mix()
    values = [0.0]
    for _ in range(12):
        party = svms._gather(np.array([0]))
        (gain,) = svms._sweep(party, 0)
        svms._scatter(party)
        values.append(svms.dual_objective(0))
        assert gain >= 0
        assert values[-1] == pytest.approx(values[-2] + gain, abs=1e-4)


def test_going_on_with_more_rows_ends_where_a_fresh_fit_ends() -> None:
    rows, signs = _rows()
    low, high = _bounds(signs)
    svms = DualCoordinateDescentSvm(rows.shape[1], 1)
    for part in np.array_split(np.arange(len(rows)), 5):
        svms.add(rows[torch.from_numpy(part)], low[part], high[part])
        (value,) = svms.fit([0], 1e-7)
    assert value == pytest.approx(_fitted(bias_factor=10.0)[1], rel=2e-3)
    assert svms.num_rows == len(rows)


def test_forgetting_what_does_not_press_leaves_the_solution() -> None:
    svms, value = _fitted(bias_factor=10.0)
    (before,), weights = svms.count_examples(-1), svms.weights.clone()
    svms.forget([0], below=-1.02)
    svms.compact()
    (after,) = svms.count_examples(-1)
    assert 0 < after < before
    assert svms.num_rows < len(_rows()[0])
    assert svms.fit([0], 1e-7) == pytest.approx([value], rel=2e-3)
    assert torch.allclose(svms.weights, weights, atol=0.02)


def test_rows_of_other_classes_do_not_matter() -> None:
    rows, signs = _rows()
    low, high = (np.pad(bound, ((0, 0), (0, 1))) for bound in _bounds(signs))
    svms = DualCoordinateDescentSvm(rows.shape[1], 2)
    svms.add(rows, low, high)
    svms.add(rows.flip(1) * 3, np.roll(low, 1, axis=1), np.roll(high, 1, axis=1))
    assert svms.fit([0], 1e-7) == pytest.approx([_fitted(bias_factor=10.0)[1]], rel=2e-3)
    assert not svms.weights[1].any()


def test_what_is_dropped_leaves_the_solution_of_the_rest() -> None:
    rows, signs = _rows()
    low, high = _bounds(signs)
    svms = DualCoordinateDescentSvm(rows.shape[1], 1)
    third = len(rows) // 3
    svms.add(rows[:third], low[:third], high[:third], owner=7)
    svms.add(rows[third:], low[third:], high[third:], owner=8)
    svms.fit([0], tolerance=1e-7)
    assert svms.drop([7]) == [0]
    (value,) = svms.fit([0], tolerance=1e-7)
    other = DualCoordinateDescentSvm(rows.shape[1], 1)
    other.add(rows[third:], low[third:], high[third:])
    assert [value] == pytest.approx(other.fit([0], tolerance=1e-7), rel=1e-4)
    assert svms.weights[0].numpy() == pytest.approx(other.weights[0].numpy(), abs=2e-3)
    assert svms.drop([7]) == []  # nothing of it is left
    assert svms.count_examples(1) == [int((signs[third:] > 0).sum())]


def test_dropping_all_rows_leaves_nothing_behind() -> None:
    rows, signs = _rows()
    svms = DualCoordinateDescentSvm(rows.shape[1], 1)
    svms.add(rows, *_bounds(signs), owner=3)
    svms.fit([0], tolerance=1e-4)
    assert float(svms.weights.norm()) > 0.01
    svms.drop([3])
    assert float(svms.weights.abs().max()) < 1e-5
    assert float(svms.bias.abs().max()) < 1e-3


def test_more_classes_leave_the_others_as_they_are() -> None:
    rows, signs = _rows()
    svms = DualCoordinateDescentSvm(rows.shape[1], 1)
    svms.add(rows, *_bounds(signs), owner=1)
    svms.fit([0], tolerance=1e-6)
    before = svms.weights[0].clone()
    svms.grow(2)
    low, high = _bounds(-signs)
    svms.add(rows, np.pad(low, ((0, 0), (1, 0))), np.pad(high, ((0, 0), (1, 0))), owner=2)
    svms.fit([1], tolerance=1e-6)
    assert torch.equal(svms.weights[0], before)
    weights, _ = descend(rows.double().numpy(), -signs, COST, steps=20_000)
    assert svms.weights[1].numpy() == pytest.approx(weights, abs=0.02)
    with pytest.raises(ValueError, match="at least 2"):
        svms.grow(1)


def test_a_copy_goes_its_own_way_and_shares_the_features() -> None:
    rows, signs = _rows()
    svms = DualCoordinateDescentSvm(rows.shape[1], 1)
    svms.add(rows[:100], *(part[:100] for part in _bounds(signs)), owner=1)
    svms.add(rows[100:], *(part[100:] for part in _bounds(signs)), owner=2)
    svms.fit([0], tolerance=1e-5)
    before, duals = svms.weights.clone(), [block.duals.copy() for block in svms.blocks]
    other = svms.copy()
    assert other.store._parts[0] is svms.store._parts[0]
    other.drop([1])
    other.fit([0], tolerance=1e-5)
    assert torch.equal(svms.weights, before)
    assert all(np.array_equal(a, b.duals) for a, b in zip(duals, svms.blocks, strict=True))
    assert not torch.equal(other.weights, before)


def test_classes_that_use_few_rows_take_little_memory() -> None:
    classes = 2000
    svms = DualCoordinateDescentSvm(length=8, num_classes=classes)
    rows, labels = torch.randn(classes, 8), np.arange(classes)
    high, low = np.zeros((classes, classes)), np.zeros((classes, classes))
    high[labels, labels], low[labels, labels - 1] = COST, -COST
    svms.add(rows, low, high)
    svms.fit([5], tolerance=1e-3)
    assert svms.num_duals == 2 * classes
    assert svms.count_examples(1) == svms.count_examples(-1) == [1] * classes


def _several(length: int, classes: int, capacity: int | None) -> DualCoordinateDescentSvm:
    """SVMs of several classes that use some of the rows each; another one uses none."""
    draw = np.random.default_rng(length)
    count = 2 * BLOCK + 9
    kind = draw.integers(0, 3, (count, classes + 1)) - 1  # -1 a negative, 0 not used, 1 a positive
    kind[:, 0] = 0
    centres = draw.normal(size=(classes + 1, length))
    rows = torch.from_numpy(draw.normal(size=(count, length)) + kind @ centres).half().float()
    svms = DualCoordinateDescentSvm(length, classes + 1, capacity=capacity)
    svms.add(rows, np.minimum(kind, 0) * 0.01, np.maximum(kind, 0) * 0.02)
    return svms


@pytest.mark.parametrize("capacity", [None, 40])  # rows in one stretch of memory, and in several
@pytest.mark.parametrize(("length", "classes"), [(1, 1), (40, 7), (1024, 2), (2077, 1), (2100, 5)])
def test_compiled_visits_do_what_plain_ones_do(
    length: int, classes: int, capacity: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert example_blocks._compiled() is not None
    labels, found, sweeps = list(range(1, classes + 1)), [], []
    for way in (example_blocks._compiled, lambda: None):
        monkeypatch.setattr(example_blocks, "_compiled", way)
        svms = _several(length, classes, capacity)
        svms._mix()
        party, steps = svms._gather(np.array(labels)), []
        for only_active in (False, True):
            steps.append(svms._sweep(party, 0, only_active=only_active))
        svms._scatter(party)
        sweeps.append((steps, svms.weights.clone(), svms.bias.clone()))
        svms.fit(labels[::-1], tolerance=1e-9)
        svms.forget(labels, below=-1.2)
        found.append((svms.weights, svms.bias, svms.count_examples(-1)))
    for one, other in zip(sweeps[0], sweeps[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)
    assert torch.allclose(found[0][0], found[1][0], atol=2e-3)
    assert torch.allclose(found[0][1], found[1][1], atol=2e-3)
    assert found[0][2][0] == found[1][2][0] == 0
    assert not found[0][0][0].any()


def test_threads_do_not_change_a_bit_of_a_fit() -> None:
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        svms = _several(5000, 4, None)
        svms.fit([1, 2, 4], tolerance=1e-4)
        found.append(svms.weights)
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_classes_that_are_fitted_together_end_where_each_ends_alone() -> None:
    rows, signs = _rows()
    low, high = _bounds(signs)
    other_low, other_high = _bounds(np.roll(signs, 40))
    together = DualCoordinateDescentSvm(rows.shape[1], 2)
    together.add(rows, np.hstack([low, other_low]), np.hstack([high, other_high]))
    values = together.fit([1, 0], tolerance=1e-7)
    for label, bounds in enumerate([(low, high), (other_low, other_high)]):
        alone = DualCoordinateDescentSvm(rows.shape[1], 1)
        alone.add(rows, *bounds)
        assert [values[1 - label]] == pytest.approx(alone.fit([0], tolerance=1e-7), rel=1e-3)
        assert torch.allclose(together.weights[label], alone.weights[0], atol=0.01)
