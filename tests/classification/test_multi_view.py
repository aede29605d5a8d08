"""Views that are pooled from maps are the windows that crops would show."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from sppnet.backbones import build_backbone
from sppnet.classification import SppNet, View, build_classifier, build_pool
from sppnet.classification.network import POOLS, pool_images
from sppnet.classification.views import (
    CROP,
    FULL,
    NINETY_SIX,
    TEN,
    Scale,
    ViewPlan,
    pool_on_crops,
    pool_on_maps,
    pool_views,
    score_on_crops,
    score_on_maps,
    score_rows,
    view_plan,
    window_cells,
)
from sppnet.images import resize_image

pytestmark = pytest.mark.usefixtures("one_thread")
TRUNKS = ("zf5", "small5", "squeezenet1_1", "resnet18", "alexnet", "mobilenet_v3_small")
SMALL = view_plan("98", 64)


class Patches(nn.Module):
    """A trunk whose cells see one square of 8 x 8 pixels each, and nothing of their neighbours."""

    stride = 8

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 8, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.patch(images)

    def grid_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        return size_hw[0] // 8, size_hw[1] // 8


@pytest.fixture(scope="module")
def small() -> SppNet:
    torch.manual_seed(0)
    return build_classifier("small5", 5, hidden=(16,)).eval()


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return torch.rand(3, 75, 100, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pool", POOLS)
def test_maps_equal_crops_where_cells_see_no_neighbours(pool: str, photo: Tensor) -> None:
    torch.manual_seed(0)
    network = SppNet(Patches(), build_pool(pool), nn.Identity()).eval()
    plan = ViewPlan((48, 64), window=32, places="grid", mirrored=True, whole_side=64)
    photo = resize_image(photo, (96, 192))
    for scale in plan.scales((96, 192)):
        assert all(edge % 8 == 0 for window in scale.windows for edge in window)
    ours, slow = (way(network, photo, plan) for way in (pool_on_maps, pool_on_crops))
    assert ours.shape == slow.shape
    assert len(ours) == plan.count((96, 192)) == 38
    assert torch.allclose(ours, slow, atol=1e-6)


def test_rows_are_maxima_of_the_windows_on_the_map(small: SppNet, photo: Tensor) -> None:
    expected = []
    for scale in SMALL.scales((75, 100)):
        resized = resize_image(photo, scale.size_hw)
        for side in (resized, resized.flip(2)):
            with torch.inference_mode():
                (features,) = small.backbone(side[None])
            for x0, y0, x1, y1 in window_cells(small.backbone, scale).tolist():
                part = features[:, y0:y1, x0:x1]
                levels = [adaptive_max_pool2d(part, n).flatten() for n in (1, 2, 3, 6)]
                expected.append(torch.cat(levels))
    rows = pool_on_maps(small, photo, SMALL)
    assert len(rows) == 98
    assert torch.allclose(rows, torch.stack(expected), atol=1e-5)
    probabilities = small.head(torch.stack(expected)).softmax(1).mean(0)
    assert torch.allclose(score_on_maps(small, photo, SMALL), probabilities, atol=1e-5)


@pytest.mark.parametrize("name", TRUNKS)
def test_a_window_gets_the_cells_of_its_crop(name: str) -> None:
    backbone = build_backbone(name)
    own = backbone.grid_hw((224, 224))
    for scale in NINETY_SIX.scales((333, 500)):
        rows, columns = backbone.grid_hw(scale.size_hw)
        for window, cells in zip(scale.windows, window_cells(backbone, scale), strict=True):
            left, top, right, bottom = cells.tolist()
            assert 0 <= left < right <= columns
            assert 0 <= top < bottom <= rows
            assert (bottom - top, right - left) == own
            # at most half a cell off, and one cell where the map ends
            assert abs(left * backbone.stride - window[0]) <= backbone.stride
            assert abs(top * backbone.stride - window[1]) <= backbone.stride
            at_end = (right == columns, bottom == rows)
            if not at_end[0]:
                assert abs(left * backbone.stride - window[0]) <= backbone.stride / 2


def test_a_corner_of_zf5_is_13_by_13_and_the_whole_image_the_whole_map() -> None:
    backbone = build_backbone("zf5")
    windows = ((0, 0, 224, 224), (117, 32, 341, 256), (0, 0, 341, 256))
    cells = window_cells(backbone, Scale((256, 341), windows))
    rows, columns = backbone.grid_hw((256, 341))
    assert cells[0].tolist() == [0, 0, 13, 13]
    assert (cells[1, 2:] - cells[1, :2]).tolist() == [13, 13]
    assert cells[2].tolist() == [0, 0, columns, rows]


def test_whole_image_is_the_full_view(small: SppNet, photo: Tensor) -> None:
    rows = pool_views(small, photo, view_plan("full", 40))
    seen = pool_images(small.backbone, small.pool, [View("full", 40).apply(photo)])
    assert torch.equal(rows, seen)


def test_one_and_ten_views_are_true_crops(small: SppNet, photo: Tensor) -> None:
    resized = resize_image(photo, (256, 341))
    with torch.inference_mode():
        (features,) = small.backbone(resized[None, :, 16:240, 58:282])
        row = small.pool(features[None])
    assert torch.allclose(pool_views(small, photo, CROP), row, atol=1e-5)
    assert torch.equal(pool_views(small, photo, TEN), pool_on_crops(small, photo, TEN))


def test_size_of_the_batch_of_crops_changes_rounding_only(small: SppNet, photo: Tensor) -> None:
    one, many = (pool_on_crops(small, photo, SMALL, batch) for batch in (1, 32))
    assert torch.allclose(one, many, atol=1e-5)


def test_margins_are_averaged_as_they_are(small: SppNet, photo: Tensor) -> None:
    rows = pool_on_maps(small, photo, SMALL)
    with torch.inference_mode():
        expected = small.head(rows).mean(0)
    assert torch.allclose(score_on_maps(small, photo, SMALL, "margin"), expected, atol=1e-5)
    with pytest.raises(ValueError, match="score_kind must be one of"):
        score_rows(small, rows, "logit")


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 400), (400, 20), (5, 100), (33, 33)])
@pytest.mark.parametrize("name", ["crop", "10", "full", "98"])
def test_every_shape_has_finite_scores(small: SppNet, size_hw: tuple[int, int], name: str) -> None:
    image, plan = torch.rand(3, *size_hw), view_plan(name, 32)
    rows = pool_views(small, image, plan)
    assert len(rows) == plan.count(size_hw)
    for way in (score_on_maps, score_on_crops):
        scores = way(small, image, plan)
        assert scores.shape == (5,)
        assert scores.sum().item() == pytest.approx(1, abs=1e-5)


def test_large_maps_go_without_their_mirror(
    small: SppNet, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = pool_on_maps(small, photo, SMALL)
    monkeypatch.setattr("sppnet.classification.views.PAIR_PIXELS", 0)
    assert torch.allclose(pool_on_maps(small, photo, SMALL), together, atol=1e-5)


def test_scores_of_a_mirrored_image_are_the_same_up_to_rounding(
    small: SppNet, photo: Tensor
) -> None:
    even = resize_image(photo, (64, 96))  # odd rests put the middle window half a pixel off
    plan = ViewPlan((64,), window=32, places="grid", mirrored=True, whole_side=64)
    ours, mirrored = (score_on_maps(small, each, plan) for each in (even, even.flip(2)))
    assert torch.allclose(ours, mirrored, atol=1e-5)


def test_full_plan_is_one_view(small: SppNet) -> None:
    assert len(pool_views(small, torch.rand(3, 64, 80), FULL)) == 1
