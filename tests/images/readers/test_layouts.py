"""Every shape in which usual tools write a set gives the same images, classes, boxes and splits."""

import pytest
import torch

from images.readers.layout_shapes import NAMES, SHAPES, contents, expected, official_coco
from sppnet.errors import NothingUsableError, UsageError
from sppnet.images import check_dataset, find_layout, list_splits, open_detection_dataset


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        open_detection_dataset(tmp_path / "gone")
    with pytest.raises(NothingUsableError, match=r"looked for VOC .*YOLO .*COCO"):
        open_detection_dataset(tmp_path)
    with pytest.raises(NothingUsableError, match="folder per class"):
        check_dataset(tmp_path)


@pytest.mark.parametrize("write", SHAPES, ids=lambda write: write.__name__)
def test_every_shape_is_found_and_read(tmp_path, write) -> None:
    root = tmp_path / "set"
    write(root)
    layout, splits = SHAPES[write]
    assert find_layout(root) == layout
    found = list_splits(root)
    if not splits:
        assert contents(open_detection_dataset(root)) == expected("train", "valid")
        assert found == (["result"] if layout == "coco" else [])
        return
    assert set(found) == set(splits)
    for own, name in zip(splits, ("train", "valid"), strict=True):
        dataset = open_detection_dataset(root, own)
        assert contents(dataset) == expected(name)
        assert dataset.problems == ()
        assert set(dataset.names) == set(NAMES)
    if layout != "coco":
        assert contents(open_detection_dataset(root)) == expected("train", "valid")


@pytest.mark.parametrize("write", SHAPES, ids=lambda write: write.__name__)
def test_images_without_boxes_arrive_with_none(tmp_path, write) -> None:
    write(tmp_path / "set")
    _, splits = SHAPES[write]
    dataset = open_detection_dataset(tmp_path / "set", splits[0] if splits else None)
    (image,) = [image for image in dataset if image.path.stem == "c"]
    assert image.boxes.shape == (0, 4)
    assert image.boxes.dtype == torch.float32
    assert image.labels.shape == image.crowd.shape == image.difficult.shape == (0,)


@pytest.mark.parametrize("write", SHAPES, ids=lambda write: write.__name__)
def test_the_doctor_finds_nothing_wrong(tmp_path, write) -> None:
    write(tmp_path / "set")
    report = check_dataset(tmp_path / "set")
    assert report.problems == ()
    assert report.counts["images"] == 3
    assert report.counts["boxes"] == 3
    assert report.counts["images without boxes"] == 1
    assert set(report.per_class) == set(NAMES)


def test_labels_beside_a_coco_set_are_a_copy_of_it(tmp_path) -> None:
    official_coco(tmp_path)
    for split in ("train2017", "val2017"):
        (tmp_path / "labels" / split).mkdir(parents=True)
        (tmp_path / "labels" / split / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    assert find_layout(tmp_path) == "coco"
    assert contents(open_detection_dataset(tmp_path, "train")) == expected("train")
