"""Photos that come next are uncertain and new; doubts are what a model of other photos denies."""

from pathlib import Path

import pytest
import torch

from sppnet.geometry import Detections
from sppnet.images import LabelledImage
from sppnet.labelling.folds import (
    Candidate,
    choose_next,
    choose_surest,
    find_doubts,
    join_places,
    measure_presence,
    measure_uncertainty,
)


def found(*rows: tuple[list[float], float, int]) -> Detections:
    boxes = torch.tensor([box for box, _, _ in rows]).reshape(-1, 4)
    sure = torch.tensor([confidence for _, confidence, _ in rows])
    labels = torch.tensor([label for _, _, label in rows], dtype=torch.int64)
    return Detections(boxes, sure.logit(eps=1e-6), labels, sure)


def labelled(*rows: tuple[list[float], int]) -> LabelledImage:
    boxes = torch.tensor([box for box, _ in rows]).reshape(-1, 4)
    labels = torch.tensor([label for _, label in rows], dtype=torch.int64)
    no = torch.zeros(len(rows), dtype=torch.bool)
    return LabelledImage(Path("a"), "a", (100, 100), boxes, labels, no, no, no)


LEFT, RIGHT = [0.0, 0.0, 40.0, 40.0], [60.0, 50.0, 100.0, 100.0]


def slow_choice(candidates, seen, count):
    """The rule as two loops, without the centring (which three photos or more have)."""
    left, known, chosen = list(candidates), list(seen), []
    while left and len(chosen) < count:
        best, most = None, -1.0
        for one in left:
            near = max(
                (float(torch.cosine_similarity(one.vector, k, 0)) for k in known), default=-1
            )
            worth = (one.uncertainty + 1e-3) * max(0.1, (1 - near) / 2)
            if worth > most:
                best, most = one, worth
        left.remove(best)
        known.append(best.vector)
        chosen.append(best.photo)
    return chosen


@pytest.mark.parametrize("seed", range(20))
def test_the_choice_is_that_of_two_loops(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.rand(2, 4, generator=draw)
    unsure = torch.rand(2, generator=draw).tolist()
    candidates = [Candidate(str(n), unsure[n], vectors[n]) for n in range(2)]
    seen = torch.rand(seed % 3, 4, generator=draw)
    assert choose_next(candidates, seen, 2) == slow_choice(candidates, seen, 2)


def test_twins_are_not_chosen_one_after_the_other() -> None:
    vectors = torch.eye(4)
    photos = [Candidate("a", 1.0, vectors[0]), Candidate("twin of a", 0.99, vectors[0]),
              Candidate("b", 0.7, vectors[1]), Candidate("c", 0.6, vectors[2])]  # fmt: skip
    assert choose_next(photos, torch.zeros(0, 4), 4) == ["a", "b", "c", "twin of a"]


def test_open_questions_make_a_photo_uncertain() -> None:
    sure, half = found((LEFT, 0.99, 0)), found((LEFT, 0.5, 0), (RIGHT, 0.5, 1))
    assert measure_uncertainty(half) == pytest.approx(2.0)
    assert measure_uncertainty(sure) < 0.05
    assert measure_uncertainty(Detections.empty()) == 0


def test_the_surest_photos_show_something_and_leave_little_open() -> None:
    seen = {
        "open": found((LEFT, 0.6, 0)),
        "sure": found((LEFT, 0.99, 0), (RIGHT, 0.98, 1)),
        "nothing seen": found((LEFT, 0.01, 0)),
        "nearly sure": found((LEFT, 0.9, 0)),
    }
    photos = [Candidate.of(photo, each, torch.zeros(1)) for photo, each in seen.items()]
    assert choose_surest(photos, 9) == ["sure", "nearly sure", "open"]
    assert choose_surest(photos, 1) == ["sure"]
    assert choose_surest([Candidate.of("a", None, torch.zeros(1))], 9) == []  # without a model


def test_a_place_is_as_sure_as_its_classes_together() -> None:
    logits = torch.tensor([0.4, 0.3, -2.0, -1.0])  # of three classes at one place, and of one apart
    odds = logits[:3].exp()
    alone = (odds / (1 + odds.sum() - odds)).log()  # each against the others and the background
    near = [1.0, 0.0, 40.0, 40.0]
    boxes = torch.tensor([LEFT, near, LEFT, RIGHT])
    scores = 0.125 * torch.cat([alone, logits[3:]])
    labels = torch.tensor([0, 1, 2, 0])
    rows, places = join_places(Detections(boxes, scores, labels), 0.125)
    assert rows.tolist() == [0, 3]
    wanted = 0.125 * torch.stack([odds.sum().log(), logits[3]])
    assert torch.allclose(places.scores, wanted, atol=1e-5)
    assert places.labels.tolist() == [0, 0]
    _, alone_places = join_places(Detections(boxes, scores, labels), 0.0)
    assert torch.equal(alone_places.scores, scores[[0, 3]])  # each class scored alone
    rows, places = join_places(Detections.empty(), 0.125)
    assert (len(rows), places.count) == (0, 0)


def test_what_is_there_may_be_surer_than_what_it_is() -> None:
    seen = found((LEFT, 0.4, 0), (LEFT, 0.35, 1), (RIGHT, 0.9, 0))
    seen = Detections(seen.boxes, 0.125 * seen.scores, seen.labels, seen.confidence)
    there = measure_presence(seen, None, 0.125)
    assert there[0] > 0.5 > seen.confidence[0]
    assert there[1] == seen.confidence[1]  # only the best of a place stands for it
    assert there[2] == seen.confidence[2]


def test_a_wrong_class_is_doubted_and_the_other_is_named() -> None:
    doubts = find_doubts(
        {"a": labelled((LEFT, 0), (RIGHT, 1))},
        {"a": found((LEFT, 0.9, 1), (RIGHT, 0.9, 1))},
        ("cat", "dog"),
    )
    first, last = doubts[0], doubts[-1]
    assert (first.photo, first.kind, first.name, first.instead) == ("a", "label", "cat", "dog")
    assert first.probability > 0.9
    assert (last.name, last.instead) == ("dog", "")
    assert last.probability < 0.2


def test_a_thing_without_a_label_is_doubted() -> None:
    doubts = find_doubts(
        {"a": labelled((LEFT, 0))}, {"a": found((LEFT, 0.9, 0), (RIGHT, 0.8, 1))}, ("cat", "dog")
    )
    assert (doubts[0].kind, doubts[0].name) == ("missing", "dog")
    assert doubts[0].probability == pytest.approx(0.8)
    assert doubts[0].box == tuple(RIGHT)


def test_a_photo_without_things_is_doubted_where_something_is_found() -> None:
    doubts = find_doubts({"a": labelled()}, {"a": found((LEFT, 0.7, 0))}, ("cat",))
    assert [doubt.kind for doubt in doubts] == ["missing"]


def test_what_was_not_found_at_all_is_doubted_half() -> None:
    doubts = find_doubts({"a": labelled((LEFT, 0))}, {"a": Detections.empty()}, ("cat",))
    assert [doubt.probability for doubt in doubts] == [0.5]


def test_a_box_beside_its_thing_is_one_doubt_and_the_thing_is_none_of_its_own() -> None:
    thing = [35.0, 0.0, 75.0, 40.0]
    doubts = find_doubts({"a": labelled((LEFT, 0))}, {"a": found((thing, 0.8, 0))}, ("cat", "dog"))
    assert [(doubt.kind, doubt.box) for doubt in doubts] == [("label", tuple(LEFT))]
    assert doubts[0].probability == pytest.approx(0.9)
    far = found((RIGHT, 0.8, 0), (thing, 0.7, 1))  # too far away, and of another class
    doubts = find_doubts({"a": labelled((LEFT, 0))}, {"a": far}, ("cat", "dog"))
    assert [doubt.probability for doubt in doubts] == pytest.approx([0.8, 0.7, 0.5])


def test_a_part_of_a_labelled_thing_is_no_thing_without_a_label() -> None:
    part = [0.0, 0.0, 20.0, 20.0]
    doubts = find_doubts(
        {"a": labelled((LEFT, 0))},
        {"a": found((LEFT, 0.9, 0), (part, 0.8, 0), (part, 0.7, 1))},
        ("cat", "dog"),
    )
    missing = {doubt.name: doubt.probability for doubt in doubts if doubt.kind == "missing"}
    assert missing["cat"] == pytest.approx(0)
    assert missing["dog"] == pytest.approx(0.7)  # a dog in the cat's box is something else
