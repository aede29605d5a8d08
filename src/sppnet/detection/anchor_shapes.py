"""Shapes of anchors: the sizes of the labelled objects, put into a few groups by overlap."""

import torch
from torch import Tensor

ROUNDS = 50


def find_shapes(sizes: Tensor, weights: Tensor, count: int) -> Tensor:
    """Group sizes so that each lies close, by overlap, to the middle of its group.

    Lloyd's rounds from a fixed start: the size nearest to the mean, then always the size that the
    shapes so far cover worst. The middle of a group is the mean of the logarithms.

    Args:
        sizes: (N, 2) widths and heights, positive.
        weights: (N,) how much each counts, positive.
        count: The most shapes.

    Returns:
        (K, 2) shapes, K at most ``count`` and at most the number of distinct sizes.

    Example:
        >>> sizes = torch.tensor([[9.0, 9.0], [11.0, 11.0], [90.0, 40.0]])
        >>> find_shapes(sizes, torch.ones(3), 2).round()
        tensor([[10., 10.],
                [90., 40.]])

    Source:
        Redmon and Farhadi 2017 (YOLO9000), section 2: dimension clusters.
    """
    shapes = _spread(sizes, weights, count)
    for _ in range(ROUNDS):
        moved = _middles(sizes, weights, size_overlap(sizes, shapes).argmax(1), shapes)
        if torch.allclose(moved, shapes):
            break
        shapes = moved
    return shapes


def size_overlap(sizes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes on one centre: (N, 2) and (M, 2) -> (N, M).

    Example:
        >>> size_overlap(torch.tensor([[2.0, 4.0]]), torch.tensor([[4.0, 2.0], [2.0, 2.0]]))
        tensor([[0.3333, 0.5000]])
    """
    shared = torch.minimum(sizes[:, None], others[None]).prod(-1)
    return shared / (sizes.prod(-1)[:, None] + others.prod(-1)[None] - shared)


def _spread(sizes: Tensor, weights: Tensor, count: int) -> Tensor:
    """Start: the middle size, then the size that is covered worst, until all are covered."""
    logs = sizes.log()
    middle = (logs - logs.mean(0)).square().sum(1).argmin()
    chosen = [int(middle)]
    while len(chosen) < count:
        uncovered = 1 - size_overlap(sizes, sizes[chosen]).amax(1)
        if float(uncovered.max()) < 1e-6:
            break
        chosen.append(int((uncovered * weights.sqrt()).argmax()))
    return sizes[chosen]


def _middles(sizes: Tensor, weights: Tensor, group_of: Tensor, shapes: Tensor) -> Tensor:
    """Weighted geometric mean of each group; a group that is empty stays where it is."""
    member = torch.nn.functional.one_hot(group_of, len(shapes)).to(sizes.dtype) * weights[:, None]
    total = member.sum(0)[:, None]
    means = (member.T @ sizes.log() / total.clamp(min=1e-12)).exp()
    return torch.where(total > 0, means, shapes)
