"""Operating points: the best threshold by hand and by a loop, what is kept, what is refused."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from evaluation_scenes import as_detections, as_images, random_scene
from report_scenes import DETECTIONS, IMAGES, A, B, C, found, image
from sppnet.evaluation import OperatingPoints, best_operating_point, match_scores
from sppnet.evaluation.calibration import MatchedScores
from sppnet.evaluation.operating_point import hold_out
from sppnet.geometry import Detections

NAMES = ["a", "b", "c", "d"]


def test_best_threshold_balances_precision_and_recall():
    point = best_operating_point(IMAGES, DETECTIONS)
    # 0.9 right, 0.85 false, 0.8 right, 0.2 right: F1 is 2*3/(4+4) with all, 2*2/(3+4) down to 0.8,
    # 2*1/(1+4) with the first alone
    assert point.score_threshold == pytest.approx(0.2)
    assert (point.true_positives, point.false_positives, point.false_negatives) == (3, 1, 1)
    assert point.precision == point.recall == 0.75


def test_equal_scores_are_taken_together():
    images = [image("x", [A])]
    point = best_operating_point(images, {"x": found([A, C, C], [0.5, 0.5, 0.5])})
    assert (point.true_positives, point.false_positives) == (1, 2)


def test_difficult_objects_count_neither_way():
    images = [image("x", [A, B], difficult=[True, False])]
    point = best_operating_point(images, {"x": found([A, B], [0.9, 0.8])})
    assert (point.true_positives, point.false_positives, point.false_negatives) == (1, 0, 0)


def _matched(scores: list[float], right: list[bool], labels: list[int]) -> MatchedScores:
    images = np.arange(len(scores))
    return MatchedScores(np.array(scores), np.array(labels), np.array(right), images)


def _f1(scores: Any, right: Any, num_objects: int, threshold: float) -> float:
    """By its definition."""
    shown = [is_right for score, is_right in zip(scores, right, strict=True) if score >= threshold]
    hits = sum(shown)
    misses, false = num_objects - hits, len(shown) - hits
    return 2 * hits / (2 * hits + misses + false) if hits else 0.0


@pytest.mark.parametrize("seed", range(40))
def test_no_threshold_has_a_better_f1(seed: int) -> None:
    truth, seen, images, _ = random_scene(seed, difficult=True, crowd=False)
    photos, detections = as_images(truth, images), as_detections(seen)
    points = OperatingPoints.fit(photos, detections, NAMES, "val")
    matched = match_scores(photos, detections, NAMES)
    if matched.is_true_positive.sum() < 5:
        assert points is None
        return
    assert points is not None
    objects = [sum(t.label == k and not t.difficult for t in truth) for k in range(4)]
    assert list(points.objects) == objects
    for label, threshold in enumerate(points.thresholds):
        own = matched.labels == label
        right = matched.is_true_positive[own]
        if min(right.sum(), (~right).sum()) < 10:  # too few: that of all classes
            own, right = own | True, matched.is_true_positive
        scores, count = matched.scores[own], objects[label] if not own.all() else sum(objects)
        best = max(_f1(scores, right, count, score) for score in scores)
        assert _f1(scores, right, count, threshold) == pytest.approx(best)


def test_the_threshold_lies_halfway_to_the_next_lower_score() -> None:
    matched = _matched([0.9, 0.8, 0.7, 0.6, 0.5, 0.1], [True] * 5 + [False], [0] * 6)
    points = OperatingPoints.from_matches(matched, [5], 6, "val")
    assert points is not None
    assert points.thresholds == pytest.approx((0.3,))


def test_a_class_of_its_own_has_its_own_threshold() -> None:
    scores = [*np.linspace(2, 3, 20), *np.linspace(0, 1, 20), *np.linspace(-1, 0, 20)]
    right = [True] * 20 + [False] * 20 + [True] * 10 + [False] * 10
    matched = _matched(scores, right, [0] * 40 + [1] * 20)
    points = OperatingPoints.from_matches(matched, [20, 10], 60, "val")
    assert points is not None
    assert points.thresholds[0] == pytest.approx(1.5)
    assert points.thresholds[1] < 0


def _points(thresholds: tuple[float, ...] = (0.5, -0.5)) -> OperatingPoints:
    matched = _matched([0.9, 0.8, 0.7, 0.6, 0.5, 0.1] * 2, ([True] * 5 + [False]) * 2, [0, 1] * 6)
    points = OperatingPoints.from_matches(matched, [6, 6], 6, "val")
    assert points is not None
    return OperatingPoints(thresholds, points.calibration, "val", 6, (6, 6))


def test_what_counts_and_how_sure_it_is() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 4)
    seen = Detections(boxes, torch.tensor([0.6, 0.4, 0.0, -0.6]), torch.tensor([0, 0, 1, 1]))
    kept = _points().select(seen)
    assert kept.scores.tolist() == pytest.approx([0.6, 0.0])
    assert kept.confidence is not None
    everything = _points().with_confidence(seen)
    assert everything.count == 4
    assert everything.confidence is not None
    assert everything.confidence.diff().max() <= 0
    assert 0 <= everything.confidence.min() <= everything.confidence.max() <= 1
    assert _points().select(Detections.empty()).count == 0


def test_kept_as_json_and_read_again() -> None:
    points = _points()
    back = OperatingPoints.from_config(json.loads(json.dumps(points.config())), 2)
    assert back.config() == points.config()
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 2)
    seen = Detections(boxes, torch.tensor([0.6, 0.4]), torch.tensor([0, 1]))
    first, second = points.with_confidence(seen), back.with_confidence(seen)
    assert torch.equal(first["confidence"], second["confidence"])


def test_what_it_promises_is_what_the_detections_that_count_were_worth() -> None:
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.1]
    right = [True] * 4 + [False, True, False]
    points = OperatingPoints.from_matches(_matched(scores, right, [0] * 7), [8], 6, "val")
    assert points is not None
    assert points.thresholds == pytest.approx((0.25,))
    assert (points.counted, points.right) == (6, 5)
    assert points.expect() == "there it finds 62 %, 83 % of what it says is right"
    assert "finds 62 %" in OperatingPoints.from_config(points.config(), 1).expect()
    earlier = {key: value for key, value in points.config().items() if key not in KEPT_SINCE}
    assert "only just counts" in OperatingPoints.from_config(earlier, 1).expect()


KEPT_SINCE = ("counted", "right")


def _changed(path: str, value: Any) -> dict[str, Any]:
    config = json.loads(json.dumps(_points().config()))
    *folders, last = path.split("/")
    place = config
    for name in folders:
        place = place[int(name) if isinstance(place, list) else name]
    place[last] = value
    return config


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("thresholds", [0.5]),
        ("thresholds", ["a", 0.5]),
        ("thresholds", [math.nan, 0.5]),
        ("thresholds", [1e30, 0.5]),
        ("objects", [1]),
        ("right", 1),  # of no detections
        ("counted", -1),
        ("counted", 0.5),
        ("source", "guess"),
        ("images", 0),
        ("calibration", None),
        ("calibration/method", "magic"),
        ("calibration/least", "ten"),
        ("calibration/shared", None),
        ("calibration/shared", {"slope": 1.0}),
        ("calibration/shared/slope", -1.0),
        ("calibration/shared/slope", "steep"),
        ("calibration/curves", [None]),
        ("calibration/curves", [{"slope": 1.0, "offset": 0.0, "more": 1}, None]),
        ("extra", 1),
    ],
)
def test_what_does_not_fit_is_refused(path: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        OperatingPoints.from_config(_changed(path, value), 2)


def test_matching_some_images_at_a_time_changes_nothing(monkeypatch) -> None:
    compared = 0
    for seed in range(30):
        truth, seen, images, _ = random_scene(seed, difficult=True, crowd=True)
        photos, detections = as_images(truth, images), as_detections(seen)
        whole = OperatingPoints.fit(photos, detections, NAMES, "val")
        with monkeypatch.context() as patch:
            patch.setattr("sppnet.evaluation.operating_point.PART", 2)
            parts = OperatingPoints.fit(photos, detections, NAMES, "val")
        assert (whole is None) == (parts is None)
        if whole is not None and parts is not None:
            assert parts.config() == whole.config()
            compared += len(photos) > 4
    assert compared >= 3  # scenes of several parts


def test_parts_and_whole_refuse_what_does_not_belong_together(monkeypatch) -> None:
    monkeypatch.setattr("sppnet.evaluation.operating_point.PART", 1)
    unknown = {**DETECTIONS, "unknown": Detections.empty()}
    with pytest.raises(ValueError, match="unknown"):
        OperatingPoints.fit(IMAGES, unknown, NAMES, "val")
    with pytest.raises(ValueError, match="twice"):
        OperatingPoints.fit([*IMAGES, IMAGES[0]], DETECTIONS, NAMES, "val")


def test_small_sets_are_judged_as_a_whole_and_large_ones_in_part(monkeypatch) -> None:
    monkeypatch.setattr("sppnet.evaluation.operating_point.MOST_JUDGED", 10)
    for count, judged, parts in ((3, 3, 2), (10, 10, 2), (19, 10, 2), (20, 10, 1), (57, 10, 1)):
        pairs = hold_out(count, seed=1)
        assert len(pairs) == parts
        held = [number for _, numbers in pairs for number in numbers]
        assert len(held) == len(set(held)) == judged
        for learnt, own in pairs:
            assert not set(learnt) & set(own)
            assert len(learnt) in (count // 2, count - count // 2)
            assert learnt == sorted(learnt)
    assert hold_out(57, seed=1) != hold_out(57, seed=2)
