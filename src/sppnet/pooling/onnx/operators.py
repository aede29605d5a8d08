"""The pooling operators in ONNX, for ``torch.onnx.export``: exact at every size of map.

The sizes of maps and the number of regions stay free; levels and mode become part of the graph. All
edges of bins are worked out in the graph, in integers. A ceiling is (a + b - 1) // b: division of
integers in ONNX truncates, so that -(-a // b) would come out wrong without any error.

Needs onnxscript; sppnet imports this module only to export.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import onnx
import torch
from onnxscript import opset18

from sppnet.pooling.onnx.loops import keep_nan, region_maxima, region_sums

Value = Any  # a tensor of the graph that is being made
op: Any = opset18  # its types do not know tensors of any type
Shape = tuple[int, int]  # rows and columns of bins
FLOAT, INT64, DOUBLE = 1, 7, 11  # numbers of types in ONNX
END = 1 << 40  # behind the last cell of any map


class Edges(NamedTuple):
    """Where the n bins along a side begin and end, and floor(log2) of the shortest bin."""

    start: Value
    end: Value
    doublings: Value


def pool_maps(
    maps: Sequence[Value],
    levels: Sequence[int],
    mode: str = "max",
    columns: Sequence[int] | None = None,
) -> Value:
    """Translate ``sppnet::pool_maps``; maps of several sizes come one after the other."""
    shapes = _shapes(levels, columns)
    pooled = [_pool_map(features, shapes, mode) for features in maps]
    return pooled[0] if len(pooled) == 1 else op.Concat(*pooled, axis=0)


def pool_regions(
    maps: Sequence[Value],
    rows: Value,
    levels: Sequence[int],
    mode: str = "max",
    columns: Sequence[int] | None = None,
) -> Value:
    """Translate ``sppnet::pool_regions`` for regions of one batch of maps.

    Raises:
        ValueError: If there are maps of several sizes.
    """
    if len(maps) != 1:
        raise ValueError(
            f"features must be one batch of maps to export pool_regions, got {len(maps)}"
        )
    shapes = _shapes(levels, columns)
    pool = _region_maxima if mode == "max" else _region_averages
    grids = pool(maps[0], rows, shapes)
    return _lay_out(grids, shapes, size(rows, 0), size(maps[0], 1))


def average_points(features: Value, boxes: Value, levels: Sequence[int], points: int) -> Value:
    """Translate :func:`sppnet.pooling.average_points`: one map, (R, 4) boxes in cells, float64.

    The points of a bin are the middles of the parts of its sides: every cell of a side has a share
    of the mean of every bin, most of them 0.
    """
    height, width, channels = (size(features, axis) for axis in (2, 3, 1))
    rows_first = op.Transpose(op.Squeeze(features, ints(0)), perm=[1, 0, 2])  # (h, C, w)
    map_rows = op.Reshape(rows_first, op.Concat(height, ints(-1), axis=0), allowzero=0)
    count, grids = size(boxes, 0), []
    for n in levels:
        each = -(-points * max(levels) // n)
        x, y = (
            _shares(_column(boxes, i), _column(boxes, i + 2), cells, n, each)
            for i, cells in ((0, width), (1, height))
        )
        strips = op.MatMul(y, map_rows)  # (R, n, C * w)
        shape = op.Concat(count, op.Mul(channels, ints(n)), width, axis=0)
        strips = op.Reshape(strips, shape, allowzero=1)
        means = op.MatMul(strips, op.Transpose(x, perm=[0, 2, 1]))  # (R, n * C, n)
        means = op.Reshape(means, op.Concat(count, ints(n), channels, ints(n), axis=0), allowzero=1)
        flat = op.Concat(count, op.Mul(channels, ints(n * n)), axis=0)
        grids.append(op.Reshape(op.Transpose(means, perm=[0, 2, 1, 3]), flat, allowzero=1))
    return op.Concat(*grids, axis=1)


def _shares(begin: Value, end: Value, cells: Value, n: int, points: int) -> Value:
    """Share of each cell of a side in the mean of each of the n bins: (R, n, cells) float32."""
    steps = [(i + 0.5) / (n * points) for i in range(n * points)]
    exact = op.Constant(value=onnx.helper.make_tensor("steps", DOUBLE, [len(steps)], steps))
    zero, one = (double(ints(i)) for i in (0, 1))
    places = op.Add(begin, op.Mul(op.Sub(end, begin), exact))  # (R, n * points)
    last = op.Sub(double(cells), one)
    places = op.Min(op.Max(places, zero), last)
    first, step = (op.Squeeze(ints(i)) for i in (0, 1))
    numbers = op.Cast(op.Range(first, op.Squeeze(cells), step), to=DOUBLE)
    apart = op.Abs(op.Sub(op.Unsqueeze(places, ints(2)), numbers))
    near = op.Relu(op.Cast(op.Sub(one, apart), to=FLOAT))  # (R, n * points, cells)
    shape = op.Concat(size(begin, 0), ints(n, points), cells, axis=0)
    return op.ReduceMean(op.Reshape(near, shape, allowzero=1), ints(2), keepdims=0)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.sppnet.pool_maps.default: pool_maps,
    torch.ops.sppnet.pool_regions.default: pool_regions,
}


def _shapes(rows: Sequence[int], columns: Sequence[int] | None) -> list[Shape]:
    """Rows and columns of bins of each level."""
    return list(zip(rows, columns or rows, strict=True))


def _pool_map(features: Value, levels: Sequence[Shape], mode: str) -> Value:
    """(N, C, H, W) -> (N, C * bins)."""
    if mode == "max":
        has_nan = op.IsNaN(op.ReduceSum(features, keepdims=0))  # or infinities of both signs
        grids = _nested(levels, (2, 3), lambda n: _map_maxima(features, n, has_nan))
    else:
        exact = double(features)
        grids = {n: op.CastLike(_map_averages(exact, n), features) for n in levels}
    return _lay_out(grids, levels, size(features, 0), size(features, 1))


def _lay_out(
    grids: dict[Shape, Value], levels: Sequence[Shape], count: Value, channels: Value
) -> Value:
    """Put grids {(r, c): (R, C, r, c)} one behind the other: (R, C * bins); R may be 0."""
    shapes = [op.Concat(count, op.Mul(channels, ints(n[0] * n[1])), axis=0) for n in levels]
    flat = [
        op.Reshape(grids[n], shape, allowzero=1) for n, shape in zip(levels, shapes, strict=True)
    ]
    return op.Concat(*flat, axis=1)


def _map_maxima(features: Value, n: Shape, has_nan: Value) -> Value:
    """(N, C, r, c) maxima of the bins of level n."""
    y, x = (_edges(size(features, 2 + i), n[i]) for i in (0, 1))
    rows = _reduce_bins(features, y, n[0], 2, op.ReduceMax)
    pooled = _reduce_bins(rows, x, n[1], 3, op.ReduceMax)
    edges = (y.start, y.end, x.start, x.end, y.doublings, x.doublings)
    return keep_nan(pooled, features, has_nan, *edges)


def _map_averages(features: Value, n: Shape) -> Value:
    """(N, C, r, c) means of the bins of level n, in float64."""
    y, x = (_edges(size(features, 2 + i), n[i]) for i in (0, 1))
    rows = _reduce_bins(features, y, n[0], 2, op.ReduceSum)
    sums = _reduce_bins(rows, x, n[1], 3, op.ReduceSum)
    heights = op.Unsqueeze(op.Sub(y.end, y.start), ints(1))
    return op.Div(sums, op.Cast(op.Mul(heights, op.Sub(x.end, x.start)), to=DOUBLE))


def _reduce_bins(
    features: Value, edges: Edges, n: int, axis: int, reduce: Callable[..., Value]
) -> Value:
    """Reduce each of the n bins along an axis to one cell."""
    bins = []
    for i in range(n):
        start, end = (op.Gather(edge, ints(i)) for edge in (edges.start, edges.end))
        strip = op.Slice(features, start, end, ints(axis))
        bins.append(reduce(strip, ints(axis), keepdims=1))
    return op.Concat(*bins, axis=axis)


def _region_maxima(features: Value, rows: Value, levels: Sequence[Shape]) -> dict[Shape, Value]:
    """Maxima of the bins of regions: {(r, c): (R, C, r, c)}."""
    height, width = (size(features, axis) for axis in (2, 3))
    channels = size(features, 1)
    cells_first = op.Transpose(features, perm=[0, 2, 3, 1])
    all_cells = op.Mul(op.Mul(size(features, 0), height), width)
    cells = op.Reshape(cells_first, op.Concat(all_cells, channels, axis=0), allowzero=1)
    image, x0, y0, x1, y1 = (_column(rows, i) for i in range(5))

    def pool_level(n: Shape) -> Value:
        y = _edges(op.Sub(y1, y0), n[0], op.Add(y0, op.Mul(image, height)))
        x = _edges(op.Sub(x1, x0), n[1], x0)
        tops, bottoms = (op.Unsqueeze(op.Mul(edge, width), ints(2)) for edge in (y.start, y.end))
        lefts, rights = (op.Unsqueeze(edge, ints(1)) for edge in (x.start, x.end))
        found, order = region_maxima(
            cells, width, tops, bottoms, lefts, rights, y.doublings, x.doublings
        )
        shape = op.Concat(size(rows, 0), ints(*n), channels, axis=0)
        return op.Gather(op.Reshape(found, shape, allowzero=1), _inverse(order), axis=0)

    grids = _nested(levels, (1, 2), pool_level)  # (R, r, c, C)
    return {n: op.Transpose(grid, perm=[0, 3, 1, 2]) for n, grid in grids.items()}


def _region_averages(features: Value, rows: Value, levels: Sequence[Shape]) -> dict[Shape, Value]:
    """Means of the bins of regions, summed in float64: {(r, c): (R, C, r, c)}."""
    exact = double(features)
    image, x0, y0, x1, y1 = (_column(rows, i) for i in range(5))
    grids = {}
    for n in levels:
        y, x = _edges(op.Sub(y1, y0), n[0], y0), _edges(op.Sub(x1, x0), n[1], x0)
        shape = op.Concat(ints(0), size(features, 1), ints(*n), axis=0)
        nothing = op.Expand(double(ints(0)), shape)
        sums = region_sums(exact, nothing, image, y.start, y.end, x.start, x.end)
        heights = op.Unsqueeze(op.Sub(y.end, y.start), ints(2))  # (R, n, 1)
        areas = op.Mul(heights, op.Unsqueeze(op.Sub(x.end, x.start), ints(1)))
        means = op.Div(sums, op.Cast(op.Unsqueeze(areas, ints(1)), to=DOUBLE))
        grids[n] = op.CastLike(means, features)
    return grids


def _nested(
    levels: Sequence[Shape], axes: tuple[int, int], pool_level: Callable[[Shape], Value]
) -> dict[Shape, Value]:
    """Pool levels, finest first; one that divides a finer one is the union of its bins."""
    grids: dict[Shape, Value] = {}
    for n in sorted(set(levels), key=math.prod, reverse=True):
        divided = (m for m in grids if m[0] % n[0] == 0 and m[1] % n[1] == 0)
        finer = min(divided, key=math.prod, default=None)
        if finer is None:
            grids[n] = pool_level(n)
            continue
        grids[n] = grids[finer]
        for axis, more, few in zip(axes, finer, n, strict=True):
            grids[n] = op.Max(*_every(grids[n], axis, more // few))
    return grids


def _every(grid: Value, axis: int, step: int) -> list[Value]:
    """Bins 0, step, 2 * step, ... along an axis; bins 1, step + 1, ...; and so on."""
    return [op.Slice(grid, ints(first), ints(END), ints(axis), ints(step)) for first in range(step)]


def _edges(length: Value, n: int, first: Value | None = None) -> Edges:
    """Edges of n bins along sides of (1,) or (R, 1) cells that begin at ``first``, or at 0."""
    start = op.Div(op.Mul(length, ints(*range(n))), ints(n))
    ends = op.Mul(length, ints(*range(1, n + 1)))
    end = op.Div(op.Add(ends, ints(n - 1)), ints(n))
    shortest = op.Div(op.Add(length, ints(n - 1)), ints(n))
    powers = ints(*(1 << k for k in range(1, 40)))
    reached = op.Cast(op.LessOrEqual(powers, shortest), to=INT64)
    if first is None:
        return Edges(start, end, op.ReduceSum(reached, ints(0), keepdims=0))
    doublings = op.ReduceSum(reached, ints(1), keepdims=0)  # -1 goes wrong where R is 0
    return Edges(op.Add(first, start), op.Add(first, end), doublings)


def _inverse(order: Value) -> Value:
    """Where each number 0..R-1 stands in a permutation of them."""
    zero, one = (op.Squeeze(ints(i)) for i in (0, 1))
    return op.ScatterElements(order, order, op.Range(zero, op.Size(order), one))


def _column(rows: Value, i: int) -> Value:
    """(R, 5) -> (R, 1)."""
    return op.Slice(rows, ints(i), ints(i + 1), ints(1))


def size(value: Value, axis: int) -> Value:
    """Length of one axis, (1,)."""
    return op.Shape(value, start=axis, end=axis + 1)


def ints(*values: int) -> Value:
    """Write a constant (k,) int64 into the graph."""
    return op.Constant(value_ints=list(values))


def double(value: Value) -> Value:
    """Numbers in float64."""
    return op.Cast(value, to=DOUBLE)
