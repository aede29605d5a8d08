"""Costs and feature sets are chosen on training images alone, by what held-out parts say."""

from statistics import mean

import pytest
import torch

from sppnet.classification import LinearSvm, holdout_split
from sppnet.classification.network import FixedNorm
from sppnet.classification.scoring import Task, class_task
from sppnet.classification.transfer import selection
from sppnet.classification.transfer import svm as linear_svm
from sppnet.classification.transfer.selection import DRAWS, fit_best
from sppnet.classification.transfer.svm import gram_matrix

NAMES = ("a", "b", "c")


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.arange(3).repeat(12)


@pytest.fixture
def task(labels: torch.Tensor) -> Task:
    return class_task(labels, NAMES)


def noisy_rows(labels: torch.Tensor, noise: float, seed: int = 0) -> torch.Tensor:
    """Rows of length 1 that say the class more or less clearly."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.eye(3)[labels].repeat(1, 20)
    return FixedNorm()(rows + noise * torch.randn(rows.shape, generator=generator))


@pytest.mark.parametrize("loss", ["hinge", "squares"])
def test_figures_are_those_of_separate_fits(labels, task, loss) -> None:
    options = [noisy_rows(labels, 3.0), noisy_rows(labels, 2.0, seed=1)]
    _, choice = fit_best(options, task.targets, task.figure, costs=(0.5, 5.0), loss=loss, seed=4)
    slow = {}
    for option, rows in enumerate(options):
        for c in (0.5, 5.0):
            found = []
            for draw in range(DRAWS):
                split = holdout_split(labels, seed=4 + draw)
                svm = LinearSvm(c, loss).fit(rows[split.train], labels[split.train], 3)
                best = svm.decision_function(rows[split.test]).argmax(dim=1)
                hit = best == labels[split.test]
                found.append(
                    mean(float(hit[labels[split.test] == k].float().mean()) for k in range(3))
                )
            slow[option, c] = mean(found)
    assert choice.figures == pytest.approx(slow)
    assert choice.figures[choice.candidate, choice.c] == max(slow.values())


def test_clearer_features_are_chosen(labels, task) -> None:
    options = [noisy_rows(labels, 30.0), noisy_rows(labels, 0.3), noisy_rows(labels, 0.3)]
    _, choice = fit_best(options, task.targets, task.figure, costs=(1.0, 3.0))
    assert (choice.candidate, choice.c) == (1, 1.0)  # the first of equal ones


def test_nothing_to_choose_costs_nothing(labels, task) -> None:
    _, choice = fit_best([noisy_rows(labels, 1.0)], task.targets, task.figure, costs=(7.0,))
    assert (choice.candidate, choice.c, choice.figures) == (0, 7.0, {})
    with pytest.raises(ValueError, match="candidates and costs must be at least one, got 0 and 5"):
        fit_best([], task.targets, task.figure)


def test_many_images_are_thinned_out(labels, task, monkeypatch) -> None:
    monkeypatch.setattr(selection, "GRAM_ROWS", 20)
    rows = noisy_rows(labels, 0.1)
    first, second = (fit_best([rows], task.targets, task.figure, seed=3)[1] for _ in range(2))
    assert first == second
    assert first.figures[0, first.c] == 1.0


@pytest.mark.parametrize("loss", ["hinge", "squares"])
@pytest.mark.parametrize("limit", [20, 8000])
def test_the_fit_after_a_choice_is_a_fit_by_itself(labels, task, loss, limit, monkeypatch) -> None:
    monkeypatch.setattr(selection, "GRAM_ROWS", limit)
    clear, dim = noisy_rows(labels, 0.3), noisy_rows(labels, 30.0)
    for options in ([clear], [dim, clear]):
        svm, choice = fit_best(options, task.targets, task.figure, loss=loss, seed=2)
        assert choice.candidate == len(options) - 1
        alone = LinearSvm(choice.c, loss).fit_targets(clear, task.targets)
        assert torch.equal(svm.weights_, alone.weights_)
        assert torch.equal(svm.bias_, alone.bias_)


def test_inner_products_of_one_feature_set_are_computed_once(labels, task, monkeypatch) -> None:
    calls = []

    def count(rows: torch.Tensor) -> torch.Tensor:
        calls.append(rows)
        return gram_matrix(rows)

    for module in (selection, linear_svm):
        monkeypatch.setattr(module, "gram_matrix", count)
    fit_best([noisy_rows(labels, 1.0)], task.targets, task.figure)
    assert len(calls) == 1
