"""Settings are chosen on photos that are held out, and only while there is time."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from sppnet.app.detect.budget import FOLDS, MARGIN, Budget, Trial, candidates, cross_validate
from sppnet.detection import (
    DetectionConfig,
    Detector,
    build_cached_features,
    build_encoder,
    train_detector,
)
from sppnet.detection.assign import Views
from sppnet.evaluation import evaluate_detections
from sppnet.images import draw_detection_set, open_detection_dataset
from sppnet.storage import FeatureCache

SMALL = DetectionConfig(
    backbone="small5",
    weights="none",
    proposals="grid",
    max_proposals=40,
    max_anchors=20,
    mirror="off",
    crops="off",
    operating_point=False,
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory):
    folder = draw_detection_set(tmp_path_factory.mktemp("scenes") / "data", 13, seed=0)
    return open_detection_dataset(folder, "train")


@dataclass
class Played(Budget):
    """A budget whose trials are played: scores by what was changed last, 10 s by its own clock."""

    scores: dict[str, float] = field(default_factory=dict)
    made: list[dict[str, Any]] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.clock = lambda: self.now

    def attempt(self, changes: dict[str, Any]) -> Trial:
        self.made.append(changes)
        self.now += 10.0
        score = sum(self.scores.get(name, 0.0) for name in changes)
        return Trial(changes, score, score, 10.0)


def play(scenes, seconds: float, **more: Any) -> Played:
    config = DetectionConfig(backbone="small5", weights="none", imgsz=more.pop("imgsz", ()))
    return Played(scenes.images, scenes.names, config, None, seconds, 5.0, **more)


def test_what_helped_stays_and_what_did_not_goes(scenes) -> None:
    budget = play(scenes, 1e6, scores={"levels": 0.3, "box_strength": 0.1, "max_proposals": -0.1})
    config, trials = budget.choose()
    assert config.levels == (1, 2, 3, 6)
    assert config.box_strength == 4 * DetectionConfig().box_strength
    assert config.max_proposals == DetectionConfig().max_proposals
    assert config.imgsz == ()
    assert [trial.changes for trial in trials] == budget.made
    assert budget.made[0] == {}


def test_a_gain_within_the_margin_is_none(scenes) -> None:
    for gain, helped in ((MARGIN * 0.9, False), (MARGIN * 1.1, True)):
        config, _ = play(scenes, 1e6, scores={"levels": gain}).choose()
        assert (config.levels != DetectionConfig().levels) == helped


@pytest.mark.parametrize("seconds", [0.0, 14.0, 16.0, 30.0, 61.0, 100.0])
def test_trials_and_the_training_fit_into_the_time(scenes, seconds: float) -> None:
    budget = play(scenes, seconds, scores={"levels": 0.3})
    _, trials = budget.choose()
    assert budget.now + 5.0 <= max(seconds, 5.0)
    assert len(trials) == len(budget.made)
    assert bool(trials) == (seconds >= 15.0)


def test_more_time_never_scores_less(scenes) -> None:
    scores = {"imgsz": -0.1, "levels": 0.2, "negative_below": 0.05}
    best = []
    for seconds in (15.0, 40.0, 80.0, 200.0):
        _, trials = play(scenes, seconds, scores=scores).choose()
        best.append(max(trial.score for trial in trials))
    assert best == sorted(best)
    assert best[-1] > best[0]


def test_trials_of_an_earlier_run_are_not_made_again_and_their_time_counts(scenes) -> None:
    first = play(scenes, 45.0, scores={"levels": 0.3})
    config, trials = first.choose()
    kept = [Trial.restore(trial.to_json()) for trial in trials]
    assert kept == trials
    again = play(scenes, 45.0, scores={"levels": 0.3})
    assert again.choose(kept) == (config, trials)
    assert again.made == []


def test_what_the_user_named_is_not_tried() -> None:
    named = DetectionConfig(imgsz=(300,), box_strength=7.0, max_anchors=5)
    tried = {name for changes in candidates(named, [300]) for name in changes}
    assert tried.isdisjoint({"imgsz", "box_strength", "max_anchors", "max_proposals"})
    assert {"levels", "crops"} < tried


def test_parts_are_tried_where_they_are_not_learnt_from_anyway(scenes) -> None:
    assert {"crops": "on"} not in candidates(DetectionConfig(), [300], Views(crops=True))
    assert {"crops": "on"} in candidates(DetectionConfig(), [300], Views(mirror=True))
    config = DetectionConfig(backbone="small5", weights="none", very_few_objects=0)
    budget = Played(scenes.images, scenes.names, config, None, 1e6, 5.0, scores={"crops": 0.3})
    assert budget.choose()[0].crops == "on"
    assert budget._cost({"crops": "on"}) == 2.0


def test_larger_trunks_are_tried_where_their_weights_are_installed(monkeypatch) -> None:
    monkeypatch.setattr("sppnet.app.detect.budget.locate_package", Mock(return_value=Path()))
    assert {"backbone": "efficientnet_lite2"} in candidates(DetectionConfig(), [400])
    monkeypatch.setattr("sppnet.app.detect.budget.locate_package", Mock(return_value=None))
    assert not any("backbone" in each for each in candidates(DetectionConfig(), [400]))
    assert not any("backbone" in c for c in candidates(DetectionConfig(backbone="small5"), [400]))


def test_few_photos_say_nothing_of_others(scenes) -> None:
    few = replace(play(scenes, 1e6, scores={"levels": 0.3}), images=scenes.images[:5])
    assert few.choose() == (few.config, [])


def test_a_trial_is_a_training_on_the_other_photos(scenes, tmp_path: Path) -> None:
    """Average precision, worked out fold by fold with public parts alone."""
    cache = FeatureCache(tmp_path / "cache")
    images = list(scenes.images[:8])
    config = replace(SMALL, imgsz=(96,))
    pairs = [([i for i in images if i is not held], [held]) for held in images[:FOLDS]]
    scores = cross_validate(pairs, scenes.names, config, cache)
    found = {}
    for learnt, (held,) in pairs:
        detector = _train(learnt, scenes.names, config, cache)
        found[held.image_id] = detector.predict(held.path)
    expected = evaluate_detections(images[:FOLDS], found, scenes.names, metric="area").mean_ap
    assert scores["ap50"] == pytest.approx(expected, abs=1e-9)
    assert scores["seconds"] > 0


def _train(images, names, config: DetectionConfig, cache: FeatureCache) -> Detector:
    torch.manual_seed(config.seed)
    cached = build_cached_features(config, images, build_encoder(config, images), cache)
    return train_detector(cached, names, config)
