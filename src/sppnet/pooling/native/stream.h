// A whole map, or a window of one, read once from top to bottom: exact for NaN, ties and the sign of zero.
#pragma once

#include "bins.h"
#include "lanes.h"

// A window of a map in memory: cell (y, x) of channel c is base[c * channel + y * row + x * cell].
template <class T> struct View {
    const T* base;
    int64_t channels, height, width;
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

template <class F, Mode M, class S>
inline void pool_line(
    const Pyramid& pyramid, int level, const S* row, int64_t cell, const Edges* edges, Pooled<F>& pooled
) {
    const Level& l = pyramid.levels[level];
    Vec<F>* line = pooled.line + l.first_side;
    IntVec<F>* columns = pooled.line_columns + l.first_side;
    if (l.finer >= 0) {  // unions of the finer level's bins, left to right
        const Vec<F>* finer = pooled.line + pyramid.levels[l.finer].first_side;
        const IntVec<F>* finer_columns = pooled.line_columns + pyramid.levels[l.finer].first_side;
        for (int j = 0; j < l.n; j++) {
            Vec<F> best = finer[j * l.ratio];
            IntVec<F> at = {};
            if constexpr (M == WINNERS) at = finer_columns[j * l.ratio];
            for (int k = 1; k < l.ratio; k++) {
                Vec<F> value = finer[j * l.ratio + k];
                if constexpr (M == WINNERS) {
                    IntVec<F> wins = (value > best) | (value != value);
                    at = wins ? finer_columns[j * l.ratio + k] : at;
                }
                best = combine<F, M>(best, value);
            }
            line[j] = best;
            if constexpr (M == WINNERS) columns[j] = at;
        }
        return;
    }
    for (int j = 0; j < l.n; j++) {
        int64_t start = edges[l.first_side + j].start, end = edges[l.first_side + j].end;
        Vec<F> best = load(row + start * cell);
        IntVec<F> at = IntVec<F>{} + typename Vectors<F>::Int(start);
        for (int64_t x = start + 1; x < end; x++) {
            Vec<F> value = load(row + x * cell);
            if constexpr (M == WINNERS) {
                IntVec<F> wins = (value > best) | (value != value);
                at = wins ? IntVec<F>{} + typename Vectors<F>::Int(x) : at;
            }
            best = combine<F, M>(best, value);
        }
        line[j] = best;
        if constexpr (M == WINNERS) columns[j] = at;
    }
}

template <class F, Mode M>
inline void merge_line(
    const Level& l, int64_t y, int64_t height, const Edges* row_edges, Pooled<F>& pooled
) {
    const Vec<F>* line = pooled.line + l.first_side;
    int64_t low = y * l.n / height, high = ((y + 1) * l.n - 1) / height;
    for (int64_t i = low; i <= high; i++) {
        int64_t first = l.first_bin + i * l.n;
        bool fresh = row_edges[l.first_side + i].start == y;
        for (int j = 0; j < l.n; j++) {
            Vec<F> value = line[j];
            Vec<F> best = fresh ? value : pooled.values[first + j];
            if constexpr (M == WINNERS) {
                IntVec<F> wins = fresh ? ~IntVec<F>{} : (value > best) | (value != value);
                IntVec<F> row = IntVec<F>{} + typename Vectors<F>::Int(y);
                pooled.rows[first + j] = wins ? row : pooled.rows[first + j];
                IntVec<F> column = pooled.line_columns[l.first_side + j];
                pooled.columns[first + j] = wins ? column : pooled.columns[first + j];
            }
            pooled.values[first + j] = fresh ? value : combine<F, M>(best, value);
        }
    }
}

// Cells of several rows that are packed at a time, so that short rows fill whole tiles.
constexpr int64_t BAND_CELLS = 256;

template <class F, Mode M, class S>
inline void pool_row(
    const Pyramid& pyramid, const S* cells, int64_t cell, int64_t y, int64_t height, const Edges* row_edges,
    const Edges* column_edges, Pooled<F>& pooled
) {
    for (int k = 0; k < pyramid.count; k++) {
        int level = pyramid.finest_first[k];
        pool_line<F, M>(pyramid, level, cells, cell, column_edges, pooled);
        merge_line<F, M>(pyramid.levels[level], y, height, row_edges, pooled);
    }
}

// Whether channels from `c` on can be read where they lie, a vector at a time.
template <class T> inline bool lie_together(const View<T>& view, int count) {
    return view.channel == 1 && count == LANES<typename ComputeOf<T>::F>;
}

// Pool `blocks` whole vectors of channels of a view, from channel c on; rows are read from end to end.
template <class T, Mode M>
void pool_blocks(
    const Pyramid& pyramid, const View<T>& view, int64_t c, int blocks, const Edges* row_edges,
    const Edges* column_edges, Pooled<typename ComputeOf<T>::F>* pooled
) {
    using F = typename ComputeOf<T>::F;
    for (int64_t y = 0; y < view.height; y++)
        for (int b = 0; b < blocks; b++)
            pool_row<F, M>(
                pyramid, view.base + y * view.row + c + b * LANES<F>, view.cell, y, view.height, row_edges,
                column_edges, pooled[b]
            );
}

// Pool `count` channels of a view from channel c on. `band` holds BAND_CELLS or one row of vectors.
template <class T, Mode M>
void pool_view(
    const Pyramid& pyramid, const View<T>& view, int64_t c, int count, const Edges* row_edges,
    const Edges* column_edges, typename ComputeOf<T>::F* band, Pooled<typename ComputeOf<T>::F>& pooled
) {
    using F = typename ComputeOf<T>::F;
    constexpr int N = LANES<F>;
    if (lie_together(view, count)) {
        pool_blocks<T, M>(pyramid, view, c, 1, row_edges, column_edges, &pooled);
        return;
    }
    bool flat = view.row == view.width * view.cell;
    int64_t rows = flat ? max(BAND_CELLS / view.width, int64_t(1)) : 1;
    for (int64_t top = 0; top < view.height; top += rows) {
        int64_t bottom = min(top + rows, view.height);
        const T* from = view.base + c * view.channel + top * view.row;
        pack_cells(from, view.channel, view.cell, (bottom - top) * view.width, count, band);
        for (int64_t y = top; y < bottom; y++)
            pool_row<F, M>(
                pyramid, band + (y - top) * view.width * N, N, y, view.height, row_edges, column_edges, pooled
            );
    }
}

// Sums of bins to means, or gradients of means to those of the cells.
template <class F>
inline void divide_by_cells(const Pyramid& pyramid, const Edges* row_edges, const Edges* column_edges, Vec<F>* values) {
    for (int k = 0; k < pyramid.count; k++) {
        const Level& l = pyramid.levels[k];
        for (int i = 0; i < l.n; i++)
            for (int j = 0; j < l.n; j++) {
                Edges row = row_edges[l.first_side + i], column = column_edges[l.first_side + j];
                values[l.first_bin + i * l.n + j] /= F((row.end - row.start) * (column.end - column.start));
            }
    }
}

// The gradient of one row of cells from that of the sums of the bins.
template <class F>
inline void spread_row(
    const Pyramid& pyramid, int64_t y, int64_t height, int64_t width, const Edges* column_edges, const Vec<F>* values,
    F* line
) {
    memset(line, 0, width * sizeof(Vec<F>));
    for (int k = 0; k < pyramid.count; k++) {
        const Level& l = pyramid.levels[k];
        int64_t low = y * l.n / height, high = ((y + 1) * l.n - 1) / height;
        for (int64_t i = low; i <= high; i++)
            for (int j = 0; j < l.n; j++) {
                Edges column = column_edges[l.first_side + j];
                Vec<F> value = values[l.first_bin + i * l.n + j];
                for (int64_t x = column.start; x < column.end; x++)
                    store(line + x * LANES<F>, load(line + x * LANES<F>) + value);
            }
    }
}
