"""Boxes in pixels are pooled as the crop of the cells whose centres they hold."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from sppnet import BoxPool, pool_boxes, spatial_pyramid_pool
from sppnet.backbones import build_backbone
from sppnet.geometry import Projection, project_boxes
from sppnet.pooling import average_points
from sppnet.pooling.boxes import score_points
from sppnet.progress import using_threads


def cells_inside(begin: float, end: float, stride: float, centre: float, count: int) -> list[int]:
    """Cells whose centres lie strictly between the first and the last pixel, one after another."""
    return [k for k in range(count) if begin < centre + k * stride < end - 1]


def pool_slowly(features: Tensor, box: list[float], stride: float, centre: float) -> Tensor:
    """Crop the cells of one box of one map (C, H, W), and pool the crop."""
    x1, y1, x2, y2 = box
    columns = cells_inside(x1, x2, stride, centre, features.shape[2])
    rows = cells_inside(y1, y2, stride, centre, features.shape[1])
    return spatial_pyramid_pool(features[:, rows][:, :, columns], (1, 2, 3))


def random_boxes(count: int, side: float) -> Tensor:
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(3)) * side * 0.5
    return torch.cat([corners, corners + side * 0.4], 1)


@pytest.mark.parametrize(("stride", "centre"), [(16, 7.5), (16, 0), (8, -3.5), (12.5, 20)])
def test_boxes_hold_the_cells_whose_centres_are_inside(stride: float, centre: float) -> None:
    features, boxes = torch.rand(1, 5, 20, 24), random_boxes(40, 200)
    pooled = pool_boxes(features, [boxes], (1, 2, 3), stride=stride, centre=centre)
    slow = [pool_slowly(features[0], box, stride, centre) for box in boxes.tolist()]
    assert torch.equal(pooled, torch.stack(slow))


def test_the_three_ways_to_say_where_cells_lie_are_one() -> None:
    features, boxes = torch.rand(2, 3, 14, 14), [random_boxes(9, 224), random_boxes(4, 224)]
    by_scale = pool_boxes(features, boxes, 2, spatial_scale=1 / 16)
    assert torch.equal(by_scale, pool_boxes(features, boxes, 2, stride=16, centre=7.5))
    assert torch.equal(by_scale, pool_boxes(features, boxes, 2, stride=16))
    assert torch.equal(by_scale, pool_boxes(features, boxes, 2, image_size=(224, 224)))
    assert not torch.equal(by_scale, pool_boxes(features, boxes, 2, stride=16, centre=0))


def test_an_image_size_gives_each_side_its_stride() -> None:
    features = torch.arange(12.0).reshape(1, 1, 3, 4)
    box = torch.tensor([[0.0, 10.0, 20.0, 20.0]])  # columns of 10 px, rows of 10 px
    assert pool_boxes(features, [box], 1, image_size=(30, 40)).tolist() == [[5.0]]
    # rows of 5 px: the box holds the third alone
    assert pool_boxes(features, [box], 1, image_size=(15, 40)).tolist() == [[9.0]]


def test_rows_with_the_number_of_the_image_are_lists() -> None:
    features, (first, second) = torch.rand(2, 3, 9, 9), random_boxes(6, 72).split([2, 4])
    numbers = torch.tensor([0.0, 0, 1, 1, 1, 1])[:, None]
    rows = torch.cat([numbers, torch.cat([first, second])], 1)
    listed = pool_boxes(features, [first, second], spatial_scale=1 / 8)
    assert torch.equal(listed, pool_boxes(features, rows, spatial_scale=1 / 8))
    swapped = pool_boxes(features, rows.flip(0), spatial_scale=1 / 8)
    assert torch.equal(listed, swapped.flip(0))


def test_maps_of_several_sizes_have_their_own_images() -> None:
    maps, boxes = [torch.rand(3, 9, 9), torch.rand(3, 5, 12)], [random_boxes(3, 40)] * 2
    sizes = [(72, 72), (40, 96)]
    alone = [
        pool_boxes(each, own, (1, 2), image_size=size)
        for each, own, size in zip(maps, boxes, sizes, strict=True)
    ]
    assert torch.equal(torch.cat(alone), pool_boxes(maps, boxes, (1, 2), image_size=sizes))


def test_the_rule_is_that_of_a_trunk() -> None:
    backbone = build_backbone("small5")
    features = backbone(torch.rand(1, 3, 96, 128))
    boxes = random_boxes(20, 96)
    rule = Projection.paper_v4(backbone.stride, backbone.centre)
    cells = project_boxes(boxes, rule, (features.shape[2], features.shape[3]))
    crops = [features[:, :, y0:y1, x0:x1] for x0, y0, x1, y1 in cells.tolist()]
    pooled = pool_boxes(features, [boxes], stride=backbone.stride, centre=backbone.centre)
    assert torch.equal(pooled, torch.cat([spatial_pyramid_pool(crop) for crop in crops]))


def test_an_offset_is_that_of_the_released_code() -> None:
    features, boxes = torch.rand(1, 2, 20, 20), random_boxes(50, 320)
    cells = project_boxes(boxes, Projection.released(16, 20), (20, 20))
    crops = [features[0, :, y0:y1, x0:x1].amax((1, 2)) for x0, y0, x1, y1 in cells.tolist()]
    pooled = pool_boxes(features, [boxes], 1, stride=16, centre=20, offset=6.5)
    assert torch.equal(pooled, torch.stack(crops))


@pytest.mark.parametrize("boxes", [[torch.zeros(0, 4)] * 2, torch.zeros(0, 5)])
def test_nothing_gives_no_rows(boxes: list[Tensor] | Tensor) -> None:
    features = torch.rand(2, 4, 6, 6, requires_grad=True)
    pooled = pool_boxes(features, boxes, (1, 2), spatial_scale=0.1)
    assert pooled.shape == (0, 20)
    pooled.sum().backward()
    assert features.grad is not None
    assert not features.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_and_layout_are_those_of_the_maps(dtype: torch.dtype) -> None:
    features = torch.rand(2, 4, 6, 6, dtype=dtype)
    boxes = [random_boxes(5, 60)] * 2
    plain = pool_boxes(features, boxes, stride=10)
    last = features.to(memory_format=torch.channels_last)
    assert plain.dtype == dtype
    assert torch.equal(plain, pool_boxes(last, boxes, stride=10))


def test_autocast_takes_the_half_precision_of_a_convolution() -> None:
    convolution, pool = torch.nn.Conv2d(3, 4, 3), BoxPool((1, 2), stride=1)
    with torch.autocast("cpu", torch.bfloat16):
        features = convolution(torch.rand(1, 3, 12, 12))
        pooled = pool(features, [random_boxes(3, 10)])
    assert pooled.dtype == torch.bfloat16
    pooled.float().sum().backward()
    assert convolution.weight.grad is not None


def test_gradients_go_to_the_cells_of_the_box() -> None:
    features = torch.rand(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    boxes = [torch.tensor([[5.0, 5.0, 30.0, 24.0], [0.0, 0.0, 40.0, 40.0]])]
    assert torch.autograd.gradcheck(lambda x: pool_boxes(x, boxes, (1, 2), stride=10), [features])
    pool_boxes(features, [boxes[0][:1]], 1, mode="avg", image_size=(40, 40)).sum().backward()
    assert features.grad is not None
    assert features.grad[0, 0].nonzero().tolist() == [[1, 1], [1, 2]]


def test_compile_and_export_keep_the_answer_at_other_sizes() -> None:
    pool = BoxPool((1, 2), spatial_scale=1 / 8)

    def run(features: Tensor, boxes: Tensor) -> Tensor:
        return pool(features, boxes)

    rows = torch.cat([torch.zeros(7, 1), random_boxes(7, 72)], 1)
    shapes = [(1, 3, 9, 9), (1, 3, 12, 11)]
    count = torch.export.Dim("boxes")
    sides = {2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    example = (torch.rand(shapes[0]), rows)
    exported = torch.export.export(_Module(pool), example, dynamic_shapes=(sides, {0: count}))
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="eager")
    for shape in shapes:
        features = torch.rand(shape)
        for program in (compiled, exported.module()):
            assert torch.equal(program(features, rows[:5]), pool(features, rows[:5]))


class _Module(torch.nn.Module):
    def __init__(self, pool: BoxPool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        pooled: Tensor = self.pool(features, boxes)
        return pooled


ONE = torch.tensor([[0.0, 0.0, 8.0, 8.0]])


@pytest.mark.parametrize(
    ("boxes", "ways", "message"),
    [
        ([ONE], {}, "exactly one of spatial_scale, stride and image_size must be given"),
        ([ONE], {"stride": 8, "spatial_scale": 0.125}, "exactly one of"),
        ([ONE], {"spatial_scale": 0.125, "centre": 0}, "centre must come with stride, got 0"),
        ([ONE], {"spatial_scale": 0}, "spatial_scale must be positive, got 0"),
        ([ONE], {"stride": -1}, "stride must be positive, got -1"),
        ([ONE], {"image_size": (0, 8)}, r"image_size must be at least \(1, 1\), got \(0, 8\)"),
        ([ONE], {"image_size": [(8, 8), (8, 8)]}, "image_size must be .* or one for each of 1"),
        ([ONE, ONE], {"stride": 8}, r"boxes must have one tensor per image \(1\), got 2"),
        (ONE, {"stride": 8}, r"boxes must have shape \(K, 5\), or \(K, 4\) in a list"),
        ([ONE[:, [2, 1, 0, 3]]], {"stride": 8}, r"boxes\[0\] must have x1 <= x2 .* in row 0"),
        ([ONE * torch.nan], {"stride": 8}, r"boxes\[0\] must be finite, got .* in row 0"),
        (torch.tensor([[1.0, 0, 0, 8, 8]]), {"stride": 8}, r"number of an image, 0..0, first"),
        (torch.tensor([[0.5, 0, 0, 8, 8]]), {"stride": 8}, r"number of an image, 0..0, first"),
    ],
)
def test_mistakes_are_named(boxes: list[Tensor] | Tensor, ways: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pool_boxes(torch.rand(1, 2, 4, 4), boxes, 1, **ways)


def test_boxes_of_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"boxes\[0\] must be a floating-point tensor"):
        pool_boxes(torch.rand(1, 2, 4, 4), [ONE.long()], 1, stride=8)


def test_the_module_says_what_it_is() -> None:
    pool = BoxPool(output_sizes=[(1, 1), 2], stride=16, centre=0, mode="avg")
    assert repr(pool) == "BoxPool(levels=(1, 2), stride=16, centre=0, mode='avg')"
    with pytest.raises(ValueError, match="levels and output_sizes must not both be given"):
        BoxPool((1, 2), output_sizes=3)


@pytest.mark.parametrize("points", [1, 2, 3])
@pytest.mark.parametrize("levels", [(1, 2, 4), (3,), (2, 3), (5, 2, 4), (6, 1, 3, 2)])
def test_points_are_those_of_roi_align(levels: tuple[int, ...], points: int) -> None:
    maps = torch.randn(1, 5, 9, 12, generator=torch.Generator().manual_seed(0))
    corners = torch.rand(20, 2, generator=torch.Generator().manual_seed(1)) * 4
    boxes = torch.cat([corners, corners + 0.1 + corners.flip(0)], 1)  # inside, some very small
    finest, expected = max(levels), []
    for level in levels:
        ratio = -(-points * finest // level)
        # roi_align has the middle of cell 0 at 0.5
        rows = torch.cat([torch.zeros(20, 1), boxes + 0.5], 1)
        pooled = roi_align(maps, rows, level, sampling_ratio=ratio, aligned=True)
        expected.append(pooled.flatten(1))
    found = average_points(maps, boxes, levels, points)
    torch.testing.assert_close(found, torch.cat(expected, 1))


def test_points_outside_the_map_have_the_value_of_its_border() -> None:
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    boxes = torch.tensor([[-9.0, -9.0, -3.0, -2.0], [7.0, 5.0, 9.0, 6.0], [-9.0, 0.0, 11.0, 0.0]])
    assert average_points(maps, boxes, 1).flatten().tolist() == [0.0, 5.0, 1.0]
    one = torch.full((1, 2, 1, 1), 4.0)
    assert average_points(one, boxes, (1, 2)).eq(4).all()


def test_points_give_their_map_a_gradient() -> None:
    draw = torch.Generator().manual_seed(2)
    maps = torch.randn(1, 2, 4, 5, generator=draw, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.3, 0.2, 3.1, 2.9], [-2.0, 1.0, 1.5, 7.0]])
    assert torch.autograd.gradcheck(lambda each: average_points(each, boxes, (1, 2)), maps)


@pytest.mark.parametrize("count", [0, 1, 3, 40, 2013])  # few boxes are described, many are not
@pytest.mark.parametrize("grid", [(1, 1), (9, 12), (1, 40), (30, 31)])
@pytest.mark.parametrize("levels", [(1, 2, 4), (2, 3), (5, 2, 4), ((1, 3), 6, (2, 3)), 3])
def test_points_times_weights_are_their_vectors_times_weights(
    levels, grid: tuple[int, int], count: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 5, *grid, generator=draw).contiguous(memory_format=torch.channels_last)
    corners = torch.rand(count, 2, generator=draw, dtype=torch.float64) * 20 - 4
    boxes = torch.cat([corners, corners + torch.rand(count, 2, generator=draw) * 30], 1)
    vectors = average_points(maps, boxes, levels)
    weights = torch.randn(vectors.shape[1], 4, generator=draw)
    found = score_points(maps, boxes, weights, levels)
    torch.testing.assert_close(found, vectors @ weights, rtol=1e-4, atol=1e-4)
    for threads in (1, 3):
        with using_threads(threads):
            assert torch.equal(score_points(maps, boxes, weights, levels), found)
    with pytest.raises(ValueError, match=r"weights must have shape"):
        score_points(maps, boxes, weights[1:], levels)


@pytest.mark.parametrize(
    ("maps", "boxes", "points"), [((2, 3, 4, 4), 4, 2), ((1, 3, 4, 4), 5, 2), ((1, 3, 4, 4), 4, 0)]
)
def test_points_of_wrong_shapes_are_refused(maps, boxes: int, points: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        average_points(torch.zeros(maps), torch.zeros(3, boxes), 2, points)
