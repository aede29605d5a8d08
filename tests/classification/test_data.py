"""Images of class folders and of VOC sets, and which of them a classifier is fitted on.

Images to fit on and images to score on never meet, and the draw can be repeated.
"""

from pathlib import Path

import pytest
import torch

from image_files import make_voc, voc_object, voc_xml, write_split
from small_photos import PATTERNS, draw_folders
from sppnet.classification import SplitConfig, holdout_split, open_class_data, protocol_splits
from sppnet.classification.data import match_classes, open_voc_data
from sppnet.errors import NothingUsableError, UsageError
from sppnet.images import read_class_folders


def test_plain_folder_is_divided_as_asked(tmp_path: Path) -> None:
    data = open_class_data(draw_folders(tmp_path / "d", 5), SplitConfig(seed=1))
    (split,) = data.splits()
    assert data.names == PATTERNS
    assert (len(split.train), len(split.test)) == (16, 4)
    assert data.describe_split() == "20% of each class held out, seed 1"


def test_train_and_val_folders_are_kept_apart(tmp_path: Path) -> None:
    draw_folders(tmp_path / "train", 3, seed=0)
    draw_folders(tmp_path / "val", 2, seed=1)
    data = open_class_data(tmp_path, SplitConfig())
    (split,) = data.splits()
    assert {data.paths[i].parts[-3] for i in split.train.tolist()} == {"train"}
    assert {data.paths[i].parts[-3] for i in split.test.tolist()} == {"val"}
    with pytest.raises(UsageError, match="draws its own splits"):
        open_class_data(tmp_path, SplitConfig(train_per_class=2))


def test_unreadable_images_do_not_shift_the_others(tmp_path: Path) -> None:
    data = open_class_data(draw_folders(tmp_path / "d", 5), SplitConfig())
    kept = torch.tensor([i for i in range(20) if i % 5])
    (split,) = data.splits(kept)
    assert max(split.train.tolist()) < len(kept)


def test_nothing_to_fit_on(tmp_path: Path) -> None:
    data = open_class_data(draw_folders(tmp_path / "d", 2), SplitConfig())
    with pytest.raises(NothingUsableError, match="fewer than two classes"):
        data.splits(torch.tensor([0, 1]))
    with pytest.raises(NothingUsableError):
        data.splits(torch.tensor([], dtype=torch.int64))


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    dataset = read_class_folders(draw_folders(tmp_path / "d", 1))
    assert match_classes(dataset, ("x", *reversed(PATTERNS))).tolist() == [4, 3, 2, 1]
    with pytest.raises(UsageError, match="'upright' is none of the model's 3 classes"):
        match_classes(dataset, PATTERNS[:3])


def make_set(root: Path, splits: dict[str, str]) -> Path:
    """A VOC set of five images with cats, dogs and difficult dogs."""
    hard = "<difficult>1</difficult>"
    cat, dog = voc_object((1, 1, 10, 10)), voc_object((5, 5, 20, 20), "dog")
    unclear = voc_object((5, 5, 20, 20), "dog", hard)
    content = {"a": cat, "b": dog, "c": cat + unclear, "d": dog + unclear, "e": ""}
    make_voc(
        root,
        {stem: voc_xml(objects, f"{stem}.jpg") for stem, objects in content.items()},
        {f"{stem}.jpg": (30, 40) for stem in content},
    )
    for name, stems in splits.items():
        write_split(root, name, "\n".join(stems))
    return root


def test_trainval_is_fitted_on_and_test_scored(tmp_path: Path) -> None:
    data = open_voc_data(make_set(tmp_path / "v", {"train": "a", "trainval": "ab", "test": "cde"}))
    assert data.splits_used == ("trainval", "test")
    (split,) = data.splits()
    assert [data.paths[i].stem for i in split.train.tolist()] == ["a", "b"]
    assert [data.paths[i].stem for i in split.test.tolist()] == ["c", "d", "e"]
    assert data.targets.tolist() == [[1, -1], [-1, 1], [1, 0], [-1, 1], [-1, -1]]
    assert data.task(torch.tensor([4, 0])).targets.tolist() == [[-1, -1], [1, -1]]
    (rest,) = data.splits(torch.tensor([1, 3, 4]))  # a and c could not be read
    assert (rest.train.tolist(), rest.test.tolist()) == ([0], [1, 2])
    with pytest.raises(NothingUsableError):
        data.splits(torch.tensor([3]))


def test_missing_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a split 'test' or 'val'; there are train"):
        open_voc_data(make_set(tmp_path / "v", {"train": "ab"}))


LABELS = torch.arange(3).repeat_interleave(torch.tensor([10, 40, 100]))


def test_protocol_counts() -> None:
    splits = protocol_splits(LABELS, 5, 50, splits=3, seed=0)
    for split in splits:
        assert torch.bincount(LABELS[split.train]).tolist() == [5, 5, 5]
        assert torch.bincount(LABELS[split.test]).tolist() == [5, 35, 50]
        assert not set(split.train.tolist()) & set(split.test.tolist())
    assert not torch.equal(splits[0].train, splits[1].train)


def test_protocol_is_repeatable() -> None:
    first, second = (protocol_splits(LABELS, 5, None, splits=2, seed=7) for _ in range(2))
    assert all(torch.equal(a.train, b.train) for a, b in zip(first, second, strict=True))


def test_holdout_keeps_both_sides_of_every_class() -> None:
    labels = torch.tensor([0] * 2 + [1] * 3 + [2] * 50)
    split = holdout_split(labels, 0.2, seed=3)
    assert torch.bincount(labels[split.test]).tolist() == [1, 1, 10]
    assert sorted([*split.train.tolist(), *split.test.tolist()]) == list(range(55))


def test_lone_image_is_fitted_on() -> None:
    split = holdout_split(torch.tensor([0, 1, 1]), 0.2)
    assert 0 in split.train.tolist()


@pytest.mark.parametrize(
    "wrong", [{"test_per_class": 5}, {"splits": 2}, {"train_per_class": 0}, {"splits": 0}]
)
def test_impossible_splits_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        SplitConfig(**wrong)
