"""Pyramid pooling in plain torch: on every device, and the ground that the kernels stand on.

Regions are pooled from :class:`sppnet.pooling.level_pools.LevelPools`; gradients come from looking
the winning cells up, so that autograd does the rest, as often as it is asked to.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from sppnet.pooling.bins import num_bins
from sppnet.pooling.level_pools import LevelPools, PooledLevel

# Regions laid out at a time: 64 x 36 bins x 512 channels stay near the cache.
CHUNK = 64


def pool_maps(maps: Sequence[Tensor], levels: Sequence[int], mode: str) -> Tensor:
    """Pool whole maps, differentiable.

    Example:
        >>> pool_maps([torch.arange(4.0).reshape(1, 1, 2, 2)], (1, 2), "avg")
        tensor([[1.5000, 0.0000, 1.0000, 2.0000, 3.0000]])
    """
    if maps[0].shape[1] == 0:  # torch refuses maps without channels
        return torch.cat([each.flatten(1) for each in maps])
    pool = adaptive_max_pool2d if mode == "max" else _average
    return torch.cat([torch.cat([pool(each, n).flatten(1) for n in levels], 1) for each in maps])


def _average(features: Tensor, n: int) -> Tensor:
    """Average bins in float64, whatever the dtype, and round once."""
    return adaptive_avg_pool2d(features.double(), n).to(features.dtype)


def pool(
    maps: Sequence[Tensor], rows: Tensor | None, levels: Sequence[int], mode: str, out: Tensor
) -> None:
    """Pool whole maps, or checked regions (R, 5), into ``out``; distinct ones once.

    Example:
        >>> out = torch.empty(1, 5)
        >>> features = torch.arange(12.0).reshape(1, 1, 3, 4)
        >>> pool([features], torch.tensor([[0, 1, 0, 3, 2]]), (1, 2), "max", out)
        >>> out
        tensor([[6., 1., 2., 5., 6.]])
    """
    if rows is None:
        out.copy_(pool_maps(maps, levels, mode))
        return
    if out.numel() == 0:
        return
    distinct, duplicate_of = torch.unique(rows, dim=0, return_inverse=True)
    pooled = []
    for features, own in _split_by_map(maps, distinct):
        if not len(own):
            continue
        if mode == "avg":
            pooled.append(_average_regions(features, own, levels))
        else:
            pools = LevelPools(features, own, tuple(levels))
            pooled.append(out.new_empty(len(own), out.shape[1]))
            _lay_out([pools.level(n) for n in levels], pooled[-1])
    torch.index_select(torch.cat(pooled), 0, duplicate_of, out=out)


def _split_by_map(maps: Sequence[Tensor], rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield each map with its rows, which then count images from it. Rows are sorted by image."""
    first = 0
    for features in maps:
        own = rows[(rows[:, 0] >= first) & (rows[:, 0] < first + len(features))]
        yield features, own - own.new_tensor([first, 0, 0, 0, 0])
        first += len(features)


def _lay_out(levels: list[PooledLevel], out: Tensor) -> None:
    """Write the levels into the rows of the output, channel slowest inside a level."""
    offset = 0
    for level in levels:
        bins, channels = level.bin_of.shape[1], level.maxima.shape[1]
        target = out[:, offset : offset + channels * bins].unflatten(1, (channels, bins))
        for start in range(0, len(out), CHUNK):
            chosen = level.bin_of[start : start + CHUNK]
            pooled = level.maxima.index_select(0, chosen.flatten()).unflatten(0, chosen.shape)
            target[start : start + CHUNK] = pooled.transpose(1, 2)
        offset += channels * bins


def _average_regions(features: Tensor, rows: Tensor, levels: Sequence[int]) -> Tensor:
    """Average regions one after the other, differentiable."""
    crops = [features[i : i + 1, :, y0:y1, x0:x1] for i, x0, y0, x1, y1 in rows.tolist()]
    return pool_maps(crops or [features[:0]], levels, "avg")


def backward(
    grad: Tensor,
    maps: Sequence[Tensor],
    rows: Tensor | None,
    levels: Sequence[int],
    mode: str,
    *,
    again: bool = False,
) -> list[Tensor]:
    """Gradients of the maps from that of the pooled vectors; ``again`` keeps a graph of them.

    Args:
        grad: (R, C * bins).
        maps: What was pooled.
        rows: (R, 5) regions; None for whole maps.
        levels: The pyramid.
        mode: "max" or "avg".
        again: Whether the result shall be differentiable in ``grad``.

    Returns:
        One gradient per map.

    Example:
        >>> backward(torch.ones(1, 1), [torch.tensor([[[[1.0, 3.0]]]])], None, (1,), "max")
        [tensor([[[[0., 1.]]]])]
    """
    with torch.enable_grad():
        leaves = [each.detach().requires_grad_() for each in maps]
        if rows is None:
            pooled = pool_maps(leaves, levels, mode)
        elif mode == "avg":
            pooled = _average_rows(leaves, rows, levels)
        else:
            pooled = _at_winners(leaves, maps, rows, levels)
        return list(
            torch.autograd.grad(pooled, leaves, grad, create_graph=again, materialize_grads=True)
        )


def tangent(
    tangents: Sequence[Tensor | None],
    maps: Sequence[Tensor],
    rows: Tensor | None,
    levels: Sequence[int],
    mode: str,
) -> Tensor:
    """How the pooled vectors move when the maps do: the forward-mode derivative.

    Example:
        >>> maps = [torch.tensor([[[[1.0, 3.0]]]])]
        >>> tangent([torch.tensor([[[[5.0, 7.0]]]])], maps, None, (1,), "max")
        tensor([[7.]])
    """
    moved = [
        torch.zeros_like(each) if change is None else change
        for each, change in zip(maps, tangents, strict=True)
    ]
    rows = whole_maps(maps) if rows is None else rows
    if mode == "avg":
        return _average_rows(moved, rows, levels)
    return _at_winners(moved, maps, rows, levels)


def whole_maps(maps: Sequence[Tensor]) -> Tensor:
    """(images, 5) regions that cover every image.

    Example:
        >>> whole_maps([torch.zeros(2, 1, 3, 4), torch.zeros(1, 1, 5, 6)])
        tensor([[0, 0, 0, 4, 3],
                [1, 0, 0, 4, 3],
                [2, 0, 0, 6, 5]])
    """
    sizes = [each.shape[2:] for each in maps for _ in range(len(each))]
    rows = [[i, 0, 0, width, height] for i, (height, width) in enumerate(sizes)]
    return torch.tensor(rows, dtype=torch.int64, device=maps[0].device).reshape(-1, 5)


def _average_rows(maps: Sequence[Tensor], rows: Tensor, levels: Sequence[int]) -> Tensor:
    """Average regions of several maps, differentiable."""
    distinct, duplicate_of = torch.unique(rows, dim=0, return_inverse=True)
    pooled = [_average_regions(each, own, levels) for each, own in _split_by_map(maps, distinct)]
    return torch.cat(pooled).index_select(0, duplicate_of)


def _at_winners(
    values: Sequence[Tensor], maps: Sequence[Tensor], rows: Tensor, levels: Sequence[int]
) -> Tensor:
    """Take from ``values`` the cells where ``maps`` are greatest; differentiable in the values."""
    distinct, duplicate_of = torch.unique(rows, dim=0, return_inverse=True)
    split = zip(values, _split_by_map(maps, distinct), strict=True)
    pooled = [_take_winners(each, features, own, levels) for each, (features, own) in split]
    # index_select, not [...]: its gradient adds up in one order, whatever the number of threads
    return torch.cat(pooled).index_select(0, duplicate_of)


def _take_winners(values: Tensor, features: Tensor, rows: Tensor, levels: Sequence[int]) -> Tensor:
    """Take the winning cells of the regions of one map."""
    channels = features.shape[1]
    if 0 in (len(rows), channels):
        return values.flatten()[:0].reshape(len(rows), channels * num_bins(levels))
    pools = LevelPools(features.detach(), rows, tuple(levels))
    cells = values.permute(0, 2, 3, 1).flatten(0, 2)
    taken = []
    for n in levels:
        winners = pools.winners(n)[pools.level(n).bin_of.flatten()]
        taken.append(cells.gather(0, winners).unflatten(0, (len(rows), n * n)))
    return torch.cat([each.transpose(1, 2).flatten(1) for each in taken], 1)
