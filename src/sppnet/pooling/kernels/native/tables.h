// Many windows of one map: tables of the maxima of all windows of 2^a x 2^b cells, four of which cover any bin.
//
// Exact where the map holds no NaN and no -0.0; pool_view does the others.
#pragma once

#include "lanes.h"
#include "stream.h"
#include "unions.h"

constexpr int MAX_EXPONENT = 31;
// Windows of tables have at most 2^0 .. 2^7 cells a side, whichever is cheapest; larger bins take more of them.
constexpr int CAPS = 8;

inline int floor_log2(int64_t n) { return 63 - __builtin_clzll((unsigned long long)n); }

// Whether cells hold what the tables cannot keep apart.
template <class F> inline bool has_special(const F* cells, int64_t count) {
    IntVec<F> found = {};
    const IntVec<F> minus_zero = (IntVec<F>)(-(Vec<F>{}));
    for (int64_t i = 0; i < count; i++) {
        Vec<F> v = load(cells + i * LANES<F>);
        found |= (v != v) | ((IntVec<F>)v == minus_zero);
    }
    for (int k = 0; k < LANES<F>; k++)
        if (found[k]) return true;
    return false;
}

inline uint32_t exponents(int64_t side, int64_t n) {  // bit k: some of the n bins needs windows of 2^k
    int64_t ragged = side % n != 0, least = side / n + ragged, most = side / n + 2 * ragged;
    if (most > side) most = side;
    return (uint32_t(2) << floor_log2(most)) - (uint32_t(1) << floor_log2(least));
}

// Which tables are needed. Bit b of columns[a]: that of windows of 2^a x 2^b.
struct TableSet {
    uint32_t columns[MAX_EXPONENT];
    int64_t count;

    void need(uint32_t row_exponents, uint32_t column_exponents) {
        for (int a = 0; row_exponents >> a; a++)
            if (row_exponents >> a & 1) columns[a] |= column_exponents;
    }
    // With windows of at most 2^cap a side, and those that each is made from: of half its width, or height.
    TableSet completed(int cap) const {
        TableSet made = {};
        int highest = 0;
        for (int a = 0; a < MAX_EXPONENT; a++) {
            made.columns[min(a, cap)] |= columns[a];
            if (columns[a]) highest = min(a, cap);
        }
        for (int a = 0; a <= highest; a++) {
            int widest = made.columns[a] ? min(cap, floor_log2(made.columns[a])) : 0;
            made.columns[a] = (uint32_t(2) << widest) - 1;
            made.count += widest + 1;
        }
        return made;
    }
};

// Windows of at most 2^cap cells that cover a bin of some cells along one side.
inline int64_t windows_along(int64_t cells, int cap) {
    return max(int64_t(2), (cells + (int64_t(1) << cap) - 1) >> cap);
}

template <class F> struct Tables {
    int64_t height, width;
    F* first_values;
    IntVec<F>* first_winners;
    F* values[MAX_EXPONENT][MAX_EXPONENT];
    IntVec<F>* winners[MAX_EXPONENT][MAX_EXPONENT];  // flat cells; of the first among equals
};

// Fill table (a, b) from the one of half its size.
template <class F, bool AT> void fill_table(Tables<F>& tables, int a, int b) {
    constexpr int N = LANES<F>;
    int from_a = b ? a : a - 1, from_b = b ? b - 1 : 0;
    int64_t step = b ? int64_t(1) << (b - 1) : (int64_t(1) << (a - 1)) * tables.width;
    int64_t rows = tables.height - (int64_t(1) << a) + 1;
    int64_t columns = tables.width - (int64_t(1) << b) + 1;
    const F* half = tables.values[from_a][from_b];
    F* full = tables.values[a][b];
    for (int64_t y = 0; y < rows; y++)
        for (int64_t i = y * tables.width; i < y * tables.width + columns; i++) {
            Vec<F> best = load(half + i * N), other = load(half + (i + step) * N);
            if constexpr (AT) {
                IntVec<F> at = tables.winners[from_a][from_b][i];
                take_better<F>(best, at, other, tables.winners[from_a][from_b][i + step]);
                tables.winners[a][b][i] = at;
                store(full + i * N, best);
            } else {
                store(full + i * N, other > best ? other : best);
            }
        }
}

// Fill the tables of a set; the packed map lies where the first one is.
template <class F>
inline void fill_tables(Tables<F>& tables, const TableSet& set, int64_t height, int64_t width, bool winners) {
    int64_t cells = height * width, made = 0;
    tables.height = height, tables.width = width;
    for (int a = 0; a < MAX_EXPONENT && set.columns[a]; a++)
        for (int b = 0; set.columns[a] >> b; b++, made++) {
            tables.values[a][b] = tables.first_values + made * cells * LANES<F>;
            tables.winners[a][b] = winners ? tables.first_winners + made * cells : nullptr;
            if (a + b == 0)
                for (int64_t i = 0; winners && i < cells; i++)
                    tables.winners[0][0][i] = IntVec<F>{} + typename Vectors<F>::Int(i);
            else if (winners)
                fill_table<F, true>(tables, a, b);
            else
                fill_table<F, false>(tables, a, b);
        }
}

// The windows of 2^exponent cells that cover a bin along one side, counted from the region's first cell: the first, the
// last and, in a bin of more than two, one after every `stride` between them.
struct Cover {
    int32_t first, last, stride, exponent;
};

// Of all bins of one side, with `step` from a cell to the next.
inline void fill_covers(const Pyramid& pyramid, int64_t side, int cap, int64_t step, Cover* covers) {
    for (int l = 0; l < pyramid.count; l++) {
        int64_t n = pyramid.levels[l].n;
        for (int64_t i = 0; i < n; i++) {
            int64_t start = i * side / n, end = ((i + 1) * side + n - 1) / n;
            int exponent = min(cap, floor_log2(end - start));
            int64_t window = int64_t(1) << exponent;
            covers[pyramid.levels[l].first_side + i] = {
                int32_t(start * step), int32_t((end - window) * step), int32_t(window * step), exponent
            };
        }
    }
}

struct Covers {  // of all sides up to the longest: rows in cells, columns in elements
    Cover *rows, *columns;
};

struct Region {
    int64_t map, x0, y0, x1, y1;
};

// One bin of more than two windows along a side.
template <class F, bool AT>
inline void pool_large_bin(
    const Tables<F>& tables, int64_t corner, Cover row, Cover column, Vec<F>& best, IntVec<F>& at
) {
    constexpr int N = LANES<F>;
    const F* values = tables.values[row.exponent][column.exponent];
    bool first = true;
    for (int32_t y = row.first;; y = min(y + row.stride, row.last)) {
        for (int32_t x = column.first;; x = min(x + column.stride, column.last)) {
            int64_t cell = (corner + y * tables.width) * N + x;
            Vec<F> value = load(values + cell);
            IntVec<F> found = {};
            if constexpr (AT) found = tables.winners[row.exponent][column.exponent][cell / N];
            if (first)
                best = value, at = found, first = false;
            else if constexpr (AT)
                take_better<F>(best, at, value, found);
            else
                best = value > best ? value : best;
            if (x == column.last) break;
        }
        if (y == row.last) break;
    }
}

// Whether no bin along a side takes more than two windows.
inline bool are_small(const Cover* covers, int n) {
    bool small = true;
    for (int i = 0; i < n; i++) small &= covers[i].last - covers[i].first <= covers[i].stride;
    return small;
}

// The values of such bins; `corner` is the first cell of the region.
template <class F>
inline void pool_small_bins(
    int n, const Tables<F>& tables, int64_t corner, const Cover* rows, const Cover* columns, Vec<F>* values
) {
    int64_t width = tables.width;
    for (int i = 0; i < n; i++) {
        Cover row = rows[i];
        F* const* tables_of_row = tables.values[row.exponent];
        int64_t top = (corner + row.first * width) * LANES<F>, down = (row.last - row.first) * width * LANES<F>;
        for (int j = 0; j < n; j++) {
            Cover column = columns[j];
            const F* upper = tables_of_row[column.exponent] + top;
            const F* lower = upper + down;
            Vec<F> best = load(upper + column.first), second = load(upper + column.last);
            Vec<F> third = load(lower + column.first), fourth = load(lower + column.last);
            best = second > best ? second : best;
            third = fourth > third ? fourth : third;
            *values++ = third > best ? third : best;
        }
    }
}

template <class F, bool AT>
inline void pool_level(
    const Level& l, const Tables<F>& tables, const Region& r, const Cover* row_covers, const Cover* column_covers,
    Vec<F>* values, IntVec<F>* winners
) {
    constexpr int N = LANES<F>;
    int64_t corner = r.y0 * tables.width + r.x0;
    if constexpr (!AT) {
        const Cover *rows = row_covers + l.first_side, *columns = column_covers + l.first_side;
        if (are_small(rows, l.n) && are_small(columns, l.n))
            return pool_small_bins<F>(l.n, tables, corner, rows, columns, values);
    }
    for (int i = 0; i < l.n; i++) {
        Cover row = row_covers[l.first_side + i];
        int64_t top = (corner + row.first * tables.width) * N, bottom = (corner + row.last * tables.width) * N;
        for (int j = 0; j < l.n; j++) {
            Cover column = column_covers[l.first_side + j];
            Vec<F> best;
            IntVec<F> at = {};
            if (row.last - row.first > row.stride || column.last - column.first > column.stride) {
                pool_large_bin<F, AT>(tables, corner, row, column, best, at);
                values[i * l.n + j] = best;
                if constexpr (AT) winners[i * l.n + j] = at;
                continue;
            }
            const F* upper = tables.values[row.exponent][column.exponent] + top;
            const F* lower = tables.values[row.exponent][column.exponent] + bottom;
            best = load(upper + column.first);
            Vec<F> second = load(upper + column.last);
            Vec<F> third = load(lower + column.first), fourth = load(lower + column.last);
            if constexpr (AT) {
                const IntVec<F>* cells = tables.winners[row.exponent][column.exponent];
                at = cells[(top + column.first) / N];
                take_better<F>(best, at, second, cells[(top + column.last) / N]);
                take_better<F>(best, at, third, cells[(bottom + column.first) / N]);
                take_better<F>(best, at, fourth, cells[(bottom + column.last) / N]);
                winners[i * l.n + j] = at;
            } else {
                best = second > best ? second : best;
                third = fourth > third ? fourth : third;
                best = third > best ? third : best;
            }
            values[i * l.n + j] = best;
        }
    }
}

template <class F, bool AT>
inline void pool_region(
    const Pyramid& pyramid, const Tables<F>& tables, const Covers& covers, const Region& r, Vec<F>* values,
    IntVec<F>* winners
) {
    const Cover* row_covers = covers.rows + (r.y1 - r.y0) * pyramid.sides;
    const Cover* column_covers = covers.columns + (r.x1 - r.x0) * pyramid.sides;
    for (int k = 0; k < pyramid.count; k++) {
        const Level& l = pyramid.levels[pyramid.finest_first[k]];
        Vec<F>* to = values + l.first_bin;
        IntVec<F>* to_winners = AT ? winners + l.first_bin : nullptr;
        if (l.finer < 0) {
            pool_level<F, AT>(l, tables, r, row_covers, column_covers, to, to_winners);
        } else {
            const Level& finer = pyramid.levels[l.finer];
            const IntVec<F>* from = AT ? winners + finer.first_bin : nullptr;
            unite_level<F, AT>(l, finer.n, values + finer.first_bin, from, to, to_winners);
        }
    }
}
