"""Average precision of classes that images show, against loops; VOC sets for the protocol."""

from pathlib import Path

import pytest
import torch

from image_files import make_voc, voc_object, voc_xml, write_split
from oracles.slow_average_precision import voc07
from sppnet.classification.data import open_voc_data
from sppnet.classification.scoring import presence_task, score_presence
from sppnet.errors import NothingUsableError, UsageError


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
