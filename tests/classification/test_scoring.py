"""Figures of scores against loops, and their mean over splits."""

import pytest
import torch

from oracles.slow_average_precision import voc07
from sppnet.classification.scoring import (
    mean_figures,
    presence_task,
    score_predictions,
    score_presence,
)


def slow_average(scores: list[float], truth: list[int]) -> float:
    """VOCevalcls.m: ignored images are stepped over, the others counted from the best down."""
    hits = alarms = 0
    recall, precision = [], []
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    for index in order:
        hits += truth[index] == 1
        alarms += truth[index] == -1
        if truth[index] != 0:
            recall.append(hits / truth.count(1))
            precision.append(hits / (hits + alarms))
    return voc07(recall, precision)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_the_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(40, 3, generator=generator)
    targets = torch.randint(-1, 2, (40, 3), generator=generator, dtype=torch.int8)
    figures = score_presence(scores, targets, ("a", "b", "c"))
    columns = zip(scores.T.tolist(), targets.T.tolist(), strict=True)
    slow = [slow_average(values, truth) for values, truth in columns]
    assert list(figures["per_class"].values()) == pytest.approx(slow)
    assert figures["mean_ap"] == pytest.approx(sum(slow) / 3)


def test_ignored_images_change_nothing() -> None:
    scores, targets = torch.tensor([[0.9], [0.5], [0.1]]), torch.tensor([[1], [0], [-1]])
    with_them = score_presence(scores, targets, ("a",))
    assert with_them == score_presence(scores[::2], targets[::2], ("a",))
    assert with_them["mean_ap"] == 1.0


def test_class_that_no_image_shows_has_no_figure() -> None:
    task = presence_task(torch.tensor([[1, -1], [-1, 0]]), ("a", "b"))
    figures = task.figures(torch.zeros(2, 2), task.targets)
    assert figures == {"mean_ap": 1.0, "per_class": {"a": 1.0, "b": None}}
    assert task.figure(torch.zeros(0, 2), task.targets[:0]) == 0.0


def test_figures_of_splits_are_averaged() -> None:
    names = ("a", "b", "c")
    scores = torch.eye(3)
    per_split = [score_predictions(scores, torch.tensor(y), names) for y in ([0, 1, 2], [0, 1, 1])]
    figures, summary = mean_figures(per_split)
    assert figures["top1"] == pytest.approx((1 + 2 / 3) / 2)
    assert figures["per_class"] == {"a": 1.0, "b": 0.75, "c": 1.0}
    assert summary is not None
    assert summary["std"]["mean_class_accuracy"] == pytest.approx(0.25 / 2**0.5)


def test_no_test_image_gives_no_figure() -> None:
    figures = score_predictions(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ("a", "b"))
    assert figures["top1"] is None
    assert mean_figures([figures, figures])[1] is None
