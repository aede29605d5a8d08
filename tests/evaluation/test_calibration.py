"""Scores become probabilities: by the definitions, and on scores of known probability."""

import json

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from evaluation_scenes import as_detections, as_images, random_scene
from sppnet.evaluation import ScoreCalibration, evaluate_detections, match_scores
from sppnet.evaluation.calibration import (
    IsotonicCurve,
    cross_calibrate,
    fit_isotonic,
    fit_platt,
    measure_reliability,
    reliability_diagram,
)
from sppnet.geometry import Detections

NAMES = ["a", "b", "c", "d"]


def known_scores(count: int, seed: int = 0, slope: float = 3.0, offset: float = -1.0):
    """Margins whose probability of being right is a sigmoid that is known."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 1, count)
    probability = 1 / (1 + np.exp(-(slope * scores + offset)))
    return scores, generator.random(count) < probability


@pytest.mark.parametrize(("slope", "offset"), [(3.0, -1.0), (0.5, 2.0), (40.0, 0.0)])
def test_the_sigmoid_is_found_again(slope: float, offset: float) -> None:
    curve = fit_platt(*known_scores(40_000, slope=slope, offset=offset))
    assert curve.slope == pytest.approx(slope, rel=0.1)
    assert curve.offset == pytest.approx(offset, abs=0.15)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_sigmoid_is_that_of_logistic_regression(scale: float, shift: float) -> None:
    """Platt's targets are soft: each detection stands twice, with both answers and two weights."""
    scores, is_true_positive = known_scores(300, seed=1)
    right, wrong = is_true_positive.sum(), (~is_true_positive).sum()
    targets = np.where(is_true_positive, (right + 1) / (right + 2), 1 / (wrong + 2))
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    answers = np.r_[np.ones(300), np.zeros(300)]
    model.fit(np.r_[scores, scores][:, None], answers, sample_weight=np.r_[targets, 1 - targets])
    expected = model.predict_proba(scores[:, None])[:, 1]
    moved = scores * scale + shift * scale
    np.testing.assert_allclose(fit_platt(moved, is_true_positive)(moved), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_sigmoid_has_a_smaller_log_loss(seed: int) -> None:
    """At the minimum the log loss, which is convex, falls neither with the slope nor the offset."""
    scores, is_true_positive = known_scores([3, 50, 400][seed % 3], seed)
    right, wrong = is_true_positive.sum(), (~is_true_positive).sum()
    targets = np.where(is_true_positive, (right + 1) / (right + 2), 1 / (wrong + 2))
    curve = fit_platt(scores, is_true_positive)
    error = curve(scores) - targets
    assert error.mean() == pytest.approx(0, abs=1e-8)
    if curve.slope > 0:
        assert (error * scores).mean() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("score", [-2.5, 0.0, 1e-300, 1e6 + 0.1])
def test_equal_scores_have_one_probability(score: float) -> None:
    is_true_positive = np.array([True, False, False])
    expected = (2 / 3 + 1 / 4 + 1 / 4) / 3  # the mean of Platt's targets
    curve = fit_platt(np.full(3, score), is_true_positive)
    np.testing.assert_allclose(curve(np.array([score, 0.0])), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_steps_are_those_of_the_definition(seed: int) -> None:
    """The level at a score: of all stretches from below it, the highest of the lowest means."""
    scores, is_true_positive = known_scores([3, 30, 90][seed % 3], seed)
    scores = np.round(scores, [1, 4][seed % 2])  # many ties, or few
    values = np.unique(scores)
    fitted = fit_isotonic(scores, is_true_positive)(values)
    for place, level in enumerate(fitted):
        expected = max(
            min(
                is_true_positive[(scores >= low) & (scores <= high)].mean()
                for high in values[place:].tolist()
            )
            for low in values[: place + 1].tolist()
        )
        assert level == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_steps_equal_those_of_scikit_learn(seed: int) -> None:
    scores, is_true_positive = known_scores([3, 50, 400][seed % 3], seed)
    scores = np.round(scores, [1, 4][seed % 2])  # many ties, or few
    peer = IsotonicRegression(out_of_bounds="clip").fit(scores, is_true_positive.astype(float))
    asked = np.linspace(-5, 5, 1001)
    np.testing.assert_allclose(
        fit_isotonic(scores, is_true_positive)(asked), peer.predict(asked), atol=1e-12
    )


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize("is_right", [[True] * 4, [False] * 4, [True, True, False, False]])
def test_curves_of_odd_data_rise_and_stay_between_0_and_1(
    method: str, is_right: list[bool]
) -> None:
    """All right, all wrong, and scores that are lower where right."""
    calibration = ScoreCalibration(method).fit([0.0, 0.0, 1.0, 2.0], [0] * 4, is_right, 1)
    values = calibration.probabilities(np.linspace(-1e6, 1e6, 101), [0] * 101)
    assert (np.diff(values) >= 0).all()
    assert values.min() >= 0
    assert values.max() <= 1


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_classes_have_their_own_curve_if_there_is_enough(method: str) -> None:
    scores, is_true_positive = known_scores(2000)
    labels = np.arange(2000) % 2
    is_true_positive[labels == 1] = ~is_true_positive[labels == 1] & (scores[labels == 1] > 0)
    labels[:3] = 2
    calibration = ScoreCalibration(method).fit(scores, labels, is_true_positive, 4)
    assert [curve is None for curve in calibration.curves_] == [False, False, True, True]
    restored = ScoreCalibration.from_config(json.loads(json.dumps(calibration.config())))
    for label in range(4):
        asked = np.linspace(-3, 3, 50), np.full(50, label)
        expected = calibration.probabilities(*asked)
        np.testing.assert_array_equal(restored.probabilities(*asked), expected)


@pytest.mark.parametrize("seed", range(10))
def test_average_precision_stays_and_only_scores_change(seed: int) -> None:
    truth, found, images, _ = random_scene(seed + 40, difficult=True, crowd=False)
    scene, detections = as_images(truth, images), as_detections(found)
    scores, is_true_positive = known_scores(500)
    calibration = ScoreCalibration().fit(scores, np.zeros(500, int), is_true_positive, 4)
    after = {image: calibration.apply(one) for image, one in detections.items()}
    for image, one in detections.items():
        assert torch.equal(after[image].boxes, one.boxes)
        assert torch.equal(after[image].labels, one.labels)
    before = evaluate_detections(scene, detections, NAMES).per_class
    assert evaluate_detections(scene, after, NAMES).per_class == before


def test_held_out_margins_become_reliable() -> None:
    scores, is_true_positive = known_scores(20_000, seed=3)
    labels = np.zeros(20_000, dtype=np.int64)
    for method in ("platt", "isotonic"):
        calibration = ScoreCalibration(method).fit(
            scores[:9000], labels[:9000], is_true_positive[:9000], 1
        )
        values = calibration.probabilities(scores[9000:], labels[9000:])
        assert reliability_diagram(values, is_true_positive[9000:]).ece < 0.015
    naive = (scores[9000:] - scores.min()) / (scores.max() - scores.min())
    assert reliability_diagram(naive, is_true_positive[9000:]).ece > 0.05


def test_reliability_by_hand() -> None:
    found = reliability_diagram([0.05, 0.15, 0.95, 1.0, 0.95], [False, True, True, True, False])
    assert found.counts.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert found.share[[0, 1, 9]].tolist() == pytest.approx([0, 1, 2 / 3])
    assert found.probability[9] == pytest.approx(2.9 / 3)
    assert found.ece == pytest.approx((0.05 + 0.85 + 2.9 - 2) / 5)
    squares = 0.05**2 + 0.85**2 + 0.05**2 + 0 + 0.95**2
    assert found.brier == pytest.approx(squares / 5)
    with pytest.raises(ValueError, match=r"probability must be 0\.\.1"):
        reliability_diagram([1.5], [True])
    assert np.isnan(reliability_diagram([], []).ece)


def test_cross_calibration_never_sees_what_it_answers() -> None:
    """On noise, a curve that had seen the answers would be better than the base rate."""
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=400), np.zeros(400, np.int64)
    is_true_positive, images = generator.random(400) < 0.5, np.arange(400) // 2
    values = cross_calibrate(scores, labels, is_true_positive, images, 1, "isotonic")
    assert ((values - is_true_positive) ** 2).mean() > 0.25
    assert cross_calibrate(scores, labels, is_true_positive, np.zeros(400, int), 1) is None


def test_where_probabilities_come_from() -> None:
    box = torch.tensor([[0.0, 0, 10, 10]])
    scenes = as_images([], 6)
    for image in scenes:
        image.boxes, image.labels = box, torch.tensor([0])
        image.difficult = image.crowd = torch.tensor([False])

    def matched(low: float):
        pairs = torch.cat([box, box + 50])
        scores = torch.tensor([0.9, low])
        labels = torch.tensor([0, 0])
        return match_scores(scenes, {n: Detections(pairs, scores, labels) for n in range(6)}, ["a"])

    assert measure_reliability(matched(0.1), 1).source == "scores"
    assert measure_reliability(matched(0.1), 1).ece == pytest.approx(0.1)
    margins = matched(-0.4)
    assert measure_reliability(margins, 1).source == "cross-calibration"
    calibration = ScoreCalibration().fit(
        margins.scores, margins.labels, margins.is_true_positive, 1
    )
    assert measure_reliability(margins, 1, calibration).source == "calibration"
    assert measure_reliability(match_scores([], {}, ["a"]), 1) is None


def test_callers_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="method must be one of platt, isotonic, got 'beta'"):
        ScoreCalibration("beta")
    with pytest.raises(ValueError, match="scores must be finite and at least one"):
        ScoreCalibration().fit([], [], [], 1)
    with pytest.raises(ValueError, match="scores must be finite"):
        ScoreCalibration().fit([np.nan], [0], [True], 1)
    with pytest.raises(ValueError, match="must be fitted first"):
        ScoreCalibration().probabilities([0.0], [0])
    with pytest.raises(ValueError, match=r"labels must be 0\.\.0, got 3"):
        ScoreCalibration().fit([0.0], [0], [True], 1).probabilities([0.0], [3])


@pytest.mark.parametrize(
    ("x", "y"), [((0, 1), (0.5,)), ((1, 0), (0.1, 0.2)), ((0, 1), (0.2, 0.1))], ids=str
)
def test_a_curve_that_falls_or_has_points_without_a_pair_is_refused(x, y) -> None:
    with pytest.raises(ValueError, match="must rise together"):
        IsotonicCurve(x, y)
    assert IsotonicCurve((0.0, 0.0), (0.2, 0.2))(np.array([5.0])).tolist() == [0.2]
