"""Costs and feature sets are chosen on training images alone, by what held-out parts say."""

from statistics import mean

import pytest
import torch

from sppnet.classification import LinearSvm, View, build_classifier, holdout_split
from sppnet.classification.network import FixedNorm
from sppnet.classification.scoring import Task, class_task
from sppnet.classification.splits import Split
from sppnet.classification.transfer import selection
from sppnet.classification.transfer import svm as linear_svm
from sppnet.classification.transfer.features import FeatureSet
from sppnet.classification.transfer.fit import ExtractedRows, NetworkExtractor, fit_splits
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
    assert choice.figures[choice.option, choice.c] == max(slow.values())


def test_clearer_features_are_chosen(labels, task) -> None:
    options = [noisy_rows(labels, 30.0), noisy_rows(labels, 0.3), noisy_rows(labels, 0.3)]
    _, choice = fit_best(options, task.targets, task.figure, costs=(1.0, 3.0))
    assert (choice.option, choice.c) == (1, 1.0)  # the first of equal ones


def test_nothing_to_choose_costs_nothing(labels, task) -> None:
    _, choice = fit_best([noisy_rows(labels, 1.0)], task.targets, task.figure, costs=(7.0,))
    assert (choice.option, choice.c, choice.figures) == (0, 7.0, {})
    with pytest.raises(ValueError, match="one at least"):
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
        assert choice.option == len(options) - 1
        alone = LinearSvm(choice.c, loss).fit_targets(clear, task.targets)
        assert torch.equal(svm.weights_, alone.weights_)
        assert torch.equal(svm.bias_, alone.bias_)


def test_inner_products_of_one_feature_set_are_worked_out_once(labels, task, monkeypatch) -> None:
    calls = []

    def count(rows: torch.Tensor) -> torch.Tensor:
        calls.append(rows)
        return gram_matrix(rows)

    for module in (selection, linear_svm):
        monkeypatch.setattr(module, "gram_matrix", count)
    fit_best([noisy_rows(labels, 1.0)], task.targets, task.figure)
    assert len(calls) == 1


def test_images_to_score_on_decide_nothing(labels, task) -> None:
    """Whatever the rows of test images are, the choice and the machine stay the same bits."""
    network = build_classifier("small5", 3)
    extractor = NetworkExtractor(network.backbone, network.pool, View())
    split = Split(torch.arange(24), torch.arange(24, 36))
    results = []
    for shift in (0, 1):  # the second time, test images look like the next class
        sources = []
        for noise in (0.5, 4.0):
            rows = noisy_rows(labels, noise).repeat(1, 80)  # (36, 4800)
            rows[split.test] = rows[split.test].roll(shift, dims=0)
            kept, digests = torch.arange(36), torch.arange(36)
            sources.append(ExtractedRows(FeatureSet(rows, kept, digests, ()), extractor))
        results.append(fit_splits(sources, task, [split], costs=(1.0, 10.0)))
    first, second = results
    assert first.choices == second.choices
    assert len(first.choices[0].figures) == 4
    heads = [result.classifier.network.head.state_dict() for result in results]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert first.figures != second.figures


def test_no_split_is_refused(task) -> None:
    with pytest.raises(ValueError, match="splits must be at least one"):
        fit_splits([], task, [])
