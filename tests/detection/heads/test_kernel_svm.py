"""The kernel classifier solves its system, separates what no plane does, and mines negatives."""

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor

from sppnet.detection.heads.kernel_svm import (
    KernelSvmConfig,
    fit_kernel,
    gaussian_kernel,
    mine_kernel,
)
from sppnet.errors import NothingUsableError


def _rings(count: int = 400) -> tuple[Tensor, Tensor]:
    """A disc inside a ring: (N, 2) rows and whether each lies in the disc."""
    draw = torch.Generator().manual_seed(0)
    angle = torch.rand(count, generator=draw) * 2 * torch.pi
    is_inside = torch.arange(count) % 4 == 0
    radius = torch.where(is_inside, 1.0, 3.0) + 0.2 * torch.randn(count, generator=draw)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), is_inside


def _targets(is_inside: Tensor) -> Tensor:
    return torch.stack([is_inside.float(), (~is_inside).float()], 1) * 2 - 1


def test_kernel_is_the_formula_pair_by_pair() -> None:
    rows, _ = _rings(12)
    found = gaussian_kernel(rows, rows[:5], 1.3)
    for i in range(12):
        for j in range(5):
            distance = float((rows[i] - rows[j]).square().sum())
            assert float(found[i, j]) == pytest.approx(np.exp(-distance / (2 * 1.69)), abs=1e-5)


def test_all_rows_as_centres_give_kernel_ridge_regression() -> None:
    rows, is_inside = _rings(60)
    config = KernelSvmConfig(
        centres=60, strength=1e-2, positive_share=0.25
    )  # the share that they have
    classifier = fit_kernel(rows, _targets(is_inside)[:, :1], config)
    ridge = KernelRidge(alpha=60 * 1e-2, kernel="rbf", gamma=1 / (2 * classifier.width**2))
    ridge.fit(rows.double().numpy(), _targets(is_inside)[:, 0].double().numpy() + 1)
    expected = ridge.predict(rows.double().numpy()) - 1
    assert classifier.decision_function(rows)[:, 0].numpy() == pytest.approx(expected, abs=0.02)


def test_solution_has_no_gradient_left() -> None:
    rows, is_inside = _rings(80)
    config = KernelSvmConfig(centres=20, strength=1e-3)
    classifier = fit_kernel(rows, _targets(is_inside), config)
    likeness = gaussian_kernel(rows, classifier.centres, classifier.width).double()
    among = gaussian_kernel(classifier.centres, classifier.centres, classifier.width).double()
    shares = torch.where(is_inside, 0.3 / is_inside.sum(), 0.7 / (~is_inside).sum()).double()
    weights = classifier.weights[:, 0].double().requires_grad_()
    errors = likeness @ weights - (_targets(is_inside)[:, 0].double() + 1)
    loss = (shares * errors.square()).sum() + config.strength * weights @ among @ weights
    (gradient,) = torch.autograd.grad(loss, weights)
    assert float(gradient.abs().max()) < 1e-4


def test_disc_and_ring_are_told_apart_and_far_proposals_are_neither() -> None:
    rows, is_inside = _rings()
    classifier = fit_kernel(rows, _targets(is_inside), KernelSvmConfig(centres=40, width=0.5))
    scores = classifier.decision_function(rows)
    assert float(((scores[:, 0] > 0) == is_inside).float().mean()) > 0.98
    assert float(((scores[:, 1] > 0) != is_inside).float().mean()) > 0.98
    assert classifier.decision_function(torch.full((1, 2), 1e3)).tolist() == [[-1.0, -1.0]]


@pytest.mark.parametrize("batch", [30, 10**6])
def test_mining_in_batches_comes_close_to_all_at_once(batch: int) -> None:
    rows, is_inside = _rings()
    inside, outside = rows[is_inside], rows[~is_inside]
    images = [(part, torch.ones(len(part), 1, dtype=torch.bool)) for part in outside.split(20)]
    config = KernelSvmConfig(centres=60, width=0.5, batch=batch)
    classifier = mine_kernel([inside], images, config)
    assert float((classifier.decision_function(rows)[:, 0] > 0).eq(is_inside).float().mean()) > 0.98


def test_class_without_positives_never_fires() -> None:
    rows, is_inside = _rings()
    images = [(rows[~is_inside], torch.ones(300, 2, dtype=torch.bool))]
    classifier = mine_kernel([rows[is_inside], rows[:0]], images, KernelSvmConfig(centres=40))
    assert bool((classifier.decision_function(rows)[:, 1] == -1).all())


def test_same_seed_gives_the_same_bits_and_nothing_to_learn_is_refused() -> None:
    rows, is_inside = _rings()
    first, second = (
        fit_kernel(rows, _targets(is_inside), KernelSvmConfig(centres=9)) for _ in "ab"
    )
    assert torch.equal(first.weights, second.weights)
    with pytest.raises(NothingUsableError, match="no proposal shows an object"):
        fit_kernel(rows, torch.full((400, 1), -1.0), KernelSvmConfig())
