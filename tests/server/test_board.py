"""Lists follow the store, whoever edits it; hidden suggestions are compared with labels."""

from pathlib import Path

import pytest

from sppnet.server import board as boards
from sppnet.server.answers import NotFoundError
from sppnet.server.board import Board, Withheld, count_same, is_withheld
from sppnet.storage.label_store import LabelStore
from sppnet.storage.labels import LabelBox, PhotoLabels

PHOTOS = tuple(f"{number:03}.jpg" for number in range(200))


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(LabelStore(tmp_path / ".sppnet", tmp_path), PHOTOS)


def box(x: float, name: str = "cat") -> LabelBox:
    return LabelBox((x, 0, x + 10, 10), name)


def test_lists_follow_edits_of_other_processes(board: Board, tmp_path: Path) -> None:
    board.refresh()
    other = LabelStore(tmp_path / ".sppnet")
    other.put("001.jpg", [box(0), box(20), box(40, "dog")])
    other.put("000.jpg", [], state="empty")
    assert [item["state"] for item in board.items(0, 3)] == ["empty", "labelled", "unlabelled"]
    assert board.items(1, 1)[0]["boxes"] == 3
    assert board.classes() == [{"name": "cat", "count": 2}, {"name": "dog", "count": 1}]
    other.undo("000.jpg")
    assert board.store.count_labelled() == 1


def test_renamed_and_merged_classes_keep_their_counts(board: Board, tmp_path: Path) -> None:
    board.store.put("001.jpg", [box(0), box(40, "dog")])
    assert len(board.classes()) == 2
    other = LabelStore(tmp_path / ".sppnet")
    other.rename_class("cat", "lynx")
    assert {each["name"] for each in board.classes()} == {"lynx", "dog"}
    other.merge_classes("lynx", "dog")
    assert board.classes() == [{"name": "dog", "count": 2}]


def test_photos_are_taken_from_the_list_only(board: Board) -> None:
    for name in ("../001.jpg", "", "/etc/passwd", "001.jpg\0"):
        with pytest.raises(NotFoundError):
            board.known(name)
    with pytest.raises(ValueError, match="at least 0"):
        board.items(-1, 5)


def test_about_one_photo_in_twenty_is_withheld_and_always_the_same() -> None:
    names = [f"IMG_{number}.JPG" for number in range(4000)]
    chosen = [name for name in names if is_withheld(name)]
    assert 150 < len(chosen) < 250
    assert chosen == [name for name in names if is_withheld(name)]


def test_hidden_suggestions_are_compared_with_what_was_drawn(board: Board) -> None:
    hidden = next(photo for photo in PHOTOS if is_withheld(photo))
    withheld = Withheld(board)
    items = [
        {"box": [1, 0, 11, 10], "name": "cat", "confidence": 0.9},
        {"box": [50, 0, 60, 10], "name": "cat", "confidence": 0.8},
        {"box": [90, 0, 99, 10], "name": "cat", "confidence": 0.1},  # nobody would be shown it
    ]
    withheld.keep(hidden, "warm 1", items)
    assert withheld.hides(board.store.labels(hidden))
    assert withheld.agreement() == boards.Agreement(None, 0)
    labels = board.store.put(hidden, [box(0)])
    withheld.edited(hidden)
    assert withheld.hides(labels)  # it is still being drawn on
    withheld.keep(hidden, "warm 2", [])  # learnt from the photo itself: does not count
    withheld.edited("another.jpg")
    assert not withheld.hides(labels)
    assert withheld.agreement() == boards.Agreement(2 / 3, 1)


def test_what_is_kept_goes_along_with_a_renamed_class(board: Board) -> None:
    hidden = next(photo for photo in PHOTOS if is_withheld(photo))
    withheld = Withheld(board)
    items = [{"box": [0, 0, 10, 10], "name": "cat", "confidence": 0.9}]
    withheld.keep(hidden, "warm 1", items)
    board.store.put(hidden, [box(0)])
    board.store.rename_class("cat", "lynx")
    withheld.rename("cat", "lynx")
    assert withheld.agreement() == boards.Agreement(1.0, 1)


def test_each_label_is_found_once_and_by_its_class_only() -> None:
    labels = PhotoLabels("a.jpg", boxes=(box(0), box(30, "dog")))
    found = [{"box": [0, 0, 10, 10], "name": name} for name in ("cat", "cat", "dog")]
    assert count_same(labels, found) == 1
    named = PhotoLabels("a.jpg", names=("cat",))
    assert count_same(named, [{"name": "cat"}, {"name": "dog"}]) == 1


@pytest.mark.parametrize("two", [(3, 2, 9, 7), (20, 20, 30, 30), (10, 0, 12, 10), (0, 0, 10, 10)])
def test_overlaps_are_those_of_the_pixels(two) -> None:
    cells = [
        {(x, y) for x in range(a, c) for y in range(b, d)} for a, b, c, d in ((0, 0, 10, 10), two)
    ]
    expected = len(cells[0] & cells[1]) / len(cells[0] | cells[1])
    assert boards.overlap((0, 0, 10, 10), two) == pytest.approx(expected)
