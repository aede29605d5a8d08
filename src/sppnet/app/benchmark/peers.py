"""Named peers of our pooling, and the inputs that all of them get."""

import math
import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, pad
from torchvision.ops import roi_pool

ROI_POOL = "torchvision roi_pool per level + cat"
TEXTBOOK = "adaptive_max_pool2d per level + cat"
LOOP = "loop over images of adaptive_max_pool2d per level + cat"
PAD_AND_CROP = "pad to the largest, then crop and pool each image"
STRIDE = 16  # pixels to a cell
LEAST_SIDE = 20  # pixels; selective search's boxes are seldom smaller
MOVED = 0.35  # part of the regions that are earlier ones, moved a little
MOVE = 2  # pixels at most
REGION_WORDS = (
    f"Regions are drawn in the pixels of an image {STRIDE} times the size of the map, as selective "
    f"search leaves them: each side log-uniform from {LEAST_SIDE} pixels to the whole image, the "
    f"place uniform; {MOVED:.0%} are earlier regions with corners moved by up to {MOVE} pixels. "
    "Projected to cells, about a fifth coincide with another one."
)
LAYOUTS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}


class TextbookPyramid(nn.Module):
    """The pyramid as tutorials have it.

    Args:
        levels: Bins along each side, one number per level.

    Example:
        >>> TextbookPyramid((1, 2))(torch.arange(4.0).reshape(1, 1, 2, 2))
        tensor([[3., 0., 1., 2., 3.]])
    """

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)

    def forward(self, features: Tensor) -> Tensor:
        """Pool (N, C, H, W) into (N, C * sum(n * n))."""
        return torch.cat([adaptive_max_pool2d(features, n).flatten(1) for n in self.levels], 1)


def roi_pool_pyramid(features: Tensor, boxes: Tensor, levels: Sequence[int]) -> Tensor:
    """Pool boxes of :func:`rows_to_boxes` once for each level.

    Example:
        >>> features = torch.arange(12.0).reshape(1, 1, 3, 4)
        >>> boxes = rows_to_boxes(torch.tensor([[0, 1, 0, 3, 2]]))
        >>> roi_pool_pyramid(features, boxes, (1, 2))
        tensor([[6., 1., 2., 5., 6.]])
    """
    return torch.cat([roi_pool(features, boxes, n).flatten(1) for n in levels], 1)


def rows_to_boxes(rows: Tensor) -> Tensor:
    """Turn half-open regions into roi_pool's boxes, whose last cell is inside.

    Example:
        >>> rows_to_boxes(torch.tensor([[0, 1, 0, 3, 2]]))
        tensor([[0., 1., 0., 2., 1.]])
    """
    return (rows - rows.new_tensor([0, 0, 0, 1, 1])).float()


def pool_in_a_loop(maps: Sequence[Tensor], textbook: nn.Module) -> Tensor:
    """Pool (C, H_i, W_i) maps one after the other.

    Example:
        >>> pool_in_a_loop([torch.ones(2, 3, 4), torch.ones(2, 1, 1)], TextbookPyramid((1,))).shape
        torch.Size([2, 2])
    """
    return torch.cat([textbook(each[None]) for each in maps])


def pad_and_crop(maps: Sequence[Tensor], textbook: nn.Module) -> Tensor:
    """Put maps into one padded batch, as data loaders do, and pool the valid part of each map.

    Example:
        >>> pad_and_crop([torch.ones(2, 3, 4), torch.ones(2, 1, 1)], TextbookPyramid((1,))).shape
        torch.Size([2, 2])
    """
    batch = _pad_maps(maps, *(max(each.shape[side] for each in maps) for side in (1, 2)))
    # unbind, not batch[i]: the gradient of that is a batch of zeros for each image
    pairs = zip(batch.unbind(), maps, strict=True)
    crops = [image[:, : m.shape[1], : m.shape[2]] for image, m in pairs]
    return pool_in_a_loop(crops, textbook)


def _pad_maps(maps: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Pad maps with -inf, in the faster of the two usual ways: with and without a gradient."""
    if torch.is_grad_enabled() and any(each.requires_grad for each in maps):
        sides = [(0, width - m.shape[2], 0, height - m.shape[1]) for m in maps]
        return torch.stack([pad(m, s, value=-torch.inf) for m, s in zip(maps, sides, strict=True)])
    batch = maps[0].new_full((len(maps), len(maps[0]), height, width), -torch.inf)
    for image, each in zip(batch.unbind(), maps, strict=True):
        image[:, : each.shape[1], : each.shape[2]].copy_(each)
    return batch


def training_step(
    pool: Callable[[], Tensor], maps: Sequence[Tensor], grad: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """Build a call that pools and sends a gradient back to the maps.

    Example:
        >>> maps = [torch.tensor([[[[1.0, 3.0]]]], requires_grad=True)]
        >>> training_step(lambda: TextbookPyramid((1,))(maps[0]), maps, torch.ones(1, 1))()
        (tensor([[[[0., 1.]]]]),)
    """
    return lambda: torch.autograd.grad(pool(), list(maps), grad)


def draw_map(shape: Sequence[int], seed: int) -> Tensor:
    """Draw a feature map as a rectifier leaves it: half of it zeros, so that there are ties.

    Example:
        >>> draw_map((1, 2, 3, 4), seed=0).shape
        torch.Size([1, 2, 3, 4])
    """
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).relu_()


def draw_gradient(pooled: Tensor, seed: int) -> Tensor:
    """Draw whole numbers: their sums are exact, so that gradients can be compared bit by bit.

    Example:
        >>> draw_gradient(torch.zeros(1, 2), seed=0).dtype
        torch.float32
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, pooled.shape, generator=generator).float()


def draw_regions(count: int, size_hw: tuple[int, int], seed: int) -> Tensor:
    """Draw regions of one map like the boxes of selective search.

    Args:
        count: How many.
        size_hw: Cells of the map.
        seed: Of the draw.

    Returns:
        (count, 5) int64 rows of image 0.

    Example:
        >>> rows = draw_regions(1000, (40, 60), seed=0)
        >>> 0.1 < duplicate_share(rows) < 0.3
        True
    """
    generator = torch.Generator().manual_seed(seed)
    sides = torch.tensor([size_hw[1], size_hw[0]]) * STRIDE
    least = sides.clamp(max=LEAST_SIDE)
    spans = least * (sides / least) ** torch.rand(count, 2, generator=generator)
    low = torch.rand(count, 2, generator=generator) * (sides - spans)
    corners = torch.cat([low, low + spans], 1)
    moved = torch.rand(count, generator=generator) < MOVED
    moved[0] = False
    earlier = (torch.rand(count, generator=generator) * torch.arange(count)).long()
    shift = MOVE * (2 * torch.rand(count, 4, generator=generator) - 1)
    corners = torch.where(moved[:, None], corners[earlier] + shift, corners)
    return _to_cells(corners, size_hw)


def _to_cells(corners: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Project pixel corners to the cells that they touch, at least one."""
    most = torch.tensor([size_hw[1], size_hw[0]])
    low = (corners[:, :2] / STRIDE).floor().long().clamp(min=0).minimum(most - 1)
    high = (corners[:, 2:] / STRIDE).ceil().long().minimum(most).maximum(low + 1)
    return torch.cat([torch.zeros(len(corners), 1, dtype=torch.int64), low, high], 1)


def duplicate_share(rows: Tensor) -> float:
    """Part of the regions that coincide with an earlier one.

    Example:
        >>> duplicate_share(torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]))
        0.5
    """
    return 1 - len(torch.unique(rows, dim=0)) / len(rows)


def draw_shapes(count: int, most_bytes: int, seed: int) -> list[tuple[int, int, int, int]]:
    """Draw (N, C, H, W), each side log-uniform: N to 32, C to 512, H and W to 64.

    Example:
        >>> len(draw_shapes(3, 1_000_000, seed=0))
        3
    """
    generator = random.Random(seed)  # noqa: S311 - no secrets
    drawn: list[tuple[int, int, int, int]] = []
    while len(drawn) < count:
        logs = [generator.uniform(0, math.log(most + 1)) for most in (32, 512, 64, 64)]
        n, c, h, w = (max(1, int(math.exp(each))) for each in logs)
        if 4 * n * c * h * w <= most_bytes:
            drawn.append((n, c, h, w))
    return drawn


def draw_sizes(count: int, sides: tuple[int, int], seed: int) -> list[tuple[int, int]]:
    """Draw different (height, width) pairs, uniform between two sides.

    Example:
        >>> len(set(draw_sizes(9, (6, 40), seed=0)))
        9
    """
    low, high = sides
    every = [(h, w) for h in range(low, high + 1) for w in range(low, high + 1)]
    return random.Random(seed).sample(every, count)  # noqa: S311 - no secrets
