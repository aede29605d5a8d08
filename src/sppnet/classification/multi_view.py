"""Scores an image by many views that are pooled from few feature maps (section 3.1.5)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sppnet.backbones import Backbone
from sppnet.classification.network import (
    ROWS,
    AverageAndPyramid,
    SppNet,
    apply_in_blocks,
    device_of,
)
from sppnet.classification.views import Scale, ViewPlan, Window
from sppnet.images import resize_image
from sppnet.pooling import SpatialPyramidPool, pool_regions

SCORE_KINDS = ("probability", "margin")
PAIR_PIXELS = 1 << 20  # an image of up to so many pixels goes through the trunk with its mirror


@torch.inference_mode()
def score_rows(network: SppNet, rows: Tensor, score_kind: str = "probability") -> Tensor:
    """Score pooled features; a row's scores have the same bits in any company.

    Args:
        network: Only its head is used; it is in evaluation mode.
        rows: (N, D) on the head's device.
        score_kind: ``"probability"`` passes the logits through softmax; ``"margin"`` leaves them as
            they are.

    Returns:
        (N, K) float32 on the CPU.

    Raises:
        ValueError: If there is no such kind of score.

    Example:
        >>> from sppnet.classification import build_classifier
        >>> score_rows(build_classifier("small5", 3).eval(), torch.rand(2, 4800)).shape
        torch.Size([2, 3])
    """
    if score_kind not in SCORE_KINDS:
        raise ValueError(f"score_kind must be one of {SCORE_KINDS}, got {score_kind!r}")
    logits = apply_in_blocks(network.head, rows)
    scores = logits.softmax(dim=1) if score_kind == "probability" else logits
    return scores.float().cpu()


def score_on_maps(
    network: SppNet, image: Tensor, plan: ViewPlan, score_kind: str = "probability"
) -> Tensor:
    """Score an image by the mean over many views, with one convolution for each scale and mirror.

    Args:
        network: In evaluation mode.
        image: (3, H, W) float, RGB 0..1, any size.
        plan: Which views.
        score_kind: ``"probability"`` averages softmax outputs, ``"margin"`` the logits.

    Returns:
        (K,) float32 on the CPU.

    Raises:
        ValueError: If there is no such kind of score.

    Example:
        >>> from sppnet.classification import build_classifier
        >>> from sppnet.classification.views import NINETY_SIX
        >>> network = build_classifier("small5", num_classes=4).eval()
        >>> score_on_maps(network, torch.rand(3, 60, 90), NINETY_SIX).shape
        torch.Size([4])

    Source:
        SPP-net, section 3.1.5.
    """
    return score_rows(network, pool_on_maps(network, image, plan), score_kind).mean(dim=0)


def score_on_crops(
    network: SppNet,
    image: Tensor,
    plan: ViewPlan,
    score_kind: str = "probability",
    batch: int = ROWS,
) -> Tensor:
    """Score an image by the mean over the same views as :func:`score_on_maps`, each cut out first.

    Args:
        network: In evaluation mode.
        image: (3, H, W) float, RGB 0..1, any size.
        plan: Which views.
        score_kind: As there.
        batch: Most crops that are convolved together.

    Returns:
        (K,) float32 on the CPU.
    """
    return score_rows(network, pool_on_crops(network, image, plan, batch), score_kind).mean(dim=0)


def pool_views(network: SppNet, image: Tensor, plan: ViewPlan) -> Tensor:
    """Pool every view of an image, cut out or from the maps as planned: (3, H, W) -> (views, D)."""
    pool = pool_on_crops if plan.cut else pool_on_maps
    return pool(network, image, plan)


@torch.inference_mode()
def pool_on_maps(network: SppNet, image: Tensor, plan: ViewPlan) -> Tensor:
    """Convolve an image once for each scale and mirror, and pool every window from these maps.

    One scale's maps are in memory at a time. What is convolved together depends on the image's own
    size only, so on a CPU the rows have the same bits in every run.

    Args:
        network: In evaluation mode.
        image: (3, H, W) float, RGB 0..1, any size.
        plan: Which views.

    Returns:
        (views, D) on the network's device: scale by scale, the image before its mirror.
    """
    image = image.to(device_of(network))
    rows = []
    for scale in plan.scales((image.shape[1], image.shape[2])):
        cells = window_cells(network.backbone, scale)  # type: ignore[arg-type]
        for maps in _scale_maps(network.backbone, image, scale, plan.mirrored):
            rows.append(_pool_cells(network.pool, maps, cells))
    return torch.cat(rows)


@torch.inference_mode()
def pool_on_crops(network: SppNet, image: Tensor, plan: ViewPlan, batch: int = ROWS) -> Tensor:
    """Cut every window out of the resized image, convolve and pool it as an image of its own.

    Args:
        network: In evaluation mode.
        image: (3, H, W) float, RGB 0..1, any size.
        plan: Which views.
        batch: Most crops that are convolved together.

    Returns:
        (views, D) on the network's device, in the order of :func:`pool_on_maps`.
    """
    image = image.to(device_of(network))
    rows = []
    for scale in plan.scales((image.shape[1], image.shape[2])):
        resized = resize_image(image, scale.size_hw)
        for side in (resized, resized.flip(-1)) if plan.mirrored else (resized,):
            for crops in _equal_crops(side, scale.windows, batch):
                rows.append(network.pool(network.backbone(crops)))
    return torch.cat(rows)


def window_cells(backbone: Backbone, scale: Scale) -> Tensor:
    """Find the cells of the map of a resized image that stand for each window.

    A window gets as many cells as the trunk makes of it when it is an image of its own, and of all
    places on the map the one that lies nearest: cell 0 of a crop that begins at pixel x lies
    ``x / stride`` cells from cell 0 of the whole image, whatever the centre of that cell. So the
    whole image gets the whole map, and a corner gets what its crop would: 13 x 13 cells for ZF-5
    and 224 pixels.

    Args:
        backbone: The trunk.
        scale: Size of the resized image and windows on it.

    Returns:
        (K, 4) int64 half-open cells x0, y0, x1, y1, never empty.

    Example:
        >>> from sppnet.backbones import build_backbone
        >>> zf5 = build_backbone("zf5")
        >>> window_cells(zf5, Scale((256, 341), ((0, 0, 224, 224), (117, 32, 341, 256))))
        tensor([[ 0,  0, 13, 13],
                [ 7,  2, 20, 15]])

    Source:
        SPP-net, section 3.1.5, where the windows go to the map as in detection; the released
        projection of detection gives 13 or 14 cells, at a corner more than the crop for some.
    """
    rows, columns = backbone.grid_hw(scale.size_hw)
    cells = []
    for x0, y0, x1, y1 in scale.windows:
        high, wide = backbone.grid_hw((y1 - y0, x1 - x0))
        left = min(int(x0 / backbone.stride + 0.5), columns - wide)
        top = min(int(y0 / backbone.stride + 0.5), rows - high)
        cells.append((left, top, left + wide, top + high))
    return torch.tensor(cells, dtype=torch.int64)


def _scale_maps(
    backbone: nn.Module, image: Tensor, scale: Scale, mirrored: bool
) -> Iterator[Tensor]:
    """Convolve the resized image and its mirror, together unless they are large."""
    resized = resize_image(image, scale.size_hw)
    sides = torch.stack([resized, resized.flip(-1)] if mirrored else [resized])
    size = len(sides) if resized[0].numel() <= PAIR_PIXELS else 1
    for part in sides.split(size):
        yield backbone(part.contiguous(memory_format=torch.channels_last))


def _pool_cells(pool: nn.Module, maps: Tensor, cells: Tensor) -> Tensor:
    """Pool the same cells of every map: (n, C, h, w) and (K, 4) -> (n * K, D)."""
    if isinstance(pool, SpatialPyramidPool):
        return pool_regions(maps, [cells.to(maps.device)] * len(maps), pool.levels, mode=pool.mode)
    if isinstance(pool, AverageAndPyramid):
        halves = [_pool_cells(part, maps, cells) for part in (pool.average, pool.maxima)]
        return torch.cat(halves, dim=1)
    parts = [maps[:, :, y0:y1, x0:x1] for x0, y0, x1, y1 in cells.tolist()]
    return torch.stack([pool(part) for part in parts], dim=1).flatten(0, 1)  # (n, K, D) -> rows


def _equal_crops(image: Tensor, windows: tuple[Window, ...], batch: int) -> Iterator[Tensor]:
    """Cut windows in their order, as batches of one size."""
    begin = 0
    for end in range(1, len(windows) + 1):
        last = end == len(windows)
        if last or end - begin == batch or _size(windows[end]) != _size(windows[begin]):
            cut = [image[:, y0:y1, x0:x1] for x0, y0, x1, y1 in windows[begin:end]]
            yield torch.stack(cut).contiguous(memory_format=torch.channels_last)
            begin = end


def _size(window: Window) -> tuple[int, int]:
    x0, y0, x1, y1 = window
    return y1 - y0, x1 - x0
