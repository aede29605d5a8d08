"""Maps of several layers, side by side on the cells of the finest.

An early layer knows where an object ends, a late one what it is: a joined map knows both. It is
made inside the trunk, so that pooling, anchors, caches and exporters see one map of more channels.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sppnet.backbones.tracing.receptive_field import Axis, ReceptiveField

JOIN = "+"  # between the names of layers
Place = tuple[float, float]


def join_places(fields: Sequence[ReceptiveField]) -> tuple[tuple[Place, Place], ...]:
    """Say where cell 0 of the finest map lies on each of the maps, and how far its next cells do.

    Args:
        fields: Where the cells of each map lie.

    Returns:
        For each map, down and across, the place of cell 0 of the finest map and the step to its
        next cell, both in cells of the map: (0.0, 1.0) for the finest itself.

    Raises:
        ValueError: There is no map that is the finest both down and across.

    Example:
        >>> from sppnet.backbones.tracing.receptive_field import Window
        >>> fine = Axis().through(Window(3, stride=2, before=0, after=1))
        >>> coarse = fine.through(Window(3, stride=2, before=0, after=1))
        >>> join_places([ReceptiveField(fine, fine), ReceptiveField(coarse, coarse)])
        (((0.0, 1.0), (0.0, 1.0)), ((-0.5, 0.5), (-0.5, 0.5)))
    """
    finest = _find_finest(fields)
    return tuple(
        (_place(finest.y, field.y), _place(finest.x, field.x))  # down, across
        for field in fields
    )


def _place(fine: Axis, axis: Axis) -> Place:
    return (fine.centre - axis.centre) / axis.stride, fine.stride / axis.stride


def _find_finest(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    finest = min(fields, key=lambda field: (field.y.stride, field.x.stride))
    if any(field.x.stride < finest.x.stride for field in fields):
        raise ValueError("maps that are joined must have one that is the finest along both sides")
    return finest


def join_fields(fields: Sequence[ReceptiveField]) -> ReceptiveField:
    """Work out where the cells of a joined map lie: where those of the finest do.

    A cell sees what the finest map sees there, and as much as the widest of them around it.

    Example:
        >>> from sppnet.backbones.tracing.receptive_field import Window
        >>> fine = Axis().through(Window(2, stride=2))
        >>> coarse = fine.through(Window(2, stride=2))
        >>> side = join_fields([ReceptiveField(fine, fine), ReceptiveField(coarse, coarse)]).x
        >>> side.stride, side.centre, side.extent
        (2, 0.5, 8)
    """
    finest = _find_finest(fields)
    return ReceptiveField(
        _widen(finest.y, [field.y for field in fields]),
        _widen(finest.x, [field.x for field in fields]),
    )


def _widen(fine: Axis, axes: Sequence[Axis]) -> Axis:
    """Let a cell see as much on both sides as the widest map shows it, and keep its centre."""
    # a cell between two coarse ones sees both of these
    seen = [a.extent + (a.stride if a.stride > fine.stride else 0) for a in axes]
    more = -((fine.extent - max(*seen, fine.extent)) // 2)
    return replace(fine, first=fine.first - more, last=fine.last + more)


def join_maps(maps: Sequence[Tensor], places: Sequence[tuple[Place, Place]]) -> Tensor:
    """Put maps side by side; coarse ones are interpolated at the cells of the finest.

    Args:
        maps: Each (N, C, h, w).
        places: From :func:`join_places`.

    Returns:
        (N, the sum of all C, h, w) with the h and w of the finest map.

    Example:
        >>> fine, coarse = torch.zeros(1, 2, 4, 4), torch.tensor([[[[0.0, 2.0]]]])
        >>> same, half = ((0.0, 1.0), (0.0, 1.0)), ((-0.5, 0.5), (-0.5, 0.5))
        >>> join_maps([fine, coarse], [same, half])[0, 2]
        tensor([[0., 0., 1., 2.],
                [0., 0., 1., 2.],
                [0., 0., 1., 2.],
                [0., 0., 1., 2.]])
    """
    finest = next(i for i, place in enumerate(places) if all(step == 1 for _, step in place))
    size = maps[finest].shape[2:]
    found = [
        features if index == finest else _look_up(features, place, (size[0], size[1]))
        for index, (features, place) in enumerate(zip(maps, places, strict=True))
    ]
    return torch.cat(found, 1)


def _look_up(features: Tensor, places: tuple[Place, Place], size: tuple[int, int]) -> Tensor:
    """Interpolate a map linearly at so many places down and across; beyond its edges it goes on."""
    for dim, (first, step), count in zip((2, 3), places, size, strict=True):
        cells = features.shape[dim]
        at = first + step * torch.arange(count, device=features.device, dtype=torch.float32)
        at = at.clamp(min=0, max=cells - 1)  # a tensor of it would be a constant of an export
        before = at.floor()
        share = (at - before).to(features.dtype)
        share = share[:, None] if dim == 2 else share
        below = before.long()
        above = (below + 1).clamp(max=cells - 1)
        left, right = features.index_select(dim, below), features.index_select(dim, above)
        features = left + (right - left) * share
    return features
