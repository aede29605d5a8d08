"""Class folders and the draw of training images of every class."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from image_files import tree_hash, write_image
from sppnet.errors import NothingUsableError, UsageError
from sppnet.images import check_dataset, list_class_splits, read_class_folders, split_per_class


def make(root, *names):
    for name in names:
        write_image(root / name, 4, 4)
    return root


def test_folders_are_classes(tmp_path):
    root = make(tmp_path, "dog/b.jpg", "dog/sub/a.PNG", "cat/a.jpg", ".git/x.jpg", "loose.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "cat/.hidden.jpg").touch()
    (tmp_path / "cat/notes.txt").touch()
    before = tree_hash(tmp_path)
    dataset = read_class_folders(root)
    assert dataset.names == ("cat", "dog")
    assert [path.name for path in dataset.paths] == ["a.jpg", "b.jpg", "a.PNG"]
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.labels.dtype == torch.int64
    assert dataset.images_per_class() == {"cat": 1, "dog": 2}
    assert [(p.rule, p.action) for p in dataset.problems] == [("holds no image", "class left out")]
    assert next(iter(dataset)) == (dataset.paths[0], 0)
    assert tree_hash(tmp_path) == before


def test_files_of_other_kinds_are_told_for_each_class(tmp_path):
    root = make(tmp_path, "dog/b.jpg", "cat/a.jpg")
    for name in ("cat/a.mp4", "cat/b.mp4", "dog/b.bin", "cow/a.avif"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    dataset = read_class_folders(root)
    cow, cat = dataset.problems
    assert cow.rule == "holds no image; holds files of kinds that are not read: 1 .avif"
    assert (cat.path, cat.rule) == (
        str(root / "cat"),
        "holds files of kinds that are not read: 2 .mp4",
    )
    assert [note.rule for note in dataset.notes] == [
        "holds files that are no images by their names: 1 .bin"
    ]
    assert check_dataset(root).notes == dataset.notes


def test_splits_share_their_names(tmp_path):
    root = make(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/b/2.jpg", "test/c/3.jpg")
    assert list_class_splits(root) == ["train", "val", "test"]
    val = read_class_folders(root, "val")
    assert val.names == ("a", "b", "c")
    assert val.labels.tolist() == [1]
    assert read_class_folders(root).labels.tolist() == [0, 1, 1, 2]
    with pytest.raises(UsageError, match="no split 'dev'; splits of this set: train, val, test"):
        read_class_folders(root, "dev")


def test_a_class_may_be_called_test(tmp_path):
    root = make(tmp_path, "test/1.jpg", "cat/1.jpg")
    assert list_class_splits(root) == []
    assert read_class_folders(root).names == ("cat", "test")
    with pytest.raises(UsageError, match="splits of this set: none"):
        read_class_folders(root, "test")


def test_nothing_there(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_class_folders(tmp_path / "gone")
    with pytest.raises(NothingUsableError, match="folder per class"):
        read_class_folders(tmp_path)
    make(tmp_path, "loose.jpg")
    with pytest.raises(NothingUsableError, match="folder per class"):
        read_class_folders(tmp_path)


LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=80)


@given(LABELS, st.integers(1, 4), st.none() | st.integers(1, 5), st.integers(0, 9))
def test_draws(labels, train_per_class, test_per_class, seed):
    counts = {label: labels.count(label) for label in set(labels)}
    if min(counts.values()) <= train_per_class:
        with pytest.raises(ValueError, match="must leave an image of every class"):
            split_per_class(labels, train_per_class, test_per_class, seed)
        return
    train, test = split_per_class(torch.tensor(labels), train_per_class, test_per_class, seed)
    again = split_per_class(labels, train_per_class, test_per_class, seed)
    assert train.equal(again[0])
    assert test.equal(again[1])
    assert set(train.tolist()).isdisjoint(test.tolist())
    for label, count in counts.items():
        drawn = [labels[i] for i in train.tolist()].count(label)
        left = [labels[i] for i in test.tolist()].count(label)
        assert drawn == train_per_class
        assert left == min(count - drawn, test_per_class or count)


def test_another_seed_is_another_draw():
    labels = [0] * 100 + [1] * 100
    draws = {tuple(split_per_class(labels, 30, 50, seed)[0].tolist()) for seed in range(5)}
    assert len(draws) == 5


@pytest.mark.parametrize(("train", "test"), [(0, None), (-1, 3), (1, 0)])
def test_callers_mistakes(train, test):
    with pytest.raises(ValueError, match="must be at least 1"):
        split_per_class([0, 0, 0], train, test)


def test_real_classes(shared_data):
    dataset = read_class_folders(shared_data / "caltech101-20")
    assert len(dataset.names) == 20
    assert len(dataset) == 1538
    train, test = split_per_class(dataset.labels, 30, 50)
    assert len(train) == 600
    assert torch.bincount(dataset.labels[test]).max() == 50
