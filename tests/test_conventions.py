"""Each line of docs/conventions.md, pinned by a literal and by its wrong twin."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet import Detections, pool_regions, spatial_pyramid_pool
from sppnet.evaluation import evaluate_detections
from sppnet.geometry import Projection, box_area, cell_centres, project_boxes
from sppnet.images import load_image, open_detection_dataset, read_image_size, resize_image
from sppnet.pooling import bin_edges

CONVENTIONS = Path(__file__).parents[1] / "docs" / "conventions.md"


def save_red_left(path: Path, **options: object) -> Path:
    """Save an image of 2 rows and 4 columns whose left half is red and right half blue."""
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[:, :2, 0] = 255
    pixels[:, 2:, 2] = 255
    Image.fromarray(pixels).save(path, **options)
    return path


VOC_FILE = """<annotation><size><width>4</width><height>2</height></size>
<object><name>cat</name><difficult>{difficult}</difficult><bndbox>
<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object></annotation>"""


def write_voc(root: Path, difficult: int = 0) -> Path:
    """Write a VOC data set of one image with a box on its left half."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    save_red_left(root / "JPEGImages" / "a.png")
    (root / "Annotations" / "a.xml").write_text(VOC_FILE.format(difficult=difficult))
    (root / "ImageSets" / "Main" / "test.txt").write_text("a\n")
    return root


def write_coco(root: Path, crowd: int) -> Path:
    """Write a COCO data set of one image with one box."""
    root.mkdir(exist_ok=True)
    save_red_left(root / "a.png")
    box = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 2, 2], "area": 4}
    index = {
        "images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 2}],
        "categories": [{"id": 7, "name": "cat"}],
        "annotations": [box | {"iscrowd": crowd}],
    }
    (root / "annotations.json").write_text(json.dumps(index))
    return root


def test_c1_images_are_rgb_floats_channels_first(tmp_path: Path) -> None:
    image = load_image(save_red_left(tmp_path / "a.png"))
    assert image.shape == (3, 2, 4)
    assert image.shape != (2, 4, 3)
    assert image.dtype == torch.float32
    assert image[:, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert image[:, 0, 0].tolist() != [0.0, 0.0, 1.0]  # BGR
    assert image.max() == 1.0  # not 255


def test_c2_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show rotated by 90 degrees clockwise
    path = save_red_left(tmp_path / "a.png", exif=exif)
    image = load_image(path)
    assert image.shape == (3, 4, 2)
    assert image[:, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert image[:, 3, 1].tolist() == [0.0, 0.0, 1.0]
    assert read_image_size(path) == (4, 2)
    assert read_image_size(path) != (2, 4)  # what the header stores


def test_c3_sizes_are_height_width_and_points_are_x_y(tmp_path: Path) -> None:
    path = save_red_left(tmp_path / "a.png")
    assert read_image_size(path) == (2, 4)
    assert read_image_size(path) != (4, 2)
    assert resize_image(load_image(path), (6, 8)).shape == (3, 6, 8)
    y, x = cell_centres(Projection(16, 0, 0), (1, 3))
    assert (len(y), len(x)) == (1, 3)


def test_c4_boxes_are_xyxy_with_exclusive_ends() -> None:
    box = torch.tensor([[1.0, 1.0, 3.0, 4.0]])
    assert box_area(box).tolist() == [6.0]
    assert box_area(box).tolist() != [12.0]  # inclusive ends, or x, y, width, height


def test_c5_voc_corners_become_half_open_in_the_reader(tmp_path: Path) -> None:
    (image,) = open_detection_dataset(write_voc(tmp_path)).images
    assert image.boxes.tolist() == [[0.0, 0.0, 2.0, 2.0]]
    assert image.boxes.tolist() != [[1.0, 1.0, 2.0, 2.0]]
    package = CONVENTIONS.parents[1] / "src" / "sppnet"
    knowing = {p.name for p in package.rglob("*.py") if "xmin" in p.read_text(encoding="utf-8")}
    # the reader, and what writes VOC files: drawn scenes, and labels for other tools
    assert knowing == {"voc.py", "scenes.py", "exchange.py"}


def test_c6_regions_are_half_open_cells_with_the_image_first() -> None:
    features = torch.arange(24.0).reshape(2, 1, 3, 4)
    rows = torch.tensor([[1, 1, 0, 3, 2]])  # image 1, columns 1 and 2, rows 0 and 1
    assert pool_regions(features, rows, (1,)).tolist() == [[18.0]]
    assert pool_regions(features, rows, (1,)).tolist() != [[23.0]]  # inclusive ends
    listed = [torch.zeros((0, 4), dtype=torch.int64), rows[:, 1:]]
    assert pool_regions(features, listed, (1,)).tolist() == [[18.0]]
    with pytest.raises(ValueError, match="row 0"):
        pool_regions(features, torch.tensor([[1, 0, 3, 2, 1]]), (1,))  # the image last
    with pytest.raises(TypeError, match="integer"):
        pool_regions(features, rows.float(), (1,))


def test_c7_projection_depends_on_stride_centre_and_offset() -> None:
    released, paper = Projection.released(16, 20), Projection.paper_v4(16, 0)
    assert released != paper
    box = torch.tensor([[100.0, 100.0, 164.0, 164.0]])
    assert project_boxes(box, released, (40, 40)).tolist() == [[5, 5, 10, 10]]
    assert project_boxes(box, paper, (40, 40)).tolist() == [[7, 7, 11, 11]]
    moved = Projection(16, 36, released.offset)
    assert project_boxes(box, moved, (40, 40)).tolist() == [[4, 4, 9, 9]]


def test_c8_bins_run_from_floor_to_ceil() -> None:
    assert bin_edges(10, 6) == [(0, 2), (1, 4), (3, 5), (5, 7), (6, 9), (8, 10)]
    assert bin_edges(10, 6) != [(i, i + 2) for i in range(6)]  # window ceil, stride floor
    assert bin_edges(25, 5)[2] == (10, 15)  # float32 arithmetic ends at 16


def test_c9_vector_is_level_then_channel_then_row_then_column() -> None:
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]])
    pooled = spatial_pyramid_pool(features, (1, 2)).tolist()
    assert pooled == [[4.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]]
    assert pooled != [[4.0, 8.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, 8.0]]  # channel fastest
    assert spatial_pyramid_pool(features, (2, 1)).tolist()[0][-2:] == [4.0, 8.0]
    default = spatial_pyramid_pool(features)
    assert torch.equal(default, spatial_pyramid_pool(features, (1, 2, 3, 6)))
    assert not torch.equal(default, spatial_pyramid_pool(features, (6, 3, 2, 1)))


@pytest.mark.parametrize("way", ["whole", "region"])
def test_c10_gradient_of_ties_goes_to_the_first_cell(way: str) -> None:
    features = torch.ones(1, 1, 2, 3, requires_grad=True)
    if way == "whole":
        pooled = spatial_pyramid_pool(features, (1,))
    else:
        pooled = pool_regions(features, torch.tensor([[0, 0, 0, 3, 2]]), (1,))
    pooled.sum().backward()
    assert features.grad is not None
    assert features.grad.flatten().tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert features.grad.flatten().tolist() != [1 / 6] * 6  # shared, as amax does


def test_c11_labels_begin_at_zero_without_background(tmp_path: Path) -> None:
    dataset = open_detection_dataset(write_voc(tmp_path))
    assert dataset.names == ("cat",)
    assert dataset.images[0].labels.tolist() == [0]
    assert dataset.images[0].labels.tolist() != [1]  # 0 taken by a background class


def test_c12_detections_are_a_dict_with_fixed_empty_shapes() -> None:
    empty = Detections.empty()
    assert isinstance(empty, dict)
    assert {name: tuple(value.shape) for name, value in empty.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
    }
    assert tuple(empty["boxes"].shape) != (0,)


def mean_ap(root: Path, detected: bool) -> float:
    """Score one detection on the only object, or none, against a data set."""
    dataset = open_detection_dataset(root)
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]])[: int(detected)]
    found = Detections(boxes, torch.ones(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64))
    by_image = {image.image_id: found for image in dataset}
    return evaluate_detections(dataset.images, by_image, dataset.names, metric="voc10").mean_ap


def test_c13_difficult_and_crowd_reach_the_score(tmp_path: Path) -> None:
    easy = write_voc(tmp_path / "easy", difficult=0)
    hard = write_voc(tmp_path / "hard", difficult=1)
    crowd = write_coco(tmp_path / "crowd", crowd=1)
    assert open_detection_dataset(hard).images[0].difficult.tolist() == [True]
    assert open_detection_dataset(crowd).images[0].crowd.tolist() == [True]
    assert mean_ap(easy, detected=True) == 1.0
    assert mean_ap(easy, detected=False) == 0.0
    for ignored in (hard, crowd):  # nothing to find, so finding it or not changes nothing
        found, missed = mean_ap(ignored, detected=True), mean_ap(ignored, detected=False)
        assert found == missed or (np.isnan(found) and np.isnan(missed))


def test_every_line_of_the_page_has_a_test_and_every_test_a_line() -> None:
    written = re.findall(r"^- \*\*(C\d+)\*\*", CONVENTIONS.read_text(encoding="utf-8"), re.M)
    tested = {m.group(1).upper() for name in globals() if (m := re.match(r"test_(c\d+)_", name))}
    assert len(written) == len(set(written))
    assert set(written) == tested
