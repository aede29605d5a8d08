"""The SVMs reach the minimum of their objective, on either side of the Gram matrix."""

import numpy as np
import pytest
import torch

from oracles.support_vectors import descend, hinge_objective
from sppnet.classification import LinearSvm, linear_svm


@pytest.fixture
def problem() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.arange(3).repeat(15)
    rows = torch.nn.functional.normalize(torch.eye(3)[labels].repeat(1, 30) + torch.randn(45, 90))
    return rows, labels


def test_no_slow_solution_is_better(problem) -> None:
    rows, labels = problem
    svm = LinearSvm(c=1.0).fit(rows, labels, 3)
    x = rows.double().numpy()
    for label in range(3):
        signs = np.where(labels.numpy() == label, 1.0, -1.0)
        fast = (svm.weights_[:, label].double().numpy(), float(svm.bias_[label]))
        slow = descend(x, signs, 1.0)
        low, high = hinge_objective(*fast, x, signs, 1.0), hinge_objective(*slow, x, signs, 1.0)
        assert low <= high * 1.0005
        assert low == pytest.approx(high, rel=0.02)  # and the slow one nearly gets there


def test_order_of_the_rows_does_not_matter(problem) -> None:
    rows, labels = problem
    order = torch.randperm(len(rows))
    a = LinearSvm().fit(rows, labels, 3).decision_function(rows)
    b = LinearSvm().fit(rows[order], labels[order], 3).decision_function(rows)
    assert torch.allclose(a, b, atol=5e-3)


def test_both_solvers_agree_on_the_classes(problem, monkeypatch) -> None:
    rows, labels = problem
    by_gram = LinearSvm().fit(rows, labels, 3).decision_function(rows)
    monkeypatch.setattr(linear_svm, "GRAM_ROWS", 0)
    by_rows = LinearSvm().fit(rows, labels, 3).decision_function(rows)
    assert torch.equal(by_gram.argmax(1), by_rows.argmax(1))


def test_class_without_images_is_never_chosen(problem) -> None:
    rows, labels = problem
    svm = LinearSvm().fit(rows, labels, 4)
    assert torch.equal(svm.weights_[:, 3], torch.zeros(90))
    assert float(svm.bias_[3]) == -1


def test_repeated_fit_gives_the_same_bits(problem) -> None:
    first, second = (LinearSvm().fit(*problem, 3).weights_ for _ in range(2))
    assert torch.equal(first, second)


def test_hostile_input_is_named(problem) -> None:
    rows, labels = problem
    bad = rows.clone()
    bad[7, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity in row 7"):
        LinearSvm().fit(bad, labels, 3)
    with pytest.raises(ValueError, match=r"labels must be in 0..1"):
        LinearSvm().fit(rows, labels, 2)
    with pytest.raises(ValueError, match="N at least 1"):
        LinearSvm().fit(rows[:0], labels[:0], 3)
    with pytest.raises(ValueError, match="c must be above 0"):
        LinearSvm(c=0)
