// Maxima of whole maps, fast: only the levels that are no unions are read from the map, many channels abreast and in the
// order of memory. Maps with NaN, and with -0.0 where no winners are asked for, are left to stream.h.
#pragma once

#include "stream.h"
#include "unions.h"

// What makes maxima wrong that were taken without a look at NaN and at the sign of zero.
template <class F> struct Doubts {
    Vec<F> sums[4] = {};  // of all values: NaN if one of them is
    IntVec<F> minus_zeros = {};

    void look_at(Vec<F> value) { minus_zeros |= (IntVec<F>)value == (IntVec<F>)(-(Vec<F>{})); }
    bool any() const {
        Vec<F> sum = sums[0] + sums[1] + sums[2] + sums[3];
        IntVec<F> found = minus_zeros | (sum != sum);
        typename Vectors<F>::Int some = 0;
        for (int k = 0; k < LANES<F>; k++) some |= found[k];
        return some;
    }
};

// The first of the greatest, of numbers.
template <class F, Mode M> inline void take_greater(Vec<F>& best, IntVec<F>& at, Vec<F> value, IntVec<F> cell) {
    if constexpr (M == WINNERS) at = value > best ? cell : at;
    best = value > best ? value : best;
}

// How far ahead memory is asked for: a processor's own guesses end with the page, and do not take long strides. Maps that
// come from memory are pooled a seventh faster, those in a cache hardly slower.
constexpr int64_t CELLS_AHEAD = 12, BYTES_AHEAD = 4096;

// One row of cells into the bins of a level, in B blocks of channels that lie side by side.
template <int B, class F, Mode M, class S>
inline void take_row(
    const Level& l, int level, const S* cells, int64_t cell, int64_t y, int64_t width, const Bounds& bounds,
    Pooled<F>* pooled, Doubts<F>& doubts
) {
    constexpr int N = LANES<F>, PARTS = B < 4 ? B : 4;  // an addition waits for the one before
    const Columns& columns = bounds.columns[level];
    RowBins rows = bounds.row_bins[level];
    Vec<F> sums[PARTS] = {};
    for (int u = 0; u < columns.count; u++) {
        Edges edges = bounds.column_edges[l.first_side + columns.first[u]];
        Vec<F> best[B];
        IntVec<F> at[B];
#pragma unroll
        for (int b = 0; b < B; b++) {
            if constexpr (B > 1) __builtin_prefetch(cells + (edges.start + CELLS_AHEAD) * cell + b * N);
            best[b] = load(cells + edges.start * cell + b * N);
            if constexpr (M == WINNERS) at[b] = everywhere<F>(y * width + edges.start);
            sums[b % PARTS] += best[b];
        }
        for (int64_t x = edges.start + 1; x < edges.end; x++)
#pragma unroll
            for (int b = 0; b < B; b++) {
                if constexpr (B > 1) __builtin_prefetch(cells + (x + CELLS_AHEAD) * cell + b * N);
                Vec<F> value = load(cells + x * cell + b * N);
                sums[b % PARTS] += value;
                take_greater<F, M>(best[b], at[b], value, everywhere<F>(y * width + x));
            }
        for (int64_t i = rows.low; i <= rows.high; i++) {
            bool fresh = bounds.row_edges[l.first_side + i].start == y;
            int64_t bin = l.first_bin + i * l.n + u;
#pragma unroll
            for (int b = 0; b < B; b++) {
                Vec<F> held = fresh ? best[b] : pooled[b].values[bin];
                IntVec<F> held_at = {};
                if constexpr (M == WINNERS) held_at = fresh ? at[b] : pooled[b].rows[bin];
                take_greater<F, M>(held, held_at, best[b], at[b]);
                pooled[b].values[bin] = held;
                if constexpr (M == WINNERS) pooled[b].rows[bin] = held_at;
            }
        }
    }
    for (int i = 0; i < PARTS; i++) doubts.sums[i] += sums[i];
}

// The distinct bins of the levels that were read to all bins of all levels.
template <class F, Mode M> inline void unite_levels(const Pyramid& pyramid, const Bounds& bounds, Pooled<F>& pooled) {
    constexpr bool AT = M == WINNERS;
    for (int k = 0; k < pyramid.count; k++) {
        const Level& l = pyramid.levels[pyramid.finest_first[k]];
        Vec<F>* values = pooled.values + l.first_bin;
        IntVec<F>* cells = AT ? pooled.rows + l.first_bin : nullptr;
        if (l.finer < 0) {
            spread_bins(l, bounds.columns[pyramid.finest_first[k]], values);
            if constexpr (AT) spread_bins(l, bounds.columns[pyramid.finest_first[k]], cells);
            continue;
        }
        const Level& finer = pyramid.levels[l.finer];
        const IntVec<F>* from = AT ? pooled.rows + finer.first_bin : nullptr;
        unite_level<F, AT>(l, finer.n, pooled.values + finer.first_bin, from, values, cells);
    }
}

// Pool `blocks` whole vectors of channels of a view, from channel c on; false where that would not be exact. `rows` of
// the winners are then numbers of cells, y * width + x.
template <class T, Mode M, class F = typename ComputeOf<T>::F>
bool pool_maxima(
    const Pyramid& pyramid, const View<T>& view, int64_t c, int blocks, const Bounds& bounds, Pooled<F>* pooled
) {
    constexpr int ABREAST = M == WINNERS ? 4 : 8;
    Doubts<F> doubts;
    for (int64_t y = 0; y < view.height; y++) {
        const T* row = view.base + y * view.row + c;
        find_row_bins(pyramid, y, bounds);
        for (int k = 0, b = 0; k < pyramid.count; k++, b = 0) {
            const Level& l = pyramid.levels[k];
            if (l.finer >= 0) continue;
            for (; b + ABREAST <= blocks; b += ABREAST)
                take_row<ABREAST, F, M>(
                    l, k, row + b * LANES<F>, view.cell, y, view.width, bounds, pooled + b, doubts
                );
            for (; b < blocks; b++)
                take_row<1, F, M>(l, k, row + b * LANES<F>, view.cell, y, view.width, bounds, pooled + b, doubts);
        }
    }
    for (int b = 0; b < blocks; b++) {
        unite_levels<F, M>(pyramid, bounds, pooled[b]);
        if constexpr (M == MAXIMA)
            for (int64_t i = 0; i < pyramid.bins; i++) doubts.look_at(pooled[b].values[i]);
    }
    return !doubts.any();
}

// Maxima of some rows, and the first cells of their rows, as rows of as many cells.
template <class F> struct Line {
    F* values;
    F* starts;  // the bits of integers; only where winners are asked for
};

// Of Q vectors of columns. The last one overlaps the one before, so that all are whole. `start` is the first cell.
template <int Q, class F, Mode M, class S>
inline void take_columns(
    const S* from, int64_t row, int64_t start, int64_t width, int64_t rows, int64_t last, Line<F> to, Doubts<F>& doubts
) {
    constexpr int N = LANES<F>;
    Vec<F> best[Q];
    IntVec<F> at[Q];
#pragma unroll
    for (int q = 0; q < Q; q++) {
        best[q] = load(from + (q < Q - 1 ? q * N : last));
        if constexpr (M == WINNERS) at[q] = everywhere<F>(start);
        doubts.sums[q] += best[q];
    }
    for (int64_t y = 1; y < rows; y++)
#pragma unroll
        for (int q = 0; q < Q; q++) {
            __builtin_prefetch((const char*)(from + y * row + q * N) + BYTES_AHEAD);
            Vec<F> value = load(from + y * row + (q < Q - 1 ? q * N : last));
            doubts.sums[q] += value;
            take_greater<F, M>(best[q], at[q], value, everywhere<F>(start + y * width));
        }
#pragma unroll
    for (int q = 0; q < Q; q++) {
        store(to.values + (q < Q - 1 ? q * N : last), best[q]);
        if constexpr (M == WINNERS) store(to.starts + (q < Q - 1 ? q * N : last), (Vec<F>)at[q]);
    }
}

// Of at least LANES columns.
template <class F, Mode M, class S>
inline void take_rows(
    const S* from, int64_t row, int64_t start, int64_t width, int64_t rows, Line<F> to, Doubts<F>& doubts
) {
    constexpr int N = LANES<F>;
    int64_t left = width;
    for (; left > 4 * N; left -= 4 * N, from += 4 * N, to.values += 4 * N, to.starts += 4 * N)
        take_columns<4, F, M>(from, row, start, width, rows, 3 * N, to, doubts);
    switch ((left - 1) / N) {
        case 0: return take_columns<1, F, M>(from, row, start, width, rows, left - N, to, doubts);
        case 1: return take_columns<2, F, M>(from, row, start, width, rows, left - N, to, doubts);
        case 2: return take_columns<3, F, M>(from, row, start, width, rows, left - N, to, doubts);
        case 3: return take_columns<4, F, M>(from, row, start, width, rows, left - N, to, doubts);
    }
}

// A line with channels side by side into the distinct bins of one row.
template <class F, Mode M>
inline void take_bins(
    Edges* edges, const Columns& columns, Line<F> line, Vec<F>* values, IntVec<F>* cells, Doubts<F>& doubts
) {
    constexpr int N = LANES<F>;
    for (int u = 0; u < columns.count; u++) {
        int64_t x = edges[columns.first[u]].start, end = edges[columns.first[u]].end;
        Vec<F> best = load(line.values + x * N);
        if constexpr (M == WINNERS) {
            IntVec<F> at = (IntVec<F>)load(line.starts + x * N) + everywhere<F>(x);
            while (++x < end)
                take_better<F>(best, at, load(line.values + x * N), (IntVec<F>)load(line.starts + x * N) + everywhere<F>(x));
            cells[u] = at;
        } else {
            doubts.look_at(best);
            while (++x < end) {
                Vec<F> value = load(line.values + x * N);
                doubts.look_at(value);
                best = value > best ? value : best;
            }
        }
        values[u] = best;
    }
}

// How many times the width of a map in vectors its planes take at a time: all lines of the largest level, and one line
// with channels side by side, each with the starts.
inline int64_t plane_lines(const Pyramid& pyramid) {
    return 2 * (pyramid.levels[pyramid.finest_first[0]].n + 1);
}

// Pool `count` channels of a view whose rows are at least LANES cells that lie together, plane by plane: first all rows of
// a bin, then, with channels side by side, its columns. False where that would not be exact. `band` holds plane_lines().
template <class T, Mode M, class F = typename ComputeOf<T>::F>
bool pool_planes(
    const Pyramid& pyramid, const View<T>& view, int64_t c, int count, const Bounds& bounds, F* band, Pooled<F>& pooled
) {
    constexpr int N = LANES<F>;
    Doubts<F> doubts;
    int64_t width = view.width;
    for (int k = 0; k < pyramid.count; k++) {
        const Level& l = pyramid.levels[k];
        if (l.finer >= 0) continue;
        int64_t size = l.n * width;
        Line<F> lines = {band, band + N * size}, line = {band + 2 * N * size, band + (2 * size + width) * N};
        for (int lane = 0; lane < count; lane++)
            for (int i = 0; i < l.n; i++) {
                Edges rows = bounds.row_edges[l.first_side + i];
                const T* from = view.base + (c + lane) * view.channel + rows.start * view.row;
                Line<F> to = {lines.values + lane * size + i * width, lines.starts + lane * size + i * width};
                take_rows<F, M>(from, view.row, rows.start * width, width, rows.end - rows.start, to, doubts);
            }
        for (int i = 0; i < l.n; i++) {
            int64_t bin = l.first_bin + i * l.n;
            pack_cells(lines.values + i * width, size, 1, width, count, line.values);
            if constexpr (M == WINNERS) pack_cells(lines.starts + i * width, size, 1, width, count, line.starts);
            take_bins<F, M>(
                bounds.column_edges + l.first_side, bounds.columns[k], line, pooled.values + bin,
                M == WINNERS ? pooled.rows + bin : nullptr, doubts
            );
        }
    }
    unite_levels<F, M>(pyramid, bounds, pooled);
    return !doubts.any();
}
