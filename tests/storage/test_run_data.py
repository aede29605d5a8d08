"""A run knows its data by content, labels and classes, and says what is not as it was."""

import json
import os
import time
from pathlib import Path

import pytest

from sppnet.storage import LearntFile, RunData, RunFolder
from sppnet.storage.run_data import UNKNOWN_DATA, DataChanges

LABELS = {"a.jpg": "cat", "b.jpg": "dog", "c.jpg": "cat"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in LABELS:
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
        os.utime(path, (1, 1))
    return tmp_path / "data"


def _data(root: Path, labels: dict[str, str] = LABELS, **options) -> RunData:
    scored = options.pop("scored", ())
    files = [LearntFile(root / name, labels[name], name not in scored) for name in labels]
    return RunData(root, files, options.pop("names", ["cat", "dog"]), **options)


def _open(root: Path, data: RunData | None = None, **options) -> DataChanges:
    """Go on with the run, leave a stage and a state, and give what it said about its data."""
    folder = root.parent / "run"
    with RunFolder.open(
        folder, "toy", {}, 0, data=data or _data(root), state=("state",), **options
    ) as run:
        assert run.is_done("training") == (folder / "state").exists() == run.resumed
        (folder / "state").mkdir(exist_ok=True)
        run.mark_done("training")
        return run.data_changes


def test_unchanged_data_go_on_and_are_not_hashed_again(root: Path, monkeypatch) -> None:
    _open(root)
    record = root.parent / "run" / "data.json"
    content = json.loads(record.read_text())
    content["looked_at"] += 3 * 10**9  # as if the photos were older than the look at them
    record.write_text(json.dumps(content))

    def refuse(path: Path) -> str:
        raise AssertionError("hashed again")

    monkeypatch.setattr("sppnet.storage.run_data.sha256_file", refuse)
    assert _open(root) == DataChanges()


def test_a_copy_with_other_times_is_the_same_data(root: Path) -> None:
    _open(root)
    os.utime(root / "a.jpg", (5, 5))
    assert _open(root) == DataChanges()


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS | {"b.jpg": "cat"}, "1 of 3 images have other labels ('b.jpg')"),
        ({"a.jpg": "cat", "b.jpg": "dog"}, "1 of 2 images removed ('c.jpg')"),
        (
            {"b.jpg": "dog", "a.jpg": "cat", "c.jpg": "cat"},
            "the images are listed in another order",
        ),
    ],
)
def test_other_labels_begin_again(root: Path, labels: dict[str, str], words: str) -> None:
    _open(root)
    assert _open(root, _data(root, labels)).learnt == (words,)
    assert _open(root, _data(root, labels)) == DataChanges()


def test_images_added_renamed_and_exchanged(root: Path) -> None:
    _open(root)
    (root / "d.jpg").write_bytes(b"new")
    (root / "b.jpg").rename(root / "e.jpg")
    (root / "a.jpg").write_bytes(b"AAAAA")  # of the same size and, by this line, of the same time
    os.utime(root / "a.jpg", (1, 1))
    labels = {"a.jpg": "cat", "c.jpg": "cat", "d.jpg": "cat", "e.jpg": "dog"}
    found = _open(root, _data(root, labels)).learnt
    assert set(found) == {
        "1 of 4 images have another content ('a.jpg')",
        "1 of 4 images added ('d.jpg')",
        "1 of 4 images renamed ('e.jpg')",
    }


def test_a_photo_written_twice_in_one_tick_is_noticed(root: Path, monkeypatch) -> None:
    stamp = time.time_ns()
    os.utime(root / "a.jpg", ns=(stamp, stamp))
    before = _data(root).record({})
    (root / "a.jpg").write_bytes(b"AAAAA")
    os.utime(root / "a.jpg", ns=(stamp, stamp))
    before["files"]["a.jpg"][5] = (root / "a.jpg").stat().st_ctime_ns
    now = _data(root).record(before)
    assert DataChanges.between(before, now).learnt == (
        "1 of 3 images have another content ('a.jpg')",
    )


def test_other_classes_and_other_inputs_begin_again(root: Path) -> None:
    weights = root.parent / "weights.safetensors"
    weights.write_bytes(b"one")
    _open(root, _data(root, inputs=[weights]))
    weights.write_bytes(b"two")
    (words,) = _open(root, _data(root, inputs=[weights])).learnt
    assert words == f"{str(weights)!r} has another content"
    (words,) = _open(root, _data(root, names=["dog", "cat"], inputs=[weights])).learnt
    assert words == "the classes were cat, dog, are dog, cat"


def test_images_that_are_only_scored_on_leave_what_was_learnt(root: Path) -> None:
    _open(root, _data(root, scored=("c.jpg",)))
    changes = _open(root, _data(root, LABELS | {"c.jpg": "dog"}, scored=("c.jpg",)))
    assert changes == DataChanges((), ("1 of 3 images have other labels ('c.jpg')",))
    (words,) = _open(root, _data(root, LABELS | {"c.jpg": "dog"})).learnt
    assert words == "1 of 3 images changed between learning and scoring ('c.jpg')"


@pytest.mark.parametrize("damage", [None, b"", b"[]", b'{"files": {"a.jpg": 3}}', b"{"])
def test_a_run_that_does_not_say_what_it_learnt_from_begins_again(root: Path, damage) -> None:
    _open(root)
    record = root.parent / "run" / "data.json"
    record.unlink()
    if damage is not None:
        record.write_bytes(damage)
    assert _open(root).learnt == (UNKNOWN_DATA,)
    assert _open(root) == DataChanges()


def test_a_kill_before_the_new_record_is_made_up_for(root: Path, monkeypatch) -> None:
    _open(root)
    other = _data(root, LABELS | {"a.jpg": "dog"})

    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("sppnet.storage.runs.write_text", die)
        with pytest.raises(KeyboardInterrupt):
            _open(root, other)
    assert len(_open(root, other).learnt) == 1


def test_fresh_forgets_the_state_too(root: Path) -> None:
    _open(root)
    assert _open(root, fresh=True) == DataChanges()


def test_what_cannot_be_read_is_left_to_the_reader_of_images(root: Path) -> None:
    _open(root)
    (root / "a.jpg").unlink()
    assert _open(root).learnt == ("1 of 3 images have another content ('a.jpg')",)
    assert _open(root) == DataChanges()
