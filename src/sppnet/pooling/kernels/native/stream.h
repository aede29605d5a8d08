// A whole map, or a window of one, read once from top to bottom: exact for NaN, ties and the sign of zero.
#pragma once

#include "bins.h"
#include "lanes.h"

// A window of a map in memory: cell (y, x) of channel c is base[c * channel + y * row + x * cell].
template <class T> struct View {
    const T* base;
    int64_t height, width;
    int64_t channel, row, cell;  // strides, in elements
};

// `count` channels of some cells, one vector a cell.
template <class T>
inline void pack_cells(
    const T* from, int64_t channel, int64_t cell, int64_t cells, int count, typename ComputeOf<T>::F* to
) {
    using F = typename ComputeOf<T>::F;
    constexpr int N = LANES<F>;
    if (channel == 1) {
        if (count == N)
            for (int64_t x = 0; x < cells; x++) store(to + x * N, load(from + x * cell));
        else
            for (int64_t x = 0; x < cells; x++) store(to + x * N, load_some(from + x * cell, count));
        return;
    }
    if (cell == 1) {
        for (int64_t x = 0; x < cells; x += N) {
            if (x + N > cells && cells >= N) x = cells - N;  // the last tile overlaps the one before
            int width = cells - x < N ? int(cells - x) : N;
            Vec<F> tile[N] = {};
            if (width == N)
                for (int c = 0; c < count; c++) tile[c] = load(from + c * channel + x);
            else
                for (int c = 0; c < count; c++) tile[c] = load_some(from + c * channel + x, width);
            transpose<F>(tile);
            for (int i = 0; i < width; i++) store(to + (x + i) * N, tile[i]);
        }
        return;
    }
    for (int64_t x = 0; x < cells; x++) {
        T gathered[N] = {};
        for (int c = 0; c < count; c++) gathered[c] = from[c * channel + x * cell];
        store(to + x * N, load(gathered));
    }
}

template <class T>
inline void unpack_cells(
    const typename ComputeOf<T>::F* from, int64_t cells, int count, T* to, int64_t channel, int64_t cell
) {
    using F = typename ComputeOf<T>::F;
    constexpr int N = LANES<F>;
    if (channel == 1) {
        for (int64_t x = 0; x < cells; x++) store_some(to + x * cell, load(from + x * N), count);
        return;
    }
    if (cell == 1) {
        for (int64_t x = 0; x < cells; x += N) {
            int width = cells - x < N ? int(cells - x) : N;
            Vec<F> tile[N] = {};
            for (int i = 0; i < width; i++) tile[i] = load(from + (x + i) * N);
            transpose<F>(tile);
            for (int c = 0; c < count; c++) store_some(to + c * channel + x, tile[c], width);
        }
        return;
    }
    for (int64_t x = 0; x < cells; x++) {
        T scattered[N];
        store(scattered, load(from + x * N));
        for (int c = 0; c < count; c++) to[c * channel + x * cell] = scattered[c];
    }
}

// `count` channels of a whole view from channel `c` on.
template <class T>
inline void pack_view(const View<T>& view, int64_t c, int count, typename ComputeOf<T>::F* to) {
    const T* from = view.base + c * view.channel;
    bool flat = view.row == view.width * view.cell;
    int64_t rows = flat ? 1 : view.height, cells = flat ? view.height * view.width : view.width;
    for (int64_t y = 0; y < rows; y++)
        pack_cells(
            from + y * view.row, view.channel, view.cell, cells, count, to + y * cells * LANES<typename ComputeOf<T>::F>
        );
}

enum Mode { MAXIMA, WINNERS, SUMS };

// The greatest value so far: a later one must be greater, or NaN, to take its place.
template <class F> inline Vec<F> keep_greatest(Vec<F> best, Vec<F> value) {
    Vec<F> greatest = value > best ? value : best;
    return value != value ? value : greatest;
}

template <class F, Mode M> inline Vec<F> combine(Vec<F> held, Vec<F> value) {
    if constexpr (M == SUMS) return held + value;
    return keep_greatest<F>(held, value);
}

// Results of one view for one block of channels. Bins of all levels one after the other.
template <class F> struct Pooled {
    Vec<F>* values;      // (bins)
    IntVec<F>* rows;     // (bins) cell of each value; both null where no winners are asked for
    IntVec<F>* columns;
    Vec<F>* line;        // (bins along a side, of all levels) scratch for one row of cells
    IntVec<F>* line_columns;
};

// Bins of a level along a row of cells. Narrow maps have fewer distinct ones than bins: each is pooled once.
struct Columns {
    int count;    // distinct ones
    int* first;   // (count) the first bin of each
    int* number;  // (n) which of them each bin is
};

// The bins of each level that hold a row of cells, low to high.
struct RowBins {
    int low, high;
};

// Where all bins of a view lie, and those of the row in hand.
struct Bounds {
    Edges *row_edges, *column_edges;
    Columns* columns;
    RowBins* row_bins;
};

inline void fill_bounds(const Pyramid& pyramid, int64_t height, int64_t width, Bounds& bounds) {
    fill_edges(pyramid, height, bounds.row_edges);
    fill_edges(pyramid, width, bounds.column_edges);
    for (int k = 0; k < pyramid.count; k++) {
        const Edges* edges = bounds.column_edges + pyramid.levels[k].first_side;
        Columns& columns = bounds.columns[k];
        columns.count = 0;
        for (int j = 0; j < pyramid.levels[k].n; j++) {
            if (j == 0 || edges[j].start != edges[j - 1].start || edges[j].end != edges[j - 1].end)
                columns.first[columns.count++] = j;
            columns.number[j] = columns.count - 1;
        }
    }
}

// Of row y, from those of the row above it.
inline void find_row_bins(const Pyramid& pyramid, int64_t y, const Bounds& bounds) {
    for (int k = 0; k < pyramid.count; k++) {
        const Level& l = pyramid.levels[k];
        const Edges* edges = bounds.row_edges + l.first_side;
        RowBins& found = bounds.row_bins[k];
        if (y == 0) found = {0, -1};
        while (found.high + 1 < l.n && edges[found.high + 1].start <= y) found.high++;
        while (edges[found.low].end <= y) found.low++;
    }
}

template <class F> inline IntVec<F> everywhere(int64_t cell) {
    return IntVec<F>{} + typename Vectors<F>::Int(cell);
}

// The best so far and where it was found, after one more value.
template <class F, Mode M> inline void take_next(Vec<F>& best, IntVec<F>& at, Vec<F> value, IntVec<F> cell) {
    if constexpr (M == WINNERS) {
        IntVec<F> wins = (value > best) | (value != value);
        best = wins ? value : best;
        at = wins ? cell : at;
    } else {
        best = combine<F, M>(best, value);
    }
}

template <class F, Mode M, class S>
inline void pool_line(
    const Pyramid& pyramid, int level, const S* row, int64_t cell, const Bounds& bounds, Pooled<F>& pooled
) {
    const Level& l = pyramid.levels[level];
    const Columns& columns = bounds.columns[level];
    Vec<F>* line = pooled.line + l.first_side;
    IntVec<F>* line_columns = pooled.line_columns + l.first_side;
    for (int u = 0; u < columns.count; u++) {
        Vec<F> best;
        IntVec<F> at = {};
        if (l.finer >= 0) {  // the union of the finer level's bins, left to right
            int64_t side = pyramid.levels[l.finer].first_side;
            const int* numbers = bounds.columns[l.finer].number + columns.first[u] * l.ratio;
            int part = numbers[0], last = numbers[l.ratio - 1];
            best = pooled.line[side + part];
            if constexpr (M == WINNERS) at = pooled.line_columns[side + part];
            while (++part <= last)
                take_next<F, M>(
                    best, at, pooled.line[side + part], M == WINNERS ? pooled.line_columns[side + part] : at
                );
        } else {
            Edges edges = bounds.column_edges[l.first_side + columns.first[u]];
            best = load(row + edges.start * cell);
            if constexpr (M == WINNERS) at = everywhere<F>(edges.start);
            for (int64_t x = edges.start + 1; x < edges.end; x++)
                take_next<F, M>(best, at, load(row + x * cell), everywhere<F>(x));
        }
        line[u] = best;
        if constexpr (M == WINNERS) line_columns[u] = at;
    }
}

// The distinct bins of a row of cells into those of the rows of bins that hold it.
template <class F, Mode M>
inline void merge_line(const Level& l, int level, int64_t y, const Bounds& bounds, Pooled<F>& pooled) {
    const Vec<F>* line = pooled.line + l.first_side;
    const IntVec<F>* line_columns = pooled.line_columns + l.first_side;
    int count = bounds.columns[level].count;
    for (int64_t i = bounds.row_bins[level].low; i <= bounds.row_bins[level].high; i++) {
        int64_t first = l.first_bin + i * l.n;
        bool fresh = bounds.row_edges[l.first_side + i].start == y;
        for (int u = 0; u < count; u++) {
            Vec<F> value = line[u];
            Vec<F>& best = pooled.values[first + u];
            if constexpr (M == WINNERS) {
                IntVec<F> wins = (value > best) | (value != value);
                if (fresh) wins = ~IntVec<F>{};
                best = wins ? value : best;
                pooled.rows[first + u] = wins ? everywhere<F>(y) : pooled.rows[first + u];
                pooled.columns[first + u] = wins ? line_columns[u] : pooled.columns[first + u];
            } else {
                best = fresh ? value : combine<F, M>(best, value);
            }
        }
    }
}

// The distinct bins of a level to all of its bins.
template <class V> inline void spread_bins(const Level& l, const Columns& columns, V* bins) {
    if (columns.count == l.n) return;
    for (int64_t i = 0; i < l.n; i++)
        for (int j = l.n - 1; j >= 0; j--)  // from the right: what is read is not yet written
            bins[i * l.n + j] = bins[i * l.n + columns.number[j]];
}

template <class F, Mode M> inline void spread_columns(const Pyramid& pyramid, const Bounds& bounds, Pooled<F>& pooled) {
    for (int k = 0; k < pyramid.count; k++) {
        const Level& l = pyramid.levels[k];
        spread_bins(l, bounds.columns[k], pooled.values + l.first_bin);
        if constexpr (M != WINNERS) continue;
        spread_bins(l, bounds.columns[k], pooled.rows + l.first_bin);
        spread_bins(l, bounds.columns[k], pooled.columns + l.first_bin);
    }
}

// Cells of several rows that are packed at a time, so that short rows fill whole tiles.
constexpr int64_t BAND_CELLS = 256;

template <class F, Mode M, class S>
inline void pool_row(
    const Pyramid& pyramid, const S* cells, int64_t cell, int64_t y, const Bounds& bounds, Pooled<F>& pooled
) {
    for (int k = 0; k < pyramid.count; k++) {
        int level = pyramid.finest_first[k];
        pool_line<F, M>(pyramid, level, cells, cell, bounds, pooled);
        merge_line<F, M>(pyramid.levels[level], level, y, bounds, pooled);
    }
}

// Whether channels from `c` on can be read where they lie, a vector at a time.
template <class T> inline bool lie_together(const View<T>& view, int count) {
    return view.channel == 1 && count == LANES<typename ComputeOf<T>::F>;
}

// Pool `blocks` whole vectors of channels of a view, from channel c on; rows are read from end to end.
template <class T, Mode M>
void pool_blocks(
    const Pyramid& pyramid, const View<T>& view, int64_t c, int blocks, const Bounds& bounds,
    Pooled<typename ComputeOf<T>::F>* pooled
) {
    using F = typename ComputeOf<T>::F;
    for (int64_t y = 0; y < view.height; y++) {
        const T* row = view.base + y * view.row + c;
        find_row_bins(pyramid, y, bounds);
        for (int b = 0; b < blocks; b++)
            pool_row<F, M>(pyramid, row + b * LANES<F>, view.cell, y, bounds, pooled[b]);
    }
    for (int b = 0; b < blocks; b++) spread_columns<F, M>(pyramid, bounds, pooled[b]);
}

// Pool `count` channels of a view from channel c on. `band` holds BAND_CELLS or one row of vectors.
template <class T, Mode M>
void pool_view(
    const Pyramid& pyramid, const View<T>& view, int64_t c, int count, const Bounds& bounds,
    typename ComputeOf<T>::F* band, Pooled<typename ComputeOf<T>::F>& pooled
) {
    using F = typename ComputeOf<T>::F;
    constexpr int N = LANES<F>;
    if (lie_together(view, count)) {
        pool_blocks<T, M>(pyramid, view, c, 1, bounds, &pooled);
        return;
    }
    bool flat = view.row == view.width * view.cell;
    int64_t rows = flat ? max(BAND_CELLS / view.width, int64_t(1)) : 1;
    for (int64_t top = 0; top < view.height; top += rows) {
        int64_t bottom = min(top + rows, view.height);
        const T* from = view.base + c * view.channel + top * view.row;
        pack_cells(from, view.channel, view.cell, (bottom - top) * view.width, count, band);
        for (int64_t y = top; y < bottom; y++) {
            find_row_bins(pyramid, y, bounds);
            pool_row<F, M>(pyramid, band + (y - top) * view.width * N, N, y, bounds, pooled);
        }
    }
    spread_columns<F, M>(pyramid, bounds, pooled);
}

// Sums of bins to means, or gradients of means to those of the cells.
template <class F>
inline void divide_by_cells(const Pyramid& pyramid, const Bounds& bounds, Vec<F>* values) {
    for (int k = 0; k < pyramid.count; k++) {
        const Level& l = pyramid.levels[k];
        for (int i = 0; i < l.n; i++)
            for (int j = 0; j < l.n; j++) {
                Edges row = bounds.row_edges[l.first_side + i], column = bounds.column_edges[l.first_side + j];
                values[l.first_bin + i * l.n + j] /= F((row.end - row.start) * (column.end - column.start));
            }
    }
}

// The gradient of one row of cells from that of the sums of the bins.
template <class F>
inline void spread_row(
    const Pyramid& pyramid, int64_t y, int64_t width, const Bounds& bounds, const Vec<F>* values, F* line
) {
    find_row_bins(pyramid, y, bounds);
    memset(line, 0, width * sizeof(Vec<F>));
    for (int k = 0; k < pyramid.count; k++) {
        const Level& l = pyramid.levels[k];
        for (int64_t i = bounds.row_bins[k].low; i <= bounds.row_bins[k].high; i++)
            for (int j = 0; j < l.n; j++) {
                Edges column = bounds.column_edges[l.first_side + j];
                Vec<F> value = values[l.first_bin + i * l.n + j];
                for (int64_t x = column.start; x < column.end; x++)
                    store(line + x * LANES<F>, load(line + x * LANES<F>) + value);
            }
    }
}
