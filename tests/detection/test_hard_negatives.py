"""Mining finds the SVM that all negatives together would give; classes share rows, not fates."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC
from torch import Tensor

from sppnet.detection import HardNegativeMiner, MiningRule
from sppnet.detection.hard_negatives import NEVER, fit_linear_svm, svm_objective

RULE = MiningRule(cost=0.05, refit_after=120)


def _problem(images: int = 8, windows: int = 150, classes: int = 3, length: int = 24):
    """Positives per class; images as (features, is_negative)."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, length, generator=draw) * 0.9
    positives = [torch.randn(15, length, generator=draw) + centre for centre in centres]
    data = []
    for _ in range(images):
        features = torch.randn(windows, length, generator=draw)
        near = torch.rand(windows, generator=draw) < 0.2  # things of other classes
        of = torch.randint(classes, (windows,), generator=draw)
        features[near] += centres[of[near]]
        is_negative = torch.ones(windows, classes, dtype=torch.bool)
        is_negative[near, of[near]] = False
        data.append((features, is_negative))
    return positives, data


def _mine(positives: list[Tensor], data, rule: MiningRule = RULE) -> HardNegativeMiner:
    miner = HardNegativeMiner(positives, rule)
    for features, is_negative in data:
        is_hard = miner.choose(features @ miner.weights_ + miner.bias_, is_negative)
        kept = is_hard.any(1)
        miner.add(features[kept], is_hard[kept])
    miner.finish()
    return miner


def _all_negatives(data, label: int) -> Tensor:
    return torch.cat([features[negative[:, label]] for features, negative in data])


def _full_svm(positives: Tensor, negatives: Tensor, rule: MiningRule) -> tuple[Tensor, float]:
    """sklearn's liblinear on every negative; a large intercept scaling all but frees the bias."""
    rows = torch.cat([positives, negatives]).double().numpy()
    signs = np.r_[np.ones(len(positives)), -np.ones(len(negatives))]
    weight = {1: rule.positive_weight, -1: 1.0}
    svm = LinearSVC(
        loss="hinge", dual=True, C=rule.cost, class_weight=weight, intercept_scaling=10.0,
        tol=1e-5, max_iter=200_000, random_state=0,
    ).fit(rows, signs)  # fmt: skip
    return torch.tensor(svm.coef_[0], dtype=torch.float32), float(svm.intercept_[0])


def _objective(positives: Tensor, negatives: Tensor, weights: Tensor, bias: float, rule) -> float:
    scores = torch.cat([positives, negatives]) @ weights + bias
    return svm_objective(scores, len(positives), weights, rule)


@pytest.mark.parametrize("cost", [0.001, 0.05, 1.0])
def test_one_fit_is_the_svm_of_sklearns_other_solver(cost: float) -> None:
    rule = MiningRule(cost=cost)
    positives, data = _problem(images=2)
    for label in range(3):
        negatives = _all_negatives(data, label)
        rows = torch.cat([positives[label], negatives])
        ours = fit_linear_svm(rows, len(positives[label]), rule)
        theirs = _full_svm(positives[label], negatives, rule)
        value = _objective(positives[label], negatives, *ours, rule)
        best = _objective(positives[label], negatives, *theirs, rule)
        assert 0.99 * best <= value <= 1.01 * best


def test_mining_comes_close_to_the_svm_of_all_negatives() -> None:
    positives, data = _problem()
    miner = _mine(positives, data)
    kept = [len(rows) for rows in miner.rows_of]
    for label, rows in enumerate(positives):
        negatives = _all_negatives(data, label)
        weights, bias = _full_svm(rows, negatives, RULE)
        best = _objective(rows, negatives, weights, bias, RULE)
        found = _objective(
            rows, negatives, miner.weights_[:, label], float(miner.bias_[label]), RULE
        )
        assert 0.99 * best <= found <= 1.01 * best
        ours = negatives @ miner.weights_[:, label] + miner.bias_[label]
        agree = (ours > 0) == (negatives @ weights + bias > 0)
        assert float(agree.float().mean()) > 0.99
        assert kept[label] < 0.8 * len(negatives)  # it really left negatives out


def test_objective_is_the_sum_written_out() -> None:
    rule = MiningRule(cost=0.3, positive_weight=2.0)
    weights, bias = torch.tensor([0.5, -1.0]), 0.25
    positives, negatives = torch.tensor([[1.0, 0.0], [3.0, 1.0]]), torch.tensor([[0.0, 1.0]])
    losses = [2 * (1 - (0.5 + 0.25)), 2 * (1 - (1.5 - 1 + 0.25)), 1 + (-1 + 0.25)]
    expected = 0.3 * sum(losses) + (0.25 + 1) / 2
    assert _objective(positives, negatives, weights, bias, rule) == pytest.approx(expected)


def test_learned_objective_is_recorded_after_each_fit() -> None:
    positives, data = _problem()
    miner = _mine(positives, data)
    for label, values in enumerate(miner.objectives_):
        assert len(values) >= 2
        assert all(np.isfinite(values))
        # more negatives never make the problem easier, up to what was forgotten as easy
        assert all(b >= 0.98 * a for a, b in itertools.pairwise(values)), label


def test_class_without_positives_never_fires_and_costs_nothing() -> None:
    positives, data = _problem()
    alone = _mine(positives, data)
    with_empty = [positives[0], torch.zeros(0, 24), *positives[1:]]
    wider = [
        (rows, torch.cat([neg[:, :1], neg[:, :1] | True, neg[:, 1:]], 1)) for rows, neg in data
    ]
    miner = _mine(with_empty, wider)
    assert float(miner.bias_[1]) == NEVER
    assert not miner.weights_[:, 1].any()
    assert len(miner.rows_of[1]) == 0
    assert torch.equal(miner.weights_[:, [0, 2, 3]], alone.weights_)


def test_class_that_meets_no_negative_in_the_first_image_starts_later() -> None:
    positives, data = _problem()
    features, negative = data[0]
    negative = negative.clone()
    negative[:, 1] = False
    miner = _mine(positives, [(features, negative), *data[1:]])
    assert float(miner.bias_[1]) != NEVER
    assert float((positives[1] @ miner.weights_[:, 1] + miner.bias_[1]).mean()) > 0


def test_first_image_gives_all_negatives_later_ones_those_near_the_margin() -> None:
    positives, data = _problem()
    miner = HardNegativeMiner(positives, RULE)
    (features, negative), (later, negative_later) = data[:2]
    scores = features @ miner.weights_ + miner.bias_
    assert torch.equal(miner.choose(scores, negative), negative)
    miner.add(features, negative)
    scores = later @ miner.weights_ + miner.bias_
    chosen = miner.choose(scores, negative_later)
    for row, label in itertools.product(range(len(later)), range(3)):
        expected = bool(negative_later[row, label]) and float(scores[row, label]) > -1.0001
        assert bool(chosen[row, label]) == expected


def test_easy_negatives_are_forgotten_and_their_rows_freed() -> None:
    positives, data = _problem()
    miner = _mine(positives, data)
    negatives = torch.cat(miner.blocks)
    for label, rows in enumerate(miner.rows_of):
        scores = negatives[rows] @ miner.weights_[:, label] + miner.bias_[label]
        assert float(scores.min()) >= RULE.easy_below - 1e-4
        assert len(rows.unique()) == len(rows)
    assert len(negatives) < sum(len(features) for features, _ in data)
    hard_to_please = _mine(positives, data, MiningRule(cost=0.05, refit_after=120, easy_below=0.5))
    assert len(torch.cat(hard_to_please.blocks)) < len(negatives)


def test_classes_share_rows_as_if_each_were_alone() -> None:
    positives, data = _problem()
    together = _mine(positives, data)
    for label in range(3):
        one = [(features, negative[:, label : label + 1]) for features, negative in data]
        alone = _mine([positives[label]], one)
        assert torch.equal(alone.weights_[:, 0], together.weights_[:, label])
        assert torch.equal(alone.bias_[0], together.bias_[label])
        expected = torch.cat(alone.blocks)[alone.rows_of[0]]
        assert torch.equal(torch.cat(together.blocks)[together.rows_of[label]], expected)


def test_mining_twice_gives_the_same_bits() -> None:
    first, second = (_mine(*_problem()) for _ in range(2))
    assert torch.equal(first.weights_, second.weights_)
    assert torch.equal(first.bias_, second.bias_)


def test_refit_waits_for_enough_new_negatives() -> None:
    positives, data = _problem()
    patient = _mine(positives, data, MiningRule(cost=0.05, refit_after=10**6))
    assert [len(values) for values in patient.objectives_] == [2, 2, 2]  # first image and the end
    eager = _mine(positives, data, MiningRule(cost=0.05, refit_after=20))
    assert all(len(values) > 3 for values in eager.objectives_)


def test_image_without_windows_changes_nothing() -> None:
    positives, data = _problem()
    nothing = (torch.zeros(0, 24), torch.zeros(0, 3, dtype=torch.bool))
    assert torch.equal(_mine(positives, [nothing, *data]).weights_, _mine(positives, data).weights_)


def test_no_negative_at_all_never_fires() -> None:
    miner = _mine([torch.ones(2, 4)], [])
    assert miner.bias_.tolist() == [NEVER]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="positives must have"):
        HardNegativeMiner([])
    with pytest.raises(ValueError, match=r"is_hard must have shape \(5, 1\), got \(4, 1\)"):
        HardNegativeMiner([torch.ones(1, 3)]).add(torch.ones(5, 3), torch.ones(4, 1).bool())
