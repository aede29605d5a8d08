"""Accuracy by hand, against loops, and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics import balanced_accuracy_score
from sklearn.metrics import confusion_matrix as sklearn_confusion

from sppnet.evaluation import (
    confusion_matrix,
    mean_class_accuracy,
    per_class_accuracy,
    top_k_accuracy,
)


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    images, classes = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    scores = draw(arrays.arrays(np.int8, (images, classes), elements=st.integers(-2, 2)))
    return scores.astype(float), draw(
        arrays.arrays(np.int64, images, elements=st.integers(0, classes - 1))
    )


@settings(deadline=None)  # a busy machine is no fault
@given(scored(), st.integers(1, 7))
def test_top_k_equals_a_stable_sort(case: tuple[np.ndarray, np.ndarray], k: int) -> None:
    scores, labels = case
    right = [
        label in sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]
        for row, label in zip(scores, labels, strict=True)
    ]
    assert top_k_accuracy(scores, labels, k) == pytest.approx(sum(right) / len(right))


def test_equal_scores_earn_no_more_than_a_guess() -> None:
    assert top_k_accuracy(np.zeros((4, 4)), [0, 1, 2, 3]) == 0.25
    assert top_k_accuracy(np.zeros((4, 4)), [0, 1, 2, 3], k=2) == 0.5


@settings(deadline=None)  # a busy machine is no fault
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_class_accuracy_equals_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    predicted, labels = np.array(pairs).T
    counts = confusion_matrix(predicted, labels, 5)
    np.testing.assert_array_equal(counts, sklearn_confusion(labels, predicted, labels=range(5)))
    present = np.unique(labels)
    recalls = [np.mean(predicted[labels == label] == label) for label in present]
    assert mean_class_accuracy(predicted, labels, 5) == pytest.approx(np.mean(recalls))
    if set(predicted) <= set(labels) and len(present) > 1:
        expected = balanced_accuracy_score(labels, predicted)
        assert mean_class_accuracy(predicted, labels, 5) == pytest.approx(expected)


def test_tensors_are_taken_too() -> None:
    scores, labels = torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1])
    assert top_k_accuracy(scores, labels) == 0.5
    assert mean_class_accuracy(scores.argmax(1), labels, 2) == 0.5


def test_nothing_gives_nan() -> None:
    assert math.isnan(top_k_accuracy(np.zeros((0, 3)), []))
    assert math.isnan(mean_class_accuracy([], [], 3))
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]
    assert confusion_matrix([], [], 0).shape == (0, 0)
    assert np.isnan(per_class_accuracy([], [], 3)).all()


@pytest.mark.parametrize(
    ("call", "rule"),
    [
        (lambda: top_k_accuracy([[float("nan")]], [0]), "scores must be finite"),
        (lambda: top_k_accuracy([0.5], [0]), r"shape \(N, C\)"),
        (lambda: top_k_accuracy([[0.5]], [1]), r"labels must be 0\.\.0, got 1"),
        (lambda: top_k_accuracy([[0.5]], [0, 0]), r"labels must have shape \(1,\)"),
        (lambda: top_k_accuracy([[0.5]], [0], k=0), "k must be at least 1"),
        (lambda: confusion_matrix([0], [0, 1], 2), "predicted must have shape"),
        (lambda: confusion_matrix([2], [0], 2), "predicted must be"),
        (lambda: confusion_matrix([0], [-1], 2), "labels must be"),
        (lambda: confusion_matrix([0.5], [0], 2), "predicted must be integers"),
        (lambda: confusion_matrix([[0]], [0], 2), r"predicted must have shape \(N,\)"),
    ],
)
def test_callers_mistakes_are_named(call, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        call()
