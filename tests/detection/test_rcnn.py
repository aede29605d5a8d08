"""R-CNN's crops are those of its paper, and its features those of every crop by itself."""

import pytest
import torch

from oracles.warp_loops import warp
from sppnet.backbones import build_backbone
from sppnet.detection.rcnn import RcnnEncoder, add_context, warp_proposals
from sppnet.pooling import spatial_pyramid_pool

LEVELS = (1, 2, 3)


@pytest.fixture
def encoder() -> RcnnEncoder:
    torch.manual_seed(0)
    return RcnnEncoder(build_backbone("small5"), LEVELS, size=48, context=6, batch=4)


@pytest.mark.parametrize(("size", "context"), [(24, 4), (17, 0), (9, 3)])
@pytest.mark.parametrize("size_hw", [(40, 55), (7, 90), (1, 1)])
def test_crops_agree_with_the_loop_over_pixels(
    make_picture, make_boxes, size_hw, size: int, context: int
) -> None:
    image, fill = make_picture(*size_hw), [0.2, 0.5, 0.9]
    height, width = size_hw
    whole = [[0.0, 0.0, width, height], [width - 0.3, height - 0.2, width, height]]
    boxes = torch.cat([make_boxes(12, *size_hw), torch.tensor(whole)])
    found = warp_proposals(image, boxes, size, context, torch.tensor(fill))
    assert found.shape == (14, 3, size, size)
    for box, crop in zip(boxes.tolist(), found, strict=True):
        for plane, colour, seen in zip(image.tolist(), fill, crop, strict=True):
            expected = torch.tensor(warp(plane, box, size, context, colour))
            torch.testing.assert_close(seen, expected, rtol=0, atol=2e-5)


def test_context_is_as_wide_as_asked_for() -> None:
    image = torch.zeros(3, 300, 400)
    image[:, 50:250, 100:300] = 1
    crop = warp_proposals(image, torch.tensor([[100.0, 50.0, 300.0, 250.0]]))[0, 0]
    bright = (crop > 0.5).nonzero()
    assert bright.min().item() == 16
    assert bright.max().item() == 227 - 16 - 1


def test_proposals_reach_out_of_the_image_into_the_mean(encoder, make_picture) -> None:
    encoded = encoder.encode(make_picture(60, 80))
    corner = torch.tensor([[0.0, 0.0, 30.0, 30.0]])
    assert encoder.assign_regions(encoded, corner)[0, 1:3].tolist() == [-5, -5]
    crop = warp_proposals(encoded.maps[0][0], corner, 48, 6, encoder.backbone.mean)
    normalised = encoder.backbone.normalise(crop)[0]
    assert normalised[:, :6].abs().max() < 1e-6
    assert normalised[:, 6:, 6:].abs().min() > 0


def test_vectors_and_scores_equal_the_plain_loop(encoder, make_picture, make_boxes) -> None:
    image, boxes = make_picture(70, 90), make_boxes(11, 70, 90)  # batches of 4, 4 and 3
    encoded = encoder.encode(image)
    with torch.no_grad():
        crops = [warp_proposals(image, box[None], 48, 6, encoder.backbone.mean) for box in boxes]
        expected = torch.cat([spatial_pyramid_pool(encoder.backbone(c), LEVELS) for c in crops])
    torch.testing.assert_close(encoder.describe(encoded, boxes), expected)
    weights = torch.randn(encoder.length, 2, generator=torch.manual_seed(1))
    regions = encoder.assign_regions(encoded, boxes)
    torch.testing.assert_close(
        encoder.pool_and_multiply(encoded, regions, weights), expected @ weights
    )


def test_bgr_trunks_are_filled_with_their_mean(make_picture) -> None:
    encoder = RcnnEncoder(build_backbone("zf5"), (1,), size=99)
    colour = encoder._mean_colour()[None, :, None, None]
    assert encoder.backbone.bgr
    assert encoder.backbone.normalise(colour).abs().max() < 1e-6


def test_no_proposals(encoder, make_picture) -> None:
    encoded = encoder.encode(make_picture(30, 30))
    assert encoder.describe(encoded, torch.zeros(0, 4)).shape == (0, encoder.length)


@pytest.mark.parametrize("context", [-1, 24, 30])
def test_context_that_leaves_no_proposal_is_refused(context: int) -> None:
    with pytest.raises(ValueError, match="context must be at least 0"):
        add_context(torch.zeros(1, 4), 48, context)
