"""Boxes on a feature pyramid: maps as torchvision chooses them, our bins; a part of FasterRCNN."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import _setup_scales

from sppnet import MultiScaleBoxPool, pool_boxes

NAMES = ["0", "1", "2"]


def pyramid(side: int = 256, images: int = 2) -> dict[str, Tensor]:
    maps = {
        name: torch.rand(images, 4, side // s, side // s)
        for name, s in zip(NAMES, (4, 8, 16), strict=True)
    }
    return {**maps, "pool": torch.rand(images, 4, 2, 2)}


def boxes_of_all_sizes(count: int) -> Tensor:
    torch.manual_seed(0)
    sides = 2 ** (torch.rand(count, 2) * 5 + 3)
    corners = torch.rand(count, 2) * (256 - sides).clamp(min=0)
    return torch.cat([corners, corners + sides], 1)


def test_each_box_is_pooled_on_the_map_that_torchvision_chooses() -> None:
    maps, shapes = pyramid(), [(256, 256), (250, 200)]
    boxes = [boxes_of_all_sizes(60), boxes_of_all_sizes(30)]
    pool = MultiScaleBoxPool(NAMES, (1, 3), canonical_scale=100)
    scales, mapper = _setup_scales([maps[name] for name in NAMES], shapes, 100, 4)
    chosen = mapper(boxes)
    assert set(chosen.tolist()) == {0, 1, 2}
    expected = []
    for row, k in enumerate(chosen.tolist()):
        image, box = (0, boxes[0][row]) if row < 60 else (1, boxes[1][row - 60])
        features = maps[NAMES[k]][image]
        expected.append(pool_boxes(features, box[None], (1, 3), spatial_scale=scales[k]))
    assert torch.equal(pool(maps, boxes, shapes), torch.cat(expected))


def test_the_box_of_the_canonical_side_goes_to_the_canonical_level() -> None:
    strides = dict(zip(NAMES, (4, 8, 16), strict=True))
    maps = {name: torch.full((1, 1, 256 // s, 256 // s), float(s)) for name, s in strides.items()}
    boxes = [torch.tensor([[0.0, 0, 224, 224], [0, 0, 223, 223], [0, 0, 111, 111]])]
    found = MultiScaleBoxPool(NAMES, 1)(maps, boxes, [(256, 256)])
    assert found.flatten().tolist() == [16.0, 8.0, 4.0]


@pytest.mark.parametrize("names", [["1"], NAMES])
def test_images_without_boxes_give_no_rows(names: list[str]) -> None:
    pool = MultiScaleBoxPool(names, 7)
    empty = [torch.zeros(0, 4), torch.zeros(0, 4)]
    assert pool(pyramid(), empty, [(256, 256)] * 2).shape == (0, 4, 7, 7)
    other = MultiScaleRoIAlign(names, 7, 2)(pyramid(), empty, [(256, 256)] * 2)
    assert other.shape == (0, 4, 7, 7)


def test_scales_follow_the_batch() -> None:
    pool, boxes = MultiScaleBoxPool(["0"], 2), [boxes_of_all_sizes(9)]
    small, large = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 64, 64)
    pool({"0": small}, boxes, [(256, 256)])
    fresh = MultiScaleBoxPool(["0"], 2)({"0": large}, boxes, [(256, 256)])
    assert torch.equal(pool({"0": large}, boxes, [(256, 256)]), fresh)


def test_maps_of_several_dtypes_give_the_first() -> None:
    maps = pyramid(images=1)
    maps["1"] = maps["1"].half()
    found = MultiScaleBoxPool(NAMES, 2)(maps, [boxes_of_all_sizes(20)], [(256, 256)])
    assert found.dtype == torch.float32


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"maps must have the names \['9'\], got"):
        MultiScaleBoxPool(["9"])(pyramid(), [boxes_of_all_sizes(1)] * 2, [(256, 256)] * 2)
    with pytest.raises(ValueError, match="featmap_names must be one or more names, got '0'"):
        MultiScaleBoxPool("0")
    with pytest.raises(ValueError, match="image_shapes must hold at least one size"):
        MultiScaleBoxPool(["0"])(pyramid(), [boxes_of_all_sizes(1)] * 2, [])
    with pytest.raises(ValueError, match=r"give it box_head=TwoMLPHead"):
        _ = MultiScaleBoxPool(["0"], (1, 2)).output_size


class TinyPyramid(nn.Module):
    """Two maps, of strides 4 and 8, of a few channels."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.fine(images)
        return {"0": fine, "1": self.coarse(fine)}


@pytest.mark.parametrize("levels", [3, (1, 2, 3)])
def test_a_faster_rcnn_of_torchvision_learns_through_it(levels: int | tuple[int, ...]) -> None:
    torch.manual_seed(0)
    pool = MultiScaleBoxPool(["0", "1"], levels, canonical_scale=32, canonical_level=2)
    heads = {"num_classes": 2}
    if not isinstance(levels, int):
        heads = {
            "box_head": TwoMLPHead(pool.out_features(8), 32),
            "box_predictor": FastRCNNPredictor(32, 2),
        }
    anchors = AnchorGenerator(((16,), (32,)), ((1.0,),) * 2)
    detector = FasterRCNN(
        TinyPyramid(), min_size=64, max_size=64, rpn_anchor_generator=anchors,
        box_roi_pool=pool, rpn_pre_nms_top_n_train=50, box_batch_size_per_image=32, **heads,
    )  # fmt: skip
    image = torch.rand(3, 64, 64) * 0.1
    image[:, 16:48, 16:48] += 0.9
    square = {"boxes": torch.tensor([[16.0, 16.0, 48.0, 48.0]]), "labels": torch.tensor([1])}
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    optimizer = torch.optim.Adam(detector.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        parts = detector([image, image * 0], [square, nothing])
        loss = parts["loss_classifier"] + parts["loss_box_reg"]
        optimizer.zero_grad()
        (loss + parts["loss_objectness"]).backward()
        fine = detector.backbone.fine[0].weight.grad
        assert fine is not None
        assert fine.any()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    found = detector.eval()([image])[0]
    assert found["boxes"].shape[1] == 4
