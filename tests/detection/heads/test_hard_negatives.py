"""Mining finds the SVM that all negatives together would give; classes share rows, not fates.

A sample holds every row with the same chance, in order, within its limit."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC
from torch import Tensor

from sppnet.detection import HardNegativeMiner, MiningConfig
from sppnet.detection.heads.hard_negatives import NEVER, ReservoirSample

CONFIG = MiningConfig(cost=0.003, refit_after=120)


def _problem(images: int = 8, proposals: int = 150, classes: int = 3, length: int = 24):
    """Positives per class; images as (features, is_negative)."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, length, generator=draw) * 0.9
    positives = [torch.randn(15, length, generator=draw) + centre for centre in centres]
    data = []
    for _ in range(images):
        features = torch.randn(proposals, length, generator=draw)
        near = torch.rand(proposals, generator=draw) < 0.2  # things of other classes
        of = torch.randint(classes, (proposals,), generator=draw)
        features[near] += centres[of[near]]
        is_negative = torch.ones(proposals, classes, dtype=torch.bool)
        is_negative[near, of[near]] = False
        data.append((4 * features, is_negative))
    return [4 * rows for rows in positives], data  # of mean length 20, as the trainer scales them


def _mine(positives: list[Tensor], data, config: MiningConfig = CONFIG) -> HardNegativeMiner:
    miner = HardNegativeMiner(positives, config)
    for features, is_negative in data:
        is_hard = miner.choose(features @ miner.weights_ + miner.bias_, is_negative)
        kept = is_hard.any(1)
        miner.add(features[kept], is_hard[kept])
    miner.finish()
    return miner


def _all_negatives(data, label: int) -> Tensor:
    return torch.cat([features[negative[:, label]] for features, negative in data])


def _full_svm(positives: Tensor, negatives: Tensor, config: MiningConfig) -> tuple[Tensor, float]:
    """sklearn's liblinear on every negative; a large intercept scaling all but frees the bias."""
    rows = torch.cat([positives, negatives]).double().numpy()
    signs = np.r_[np.ones(len(positives)), -np.ones(len(negatives))]
    weight = {1: config.positive_weight, -1: 1.0}
    svm = LinearSVC(
        loss="hinge", dual=True, C=config.cost, class_weight=weight, intercept_scaling=10.0,
        tol=1e-5, max_iter=200_000, random_state=0,
    ).fit(rows, signs)  # fmt: skip
    return torch.tensor(svm.coef_[0], dtype=torch.float32), float(svm.intercept_[0])


def _objective(positives: Tensor, negatives: Tensor, weights: Tensor, bias: float, config) -> float:
    """Half the squares of weights and bias / 10, plus the weighted hinge losses."""
    scores = torch.cat([positives, negatives]).double() @ weights.double() + bias
    losses = config.positive_weight * (1 - scores[: len(positives)]).clamp(min=0).sum()
    losses += (1 + scores[len(positives) :]).clamp(min=0).sum()
    squares = weights.double().square().sum() + (bias / 10) ** 2
    return float(0.5 * squares + config.cost * losses)


@pytest.mark.parametrize("cost", [0.0003, 0.001, 0.003])
def test_one_fit_is_the_svm_of_sklearn(cost: float) -> None:
    config = MiningConfig(cost=cost, tolerance=1e-5, refit_after=10**6)
    positives, data = _problem(images=2)
    features = torch.cat([rows for rows, _ in data])
    negative = torch.cat([flags for _, flags in data])
    miner = HardNegativeMiner(positives, config)
    miner.add(features, negative)
    miner.finish()
    for label in range(3):
        negatives = _all_negatives(data, label)
        theirs = _full_svm(positives[label], negatives, config)
        ours = miner.weights_[:, label], float(miner.bias_[label])
        value = _objective(positives[label], negatives, *ours, config)
        best = _objective(positives[label], negatives, *theirs, config)
        assert 0.999 * best <= value <= 1.005 * best
        assert float((ours[0] - theirs[0]).norm() / theirs[0].norm()) < 0.05


def test_mining_comes_close_to_the_svm_of_all_negatives() -> None:
    positives, data = _problem()
    miner = _mine(positives, data)
    kept = miner.held
    for label, rows in enumerate(positives):
        negatives = _all_negatives(data, label)
        weights, bias = _full_svm(rows, negatives, CONFIG)
        best = _objective(rows, negatives, weights, bias, CONFIG)
        found = _objective(
            rows, negatives, miner.weights_[:, label], float(miner.bias_[label]), CONFIG
        )
        assert 0.99 * best <= found <= 1.03 * best
        ours = negatives @ miner.weights_[:, label] + miner.bias_[label]
        agree = (ours > 0) == (negatives @ weights + bias > 0)
        assert float(agree.float().mean()) > 0.99
        assert kept[label] < 0.8 * len(negatives)  # it really left negatives out


def test_learned_objective_is_recorded_after_each_fit() -> None:
    positives, data = _problem()
    miner = _mine(positives, data)
    for label, values in enumerate(miner.objectives_):
        assert len(values) >= 2
        assert all(np.isfinite(values))
        # more negatives never make the problem easier, up to what was forgotten as easy
        assert all(b >= 0.95 * a for a, b in itertools.pairwise(values)), label


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
    assert miner.held[1] == 0
    others = miner.weights_[:, [0, 2, 3]]
    assert float((others - alone.weights_).norm() / alone.weights_.norm()) < 0.1


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
    miner = HardNegativeMiner(positives, CONFIG)
    (features, negative), (later, negative_later) = data[:2]
    scores = features @ miner.weights_ + miner.bias_
    assert torch.equal(miner.choose(scores, negative), negative)
    miner.add(features, negative)
    scores = later @ miner.weights_ + miner.bias_
    chosen = miner.choose(scores, negative_later)
    for row, label in itertools.product(range(len(later)), range(3)):
        expected = bool(negative_later[row, label]) and float(scores[row, label]) > -1.0001
        assert bool(chosen[row, label]) == expected


def test_easy_negatives_are_forgotten() -> None:
    positives, data = _problem()
    miner = _mine(positives, data)
    for label in range(3):
        scores = _all_negatives(data, label) @ miner.weights_[:, label] + miner.bias_[label]
        inside = int((scores > -1 + 0.02).sum())
        assert inside <= miner.held[label] <= int((scores > CONFIG.easy_below - 0.1).sum())
    choosy = _mine(positives, data, MiningConfig(cost=0.003, refit_after=120, easy_below=-1.0))
    assert sum(choosy.held) < sum(miner.held)


def test_classes_share_rows_as_if_each_were_alone() -> None:
    positives, data = _problem()
    config = MiningConfig(cost=0.003, refit_after=120, tolerance=1e-6)
    together = _mine(positives, data, config)
    for label in range(3):
        one = [(features, negative[:, label : label + 1]) for features, negative in data]
        alone = _mine([positives[label]], one, config)
        apart = alone.weights_[:, 0] - together.weights_[:, label]
        assert float(apart.norm() / alone.weights_.norm()) < 0.05
        assert alone.held[0] == pytest.approx(together.held[label], rel=0.1)


def test_sample_of_the_positives_weighs_as_much_as_all() -> None:
    positives, data = _problem(classes=1)
    twice = _mine([positives[0].repeat(2, 1)], data)
    sample = HardNegativeMiner(positives, CONFIG, counts=[30])
    for features, negative in data:
        chosen = sample.choose(features @ sample.weights_ + sample.bias_, negative)
        sample.add(features, chosen)
    sample.finish()
    assert sample.objectives_[0][-1] == pytest.approx(twice.objectives_[0][-1], rel=0.02)


def test_budget_holds_whatever_the_number_of_images() -> None:
    positives, data = _problem(images=30)
    config = MiningConfig(cost=0.003, refit_after=120, budget_bytes=400 * 2 * 24)
    free, bound = _mine(positives, data), HardNegativeMiner(positives, config)
    for features, negative in data:
        chosen = bound.choose(features @ bound.weights_ + bound.bias_, negative)
        bound.add(features, chosen)
        assert sum(bound.held) <= 3 * 400
        assert bound._svms.num_rows <= 400
    bound.finish()
    for label in range(3):
        negatives = _all_negatives(data, label)
        best, found = (
            _objective(
                positives[label], negatives, m.weights_[:, label], m.bias_[label].item(), config
            )
            for m in (free, bound)
        )
        assert found < 1.2 * best


def test_nothing_fits_into_a_tiny_budget_and_nothing_breaks() -> None:
    positives, data = _problem(classes=1)
    miner = _mine(positives, data, MiningConfig(cost=0.003, budget_bytes=2))
    assert miner.held == [0]
    assert miner.bias_.tolist() == [NEVER]


def test_mining_twice_gives_the_same_bits() -> None:
    first, second = (_mine(*_problem()) for _ in range(2))
    assert torch.equal(first.weights_, second.weights_)
    assert torch.equal(first.bias_, second.bias_)


def test_refit_waits_for_enough_new_negatives() -> None:
    positives, data = _problem()
    patient = _mine(positives, data, MiningConfig(cost=0.003, refit_after=10**6))
    assert [len(values) for values in patient.objectives_] == [2, 2, 2]  # first image and the end
    eager = _mine(positives, data, MiningConfig(cost=0.003, refit_after=20))
    assert all(len(values) > 3 for values in eager.objectives_)


def test_image_without_proposals_changes_nothing() -> None:
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


def _sampled(limit: int, count: int, seed: int, step: int = 7) -> torch.Tensor:
    sample = ReservoirSample(limit, 1)
    draw = torch.Generator().manual_seed(seed)
    for rows in torch.arange(float(count))[:, None].split(step):
        taken, slots = sample.add(rows, draw)
        assert torch.equal(sample._rows[slots, 0], rows[taken, 0].half())
        assert len(slots.unique()) == len(slots)
        assert len(sample.take()) == min(limit, sample.seen)
    assert sample.seen == count
    return sample.take()[:, 0].long()


def test_every_row_has_the_same_chance() -> None:
    counts = sum(torch.bincount(_sampled(10, 50, seed), minlength=50) for seed in range(1000))
    assert float((counts / 1000 - 0.2).abs().max()) < 0.06


def test_rows_are_distinct_and_in_order() -> None:
    rows = _sampled(20, 400, seed=3)
    assert len(rows) == 20
    assert bool((rows.diff() > 0).all())


def test_owners_stay_with_their_rows() -> None:
    sample, draw = ReservoirSample(20, 1), torch.Generator().manual_seed(3)
    for owner in range(50):
        sample.add(torch.full((7, 1), float(owner)), draw, owner)
    assert sample.owners.tolist() == sample.take()[:, 0].tolist()
    assert len(sample.owners.unique()) > 10


def test_few_rows_are_all_kept() -> None:
    assert _sampled(60, 50, seed=0).tolist() == list(range(50))
    assert ReservoirSample(3, 2).take().shape == (0, 2)


def test_no_room_is_refused() -> None:
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        ReservoirSample(0, 3)


def _mine_by_owner(positives: list[Tensor], data, owners) -> HardNegativeMiner:
    """Positives belong to 100, negatives to the number of their image."""
    none = [rows[:0] for rows in positives]
    miner = HardNegativeMiner(none, CONFIG)
    labels = torch.cat([torch.full((len(rows),), k) for k, rows in enumerate(positives)])
    miner.add_positives(torch.cat(positives), labels, owner=100)
    for owner in owners:
        features, is_negative = data[owner]
        is_hard = miner.choose(features @ miner.weights_ + miner.bias_, is_negative)
        kept = is_hard.any(1)
        miner.add(features[kept], is_hard[kept], owner)
    miner.finish()
    return miner


def test_positives_that_are_added_later_give_the_same_svms() -> None:
    positives, data = _problem()
    ours, theirs = _mine_by_owner(positives, data, range(8)), _mine(positives, data)
    assert ours.weights_ == pytest.approx(theirs.weights_, abs=0.01)
    assert ours.bias_ == pytest.approx(theirs.bias_, abs=0.02)


def test_an_image_that_is_dropped_is_forgotten() -> None:
    positives, data = _problem()
    # an image on which what looks like the first class is none
    strange = (positives[0].repeat(3, 1), torch.ones(45, 3, dtype=torch.bool))
    ours = _mine_by_owner(positives, [*data, strange], range(9))
    never = _mine_by_owner(positives, data, range(8))
    assert float((ours.weights_ - never.weights_).abs().max()) > 0.02
    ours.drop([8])
    ours.refit(early=False)
    # both end within a thousandth of the best objective, on their own ways
    assert ours.weights_ == pytest.approx(never.weights_, abs=0.015)
    weights = ours.weights_.clone()
    assert not ours.refit(early=False)  # nothing has changed since
    assert torch.equal(ours.weights_, weights)


def test_coarse_fits_are_made_exact_one_class_after_the_other() -> None:
    positives, data = _problem()
    miner, exact = (_mine_by_owner(positives, data, range(8)) for _ in range(2))
    for each in (miner, exact):
        each.drop([3])
    assert not miner.refit()
    left = [miner.refit(early=False, most=1) for _ in range(3)]
    assert left == [True, True, False]
    exact.refit(early=False)
    assert miner.weights_ == pytest.approx(exact.weights_, abs=0.01)


def test_a_class_without_positives_is_never_found_again() -> None:
    positives, data = _problem()
    miner = _mine_by_owner(positives, data, range(2))
    miner.drop([100])
    assert miner.bias_.tolist() == [NEVER] * 3
    assert miner.waiting.tolist() == [False] * 3


def test_positives_that_come_back_find_the_negatives_still_there() -> None:
    positives, data = _problem()
    miner = _mine_by_owner(positives, data, range(8))
    before = miner.weights_.clone()
    miner.drop([100])
    labels = torch.cat([torch.full((len(rows),), k) for k, rows in enumerate(positives)])
    miner.add_positives(torch.cat(positives), labels, owner=100)
    miner.refit(early=False)
    assert miner.weights_ == pytest.approx(before, abs=0.01)


def test_a_class_that_comes_later_begins_with_all_negatives() -> None:
    positives, data = _problem()
    miner = _mine_by_owner(positives[:2], [(f, n[:, :2]) for f, n in data], range(2))
    before = miner.weights_.clone()
    miner.grow(3)
    assert float(miner.bias_[2]) == NEVER
    miner.add_positives(positives[2], torch.full((len(positives[2]),), 2), owner=5)
    assert miner.waiting.tolist() == [False, False, True]
    features, is_negative = data[2]
    is_hard = miner.choose(features @ miner.weights_ + miner.bias_, is_negative)
    assert torch.equal(is_hard[:, 2], is_negative[:, 2])
    miner.add(features[is_hard.any(1)], is_hard[is_hard.any(1)], owner=2)
    miner.finish()
    assert float((features @ miner.weights_[:, 2] + miner.bias_[2])[is_negative[:, 2]].mean()) < 0
    assert miner.weights_[:, :2] == pytest.approx(before, abs=0.1)


def test_a_copy_of_a_miner_leaves_the_first_alone() -> None:
    positives, data = _problem()
    miner = _mine_by_owner(positives, data, range(3))
    weights, bias = miner.weights_.clone(), miner.bias_.clone()
    other = miner.copy()
    other.drop([0, 1])
    other.refit()
    assert torch.equal(miner.weights_, weights)
    assert torch.equal(miner.bias_, bias)
    assert not torch.equal(other.weights_, weights)


def test_what_was_written_in_parts_goes_on_as_if_it_never_stopped() -> None:
    positives, data = _problem()
    first = _mine_by_owner(positives, data[:5], range(5))
    again = HardNegativeMiner([rows[:0] for rows in positives], CONFIG)
    again.restore(iter(list(first.parts())))
    assert torch.equal(again.weights_, first.weights_)
    assert torch.equal(again.bias_, first.bias_)
    assert again.held == first.held
    for miner in (first, again):
        miner.drop([1])
        features, is_negative = data[6]
        is_hard = miner.choose(features @ miner.weights_ + miner.bias_, is_negative)
        miner.add(features[is_hard.any(1)], is_hard[is_hard.any(1)], 6)
        miner.refit(early=False)
    assert torch.allclose(again.weights_, first.weights_, atol=5e-3)


def test_a_local_fit_learns_an_edit_and_a_later_one_makes_it_exact() -> None:
    positives, data = _problem(images=40)
    miner = _mine_by_owner(positives, data, range(40))
    miner.refit(early=False)
    exact = miner.copy()
    for one, local in ((miner, True), (exact, False)):
        one.drop([3])
        features, is_negative = data[3]
        is_hard = one.choose(features @ one.weights_ + one.bias_, is_negative)
        one.add(features[is_hard.any(1)], is_hard[is_hard.any(1)], 3)
        one.refit(local=local)
    size = exact.weights_.norm()
    assert 0 < (miner.weights_ - exact.weights_).norm() < 0.1 * size
    miner.refit(early=False)  # the background's part
    exact.refit(early=False)
    assert (miner.weights_ - exact.weights_).norm() < 0.04 * size
