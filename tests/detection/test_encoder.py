"""Encode once, pool often: the vector of a proposal is the pyramid of its part of the map.

The scale of a proposal: published cases, ties, any order of scales, a slow loop. Scales for objects
of known sizes.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from oracles.box_loops import project
from oracles.pyramid_loops import pool_region
from oracles.scale_choice import choose_scale
from sppnet.detection import Encoder, choose_scales
from sppnet.detection.onnx.regions import average_points_on_free_grid
from sppnet.geometry import project_boxes
from sppnet.pooling import average_points, spatial_pyramid_pool

LEVELS = (1, 2, 3, 6)


def test_vector_is_the_pyramid_of_the_crop_of_the_map(
    make_encoder, make_picture, make_boxes
) -> None:
    encoder = make_encoder((64, 160, 96))
    encoded = encoder.encode(make_picture(90, 130))
    boxes = make_boxes(60, 90, 130)
    found = encoder.describe(encoded, boxes)
    seen = set()
    for box, vector in zip(boxes, found, strict=True):
        scale = choose_scale(box.tolist(), (90, 130), (64, 160, 96), 70)
        features, zoom = encoded.maps[scale], torch.tensor(encoded.zooms_xy[scale]).repeat(2)
        grid_hw = tuple(features.shape[2:])
        zoomed = (box.double() * zoom)[None]
        ((x0, y0, x1, y1),) = project_boxes(zoomed, encoder.projection, grid_hw).tolist()
        expected = spatial_pyramid_pool(features[:, :, y0:y1, x0:x1], LEVELS)[0]
        assert torch.equal(vector, expected)
        seen.add(scale)
    assert len(seen) > 1  # the test would be weak if all proposals fell on one scale
    assert float(found.std()) > 0.01


def test_vector_agrees_with_the_slow_loops(make_encoder, make_picture, make_boxes) -> None:
    encoder = make_encoder((80,), levels=(1, 3))
    encoded = encoder.encode(make_picture(60, 90))
    boxes = make_boxes(6, 60, 90)
    (features,), ((zoom_x, zoom_y),) = encoded.maps, encoded.zooms_xy
    rule, grid_hw = encoder.projection, tuple(features.shape[2:])
    for box, vector in zip(boxes.tolist(), encoder.describe(encoded, boxes), strict=True):
        zoomed = [box[0] * zoom_x, box[1] * zoom_y, box[2] * zoom_x, box[3] * zoom_y]
        region = project(zoomed, rule.stride, rule.centre, rule.offset, grid_hw)
        assert vector.tolist() == pool_region(features[0].tolist(), region, (1, 3))


def test_regions_are_a_scale_and_half_open_cells(make_encoder, make_picture, make_boxes) -> None:
    encoder = make_encoder((200, 64))
    encoded = encoder.encode(make_picture(100, 70))
    regions = encoder.assign_regions(encoded, make_boxes(200, 100, 70))
    assert regions.dtype == torch.int64
    assert set(regions[:, 0].tolist()) == {0, 1}
    for scale, x0, y0, x1, y1 in regions.tolist():
        height, width = encoded.maps[scale].shape[2:]
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height


def test_one_of_several_scales_equals_that_scale_alone(
    make_encoder, make_picture, make_boxes
) -> None:
    picture, boxes = make_picture(90, 140), make_boxes(30, 90, 140)
    many = make_encoder((64, 128))
    encoded = many.encode(picture)
    regions, found = many.assign_regions(encoded, boxes), many.describe(encoded, boxes)
    for scale, short_side in enumerate((64, 128)):
        alone = make_encoder((short_side,))
        rows = regions[:, 0] == scale
        assert rows.any()
        assert torch.equal(found[rows], alone.describe(alone.encode(picture), boxes[rows]))


@pytest.mark.parametrize("short_sides", [(96,), (64, 128)])
def test_products_of_regions_are_those_of_their_vectors(
    make_encoder, make_picture, make_boxes, short_sides: tuple[int, ...]
) -> None:
    encoder = make_encoder(short_sides)
    encoded = encoder.encode(make_picture(80, 60))
    regions = encoder.assign_regions(encoded, make_boxes(50, 80, 60))
    weights = torch.randn(encoder.length, 3, generator=torch.manual_seed(1))
    expected = encoder.pool(encoded, regions).double() @ weights.double()
    found = encoder.pool_and_multiply(encoded, regions, weights)
    assert torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 40), (40, 1), (3, 2), (400, 20), (20, 400)])
@pytest.mark.parametrize("projection", ["released", "paper_v4"])
def test_images_of_any_shape(make_encoder, make_boxes, size_hw, projection: str) -> None:
    encoder = make_encoder((64, 96), projection=projection, max_long_side=300)
    encoded = encoder.encode(torch.rand(3, *size_hw, generator=torch.manual_seed(0)))
    assert max(side for each in encoded.maps for side in each.shape[2:]) <= 300 // 8 + 1
    boxes = torch.cat([torch.tensor([[0.0, 0, size_hw[1], size_hw[0]]]), make_boxes(9, *size_hw)])
    found = encoder.describe(encoded, boxes)
    assert found.shape == (10, encoder.length)
    assert found.isfinite().all()


def test_each_axis_has_its_own_zoom(make_encoder) -> None:
    # capped at 300 pixels, a line of 400 keeps its height of 1: zoom 0.75 along x, 1 along y
    encoder = make_encoder((64,), max_long_side=300)
    for size_hw, axis in (((1, 400), 0), ((400, 1), 1)):
        encoded = encoder.encode(torch.rand(3, *size_hw, generator=torch.manual_seed(0)))
        half = [0.0, 0.0, size_hw[1], size_hw[0]]
        half[axis] = 200.0
        (regions,) = encoder.assign_regions(encoded, torch.tensor([half])).tolist()
        assert regions[1 + axis] == 19  # 0.75 * 200 px, shrunk by 3.25 px, nearest centre 8 k
        assert regions[2 - axis] == 0


@pytest.mark.parametrize("short_sides", [(96,), (64, 128)])
def test_no_proposals(make_encoder, make_picture, short_sides: tuple[int, ...]) -> None:
    encoder = make_encoder(short_sides)
    encoded = encoder.encode(make_picture(50, 50))
    assert encoder.describe(encoded, torch.zeros(0, 4)).shape == (0, encoder.length)


def test_interpolated_points_lie_where_the_proposal_does(make_encoder, make_boxes) -> None:
    encoder = make_encoder((64, 128), levels=(1, 2))
    encoded = encoder.encode(torch.zeros(3, 64, 64))
    # in place of features, the pixel of the original image on which a cell is centred
    maps = []
    for features, (zoom, _) in zip(encoded.maps, encoded.zooms_xy, strict=True):
        backbone, (rows, columns) = encoder.backbone, features.shape[2:]
        pixel = [backbone.centre + backbone.stride * torch.arange(n) for n in (rows, columns)]
        down, across = torch.meshgrid(*[(each + 0.5) / zoom for each in pixel], indexing="ij")
        maps.append(torch.stack([across, down]).repeat(features.shape[1] // 2, 1, 1)[None])
    seen = replace(encoded, maps=tuple(maps))
    boxes = torch.tensor([[9.3, 12.0, 33.1, 40.5], [18.0, 17.2, 31.0, 30.2]])
    assert len(choose_scales(boxes, (64, 64), (64, 128), encoder.target_side).unique()) == 1
    for box, vector in zip(boxes, encoder.interpolate(seen, boxes), strict=True):
        whole = vector[: encoder.backbone.channels]
        centre = (box[:2] + box[2:]) / 2
        torch.testing.assert_close(whole[:2], centre)
        left_top, *_ = vector[encoder.backbone.channels :].view(-1, 4).T
        torch.testing.assert_close(left_top[:2], box[:2] + (box[2:] - box[:2]) / 4)


@pytest.mark.parametrize("levels", [(1, 2, 4), (3, 2), (1, 2, 3, 6)])
def test_exported_points_are_the_same(levels: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(4)
    features = torch.randn(1, 5, 7, 9, generator=draw)
    corners = torch.rand(40, 2, 2, generator=draw, dtype=torch.float64) * 12 - 2
    boxes = torch.cat([corners.amin(1), corners.amax(1)], 1)
    found = average_points_on_free_grid(features, boxes, levels)
    torch.testing.assert_close(found, average_points(features, boxes, levels))


@pytest.mark.parametrize("short_sides", [(96,), (64, 128)])
def test_interpolated_points_of_no_proposals(make_encoder, make_picture, short_sides) -> None:
    encoder = make_encoder(short_sides)
    encoded = encoder.encode(make_picture(50, 50))
    assert encoder.interpolate(encoded, torch.zeros(0, 4)).shape == (0, encoder.length)


def test_proposal_is_the_same_in_any_company(make_encoder, make_picture, make_boxes) -> None:
    encoder = make_encoder()
    encoded = encoder.encode(make_picture(70, 90))
    boxes = make_boxes(20, 70, 90)
    together = encoder.describe(encoded, boxes)
    one_by_one = torch.cat([encoder.describe(encoded, box[None]) for box in boxes])
    assert torch.equal(together, one_by_one)


def test_whole_image_covers_the_whole_map(make_encoder, make_picture) -> None:
    encoder = make_encoder((160,))
    encoded = encoder.encode(make_picture(120, 200))
    (found,) = encoder.assign_regions(encoded, torch.tensor([[0.0, 0.0, 200.0, 120.0]])).tolist()
    height, width = encoded.maps[0].shape[2:]
    # small5's first cell is centred on pixel 0, so the shrinking by half a cell may drop the border
    assert found[1] <= 1
    assert found[2] <= 1
    assert found[3] >= width - 1
    assert found[4] >= height - 1


def test_encoding_has_no_gradient_and_leaves_the_trunk_in_evaluation_mode(
    make_encoder, make_picture
) -> None:
    encoder = make_encoder()
    encoded = encoder.encode(make_picture(40, 40))
    assert not encoder.backbone.training
    assert not encoded.maps[0].requires_grad
    again = encoder.encode(make_picture(40, 40))
    assert torch.equal(encoded.maps[0], again.maps[0])


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        ({"short_sides": ()}, "short_sides must be positive"),
        ({"short_sides": (0,)}, "short_sides must be positive"),
        ({"projection": "nearest"}, "projection must be one of"),
        ({"levels": ()}, "levels must"),
        ({"levels": (0,)}, "levels must"),
    ],
)
def test_impossible_encoders_are_refused(make_encoder, wrong: dict, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Encoder(make_encoder().backbone, **wrong)


FIVE = (480, 576, 688, 874, 1200)


def _square(side: float) -> torch.Tensor:
    return torch.tensor([[0.0, 0.0, side, side]])


@pytest.mark.parametrize(
    ("side", "short_side"),
    [(75, 1200), (76, 874), (99, 874), (100, 688), (123, 688), (124, 576), (147, 576), (148, 480)],
)
def test_vectors_of_the_released_code(side: int, short_side: int) -> None:
    (scale,) = choose_scales(_square(side), (375, 500), FIVE, target_side=208).tolist()
    assert FIVE[scale] == short_side


@pytest.mark.parametrize(("side", "short_side"), [(80, 1200), (81, 874), (108, 688), (159, 480)])
def test_default_target_is_the_papers(side: int, short_side: int) -> None:
    assert FIVE[int(choose_scales(_square(side), (500, 375), FIVE))] == short_side


@pytest.mark.parametrize("short_sides", [(480, 576), (576, 480), (576, 480, 576), (480, 480, 576)])
def test_smaller_scale_wins_a_tie(short_sides: tuple[int, ...]) -> None:
    # wanted: 528, as far from 480 as from 576
    (scale,) = choose_scales(_square(100), (100, 100), short_sides, target_side=528).tolist()
    assert scale == short_sides.index(480)


def test_halves_are_rounded_up_as_matlab_does() -> None:
    # wanted: 528.5 -> 529, closer to 576; rounding to even would give 528 and with it 480
    assert choose_scales(_square(100), (100, 100), (480, 576), target_side=528.5).tolist() == [1]


def test_agrees_with_the_slow_loop_for_scales_in_any_order(make_boxes) -> None:
    rng = np.random.default_rng(0)
    for trial in range(25):
        height, width = (int(side) for side in rng.integers(1, 900, size=2))
        short_sides = tuple(int(side) for side in rng.integers(20, 1300, size=rng.integers(1, 6)))
        boxes = make_boxes(40, height, width, seed=trial)
        side = float(rng.choice([208, 216, 224]))
        expected = [
            choose_scale(box, (height, width), short_sides, side) for box in boxes.double().tolist()
        ]
        assert choose_scales(boxes, (height, width), short_sides, side).tolist() == expected


def test_box_without_area_gets_the_largest_scale() -> None:
    assert choose_scales(_square(0), (100, 100), (480, 1200, 688)).tolist() == [1]


def test_no_boxes() -> None:
    scales = choose_scales(torch.zeros(0, 4), (10, 10), FIVE)
    assert scales.shape == (0,)
    assert scales.dtype == torch.int64
