"""Mistakes and confusion, against readable loops and cases by hand."""

import math

import pytest

from evaluation_scenes import as_detections, as_images, random_scene
from oracles import slow_mistakes as slow
from oracles.slow_average_precision import Thing
from report_scenes import DETECTIONS, IMAGES
from sppnet.evaluation import confuse_detections, evaluate_detections, find_error_types
from sppnet.evaluation.error_analysis import (
    ERROR_TYPES,
    FALSE_POSITIVE_TYPES,
    best_and_worst,
    count_matches,
)

NAMES = ["a", "b", "c", "d"]
EVERY_SCORE = -math.inf


def by_image(found: list[Thing]) -> list[Thing]:
    """In the order in which the tables have them."""
    return sorted(found, key=lambda thing: thing.image)


@pytest.mark.parametrize("seed", range(150))
def test_counts_equal_the_loop(seed: int) -> None:
    truth, found, images, _ = random_scene(seed, difficult=seed % 2 == 0, crowd=False)
    threshold = [EVERY_SCORE, 0.5][seed % 2]
    ours = find_error_types(as_images(truth, images), as_detections(found), NAMES, threshold)
    shown = [thing for thing in by_image(found) if thing.score >= threshold]
    kinds, meant = slow.kinds_of(truth, shown)
    for kind in FALSE_POSITIVE_TYPES:
        expected = [shown[d].label for d, one in kinds.items() if one == kind]
        assert ours.counts[kind] == len(expected)
        assert list(ours.per_class[kind].values()) == [expected.count(k) for k in range(4)]
    right, _ = slow.voc_hits(truth, shown, 0.5)
    assert ours.counts["missed"] == len(slow.missed_objects(truth, right, meant))


@pytest.mark.parametrize("seed", range(150))
def test_costs_equal_the_loop(seed: int) -> None:
    truth, found, images, _ = random_scene(seed, difficult=seed % 2 == 0, crowd=False)
    ours = find_error_types(as_images(truth, images), as_detections(found), NAMES)
    if not any(not thing.difficult for thing in truth):
        assert all(math.isnan(cost) for cost in ours.ap_cost.values())
        return
    for kind in ERROR_TYPES:
        expected = slow.ap_cost(truth, by_image(found), kind)
        assert ours.ap_cost[kind] == pytest.approx(expected, abs=1e-12), kind


@pytest.mark.parametrize("seed", range(150))
def test_confusion_equals_the_loop(seed: int) -> None:
    truth, found, images, _ = random_scene(seed, difficult=seed % 2 == 0, crowd=False)
    threshold = [EVERY_SCORE, 0.5][seed % 2]
    ours = confuse_detections(as_images(truth, images), as_detections(found), NAMES, threshold)
    shown = [thing for thing in by_image(found) if thing.score >= threshold]
    assert ours.counts.tolist() == slow.confusion(truth, shown, 4)


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_with_crowds(seed: int) -> None:
    truth, found, images, _ = random_scene(seed, difficult=True, crowd=True)
    scene = as_images(truth, images), as_detections(found), NAMES
    table, errors = confuse_detections(*scene, EVERY_SCORE).counts, find_error_types(*scene)
    objects = list(evaluate_detections(*scene).num_truth.values())
    assert table[:-1].sum(1).tolist() == objects
    false_positives = sum(errors.counts[kind] for kind in FALSE_POSITIVE_TYPES)
    assert table[:, :-1].sum() - table.diagonal().sum() == false_positives


CAR, OTHER, FAR = (1, 1, 10, 10), (21, 1, 30, 10), (61, 61, 70, 70)


@pytest.mark.parametrize(
    ("box", "label", "kind"),
    [
        ((1, 1, 10, 4), 0, "localisation"),
        ((1, 1, 10, 10), 1, "classification"),
        ((1, 1, 10, 9), 0, "duplicate"),
        (FAR, 0, "background"),
        ((1, 1, 10, 4), 1, "both"),
    ],
)
def test_each_kind_by_hand(box: tuple, label: int, kind: str) -> None:
    truth = [Thing(0, 0, CAR), Thing(0, 0, OTHER)]
    found = [Thing(0, 0, CAR, 0.9), Thing(0, label, box, 0.8)]
    errors = find_error_types(as_images(truth, 1), as_detections(found), NAMES)
    assert {name for name, count in errors.counts.items() if count} == {kind, "missed"}
    assert errors.counts["missed"] == 1
    assert errors.ap_cost["missed"] == pytest.approx(0.5)


def test_mending_a_place_or_a_class_finds_the_object() -> None:
    truth = [Thing(0, 0, CAR), Thing(0, 0, OTHER)]
    for box, label, kind in (((21, 1, 30, 4), 0, "localisation"), (OTHER, 1, "classification")):
        found = [Thing(0, 0, CAR, 0.9), Thing(0, label, box, 0.8)]
        errors = find_error_types(as_images(truth, 1), as_detections(found), NAMES)
        assert errors.counts["missed"] == 0
        assert errors.ap_cost[kind] == pytest.approx(0.5)


def test_confusion_by_hand() -> None:
    truth = [Thing(0, 0, CAR), Thing(0, 1, OTHER), Thing(1, 1, CAR)]
    found = [Thing(0, 0, CAR, 0.9), Thing(0, 0, OTHER, 0.8), Thing(1, 2, FAR, 0.7)]
    table = confuse_detections(as_images(truth, 2), as_detections(found), ["a", "b", "c"], 0.1)
    assert table.names == ("a", "b", "c", "background")
    assert table.counts.tolist() == [[1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert table.to_json()["counts"] == table.counts.tolist()


def test_nothing_at_all() -> None:
    assert confuse_detections([], {}, [], 0).counts.tolist() == [[0]]
    assert set(find_error_types([], {}, []).counts.values()) == {0}


def test_worst_images_have_most_mistakes_and_none_is_shown_twice():
    counts = count_matches(IMAGES, DETECTIONS, 0.5)
    assert [(e.true_positives, e.false_positives, e.false_negatives) for e in counts] == [
        (2, 0, 0),
        (0, 1, 2),
        (0, 0, 0),
    ]
    best, worst = best_and_worst(counts)
    assert [entry.image.image_id for entry in worst] == ["bad"]
    assert [entry.image.image_id for entry in best] == ["good"]
