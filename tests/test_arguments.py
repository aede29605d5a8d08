"""What people pass by mistake is refused in one line that names the argument."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import sppnet
from sppnet import (
    BoxPool,
    DetectionConfig,
    Detections,
    Detector,
    InferenceConfig,
    LabelSession,
    MultiScaleBoxPool,
    RegionPool,
    RidgeSums,
    SpatialPyramidPool,
    SppClassifier,
    build_backbone,
    open_detection_dataset,
    pool_boxes,
    pool_regions,
    score_regions,
)
from sppnet.backbones import as_device
from sppnet.images import DetectionDataset, draw_detection_set
from sppnet.images.video import read_frames
from sppnet.storage import save_model

MAPS = torch.rand(1, 4, 13, 10)
CELLS = torch.tensor([[0, 0, 0, 5, 5]])
BOXES = [torch.tensor([[0.0, 0.0, 80.0, 80.0]])]
SHAPES = [(200, 160)]
DATA = DetectionDataset((), ("a",), (), Path("nowhere"), None, "voc")
WORD: object = "a"  # of no use anywhere; an object, so that types do not give it away
MANY = MultiScaleBoxPool(["0", "1"], 2)

Case = tuple[Callable[..., object], str]
CASES: dict[str, Case] = {
    "text for channels": (lambda: SpatialPyramidPool((1, 2)).out_features(WORD), "channels must"),
    "negative channels": (lambda: RegionPool((1, 2)).out_features(-1), "channels must be at least"),
    "broken channels": (lambda: BoxPool((1,), stride=8).out_features(1.5), "channels must be an"),
    "text for sizes": (lambda: SpatialPyramidPool(2)(MAPS, sizes_hw=WORD), "sizes_hw must be"),
    "no regions": (lambda: RegionPool(2)(MAPS, None), "regions must be a tensor, .* NoneType"),
    "regions of numpy": (lambda: RegionPool(2)(MAPS, CELLS.numpy()), "regions must .* ndarray"),
    "text for weights": (lambda: score_regions(MAPS, CELLS, WORD), "weights must be a tensor"),
    "output of numpy": (
        lambda: pool_regions([MAPS], CELLS, (1,), out=np.empty((1, 4))),
        "out must be a tensor, got ndarray",
    ),
    "text for a scale": (
        lambda: pool_boxes(MAPS, BOXES, spatial_scale="1/16"),
        "spatial_scale must be a number, got '1/16'",
    ),
    "text for a centre": (lambda: BoxPool(2, stride=8, centre=WORD), "centre must be a number"),
    "one number for a size": (
        lambda: pool_boxes(MAPS, BOXES, image_size=5),
        "image_size must be .height, width., .* got 5",
    ),
    "maps in a list": (lambda: MANY([MAPS], BOXES, SHAPES), "maps must be a dict .* got list"),
    "boxes of numpy": (
        lambda: MANY({"0": MAPS, "1": MAPS}, [BOXES[0].numpy()], SHAPES),
        r"boxes\[0\] must be a tensor, got ndarray",
    ),
    "no network": (lambda: build_backbone(None), "backbone must be the name .* got None"),
    "a number for weights": (lambda: build_backbone("small5", weights=5), "weights must be .* 5"),
    "images of numpy": (
        lambda: build_backbone("small5")(np.zeros((1, 3, 64, 64), np.float32)),
        "images must be a tensor, got ndarray",
    ),
    "one size, not a tuple": (
        lambda: DetectionConfig(imgsz=600),
        r"imgsz must be numbers, .*, such as \(600,\), got 600",
    ),
    "one level, not a tuple": (lambda: DetectionConfig(levels=2), r"levels .* \(2,\), got 2"),
    "text for a seed": (lambda: DetectionConfig(seed=WORD), "seed must be at least 0.* got 'a'"),
    "text for a share": (lambda: InferenceConfig(nms_threshold=WORD), "nms_threshold must .* 'a'"),
    "no folder": (lambda: open_detection_dataset(None), "root must be a path, got None"),
    "a number for a folder": (lambda: Detector.fit(5), "root must be a path, got 5"),
    "settings in a dict": (
        lambda: Detector.fit(DATA, {"imgsz": 5}),
        "config must be a DetectionConfig, or settings by name, got dict",
    ),
    "a number for a model": (lambda: Detector.load(5), "path must be a path, got 5"),
    "a number for a classifier": (lambda: SppClassifier.load(5), "path must be a path, got 5"),
    "found without boxes": (
        lambda: Detections.from_torchvision({"scores": torch.ones(1)}),
        "found must have boxes, scores, labels, lacks boxes, labels",
    ),
    "text for entries": (
        lambda: Detections.from_coco("a"),
        r"entries\[0\] must be a dict, got str",
    ),
    "an entry of three numbers": (
        lambda: Detections.from_coco([{"category_id": 1, "score": 1.0, "bbox": [1, 2, 3]}]),
        r"bbox must be four numbers, got \[1, 2, 3\] in row 0",
    ),
    "a number for a table": (lambda: Detections.from_pandas(5), "table must be a DataFrame"),
    "a number for supervision": (lambda: Detections.from_supervision(5), "found must be .* int"),
    "text for a canvas": (
        lambda: Detections.empty().to_torchvision(WORD),
        r"image_size must be \(height, width\), got 'a'",
    ),
    "text for a step": (lambda: next(read_frames("no.mp4", every=WORD)), "every must be a whole"),
    "text for a length": (lambda: RidgeSums(WORD, 3), "length must be a number, got 'a'"),
    "broken labels": (
        lambda: RidgeSums(2, 2).partial_fit(np.zeros((1, 2)), [0.5]),
        "labels must be integers",
    ),
    "a number for photos": (lambda: LabelSession.open(5), "folder must be a path, got 5"),
    "a number to save to": (lambda: save_model(5, "toy", {}, {}), "path must be a path, got 5"),
    "a device of another library": (
        lambda: as_device("gpu"),
        "device must be one that torch .*gpu",
    ),
    "a device that is not there": (lambda: as_device("cuda:99"), "device must be on .* 'cuda:99'"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_argument_is_named_in_one_line(name: str) -> None:
    call, rule = CASES[name]
    with pytest.raises((TypeError, ValueError), match=rf"\A{rule}") as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_wrong_device_is_named_before_anything_is_learnt(tmp_path) -> None:
    draw_detection_set(tmp_path, 2, seed=0)
    with pytest.raises(ValueError, match="device must be one that torch knows"):
        Detector.fit(tmp_path, device="gpu", backbone="small5", weights="none", imgsz=(64,))


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    pool = SpatialPyramidPool((1, 2))
    assert pool.out_features(np.int64(4)) == 20
    scale = np.float32(1 / 16)
    pooled = sppnet.pool_boxes(MAPS, BOXES, 1, spatial_scale=scale)
    assert torch.equal(pooled, pool_boxes(MAPS, BOXES, 1, spatial_scale=1 / 16))


def test_labels_in_a_list_and_rows_of_numpy_are_summed() -> None:
    rows, labels = np.eye(4), [0, 1, 0, 1]
    ours = RidgeSums(4, 2).partial_fit(rows, labels)
    given = RidgeSums(4, 2).partial_fit(torch.from_numpy(rows), torch.tensor(labels))
    assert torch.equal(ours.by_class, given.by_class)


def test_a_name_that_there_is_not_is_one_that_python_can_suggest_others_for() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SpatialPyramidPol'") as caught:
        _ = sppnet.SpatialPyramidPol
    assert (caught.value.name, caught.value.obj) == ("SpatialPyramidPol", sppnet)
