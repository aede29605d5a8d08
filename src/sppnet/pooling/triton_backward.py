"""Kernels that send the gradient of pooled views back to the cells, by atomic additions."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# kernels are typed where they are called: the compiler reads each argument's type from its value

import triton
import triton.language as tl

from sppnet.pooling.triton_forward import (
    count_windows,
    find_bins,
    find_windows,
    place_bins,
    read,
    read_lane,
    read_view,
    share,
    widest_bin,
    wins,
)


@triton.jit
def read_offsets(offsets, place, inside, plan: tl.constexpr):
    """Which cell of each window is its maximum: the first one where there are no tables."""
    found = tl.full(place.shape, 0, tl.int32)
    if plan.tables > 0:
        if plan.full_blocks:
            found = tl.load(offsets + place).to(tl.int32)
        else:
            found = tl.load(offsets + place, inside[None, :], 0).to(tl.int32)
    return found


@triton.jit
def find_winners(source, view, found, lane, level: tl.constexpr, plan: tl.constexpr):
    """Cell of each bin's maximum, (bins, channels), counted from the first cell of the view.

    Reads windows as ``scan_maxima`` does, always in the order that settles ties and NaN.
    """
    cells, offsets, stride, plane = source
    first, map_width, height, width = view
    top, left, rows, columns = found
    channel, inside = lane
    table = find_windows(columns, plan.tables)
    step = 1 << table
    corner = top * map_width + left
    base = plane * table + first * stride
    best = tl.full((level.bins, plan.block), float("-inf"), plan.compute)
    cell = tl.broadcast_to(corner[:, None], best.shape)
    for row in range(widest_bin(height, level.n)):
        line = corner + tl.minimum(row, rows - 1) * map_width
        for window in range(count_windows(width, level.n, plan.tables)):
            start = line + tl.minimum(window * step, columns - step)
            place = (base + start * stride)[:, None] + channel[None, :]
            value = read(cells + place, inside, plan)
            offset = read_offsets(offsets, place, inside, plan)
            taken = wins(value, best)
            best = tl.where(taken, value, best)
            cell = tl.where(taken, start[:, None] + offset, cell)
    return cell


@triton.jit
def add_to_all(sums, sent, view, found, lane, channels, level: tl.constexpr):
    """Add each bin's share of the gradient, (bins, channels), to all of its cells."""
    first, map_width, height, width = view
    top, left, rows, columns = found
    channel, inside = lane
    base = (first + top * map_width + left) * channels
    for row in range(widest_bin(height, level.n)):
        for column in range(widest_bin(width, level.n)):
            live = (row < rows) & (column < columns)
            place = base + (row * map_width + column) * channels
            place = place[:, None] + channel[None, :]
            mask = live[:, None] & inside[None, :]
            tl.atomic_add(sums + place, sent, mask=mask, sem="relaxed")


@triton.jit
def scatter_level(
    source, view, sent, sums, channels, lane, number: tl.constexpr, plan: tl.constexpr
):
    """Add the gradient of one level to the sums."""
    level: tl.constexpr = plan.levels[number]
    sent += channels * level.first_bin
    for start in range(0, level.n * level.n, level.bins):
        found = find_bins(start, view, level)
        place, live = place_bins(start, lane, level)
        gradient = tl.load(sent + place, live, 0.0).to(plan.compute)
        if plan.mode == "max":
            cell = find_winners(source, view, found, lane, level, plan)
            target = (view[0] + cell) * channels + lane[0][None, :]
            tl.atomic_add(sums + target, gradient, mask=live, sem="relaxed")
        else:
            add_to_all(sums, share(gradient, found), view, found, lane, channels, level)


@triton.jit
def scatter_views(
    cells,
    offsets,
    stride,
    plane,
    views,
    grad,
    sums,
    channels,
    row_length,
    plan: tl.constexpr,
):
    """Add the gradient of a block of channels of one view to the sums, (cells, channels)."""
    channels = tl.cast(channels, plan.index)
    source = (cells, offsets, stride, plane)
    view = read_view(views, plan)
    lane = read_lane(channels, plan)
    sent = grad + tl.program_id(0).to(tl.int64) * row_length
    for i in tl.static_range(len(plan.levels)):
        scatter_level(source, view, sent, sums, channels, lane, i, plan)
