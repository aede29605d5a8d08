"""The drawn sets: the same for a seed, readable, varied, with boxes that fit what is drawn."""

import time

import numpy as np
import pytest

from image_files import tree_hash
from sppnet.errors import OutputError
from sppnet.images import (
    draw_class_folders,
    draw_detection_set,
    list_voc_splits,
    read_class_folders,
    read_voc,
)
from sppnet.images.synthetic.scenes import draw_scene
from sppnet.images.synthetic.shapes import OBJECT_NAMES, draw_object


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    start = time.process_time()
    folder = draw_detection_set(tmp_path_factory.mktemp("drawn"), count=50, seed=1)
    assert time.process_time() - start < 6
    return folder


def test_the_set_is_clean_and_varied(drawn):
    dataset = read_voc(drawn)
    assert dataset.problems == ()
    assert dataset.notes == ()
    assert dataset.names == OBJECT_NAMES
    assert min(dataset.boxes_per_class().values()) >= 5
    assert sum(len(image.labels) == 0 for image in dataset) == 2
    aspects = [image.size_hw[1] / image.size_hw[0] for image in dataset]
    assert min(aspects) < 0.8
    assert max(aspects) > 1.9
    assert len({image.size_hw for image in dataset}) > 40
    for image in dataset:
        assert min(image.size_hw) >= 150
        assert max(image.size_hw) <= 420
        sides = image.boxes[:, 2:] - image.boxes[:, :2]
        assert (sides >= 8).all()
        assert (sides.amax(1) <= 1.3 * 0.85 * min(image.size_hw)).all() if len(sides) else True


def test_splits(drawn, tmp_path):
    assert list_voc_splits(drawn) == ["test", "train"]
    assert (len(read_voc(drawn, "train")), len(read_voc(drawn, "test"))) == (35, 15)
    draw_detection_set(tmp_path, 5, splits={"a": 0.98, "b": 0.01, "c": 0.01})
    assert [len(read_voc(tmp_path, split)) for split in "abc"] == [3, 1, 1]


def test_a_seed_gives_the_same_files(tmp_path):
    hashes = [
        tree_hash(draw_detection_set(tmp_path / n, 3, s)) for n, s in (("a", 5), ("b", 5), ("c", 6))
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    hashes = [
        tree_hash(draw_class_folders(tmp_path / n, 1, s)) for n, s in (("d", 5), ("e", 5), ("f", 6))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_longer_set_begins_with_the_shorter_one(tmp_path):
    short, longer = draw_detection_set(tmp_path / "a", 2), draw_detection_set(tmp_path / "b", 4)
    for number in range(2):
        name = f"JPEGImages/scene_{number:04d}.jpg"
        assert (short / name).read_bytes() == (longer / name).read_bytes()


def test_class_folders(tmp_path):
    dataset = read_class_folders(draw_class_folders(tmp_path, per_class=3))
    assert dataset.names == OBJECT_NAMES
    assert set(dataset.images_per_class().values()) == {3}
    assert dataset.problems == ()


def test_boxes_fit_what_is_drawn():
    """Without clutter and with one thing, the box holds all that differs from the bare scene."""
    for seed in range(12):
        name = OBJECT_NAMES[seed % len(OBJECT_NAMES)]
        bare, _ = draw_scene(np.random.default_rng(seed), (), 0)
        scene, (placed,) = draw_scene(np.random.default_rng(seed), (name,), 0)
        assert placed.name == name
        changed = np.abs(np.asarray(scene).astype(int) - np.asarray(bare)).max(2) > 60
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        slack = 12  # the soft shadow to the lower right
        assert rows[0] >= placed.y1 - slack
        assert rows[-1] < placed.y2 + slack
        assert columns[0] >= placed.x1 - slack
        assert columns[-1] < placed.x2 + slack


@pytest.mark.parametrize("name", OBJECT_NAMES)
def test_things_fill_their_tile(name):
    for extent in (3, 20, 150):
        tile = draw_object(name, extent, np.random.default_rng(0))
        assert tile.mode == "RGBA"
        assert max(tile.size) <= 1.5 * extent + 4
        assert np.asarray(tile)[..., 3].max() > 200


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: draw_detection_set(p, 1), "count must be at least one per split, got 1 for 2"),
        (lambda p: draw_detection_set(p, 9, splits={"a": 0.5}), "add up to 1"),
        (lambda p: draw_detection_set(p, 9, splits={"a": 1.5, "b": -0.5}), "above 0"),
        (lambda p: draw_class_folders(p, 0), "per_class must be at least 1, got 0"),
    ],
)
def test_callers_mistakes(tmp_path, call, text):
    with pytest.raises(ValueError, match=text):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_thing():
    with pytest.raises(ValueError, match="name must be one of ball, donut"):
        draw_object("cat", 9, np.random.default_rng(0))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for function in (draw_detection_set, draw_class_folders):
        with pytest.raises(OutputError, match="cannot be written") as caught:
            function(tmp_path / "file")
        assert caught.value.exit_code == 6
