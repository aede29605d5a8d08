"""The kernels in Triton: ``pool_views`` pools, ``scatter_views`` sends the gradients back.

Channels lie side by side, so that a program reads whole lines of memory. The finest level is pooled
from the cells, or from tables of the maxima of 2, 4 and 8 cells of a row: two windows cover a row
of a bin. A level that divides a finer one is the union of the finer bins, read back from the
result. Order matters for two values only, -0.0 and NaN; maps that hold one are pooled from the
cells in row-major order, where the first of equal cells and the last NaN win as in torch.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# kernels are typed where they are called: the compiler reads each argument's type from its value

import triton
import triton.language as tl


@triton.jit
def read_view(views, plan: tl.constexpr):
    """First cell, width of the map, height and width of this program's view."""
    row = views + tl.program_id(0).to(tl.int64) * 4
    first, map_width = tl.load(row).to(plan.index), tl.load(row + 1).to(plan.index)
    return first, map_width, tl.load(row + 2).to(plan.index), tl.load(row + 3).to(plan.index)


@triton.jit
def read_lane(channels, plan: tl.constexpr):
    """Channels of this program, and which of them there are."""
    channel = (tl.program_id(1) * plan.block + tl.arange(0, plan.block)).to(plan.index)
    return channel, channel < channels


@triton.jit
def find_bins(start, view, level: tl.constexpr):
    """Top, left, rows and columns of bins start.. of a level; the last one again beyond it."""
    _, _, height, width = view
    number = tl.minimum(start + tl.arange(0, level.bins), level.n * level.n - 1)
    row, column = number // level.n, number % level.n
    top, left = row * height // level.n, column * width // level.n
    rows = ((row + 1) * height + level.n - 1) // level.n - top
    return top, left, rows, ((column + 1) * width + level.n - 1) // level.n - left


@triton.jit
def widest_bin(side, n: tl.constexpr):
    """Cells of the widest of n bins along a side: both of its edges may cut a cell."""
    rest = side % n
    cut = tl.where(n % tl.maximum(rest, 1) == 0, 1, 2)
    return side // n + tl.where(rest == 0, 0, cut)


@triton.jit
def place_bins(start, lane, level: tl.constexpr):
    """Where bins start.. lie in a level of a pooled vector, (bins, channels), and which exist."""
    channel, inside = lane
    number = start + tl.arange(0, level.bins)
    bins = level.n * level.n
    return channel[None, :] * bins + number[:, None], inside[None, :] & (number < bins)[:, None]


@triton.jit
def find_windows(columns, tables: tl.constexpr):
    """Number of the table of the widest windows that fit into each bin."""
    table = tl.full(columns.shape, 0, columns.dtype)
    for t in tl.static_range(tables):
        table += (columns >= (2 << t)).to(columns.dtype)
    return table


@triton.jit
def count_windows(width, n: tl.constexpr, tables: tl.constexpr):
    """Windows that cover a row of any bin: two, or more in bins wider than two of the widest."""
    return tl.maximum((widest_bin(width, n) + (1 << tables) - 1) >> tables, 2)


@triton.jit
def wins(value, best):
    """Whether the next value in row-major order becomes the maximum: larger, or NaN."""
    return (value > best) | (value != value)


@triton.jit
def larger(best, value, exact: tl.constexpr):
    """Larger of two, by torch's rule or where neither -0.0 nor NaN occur."""
    return tl.where(wins(value, best), value, best) if exact else tl.maximum(best, value)


@triton.jit
def is_unusual(value):
    """Whether a value is -0.0 or NaN: which of several is the maximum depends on their order."""
    if value.dtype == tl.float64:
        negative = value.to(tl.int64, bitcast=True) < 0
    else:
        negative = value.to(tl.int32, bitcast=True) < 0
    return ((value == 0) & negative) | (value != value)


@triton.jit
def read(place, inside, plan: tl.constexpr):
    """Load (bins, channels) values; nothing is masked where all blocks of channels are full."""
    value = tl.load(place) if plan.full_blocks else tl.load(place, inside[None, :], 0.0)
    return value.to(plan.compute)


@triton.jit
def prepare_cells(
    cells, stride, tables, plane, offsets, unusual, row_count, channels, plan: tl.constexpr
):
    """Write the maxima of 1, 2, 4, 8.. cells from each cell on, and whether order matters.

    Optionally also which of the cells it is. Without tables, only the flag is written.
    """
    row = tl.program_id(0).to(tl.int64) * plan.rows + tl.arange(0, plan.rows)
    channel = tl.program_id(1) * plan.block + tl.arange(0, plan.block)
    inside = (row < row_count)[:, None] & (channel < channels)[None, :]
    place = row[:, None] * channels + channel[None, :]
    best = tl.full((plan.rows, plan.block), float("-inf"), plan.compute)
    winner = tl.full((plan.rows, plan.block), 0, tl.int8)
    for t in tl.static_range(1 << plan.tables):
        # windows beyond the end of a map's row are never looked up
        source = tl.minimum(row + t, row_count - 1)[:, None] * stride + channel[None, :]
        value = tl.load(cells + source, inside, 0.0).to(plan.compute)
        taken = wins(value, best)
        best = tl.where(taken, value, best)
        winner = tl.where(taken, t, winner).to(tl.int8)
        if t == 0:
            tl.store(unusual, 1, mask=tl.max(is_unusual(value).to(tl.int32)) > 0)
        if plan.tables > 0 and (t & (t + 1)) == 0:
            tl.store(tables + place, best.to(tables.dtype.element_ty), mask=inside)
            if offsets is not None:
                tl.store(offsets + place, winner, mask=inside)
            place += plane


@triton.jit
def scan_maxima(
    source, view, found, lane, level: tl.constexpr, exact: tl.constexpr, plan: tl.constexpr
):
    """Maxima of bins, (bins, channels), from two windows of each row, or as many as it takes.

    Shorter rows, and bins of fewer rows, read their last ones again: no mask, and no difference.
    """
    cells, stride, plane = source
    first, map_width, height, width = view
    top, left, rows, columns = found
    channel, inside = lane
    table = find_windows(columns, plan.tables)
    step = (1 << table) * stride
    last = columns * stride - step
    base = plane * table + (first + top * map_width + left) * stride
    best = tl.full((level.bins, plan.block), float("-inf"), plan.compute)
    for row in range(widest_bin(height, level.n)):
        line = base + tl.minimum(row, rows - 1) * (map_width * stride)
        value = read(cells + line[:, None] + channel[None, :], inside, plan)
        second = line + tl.minimum(step, last)
        other = read(cells + second[:, None] + channel[None, :], inside, plan)
        best = larger(larger(best, value, exact), other, exact)
        for window in range(2, count_windows(width, level.n, plan.tables)):
            third = line + tl.minimum(window * step, last)
            value = read(cells + third[:, None] + channel[None, :], inside, plan)
            best = larger(best, value, exact)
    return best


@triton.jit
def scan_sums(source, view, found, lane, level: tl.constexpr, plan: tl.constexpr):
    """Sums of bins, (bins, channels), cell after cell in row-major order."""
    cells, stride, _ = source
    first, map_width, height, width = view
    top, left, rows, columns = found
    channel, inside = lane
    base = (first + top * map_width + left) * stride
    total = tl.full((level.bins, plan.block), 0, plan.compute)
    for row in range(widest_bin(height, level.n)):
        for column in range(widest_bin(width, level.n)):
            live = (row < rows) & (column < columns)
            place = base + (row * map_width + column) * stride
            place = place[:, None] + channel[None, :]
            value = tl.load(cells + place, live[:, None] & inside[None, :], 0.0)
            total += value.to(plan.compute)
    return total


@triton.jit
def share(total, found):
    """Divide float64 sums, (bins, channels), by the numbers of cells."""
    _, _, rows, columns = found
    return total / tl.broadcast_to((rows * columns).to(tl.float64)[:, None], total.shape)


@triton.jit
def pool_level(
    source, view, target, lane, level: tl.constexpr, exact: tl.constexpr, plan: tl.constexpr
):
    """Pool one level from the cells into target, its place in the pooled vector of the view."""
    for start in range(0, level.n * level.n, level.bins):
        found = find_bins(start, view, level)
        if plan.mode == "max":
            pooled = scan_maxima(source, view, found, lane, level, exact, plan)
        else:
            pooled = share(scan_sums(source, view, found, lane, level, plan), found)
            if target.dtype.element_ty != tl.float64:
                pooled = pooled.to(tl.float32)  # the way to 16 bits
        place, live = place_bins(start, lane, level)
        tl.store(target + place, pooled.to(target.dtype.element_ty), mask=live)


@triton.jit
def unite_level(target, finer_target, lane, level: tl.constexpr, plan: tl.constexpr):
    """Pool one level from a finer one that it divides, (channels, bins) as they are stored."""
    channel, inside = lane[0][:, None], lane[1][:, None]
    bins: tl.constexpr = level.n * level.n
    ratio: tl.constexpr = level.finer // level.n
    for start in range(0, bins, level.bins):
        number = start + tl.arange(0, level.bins)[None, :]
        live = inside & (number < bins)
        corner = (number // level.n) * (ratio * level.finer) + (number % level.n) * ratio
        part = finer_target + channel * (level.finer * level.finer) + corner
        best = tl.load(part, live, 0.0).to(plan.compute)
        for i in range(1, ratio * ratio):
            shift = (i // ratio) * level.finer + i % ratio
            best = tl.maximum(best, tl.load(part + shift, live, 0.0).to(plan.compute))
        tl.store(target + channel * bins + number, best.to(target.dtype.element_ty), mask=live)


@triton.jit
def pool_or_unite(
    source, view, target, channels, lane, unusual, number: tl.constexpr, plan: tl.constexpr
):
    """Pool one level from a finer one where that is exact, else from the cells."""
    level: tl.constexpr = plan.levels[number]
    place = target + channels * level.first_bin
    if plan.mode == "avg":
        pool_level(source, view, place, lane, level, False, plan)
    elif unusual != 0:
        pool_level(source, view, place, lane, level, True, plan)
    elif level.finer == 0:
        pool_level(source, view, place, lane, level, False, plan)
    else:
        tl.debug_barrier()  # the finer level was written by other threads of this program
        finer_place = target + channels * level.finer_first_bin
        unite_level(place, finer_place, lane, level, plan)


@triton.jit
def pool_views(
    cells, stride, plane, unusual, views, pooled, channels, row_length, plan: tl.constexpr
):
    """Pool a block of channels of one view; the plan names finer levels before their unions."""
    channels = tl.cast(channels, plan.index)
    source = (cells, stride, plane)
    view = read_view(views, plan)
    lane = read_lane(channels, plan)
    target = pooled + tl.program_id(0).to(tl.int64) * row_length
    order = 0
    if plan.mode == "max":
        order = tl.load(unusual)
    for i in tl.static_range(len(plan.levels)):
        pool_or_unite(source, view, target, channels, lane, order, i, plan)


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
