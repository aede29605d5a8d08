"""The SVMs reach the minimum of their objective, on either side of the Gram matrix.

Costs and feature sets are chosen on training images alone, by what held-out parts say."""

import pickle
from functools import partial
from statistics import mean

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from classification.transfer.noisy_classes import noisy_rows
from oracles.support_vectors import descend, hinge_objective
from sppnet.classification import LinearSvm, RidgeSums, holdout_split
from sppnet.classification.scoring import one_against_rest
from sppnet.classification.transfer import choice as choice_module
from sppnet.classification.transfer import svm as svm_module
from sppnet.classification.transfer.choice import DRAWS, fit_best
from sppnet.classification.transfer.svm import LOSSES, fit_dual, gram_matrix
from sppnet.config.classification import COSTS


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
    monkeypatch.setattr(svm_module, "GRAM_ROWS", 0)
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
    with pytest.raises(ValueError, match="loss must be one of hinge, squares"):
        LinearSvm(loss="cube")


def test_squares_are_ridge_regression_on_the_targets(problem) -> None:
    rows, labels = problem
    svm = LinearSvm(c=5.0, loss="squares").fit(rows, labels, 3)
    other = Ridge(alpha=1 / 5.0, solver="svd").fit(
        rows.double().numpy(), one_against_rest(labels, 3).double().numpy()
    )
    assert np.allclose(svm.weights_.numpy(), other.coef_.T, atol=1e-5)
    assert np.allclose(svm.bias_.numpy(), other.intercept_, atol=1e-5)


@pytest.mark.parametrize("solver", ["gram", "rows"])
@pytest.mark.parametrize("loss", LOSSES)
def test_images_left_out_might_as_well_not_be_there(problem, loss, solver, monkeypatch) -> None:
    rows, labels = problem
    if solver == "rows":
        monkeypatch.setattr(svm_module, "GRAM_ROWS", 0)
    targets = one_against_rest(labels, 3)
    targets[::5, 1] = 0
    kept = targets[:, 1] != 0
    fitted = LinearSvm(loss=loss).fit_targets(rows, targets)
    fewer = LinearSvm(loss=loss).fit_targets(rows[kept], targets[kept])
    assert torch.allclose(fitted.weights_[:, 1], fewer.weights_[:, 1], atol=1e-4)
    assert float(fitted.bias_[1]) == pytest.approx(float(fewer.bias_[1]), abs=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_images_may_be_of_several_classes(problem, loss) -> None:
    rows, labels = problem
    targets = torch.cat([one_against_rest(labels, 3), one_against_rest((labels == 0) + 0, 2)], 1)
    svm = LinearSvm(c=10.0, loss=loss).fit_targets(rows, targets)
    assert torch.allclose(svm.weights_[:, 0], svm.weights_[:, 4], atol=1e-5)  # the same question
    assert torch.allclose(svm.weights_[:, 0], -svm.weights_[:, 3], atol=1e-2)  # and its opposite


@pytest.mark.parametrize(("answer", "bias"), [(1, 1.0), (-1, -1.0), (0, -1.0)])
@pytest.mark.parametrize("loss", LOSSES)
def test_one_answer_only_is_given_back(problem, loss, answer, bias) -> None:
    rows, labels = problem
    targets = torch.cat([one_against_rest(labels, 3), torch.full((45, 1), answer)], dim=1)
    svm = LinearSvm(loss=loss).fit_targets(rows, targets)
    assert torch.allclose(svm.weights_[:, 3], torch.zeros(90), atol=1e-6)
    assert float(svm.bias_[3]) == pytest.approx(bias)


def test_gram_matrix_in_blocks_is_the_product(problem, monkeypatch) -> None:
    rows, _ = problem
    monkeypatch.setattr(svm_module, "GRAM_COLUMNS", 7)
    assert torch.allclose(gram_matrix(rows), rows.double() @ rows.double().T, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_dual_form_scores_like_the_weights(problem, loss) -> None:
    rows, labels = problem
    targets = one_against_rest(labels, 3)
    fit = partial(fit_dual, gram_matrix(rows), targets, 2.0)
    dual, bias = fit(loss)
    scores = (rows @ rows.T) @ dual + bias
    expected = LinearSvm(2.0, loss).fit(rows, labels, 3).decision_function(rows)
    assert torch.allclose(scores, expected, atol=1e-4)


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


def test_of_equal_costs_the_earlier_is_taken(labels, task) -> None:
    """Few images make all figures alike; the smallest cost was then a point worse than 10."""
    _, choice = fit_best([noisy_rows(labels, 0.1)], task.targets, task.figure, loss="squares")
    assert set(choice.figures.values()) == {1.0}
    assert choice.c == COSTS[0] == 10.0


def test_nothing_to_choose_costs_nothing(labels, task) -> None:
    _, choice = fit_best([noisy_rows(labels, 1.0)], task.targets, task.figure, costs=(7.0,))
    assert (choice.candidate, choice.c, choice.figures) == (0, 7.0, {})
    with pytest.raises(ValueError, match="candidates and costs must be at least one, got 0 and 5"):
        fit_best([], task.targets, task.figure)


def test_many_images_are_thinned_out(labels, task, monkeypatch) -> None:
    for module in (svm_module, choice_module):
        monkeypatch.setattr(module, "GRAM_ROWS", 20)
    rows = noisy_rows(labels, 0.1)
    first, second = (fit_best([rows], task.targets, task.figure, seed=3)[1] for _ in range(2))
    assert first == second
    assert first.figures[0, first.c] == 1.0


@pytest.mark.parametrize("loss", ["hinge", "squares"])
@pytest.mark.parametrize("limit", [20, 8000])
def test_the_fit_after_a_choice_is_a_fit_by_itself(labels, task, loss, limit, monkeypatch) -> None:
    for module in (svm_module, choice_module):
        monkeypatch.setattr(module, "GRAM_ROWS", limit)
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

    monkeypatch.setattr(choice_module, "gram_matrix", count)
    fit_best([noisy_rows(labels, 1.0)], task.targets, task.figure)
    assert len(calls) == 1


def _photos(count: int, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    labels = torch.randint(classes, (count,))
    return torch.nn.functional.normalize(torch.randn(count, 40) + labels[:, None] * 0.1), labels


def _tensors(sums: RidgeSums) -> list[torch.Tensor]:
    return [sums.products, sums.by_class, sums.images]


@pytest.mark.parametrize("shards", [1, 2, 8, 97])
def test_merged_sums_have_the_bits_of_one_pass(shards: int, monkeypatch) -> None:
    monkeypatch.setattr(svm_module, "SUM_ROWS", 64)
    rows, labels = _photos(1000)
    whole = RidgeSums(40, 5).partial_fit(rows, labels)
    parts = [
        pickle.loads(pickle.dumps(RidgeSums(40, 5).partial_fit(*some)))  # as from another machine
        for some in zip(rows.tensor_split(shards), labels.tensor_split(shards), strict=True)
    ]
    for order in (parts, parts[::-1]):
        merged = RidgeSums(40, 5)
        for part in order:
            merged.merge(part)
        assert all(map(torch.equal, _tensors(merged), _tensors(whole)))
        assert torch.equal(merged.solve(3.0).weights_, whole.solve(3.0).weights_)
        assert torch.equal(merged.solve(3.0).bias_, whole.solve(3.0).bias_)


def test_sums_solve_what_the_rows_do(monkeypatch) -> None:
    rows, labels = _photos(300)
    direct = LinearSvm(3.0, "squares").fit(rows, labels, 6)  # one class has no image
    monkeypatch.setattr(svm_module, "SUM_CLASSES", 4)
    sums = RidgeSums(40, 6).partial_fit(rows, labels).solve(3.0)
    assert torch.allclose(sums.weights_, direct.weights_, atol=1e-4)
    assert torch.allclose(sums.bias_, direct.bias_, atol=1e-4)
    monkeypatch.setattr(svm_module, "GRAM_ROWS", 100)
    large = LinearSvm(3.0, "squares").fit(rows * 7, labels, 6)  # of any length
    assert torch.allclose(
        large.decision_function(rows * 7),
        LinearSvm(3.0 * 49, "squares").fit(rows, labels, 6).decision_function(rows),
        atol=1e-3,
    )


def test_extreme_rows_overflow_nothing(monkeypatch) -> None:
    rows = torch.tensor([[1.0, -1.0]]).repeat(9000, 1)
    sums = RidgeSums(2, 2).partial_fit(rows, torch.arange(9000) % 2)
    unit = 2**40
    assert sums.products.tolist() == [[9000 * unit, -9000 * unit], [-9000 * unit, 9000 * unit]]
    assert svm_module.SUM_MOST * unit < 2**63
    assert svm_module.SUM_ROWS * unit <= 2**53


def test_rows_of_a_memmap_are_read_in_parts(tmp_path) -> None:
    rows, labels = _photos(500)
    np.save(tmp_path / "rows.npy", rows.numpy())
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    sums = RidgeSums(40, 5).partial_fit(mapped, labels)
    assert all(
        map(torch.equal, _tensors(sums), _tensors(RidgeSums(40, 5).partial_fit(rows, labels)))
    )


def test_sums_name_mistakes() -> None:
    rows, labels = _photos(10)
    sums = RidgeSums(40, 5)
    with pytest.raises(ValueError, match=r"rows must be \(N, 40\) and labels \(N,\)"):
        sums.partial_fit(rows[:, 1:], labels)
    with pytest.raises(ValueError, match=r"labels must be in 0..4"):
        sums.partial_fit(rows, labels + 5)
    for bad in (1.5, torch.nan, torch.inf):
        with pytest.raises(ValueError, match=r"rows must be finite and within 1\.0"):
            sums.partial_fit(torch.full_like(rows, bad), labels)
    with pytest.raises(ValueError, match="images must be at least 1"):
        sums.solve()
    with pytest.raises(ValueError, match="length, num_classes and largest must be"):
        sums.merge(RidgeSums(40, 5, largest=2.0))
    with pytest.raises(ValueError, match="length must be"):
        RidgeSums(9000, 5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("limit", [0, 8000])
def test_weights_count_as_copies(problem, loss, limit, monkeypatch) -> None:
    rows, labels = problem
    times = torch.arange(len(rows)) % 2 + 1
    targets = one_against_rest(labels, 3)
    monkeypatch.setattr(svm_module, "GRAM_ROWS", limit)
    one = LinearSvm(2.0, loss).fit_targets(rows, targets, weights=times.double())
    copies = [each.repeat_interleave(times, 0) for each in (rows, targets)]
    many = LinearSvm(2.0, loss).fit_targets(*copies)
    assert torch.allclose(one.weights_, many.weights_, atol=5e-3)
    assert torch.allclose(one.bias_, many.bias_, atol=5e-3)
