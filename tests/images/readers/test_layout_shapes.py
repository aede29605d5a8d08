"""Every shape in which usual tools write a set gives the same images, classes, boxes and splits."""

import pytest
import torch

from image_files import write_image
from images.readers.layout_shapes import (
    NAMES,
    SHAPES,
    SPLITS,
    roboflow_yolo,
    ultralytics,
    yaml_folders,
    yaml_lists,
)
from sppnet.images import check_dataset, find_layout, list_splits, open_detection_dataset


def contents(dataset) -> dict:
    """Stem -> classes by name and boxes."""
    return {
        image.path.stem: [
            (dataset.names[label], tuple(round(side, 2) for side in box))
            for label, box in zip(image.labels.tolist(), image.boxes.tolist(), strict=True)
        ]
        for image in dataset
    }


def expected(*splits: str) -> dict:
    return {
        stem: [(NAMES[label], tuple(map(float, box))) for label, box in boxes]
        for split in splits
        for stem, boxes in SPLITS[split].items()
    }


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


def test_val_and_valid_mean_the_same(tmp_path) -> None:
    roboflow_yolo(tmp_path)
    assert contents(open_detection_dataset(tmp_path, "val")) == expected("valid")


@pytest.mark.parametrize("write", [roboflow_yolo, ultralytics, yaml_folders, yaml_lists])
def test_a_yolo_set_may_be_named_by_its_yaml_file(tmp_path, write) -> None:
    write(tmp_path)
    (path,) = tmp_path.glob("*.yaml")
    assert find_layout(path) == "yolo"
    assert list_splits(path) == list_splits(tmp_path)
    assert contents(open_detection_dataset(path)) == expected("train", "valid")


def test_a_yaml_file_never_leads_out_of_the_set(tmp_path) -> None:
    root = tmp_path / "set"
    yaml_lists(root)
    outside = write_image(tmp_path / "secret" / "images" / "x.jpg")
    (tmp_path / "secret" / "labels").mkdir()
    (root / "train.txt").write_text(f"{outside}\n../secret/images/x.jpg\n./images/a.jpg\n\0\n")
    (root / "data.yaml").write_text(
        f"path: {tmp_path}\ntrain: train.txt\nval: ../secret/images\nnames: {NAMES!r}\n"
    )
    assert list(contents(open_detection_dataset(root, "train"))) == ["a"]
    assert "val" not in list_splits(root) or contents(open_detection_dataset(root, "val")) != {"x"}


def test_the_same_stem_in_two_splits_keeps_two_images_apart(tmp_path) -> None:
    roboflow_yolo(tmp_path)
    write_image(tmp_path / "valid" / "images" / "a.jpg", seed=9)
    dataset = open_detection_dataset(tmp_path)
    ids = [image.image_id for image in dataset]
    assert len(set(ids)) == 4
    assert {"train/images/a", "valid/images/a", "b", "c"} == set(ids)


def test_labels_without_image_are_problems(tmp_path) -> None:
    roboflow_yolo(tmp_path)
    (tmp_path / "train" / "labels" / "gone.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (problem,) = open_detection_dataset(tmp_path).problems
    assert problem.path.endswith("gone.txt")
    assert problem.action == "labels left out"


def test_a_split_without_any_label_folder_is_noted(tmp_path) -> None:
    roboflow_yolo(tmp_path)
    write_image(tmp_path / "test" / "images" / "t.jpg", seed=9)
    dataset = open_detection_dataset(tmp_path, "test")
    assert contents(dataset) == {"t": []}
    assert "no folder 'labels'" in dataset.notes[0].rule
