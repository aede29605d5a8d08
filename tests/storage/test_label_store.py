"""No committed edit of a label store is lost or half, whoever edits and whatever dies."""

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from label_editor_to_kill import digest
from sppnet.errors import OutputError, UnusableFileError, UsageError
from sppnet.storage.label_store import LabelStore, find_store
from sppnet.storage.labels import ConflictError, LabelBox, PhotoLabels, SuggestedBox
from storage_faults import file_size_limit

EDITOR = Path(__file__).parents[1] / "label_editor_to_kill.py"
CAT = LabelBox((1.0, 2.0, 30.5, 40.25), "cat", {"pose": "Left"})
DOG = LabelBox((5.0, 5.0, 9.0, 9.0), "dog")


@pytest.fixture
def store(tmp_path: Path):
    with LabelStore(tmp_path / ".sppnet", tmp_path) as made:
        yield made


def reopened(store: LabelStore) -> LabelStore:
    store.close()
    return LabelStore(store.folder)


def test_an_edit_is_there_after_reopening_to_the_last_bit(store: LabelStore) -> None:
    third = LabelBox((1 / 3, 0.1, 2 / 3 + 1, 7.7), "cat")
    store.put("a/b.jpg", [CAT, third], extra={"folder": "x"}, author="ann")
    with reopened(store) as again:
        found = again.labels("a/b.jpg")
        assert found.boxes == (CAT, third)
        assert (found.revision, found.state, found.author) == (1, "labelled", "ann")
        assert found.extra == {"folder": "x"}
        assert again.labels("other.jpg").revision == 0


def test_every_commit_reaches_the_disk(store: LabelStore) -> None:
    assert store._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store._db.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_a_disk_that_fills_during_a_large_import_is_named(store: LabelStore) -> None:
    """SQLite writes before the commit where much is changed, and rolls back by itself."""
    store.put("a.jpg", [CAT])
    boxes = (LabelBox((1.0, 2.0, 3.0, 4.0), "cat", {"note": "x" * 100}),) * 40
    edits = [PhotoLabels(f"{n}.jpg", 0, boxes=boxes, state="labelled") for n in range(1500)]
    with file_size_limit(4_000_000), pytest.raises(OutputError, match=r"disk is full|disk I/O"):
        store.put_all(edits)
    assert [each.photo for each in store.every()] == ["a.jpg"]
    assert store.put_all(edits[:2])[1].revision == 1


def test_nothing_here_is_another_state_than_no_word_yet(store: LabelStore) -> None:
    store.put("a.jpg", [], state="empty")
    store.put("b.jpg", [CAT])
    store.put("b.jpg", [], state="unlabelled")
    assert {each.photo: each.state for each in store.every()} == {
        "a.jpg": "empty",
        "b.jpg": "unlabelled",
    }


class Told:
    """Undo and redo as a list of states with a place in it: the readable truth."""

    def __init__(self) -> None:
        self.states: list[object] = [()]
        self.at = 0

    def edit(self, state: object) -> None:
        self.states = [*self.states[: self.at + 1], state]
        self.at += 1


@pytest.mark.parametrize("seed", range(4))
def test_undo_and_redo_are_those_of_a_list_also_after_reopening(tmp_path: Path, seed: int) -> None:
    draw, told = random.Random(seed), Told()
    store = LabelStore(tmp_path / "store", tmp_path)
    for step in range(60):
        can_undo, can_redo = store.can_step("a.jpg")
        assert (can_undo, can_redo) == (told.at > 0, told.at < len(told.states) - 1)
        kind = draw.choice(["edit", "undo", "undo", "redo", "reopen"])
        if kind == "edit":
            boxes = (LabelBox((0.0, 0.0, 1.0 + step, 5.0), "cat"),)
            store.put("a.jpg", boxes)
            told.edit(boxes)
        elif kind == "undo" and can_undo:
            store.undo("a.jpg")
            told.at -= 1
        elif kind == "redo" and can_redo:
            store.redo("a.jpg")
            told.at += 1
        elif kind == "reopen":
            store = reopened(store)
        assert store.labels("a.jpg").boxes == told.states[told.at]
    revisions = [each.revision for each in store.history("a.jpg")]
    assert revisions == list(range(1, len(revisions) + 1))  # no revision is ever removed
    store.close()


def test_nothing_to_undo_is_said(store: LabelStore) -> None:
    with pytest.raises(UsageError, match="nothing to undo"):
        store.undo("a.jpg")
    store.put("a.jpg", [CAT])
    with pytest.raises(UsageError, match="nothing to redo"):
        store.redo("a.jpg")


def test_a_conflict_carries_both_versions_and_writes_nothing(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "s", tmp_path) as ann, LabelStore(tmp_path / "s") as bob:
        seen = ann.put("a.jpg", [CAT]).revision
        bob.put("a.jpg", [CAT, DOG], expected=seen)
        with pytest.raises(ConflictError) as caught:
            ann.put("a.jpg", [DOG], expected=seen)
        assert caught.value.current.boxes == (CAT, DOG)
        assert caught.value.offered.boxes == (DOG,)
        with pytest.raises(ConflictError):
            ann.undo("a.jpg", expected=seen)
        assert ann.labels("a.jpg").boxes == (CAT, DOG)


def test_two_connections_at_once_lose_nothing(tmp_path: Path) -> None:
    LabelStore(tmp_path / "s", tmp_path).close()

    def edit(own: int) -> None:
        with LabelStore(tmp_path / "s") as store:
            for number in range(25):
                while True:
                    now = store.labels("a.jpg")
                    box = LabelBox((0.0, 0.0, 1.0 + number, 1.0 + own), f"class{own}")
                    try:
                        store.put("a.jpg", [*now.boxes, box], expected=now.revision)
                    except ConflictError:
                        continue
                    break

    threads = [threading.Thread(target=edit, args=(own,)) for own in (1, 2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    with LabelStore(tmp_path / "s") as store:
        boxes = store.labels("a.jpg").boxes
        assert len(boxes) == len({box.corners for box in boxes}) == 50
        photos, last = store.changed_since(0)
        assert photos == ["a.jpg"]
        assert store.changed_since(last) == ([], last)


def test_many_edits_are_written_together_or_not_at_all(store: LabelStore) -> None:
    first = store.put("a.jpg", [CAT])
    stale = [first, PhotoLabels("b.jpg", 7, "labelled", (DOG,))]
    with pytest.raises(ConflictError):
        store.put_all(stale, check=True)
    assert store.labels("a.jpg").revision == 1


def test_classes_are_renamed_merged_and_split_without_a_new_revision(store: LabelStore) -> None:
    store.put("a.jpg", [CAT, DOG])
    store.rename_class("cat", "lynx")
    assert [box.name for box in store.labels("a.jpg").boxes] == ["lynx", "dog"]
    with pytest.raises(UsageError, match="merge them"):
        store.rename_class("lynx", "dog")
    store.merge_classes("lynx", "dog")
    assert store.names() == ("dog",)
    assert [box.name for box in store.labels("a.jpg").boxes] == ["dog", "dog"]
    store.split_class("lynx")
    found = store.labels("a.jpg")
    assert [box.name for box in found.boxes] == ["lynx", "dog"]
    assert found.revision == 1


@pytest.mark.parametrize("kind", ["rename", "merge"])
def test_suggestions_do_not_outlive_the_names_in_them(store: LabelStore, kind: str) -> None:
    store.put("a.jpg", [LabelBox((1, 2, 30, 40), "cat"), LabelBox((1, 2, 30, 40), "dog")])
    store.put_suggestions("a.jpg", [SuggestedBox((1, 2, 30, 40), "cat", 0.5)], "warm 3")
    change = store.rename_class if kind == "rename" else store.merge_classes
    change("cat", "lynx" if kind == "rename" else "dog")
    assert store.suggestions("a.jpg") == ([], None)


def test_a_store_has_a_name_of_its_own(store: LabelStore, tmp_path: Path) -> None:
    own = store.fact("id")
    assert len(own) == 32
    with LabelStore(store.folder) as again:
        assert again.fact("id") == own
    with LabelStore(tmp_path / "other", tmp_path) as other:
        assert other.fact("id") != own
    store.put("a.jpg", [], state="empty")
    store._db.execute("DELETE FROM facts WHERE name = 'id'")  # a store of an earlier version
    with reopened(store) as later:
        assert len(later.fact("id")) == 32


def test_labelled_photos_are_counted_whoever_edits(store: LabelStore) -> None:
    rng = random.Random(0)
    with LabelStore(store.folder) as other:
        for _ in range(60):
            photo = f"{rng.randrange(6)}.jpg"
            state = rng.choice(["labelled", "empty", "unlabelled"])
            boxes = [LabelBox((1, 2, 30, 40), "cat")] if state == "labelled" else []
            rng.choice([store, other]).put(photo, boxes, state=state)
            if rng.random() < 0.3:
                other.undo(photo)
            truth = sum(each.state != "unlabelled" for each in store.every())
            assert store.count_labelled() == truth


def test_counting_again_reads_what_is_new_only(store: LabelStore) -> None:
    store.put_all([PhotoLabels(f"{number}.jpg", state="empty") for number in range(500)])
    assert store.count_labelled() == 500
    store.put("0.jpg", [], state="unlabelled")
    steps = []
    store._db.set_progress_handler(lambda: steps.append(1), 1)  # each step of SQLite
    assert store.count_labelled() == 499
    assert 0 < len(steps) < 100


def test_suggestions_are_no_labels(store: LabelStore) -> None:
    box = SuggestedBox((0.0, 1.0, 2.0, 3.5), "cat", -0.25, 0.5)
    store.put_suggestions("a.jpg", [box], "warm 3")
    with reopened(store) as again:
        assert again.suggestions("a.jpg") == ([box], "warm 3")
        assert again.labels("a.jpg").state == "unlabelled"
        assert again.every() == []


@pytest.mark.parametrize(
    ("photo", "boxes", "state", "rule"),
    [
        ("a.jpg", [], "labelled", "labelled if they have boxes"),
        ("a.jpg", [CAT], "empty", "labelled if they have boxes"),
        ("a.jpg", [], "done", "state must be one of"),
        ("a.jpg", [LabelBox((3, 0, 1, 2), "cat")], "labelled", "x1 < x2"),
        ("a.jpg", [LabelBox((0, 0, float("nan"), 2), "cat")], "labelled", "x1 < x2"),
        ("a.jpg", [LabelBox((0, 0, 1, 2), " ")], "labelled", "must not be empty"),
        ("../a.jpg", [CAT], "labelled", "below the photos' folder"),
        ("/a.jpg", [CAT], "labelled", "below the photos' folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(store, photo, boxes, state, rule) -> None:
    with pytest.raises(ValueError, match=rule):
        store.put(photo, boxes, state=state)
    assert store.every() == []


def test_a_store_of_other_photos_or_of_no_kind_is_refused(tmp_path: Path) -> None:
    LabelStore(tmp_path / "s", tmp_path).close()
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="of the photos in"):
        LabelStore(tmp_path / "s", tmp_path / "other")
    with pytest.raises(UsageError, match="no label store"):
        LabelStore(tmp_path / "none")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "labels.sqlite").write_bytes(b"no database" * 200)
    with pytest.raises(UnusableFileError, match="damaged or no label store"):
        LabelStore(tmp_path / "bad")


def test_a_folder_that_was_moved_keeps_its_store(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with LabelStore(tmp_path / "old" / ".sppnet", tmp_path / "old") as store:
        store.put("a.jpg", [CAT])
    (tmp_path / "old").rename(tmp_path / "new")
    found = find_store(tmp_path / "new")
    assert found == tmp_path / "new" / ".sppnet"
    with LabelStore(found) as store:
        assert store.photos_folder == tmp_path / "new"
        assert store.labels("a.jpg").boxes == (CAT,)


def kill_editors(folder: Path, seed: int, rounds: int) -> int:
    """Kill editors at random points, compare with what they said; the number of edits."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(EDITOR), str(folder), str(seed), str(rounds)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root / "src")},
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    if not find_store(folder):
        assert not lines
        return 0
    with LabelStore(folder, folder) as store:
        assert store._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        held = {
            (each.photo, each.revision): digest(each)
            for photo in {labels.photo for labels in store.every()}
            for each in store.history(photo)
        }
    for photo, revision, said in lines:
        assert held[photo, int(revision)] == said, f"{photo} lost revision {revision}"
    assert len(lines) <= len(held) <= len(lines) + rounds  # the last of each may be unsaid
    return len(lines)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the editors")
def test_kills_at_random_points_lose_no_edit(tmp_path: Path) -> None:
    assert kill_editors(tmp_path, seed=0, rounds=20) > 20


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the editors")
def test_a_thousand_kills_lose_no_edit(tmp_path: Path) -> None:
    assert sum(kill_editors(tmp_path / str(n), seed=n, rounds=50) for n in range(20)) > 1000


def test_names_of_whole_photos_are_kept_as_boxes_are(store: LabelStore) -> None:
    store.put("a.jpg", [], names=["cat", "dog"])
    store.put("b.jpg", [CAT], author="Ann")
    store.put("a.jpg", [], state="empty")
    with reopened(store) as again:
        assert again.undo("a.jpg").names == ("cat", "dog")
        assert [each.names for each in again.history("a.jpg")] == [
            ("cat", "dog"),
            (),
            ("cat", "dog"),
        ]
        again.merge_classes("dog", "cat")
        assert again.labels("a.jpg").names == ("cat",)
        assert again.labels("b.jpg").boxes == (CAT,)
        assert again.count_labelled() == 2
        with pytest.raises(ValueError, match="must not be empty"):
            again.put("a.jpg", [], names=[""])
        with pytest.raises(ValueError, match="labelled if they have boxes"):
            again.put("a.jpg", [], names=["cat"], state="empty")
        again.close()


def test_classes_that_cannot_be_merged_or_split_are_said(store: LabelStore) -> None:
    store.put("a.jpg", [CAT, DOG])
    assert store.class_edit() == 0
    for call, rule in (
        (lambda: store.merge_classes("cat", "cat"), "cannot be merged into itself"),
        (lambda: store.merge_classes("cat", "cow"), "there is no class 'cow'"),
        (lambda: store.rename_class("cow", "ox"), "there is no class 'cow'"),
        (lambda: store.split_class("cat"), "no class 'cat' can be split off"),
    ):
        with pytest.raises(UsageError, match=rule):
            call()
    assert store.class_edit() == 0
    store.merge_classes("cat", "dog")
    first = store.class_edit()
    assert first > 0
    store.put("b.jpg", [CAT])  # another class of that name
    with pytest.raises(UsageError, match="no class 'cat' can be split off"):
        store.split_class("cat")
    assert store.class_edit() == first
    assert store.names() == ("dog", "cat")


def test_facts_are_kept_together(store: LabelStore) -> None:
    assert store.fact("a", "nothing") == "nothing"
    store.put_facts({"a": "1", "b": "2"})
    store.put_fact("a", "3")
    again = reopened(store)
    assert (again.fact("a"), again.fact("b")) == ("3", "2")
    again.close()


def test_a_store_that_was_closed_or_cannot_be_made_is_said(
    store: LabelStore, tmp_path: Path
) -> None:
    store.close()
    with pytest.raises(UsageError, match="the label store was closed"):
        store.names()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        LabelStore(tmp_path / "file" / "store", tmp_path)


def test_a_store_of_another_version_is_refused(store: LabelStore, tmp_path: Path) -> None:
    store._db.execute("PRAGMA user_version = 99")
    store.close()
    for photos in (None, tmp_path):
        with pytest.raises(UnusableFileError, match="is of 99"):
            LabelStore(store.folder, photos)


def test_a_store_is_found_in_a_folder_or_beside_its_photos(
    store: LabelStore, tmp_path: Path
) -> None:
    assert find_store(tmp_path) == store.folder
    assert find_store(store.folder) == store.folder
    assert find_store(tmp_path / "none") is None


def test_an_edit_of_an_old_revision_is_written_unless_it_is_to_be_checked(
    store: LabelStore,
) -> None:
    store.put("a.jpg", [CAT])
    store.put("a.jpg", [DOG])
    old = PhotoLabels("a.jpg", 1, "labelled", (CAT,))
    with pytest.raises(ConflictError):
        store.put_all([old], check=True)
    assert store.put_all([old])[0].revision == 3


def test_a_class_cannot_be_given_no_name(store: LabelStore) -> None:
    store.put("a.jpg", [CAT])
    for name in ("", " "):
        with pytest.raises(ValueError, match="must not be empty"):
            store.rename_class("cat", name)
    assert store.names() == ("cat",)


def test_what_else_is_known_of_a_photo_goes_unless_it_is_to_be_kept(store: LabelStore) -> None:
    store.put("a.jpg", [CAT], extra={"folder": "x"})
    edit = PhotoLabels("a.jpg", 1, "labelled", (DOG,), {"depth": 3})
    assert store.put_all([edit], keep_extra=True)[0].extra == {"folder": "x"}
    assert store.put_all([edit])[0].extra == {"depth": 3}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux which files are open")
def test_a_store_that_is_refused_is_closed(tmp_path: Path) -> None:
    LabelStore(tmp_path / "s", tmp_path).close()
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError) as refused:
        LabelStore(tmp_path / "s", tmp_path / "other")
    names = [os.path.realpath(place) for place in Path("/proc/self/fd").iterdir()]
    assert refused.value is not None  # its frames still hold the store
    assert not [name for name in names if name.startswith(str(tmp_path))]
