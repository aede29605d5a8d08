"""What a user's own file looks like: every public name, used as it is meant to be, fully typed.

``mypy`` checks it by the rules of ``--strict`` (pyproject.toml), pyright too; it is never run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import torch
from PIL import Image
from torch import Tensor, nn

import sppnet
from sppnet import (
    Backbone,
    BoxPool,
    CombinedDetector,
    DetectionConfig,
    Detections,
    Detector,
    InferenceConfig,
    LabelSession,
    MultiScaleBoxPool,
    Projection,
    RegionPool,
    RidgeSums,
    SlidingWindowPool,
    SpatialPyramidPool,
    SppClassifier,
    SppFeatures,
    SppHead,
    SppNet,
    build_backbone,
    open_detection_dataset,
    pool_boxes,
    pool_regions,
    project_boxes,
    score_regions,
    sliding_window_pool,
    spatial_pyramid_pool,
)


class Network(nn.Module):
    """A network of one's own."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk: Backbone = build_backbone("small5")
        self.pool = SpatialPyramidPool(output_sizes=(1, 2, (2, 3)))
        self.boxes = BoxPool((1, 2), stride=self.trunk.stride, centre=self.trunk.centre)
        self.regions, self.windows = RegionPool(3, "avg"), SlidingWindowPool((2, 1))
        self.head = nn.Linear(self.pool.out_features(self.trunk.channels), classes)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.pool(self.trunk(images)))
        return scores


def pool_in_every_way(maps: Tensor, boxes: Tensor) -> list[Tensor]:
    rule = Projection.paper_v4(stride=16, centre=0)
    regions = project_boxes(boxes, rule, (maps.shape[2], maps.shape[3]))
    weights = torch.zeros(maps.shape[1] * 5, 2)
    return [
        assert_type(spatial_pyramid_pool([maps, maps], levels=[1, (2, 3)], mode="avg"), Tensor),
        assert_type(pool_regions(maps, [regions], 3), Tensor),
        assert_type(score_regions(maps, [regions], weights, (1, 2)), Tensor),
        assert_type(sliding_window_pool(maps, (2, 1)), Tensor),
        pool_boxes(maps, [boxes], spatial_scale=1 / 16),
        pool_boxes(maps, [boxes], (1, 2), stride=16, centre=0.0, offset=6.5),
        pool_boxes([maps, maps], [boxes] * 2, image_size=[(224, 224), (320, 200)]),
        MultiScaleBoxPool(["0", "1"], levels=7)({"0": maps}, [boxes], [(224, 224)]),
    ]


def detect(folder: Path, photos: list[Path]) -> Iterator[dict[str, int]]:
    dataset = open_detection_dataset(folder, "train")
    config = DetectionConfig(backbone="small5", weights="none")
    detector = Detector.fit(dataset, config, imgsz=(96, 160))
    detector.inference = InferenceConfig(proposals="grid")
    one = assert_type(detector.predict(photos[0]), Detections)
    many = assert_type(detector.predict(photos), list[Detections])
    both = CombinedDetector([detector, Detector.load("model")])
    assert_type(both.predict(Image.new("RGB", (4, 4))), Detections)
    assert_type(both.predict([torch.rand(3, 4, 4)]), list[Detections])
    exchange(one, detector.names)
    print(sppnet.__version__, sum(each.count for each in many))
    for frame in detector.watch("walk.mp4", every=5):
        assert_type(frame.detections, Detections)
        yield frame.counts


def exchange(found: Detections, names: tuple[str, ...]) -> list[Detections]:
    return [
        Detections.from_torchvision(found.to_torchvision((4, 4), first_label=1), first_label=1),
        Detections.from_coco(found.to_coco(7, category_ids=["a", 2]), ["a", 2]),
        Detections.from_supervision(found.to_supervision(names)),
        Detections.from_pandas(found.to_pandas(names)),
        Detections.from_fiftyone(found.to_fiftyone((4, 4), names), (4, 4), names),
        Detections.empty(),
    ]


def name_photos(folder: Path, network: SppNet) -> None:
    classifier = SppClassifier("small5")
    classifier.fit(folder)
    print(classifier.predict(folder), network, LabelSession)
    features: SppFeatures = SppFeatures("small5")
    rows = features.fit_transform([str(folder)])
    head = SppHead().fit(rows, ["cat"])
    print(head.predict(rows), RidgeSums)


def mistakes(detector: Detector, maps: Tensor) -> None:
    """Wrong calls are errors of the types; mypy says so if one of them is not."""
    pool_boxes(maps, maps, stride="16")  # type: ignore[arg-type]
    SpatialPyramidPool(("1", "2"))  # type: ignore[arg-type]
    detector.predict(7)  # type: ignore[call-overload]
    detector.watch(3.5)  # type: ignore[arg-type]
