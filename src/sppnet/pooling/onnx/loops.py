"""The parts of graphs in ONNX whose number of steps depends on the input: loops and branches.

onnxscript reads the source of these functions and writes them as ONNX; Python never runs them. Two
windows of 2**k cells cover any bin of 2**k to 2**(k+1) cells, and ``Max`` of two tensors keeps NaN,
which ``ReduceMax`` and ``MaxPool`` of onnxruntime do not.
"""

# mypy: ignore-errors
# what stands here is ONNX in the form of Python; types of tensors have no arithmetic in Python

from typing import TypeVar, Union

from onnxscript import BOOL, DOUBLE, FLOAT, INT64, script
from onnxscript import opset18 as op

Floats = TypeVar("Floats", bound=Union[FLOAT[...], DOUBLE[...]])  # noqa: UP007 onnxscript reads no "|"


@script(default_opset=op)
def keep_nan(
    pooled: Floats,
    features: Floats,
    has_nan: BOOL[...],
    top: INT64[...],
    bottom: INT64[...],
    left: INT64[...],
    right: INT64[...],
    doublings_y: INT64[...],
    doublings_x: INT64[...],
) -> Floats:
    """Give (N, C, n, n) maxima as they are, or pool the map once more with care for NaN.

    Without NaN nothing is done; with NaN, tables of windows are made by doubling, and two windows
    a side are put together.
    """
    zero = op.Constant(value_ints=[0])
    end = op.Constant(value_ints=[1 << 40])
    y_axis = op.Constant(value_ints=[2])
    x_axis = op.Constant(value_ints=[3])
    one = op.Constant(value_ints=[1])
    if has_nan:
        down = op.Identity(features)
        tall = op.Identity(one)
        for _ in range(doublings_y):
            upper = op.Slice(down, zero, -tall, y_axis)
            down = op.Max(upper, op.Slice(down, tall, end, y_axis))
            tall = tall + tall
        across = op.Max(op.Gather(down, top, axis=2), op.Gather(down, bottom - tall, axis=2))
        wide = op.Identity(one)
        for _ in range(doublings_x):
            first = op.Slice(across, zero, -wide, x_axis)
            across = op.Max(first, op.Slice(across, wide, end, x_axis))
            wide = wide + wide
        best = op.Max(op.Gather(across, left, axis=3), op.Gather(across, right - wide, axis=3))
    else:
        best = op.Identity(pooled)
    return best


@script(default_opset=op)
def region_maxima(
    cells: Floats,
    width: INT64[...],
    top: INT64[...],
    bottom: INT64[...],
    left: INT64[...],
    right: INT64[...],
    doublings_y: INT64[...],
    doublings_x: INT64[...],
) -> tuple[Floats, INT64[...]]:
    """Pool bins of regions, those of one window size at a time.

    The table of windows of 2**a x 2**b cells follows from a smaller one by one ``Max`` with itself,
    shifted; what wraps around the edges is never asked for. One table is kept at a time.

    Args:
        cells: (P, C) all cells of all maps, row by row.
        width: (1,) cells in a row.
        top: (R, n, 1) number of the first cell in the first row of each bin.
        bottom: (R, n, 1) the same of the row below the bin.
        left: (R, 1, n) first column of each bin.
        right: (R, 1, n) the column behind it.
        doublings_y: (R,) a of each region.
        doublings_x: (R,) b of each region.

    Returns:
        (R * n * n, C) maxima, regions in another order, and (R,) that order.
    """
    zero = op.Constant(value_ints=[0])
    one = op.Constant(value_ints=[1])
    end = op.Constant(value_ints=[1 << 40])
    flat = op.Constant(value_ints=[-1])
    # nothing yet, said so that optimisers cannot take its length, 0, for the final one
    order = op.Squeeze(op.NonZero(doublings_y < zero), zero)
    maxima = op.Gather(cells, order)
    tables_y = op.ReduceMax(op.Concat(zero, doublings_y + 1, axis=0), keepdims=0)
    tables_x = op.ReduceMax(op.Concat(zero, doublings_x + 1, axis=0), keepdims=0)
    down = op.Identity(cells)
    tall = op.Identity(width)
    for a in range(tables_y):
        table = op.Identity(down)
        wide = op.Identity(one)
        row = op.Gather(cells, op.Squeeze(op.NonZero(doublings_y < zero), zero))
        for b in range(tables_x):
            which = op.Squeeze(op.NonZero(op.And(doublings_y == a, doublings_x == b)), zero)
            order = op.Concat(order, which, axis=0)
            y0, y1 = op.Gather(top, which), op.Gather(bottom, which) - tall
            x0, x1 = op.Gather(left, which), op.Gather(right, which) - wide
            best = op.Max(
                op.Gather(table, op.Reshape(y0 + x0, flat)),
                op.Gather(table, op.Reshape(y0 + x1, flat)),
                op.Gather(table, op.Reshape(y1 + x0, flat)),
                op.Gather(table, op.Reshape(y1 + x1, flat)),
            )
            row = op.Concat(row, best, axis=0)
            shifted = op.Slice(table, wide, end, zero)
            table = op.Max(table, op.Concat(shifted, op.Slice(table, zero, wide, zero), axis=0))
            wide = wide + wide
        maxima = op.Concat(maxima, row, axis=0)
        lower = op.Slice(down, tall, end, zero)
        down = op.Max(down, op.Concat(lower, op.Slice(down, zero, tall, zero), axis=0))
        tall = tall + tall
    return maxima, order


@script(default_opset=op)
def region_sums(
    features: DOUBLE[...],
    nothing: DOUBLE[...],
    image: INT64[...],
    top: INT64[...],
    bottom: INT64[...],
    left: INT64[...],
    right: INT64[...],
) -> DOUBLE[...]:
    """Sum the bins of regions, one region after the other: NaN and infinities stay in their bins.

    Args:
        features: (N, C, H, W).
        nothing: (0, C, n, n).
        image: (R, 1) which map each region is of.
        top: (R, n) first row of each bin.
        bottom: (R, n) the row below it.
        left: (R, n) first column of each bin.
        right: (R, n) the column behind it.

    Returns:
        (R, C, n, n).
    """
    axis_0 = op.Constant(value_ints=[0])
    axis_1 = op.Constant(value_ints=[1])
    axis_2 = op.Constant(value_ints=[2])
    axis_3 = op.Constant(value_ints=[3])
    regions = op.Squeeze(op.Shape(top, start=0, end=1))
    down = op.Squeeze(op.Shape(top, start=1, end=2))
    across = op.Squeeze(op.Shape(left, start=1, end=2))
    parts = op.SequenceConstruct(nothing)
    for r in range(regions):
        number = op.Gather(image, r)
        tops, bottoms = op.Gather(top, r), op.Gather(bottom, r)
        lefts, rights = op.Gather(left, r), op.Gather(right, r)
        y, x = op.ReduceMin(tops, keepdims=1), op.ReduceMin(lefts, keepdims=1)
        corner = op.Concat(number, y, x, axis=0)
        y_end, x_end = op.ReduceMax(bottoms, keepdims=1), op.ReduceMax(rights, keepdims=1)
        opposite = op.Concat(number + axis_1, y_end, x_end, axis=0)
        crop = op.Slice(features, corner, opposite, op.Constant(value_ints=[0, 2, 3]))
        strips = op.SequenceConstruct(op.Slice(crop, axis_0, axis_0, axis_2))
        for i in range(down):
            y0 = op.Unsqueeze(op.Gather(tops, i), axis_0) - y
            y1 = op.Unsqueeze(op.Gather(bottoms, i), axis_0) - y
            strip = op.Slice(crop, y0, y1, axis_2)
            strips = op.SequenceInsert(strips, op.ReduceSum(strip, axis_2, keepdims=1))
        rows = op.ConcatFromSequence(strips, axis=2)
        columns = op.SequenceConstruct(op.Slice(rows, axis_0, axis_0, axis_3))
        for j in range(across):
            x0 = op.Unsqueeze(op.Gather(lefts, j), axis_0) - x
            x1 = op.Unsqueeze(op.Gather(rights, j), axis_0) - x
            columns = op.SequenceInsert(
                columns, op.ReduceSum(op.Slice(rows, x0, x1, axis_3), axis_3, keepdims=1)
            )
        parts = op.SequenceInsert(parts, op.ConcatFromSequence(columns, axis=3))
    return op.ConcatFromSequence(parts, axis=0)


@script(default_opset=op)
def take_best(
    boxes: DOUBLE[...],
    shares: DOUBLE[...],
    labels: INT64[...],
    count: INT64[...],
    sigma: DOUBLE[...],
    limit: DOUBLE[...],
) -> tuple[INT64[...], DOUBLE[...]]:
    """Take the best box, lower or drop those of its class that overlap it, and repeat.

    Args:
        boxes: (P, 4) xyxy.
        shares: (P,) scores 0..1.
        labels: (P,) their classes.
        count: How often.
        sigma: (1,) width of the Gaussian that lowers scores.
        limit: (1,) overlap beyond which a box is dropped; above 1 drops none.

    Returns:
        (count,) rows, and their scores when they were taken: below 0 for those that were dropped
        or taken before. With a limit scores are not lowered.
    """
    zero = op.Constant(value_ints=[0])
    none = op.CastLike(op.Constant(value_floats=[0.0]), shares)
    one = op.CastLike(op.Constant(value_floats=[1.0]), shares)
    x0, y0, x1, y1 = op.Split(boxes, axis=1, num_outputs=4)
    areas = (x1 - x0) * (y1 - y0)
    own = op.Squeeze(areas, op.Constant(value_ints=[1]))
    left = op.Identity(shares)
    # nothing yet, said so that optimisers cannot take its length, 0, for the final one
    order = op.Squeeze(op.NonZero(labels < zero), zero)
    taken = op.Gather(shares, order)
    for _ in range(count):
        best = op.ArgMax(left, axis=0, keepdims=1)
        order = op.Concat(order, best, axis=0)
        taken = op.Concat(taken, op.Gather(left, best), axis=0)
        wide = op.Min(x1, op.Gather(x1, best)) - op.Max(x0, op.Gather(x0, best))
        tall = op.Min(y1, op.Gather(y1, best)) - op.Max(y0, op.Gather(y0, best))
        shared = op.Squeeze(op.Max(wide, none) * op.Max(tall, none), op.Constant(value_ints=[1]))
        overlap = shared / (own + op.Gather(own, best) - shared)
        soft = left * op.Exp(-(overlap * overlap) / sigma)
        lowered = op.Where(limit > one, soft, op.Where(overlap > limit, -one, left))
        same = labels == op.Gather(labels, best)
        left = op.Where(op.And(same, left >= none), lowered, left)
        left = op.ScatterElements(left, best, -one)
    return order, taken
