// Whole maps of any sizes: one task is one block of channels of one image.
#pragma once

#include "layout.h"
#include "maxima.h"
#include "parallel.h"
#include "stream.h"

struct Tensor {  // as the caller describes it; strides in elements
    void* data;
    int64_t images, channels, height, width;
    int64_t image, channel, row, cell;
};

template <class T> inline View<T> view_image(const Tensor& t, int64_t image) {
    const T* base = (const T*)t.data + image * t.image;
    return {base, t.height, t.width, t.channel, t.row, t.cell};
}

// Most cells that have numbers in every vector of integers.
constexpr int64_t MOST_NUMBERS = INT32_MAX;

// Most cells of a map whose gradient is added up beside it, and how many blocks of channels at a time. In the map, at the
// stride of all channels, they fall into a few sets of the cache and push each other out; those of larger maps win seldom.
constexpr int64_t NEAR_CELLS = 1 << 9;
constexpr int NEAR_BLOCKS = 4;

inline bool is_near(const Tensor& t) {
    return t.channel == 1 && t.row == t.width * t.cell && t.height * t.width <= NEAR_CELLS;
}

// What a thread needs to pool a view.
template <class T> struct Bench {
    using F = typename ComputeOf<T>::F;
    Arena arena;
    Bounds bounds;
    F* band;
    Pooled<F>* pooled;  // of each block
    CellNumber<F>* staged_winners;
    T* staged;          // one level of one block, as the pooled vector has it
    T* cells;           // the gradient of one block of channels

    Bench(const Pyramid& pyramid, int64_t widest, int blocks, bool winners, int64_t most_cells = 0) {
        bounds.row_edges = arena.take<Edges>(pyramid.sides);
        bounds.column_edges = arena.take<Edges>(pyramid.sides);
        bounds.columns = arena.take<Columns>(pyramid.count);
        bounds.row_bins = arena.take<RowBins>(pyramid.count);
        int* numbers = arena.take<int>(2 * pyramid.sides);
        band = arena.take<F>(max(widest, BAND_CELLS) * LANES<F>);
        staged = arena.take<T>((pyramid.bins + 1) * LANES<F>);
        cells = most_cells ? arena.take<T>(most_cells * NEAR_BLOCKS * LANES<F>) : nullptr;
        staged_winners = winners ? arena.take<CellNumber<F>>((pyramid.bins + 1) * LANES<F>) : nullptr;
        pooled = arena.take<Pooled<F>>(blocks);
        Vec<F>* values = arena.take<Vec<F>>(blocks * pyramid.bins);
        Vec<F>* line = arena.take<Vec<F>>(pyramid.sides);
        IntVec<F>* cells = winners ? arena.take<IntVec<F>>(2 * blocks * pyramid.bins) : nullptr;
        IntVec<F>* columns = winners ? arena.take<IntVec<F>>(pyramid.sides) : nullptr;
        if (arena.failed) return;
        for (int k = 0; k < pyramid.count; k++) {
            int* own = numbers + 2 * pyramid.levels[k].first_side;
            bounds.columns[k] = {0, own, own + pyramid.levels[k].n};
        }
        for (int b = 0; b < blocks; b++) {
            IntVec<F>* rows = winners ? cells + 2 * b * pyramid.bins : nullptr;
            pooled[b] = {values + b * pyramid.bins, rows, winners ? rows + pyramid.bins : nullptr, line, columns};
        }
    }
    bool ready() const { return !arena.failed; }
};

inline void add_to(float* sum, float more) { *sum += more; }
inline void add_to(double* sum, double more) { *sum += more; }
template <class T> inline void add_to(T* sum, float more) { store_some(sum, load_some(sum, 1) + more, 1); }
template <class T> inline void add_to(T* sum, T more) { add_to(sum, load_some(&more, 1)[0]); }

// Add the gradient of the bins of a level to the cells that won them, in lanes start to end. `width` is 0 where the winners
// are rows and columns, and not numbers of cells.
template <class F, class T>
inline void send_back(
    const Pooled<F>& pooled, const Level& l, const Vec<F>* gradient, int64_t start, int64_t end, T* to,
    int64_t channel, int64_t row, int64_t cell, int64_t width = 0
) {
    using Int = typename Vectors<F>::Int;
    for (int64_t b = 0; b < int64_t(l.n) * l.n; b++) {
        const Int* rows = (const Int*)(pooled.rows + l.first_bin + b);
        const Int* columns = (const Int*)(pooled.columns + l.first_bin + b);
        const F* more = (const F*)(gradient + b);
        for (int64_t c = start; c < end; c++) {
            int64_t y = width ? rows[c] / width : rows[c], x = width ? rows[c] % width : columns[c];
            add_to(to + c * channel + y * row + x * cell, more[c]);
        }
    }
}

template <class T, bool MEAN> struct MapsWork {
    using F = typename ComputeOf<T>::F;
    using Int = typename Vectors<F>::Int;
    static constexpr int N = LANES<F>, MOST_BLOCKS = 16;
    const Pyramid& pyramid;
    const Tensor* maps;
    const Tensor* gradients;  // zeros to add to; null: forward
    int64_t channels, images;
    int64_t widest; // vectors that are held at a time
    bool folded;    // the images of a batch with few channels lie side by side in the lanes
    int64_t planes; // lanes of an image, or of the whole batch
    int64_t group;  // lanes of a task
    T* pooled;      // (images of all maps, channels * bins): written, or the gradient to send back
    CellNumber<F>* winners; // of the same shape, where each maximum was found: written, or read; or null

    MapsWork(
        const Pyramid& pyramid, const Tensor* maps, const Tensor* gradients, int64_t count, T* pooled,
        void* winners, int64_t threads
    )
        : pyramid(pyramid), maps(maps), gradients(gradients), channels(maps[0].channels), images(0), widest(1),
          folded(false), planes(channels), group(MOST_BLOCKS * N), pooled(pooled), winners((CellNumber<F>*)winners) {
        for (int64_t i = 0; i < count; i++) {
            images += maps[i].images;
            bool by_planes = maps[i].cell == 1 && maps[i].width >= N;
            widest = max(widest, maps[i].width * (by_planes ? plane_lines(pyramid) : 1));
        }
        bool sends = gradients && (winners || !folds(gradients[0]));
        if (count == 1 && channels < N && folds(maps[0]) && !sends) {
            folded = true;
            planes = images * channels;
            images = 1;
        }
        while (group > N && tasks() < 4 * threads) group /= 2;
    }
    bool folds(const Tensor& t) const { return channels == 1 || t.image == channels * t.channel; }
    int64_t groups() const { return (planes + group - 1) / group; }
    int64_t tasks() const { return images * groups(); }
    Bench<T> start() {
        return Bench<T>(pyramid, widest, int(group / N), !MEAN, gradients && winners ? NEAR_CELLS : 0);
    }

    bool run(int64_t task, Bench<T>& bench) {
        int64_t place = task / groups(), image = place, c = task % groups() * group;
        const Tensor* map = maps;
        for (; image >= map->images; map++) image -= map->images;
        fill_bounds(pyramid, map->height, map->width, bench.bounds);
        View<T> view = view_image<T>(*map, image);
        view.channel = lane_stride(*map);
        const Tensor* to = gradients ? gradients + (map - maps) : nullptr;
        T* to_image = to ? (T*)to->data + image * to->image : nullptr;
        for (int64_t end = min(planes, c + group); c < end;) {
            int blocks = view.channel == 1 ? int((end - c) / N) : 0;  // whole ones, read where they lie
            int64_t used = blocks ? blocks * N : min(end - c, int64_t(N));
            int64_t skip = 0;  // a rest is read together with the channels before it
            if (view.channel == 1 && !blocks && planes >= N) blocks = 1, skip = N - used;
            if (!to && !winners) {
                pool<MEAN ? SUMS : MAXIMA>(view, c - skip, used, blocks, bench);
                write(place, c, used, skip, bench);
            } else if constexpr (MEAN) {
                used = min(used, int64_t(N));
                spread_gradient(*to, to_image, place, c, used, bench);
            } else if (!to) {
                bool numbers = pool<WINNERS>(view, c - skip, used, blocks, bench);
                write(place, c, used, skip, bench);
                write_winners(numbers ? 0 : map->width, place, c, used, skip, bench);
            } else if (winners) {
                send_to_winners(*to, to_image, place, c, used, bench.cells);
            } else {
                bool numbers = pool<WINNERS>(view, c - skip, used, blocks, bench);
                add_gradient(*to, to_image, numbers ? map->width : 0, place, c, used, skip, bench);
            }
            c += used;
        }
        return true;
    }

    int64_t lane_stride(const Tensor& t) const { return folded && channels == 1 ? t.image : t.channel; }

    // Where the bins of one lane lie in the pooled vectors, and among the winners.
    int64_t bins_of(const Level& l, int64_t place, int64_t lane) const {
        if (folded) place = lane / channels, lane %= channels;
        return place * channels * pyramid.bins + channels * l.first_bin + lane * l.n * l.n;
    }

    // Copy the bins of some lanes of a level from the pooled vectors, or to them.
    template <class E>
    void copy_bins(const Level& l, int64_t place, int64_t c, int64_t used, E* vectors, E* staged, bool out) const {
        int64_t bins = int64_t(l.n) * l.n, together = folded ? 1 : used;
        for (int64_t k = 0; k < used; k += together) {
            E* there = vectors + bins_of(l, place, c + k);
            memcpy(out ? there : staged + k * bins, out ? staged + k * bins : there, together * bins * sizeof(E));
        }
    }

    // Pool lanes; whether the winners are numbers of cells, and not rows and columns.
    template <Mode M>
    bool pool(const View<T>& view, int64_t c, int64_t used, int blocks, Bench<T>& bench) {
        if constexpr (M == MAXIMA)
            if (pool_fast<MAXIMA>(view, c, int(used), blocks, bench)) return true;
        bool numbered = view.height * view.width <= MOST_NUMBERS;
        if constexpr (M != SUMS)  // winners tell -0.0 from 0.0
            if (numbered && pool_fast<WINNERS>(view, c, int(used), blocks, bench)) return true;
        if (blocks)
            pool_blocks<T, M>(pyramid, view, c, blocks, bench.bounds, bench.pooled);
        else
            pool_view<T, M>(pyramid, view, c, int(used), bench.bounds, bench.band, *bench.pooled);
        return false;
    }

    template <Mode M>
    bool pool_fast(const View<T>& view, int64_t c, int used, int blocks, Bench<T>& bench) {
        if (blocks) return pool_maxima<T, M>(pyramid, view, c, blocks, bench.bounds, bench.pooled);
        if (view.cell == 1 && view.width >= N)
            return pool_planes<T, M>(pyramid, view, c, used, bench.bounds, bench.band, *bench.pooled);
        if (view.height * view.width > BAND_CELLS) return false;
        pack_view(view, c, used, bench.band);
        View<F> packed = {bench.band, view.height, view.width, 1, view.width * N, N};
        return pool_maxima<F, M>(pyramid, packed, 0, 1, bench.bounds, bench.pooled);
    }

    void write(int64_t place, int64_t c, int64_t used, int64_t skip, Bench<T>& bench) {
        for (Pooled<F>* block = bench.pooled; used > 0; block++, c += N, used -= N) {
            if constexpr (MEAN) divide_by_cells<F>(pyramid, bench.bounds, block->values);
            for (int k = 0; k < pyramid.count; k++) {
                const Level& l = pyramid.levels[k];
                int64_t bins = int64_t(l.n) * l.n;
                lay_out<F>(block->values + l.first_bin, bins, bench.staged);
                copy_bins(l, place, c, min(used, int64_t(N)), pooled, bench.staged + skip * bins, true);
            }
        }
    }

    // `width` is 0 where the winners are numbers of cells already.
    void write_winners(int64_t width, int64_t place, int64_t c, int64_t used, int64_t skip, Bench<T>& bench) {
        for (Pooled<F>* block = bench.pooled; used > 0; block++, c += N, used -= N)
            for (int k = 0; k < pyramid.count; k++) {
                const Level& l = pyramid.levels[k];
                int64_t bins = int64_t(l.n) * l.n;
                IntVec<F>* cells = block->rows + l.first_bin;
                for (int64_t b = 0; b < bins && width; b++) cells[b] = cells[b] * Int(width) + block->columns[l.first_bin + b];
                lay_out<F>((const Vec<F>*)cells, bins, bench.staged_winners);
                copy_bins(l, place, c, min(used, int64_t(N)), winners, bench.staged_winners + skip * bins, true);
            }
    }

    // Add the gradient of bins whose winners are known.
    void send_to_winners(const Tensor& to, T* image, int64_t place, int64_t c, int64_t used, T* cells) {
        int64_t lane = lane_stride(to);
        bool flat = to.row == to.width * to.cell;
        if (is_near(to)) return send_beside(to, image, place, c, used, cells);
        if (flat)
            send_lanes<true>(to, image + c * lane, lane, to.cell, place, c, used);
        else
            send_lanes<false>(to, image + c * lane, lane, to.cell, place, c, used);
    }

    // The same beside the map, in blocks of channels: there, cells do not push each other out of the cache. Every cell of
    // the map is overwritten.
    void send_beside(const Tensor& to, T* image, int64_t place, int64_t c, int64_t used, T* cells) {
        int64_t count = to.height * to.width, size = count * N;
        for (int64_t end = c + used, some; c < end; c += some) {
            some = min(end - c, int64_t(NEAR_BLOCKS * N));
            memset(cells, 0, (some + N - 1) / N * size * sizeof(T));
            for (int64_t k = 0; k < some; k += N)
                send_lanes<true>(to, cells + k / N * size, 1, N, place, c + k, min(some - k, int64_t(N)));
            for (int64_t i = 0; i < count; i++) {
                T* lanes = image + i * to.cell + c;
                int64_t k = 0;
                for (const T* from = cells + i * N; k + N <= some; k += N, from += size)
                    memcpy(lanes + k, from, N * sizeof(T));
                if (k < some) memcpy(lanes + k, cells + k / N * size + i * N, (some - k) * sizeof(T));
            }
        }
    }

    // Some lanes abreast: an addition to a cell waits for the one before to the same cell.
    template <bool FLAT>
    void send_lanes(const Tensor& to, T* first, int64_t lane, int64_t cell, int64_t place, int64_t c, int64_t lanes) {
        constexpr int ABREAST = 2;
        for (; lanes >= ABREAST; lanes -= ABREAST, c += ABREAST, first += ABREAST * lane)
            send_some_lanes<ABREAST, FLAT>(to, first, lane, cell, place, c);
        for (; lanes > 0; lanes--, c++, first += lane) send_some_lanes<1, FLAT>(to, first, lane, cell, place, c);
    }

    template <int K, bool FLAT>
    void send_some_lanes(const Tensor& to, T* first, int64_t lane, int64_t cell, int64_t place, int64_t c) {
        int64_t width = to.width, row = to.row;
        T* lanes[K];
#pragma unroll
        for (int i = 0; i < K; i++) lanes[i] = first + i * lane;
        for (int k = 0; k < pyramid.count; k++) {
            const Level& l = pyramid.levels[k];
            int64_t bins = int64_t(l.n) * l.n, start = bins_of(l, place, c);
            const CellNumber<F>* winner = winners + start;
            const T* more = pooled + start;
            for (int64_t b = 0; b < bins; b++)
#pragma unroll
                for (int i = 0; i < K; i++) {
                    int64_t at = winner[b + i * bins].number;
                    at = FLAT ? at * cell : at / width * row + at % width * cell;
                    add_to(lanes[i] + at, more[b + i * bins]);
                }
        }
    }

    // `width` is 0 where the winners are rows and columns.
    void add_gradient(
        const Tensor& to, T* image, int64_t width, int64_t place, int64_t c, int64_t used, int64_t skip, Bench<T>& bench
    ) {
        int64_t lane = lane_stride(to);
        for (Pooled<F>* block = bench.pooled; used > 0; block++, c += N, used -= N)
            for (int k = 0; k < pyramid.count; k++) {
                const Level& l = pyramid.levels[k];
                int64_t count = min(used, int64_t(N)), bins = int64_t(l.n) * l.n;
                Vec<F>* gradient = block->values + l.first_bin;
                copy_bins(l, place, c, count, pooled, bench.staged + skip * bins, false);
                take_in<F>(bench.staged, bins, gradient);
                T* first = image + (c - skip) * lane;
                send_back<F>(*block, l, gradient, skip, skip + count, first, lane, to.row, to.cell, width);
            }
    }

    void spread_gradient(const Tensor& to, T* image, int64_t place, int64_t c, int64_t used, Bench<T>& bench) {
        Vec<F>* values = bench.pooled->values;
        for (int k = 0; k < pyramid.count; k++) {
            const Level& l = pyramid.levels[k];
            copy_bins(l, place, c, used, pooled, bench.staged, false);
            take_in<F>(bench.staged, int64_t(l.n) * l.n, values + l.first_bin);
        }
        divide_by_cells<F>(pyramid, bench.bounds, values);
        for (int64_t y = 0; y < to.height; y++) {
            spread_row<F>(pyramid, y, to.width, bench.bounds, values, bench.band);
            T* row = image + c * lane_stride(to) + y * to.row;
            unpack_cells(bench.band, to.width, int(used), row, lane_stride(to), to.cell);
        }
    }
};
