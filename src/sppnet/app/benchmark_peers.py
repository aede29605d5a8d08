"""What people write where there is no pyramid pooling: the peers of the benchmark."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d, pad
from torchvision.ops import roi_pool

ROI_POOL = "torchvision roi_pool per level + cat"
TEXTBOOK = "adaptive_max_pool2d per level + cat"
LOOP = "loop over images of adaptive_max_pool2d per level + cat"
PAD_AND_CROP = "pad to the largest, then crop and pool each image"


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
    """Put maps into one padded batch, as data loaders do, and pool the valid part of each.

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
