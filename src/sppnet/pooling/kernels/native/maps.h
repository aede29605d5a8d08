// Whole maps of any sizes: one task is one block of channels of one image.
#pragma once

#include "layout.h"
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

// What a thread needs to pool a view.
template <class T> struct Bench {
    using F = typename ComputeOf<T>::F;
    Arena arena;
    Bounds bounds;
    F* band;
    Pooled<F>* pooled;  // of each block
    typename Vectors<F>::Int* staged_cells;
    T* staged;          // one level of one block, as the pooled vector has it

    Bench(const Pyramid& pyramid, int64_t widest, int blocks, bool winners) {
        bounds.row_edges = arena.take<Edges>(pyramid.sides);
        bounds.column_edges = arena.take<Edges>(pyramid.sides);
        bounds.columns = arena.take<Columns>(pyramid.count);
        bounds.row_bins = arena.take<RowBins>(pyramid.count);
        int* numbers = arena.take<int>(2 * pyramid.sides);
        band = arena.take<F>(max(widest, BAND_CELLS) * LANES<F>);
        staged = arena.take<T>((pyramid.bins + 1) * LANES<F>);
        staged_cells = winners ? arena.take<typename Vectors<F>::Int>((pyramid.bins + 1) * LANES<F>) : nullptr;
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

// Add the gradient of the bins of a level to the cells that won them, in lanes start to end.
template <class F, class T>
inline void send_back(
    const Pooled<F>& pooled, const Level& l, const Vec<F>* gradient, int64_t start, int64_t end, T* to,
    int64_t channel, int64_t row, int64_t cell
) {
    using Int = typename Vectors<F>::Int;
    for (int64_t b = 0; b < int64_t(l.n) * l.n; b++) {
        const Int* rows = (const Int*)(pooled.rows + l.first_bin + b);
        const Int* columns = (const Int*)(pooled.columns + l.first_bin + b);
        const F* more = (const F*)(gradient + b);
        for (int64_t c = start; c < end; c++) add_to(to + c * channel + rows[c] * row + columns[c] * cell, more[c]);
    }
}

template <class T, bool MEAN> struct MapsWork {
    using F = typename ComputeOf<T>::F;
    using Int = typename Vectors<F>::Int;
    static constexpr int N = LANES<F>, MOST_BLOCKS = 16;
    const Pyramid& pyramid;
    const Tensor* maps;
    const Tensor* gradients;  // zeros to add to; null: forward
    int64_t channels, images, widest;
    bool folded;    // the images of a batch with few channels lie side by side in the lanes
    int64_t planes; // lanes of an image, or of the whole batch
    int64_t group;  // lanes of a task
    T* pooled;      // (images of all maps, channels * bins): written, or the gradient to send back
    Int* winners;   // of the same shape, y * width + x of each maximum: written, or read; or null

    MapsWork(
        const Pyramid& pyramid, const Tensor* maps, const Tensor* gradients, int64_t count, T* pooled,
        void* winners, int64_t threads
    )
        : pyramid(pyramid), maps(maps), gradients(gradients), channels(maps[0].channels), images(0), widest(1),
          folded(false), planes(channels), group(MOST_BLOCKS * N), pooled(pooled), winners((Int*)winners) {
        for (int64_t i = 0; i < count; i++) {
            images += maps[i].images;
            widest = max(widest, maps[i].width);
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
    Bench<T> start() { return Bench<T>(pyramid, widest, int(group / N), gradients || winners); }

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
                pool<WINNERS>(view, c - skip, used, blocks, bench);
                write(place, c, used, skip, bench);
                write_winners(map->width, place, c, used, skip, bench);
            } else if (winners) {
                send_to_winners(*to, to_image, place, c, used);
            } else {
                pool<WINNERS>(view, c - skip, used, blocks, bench);
                add_gradient(*to, to_image, place, c, used, skip, bench);
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

    template <Mode M>
    void pool(const View<T>& view, int64_t c, int64_t used, int blocks, Bench<T>& bench) {
        if (blocks)
            pool_blocks<T, M>(pyramid, view, c, blocks, bench.bounds, bench.pooled);
        else
            pool_view<T, M>(pyramid, view, c, int(used), bench.bounds, bench.band, *bench.pooled);
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

    void write_winners(int64_t width, int64_t place, int64_t c, int64_t used, int64_t skip, Bench<T>& bench) {
        for (Pooled<F>* block = bench.pooled; used > 0; block++, c += N, used -= N)
            for (int k = 0; k < pyramid.count; k++) {
                const Level& l = pyramid.levels[k];
                int64_t bins = int64_t(l.n) * l.n;
                IntVec<F>* cells = block->rows + l.first_bin;
                for (int64_t b = 0; b < bins; b++) cells[b] = cells[b] * Int(width) + block->columns[l.first_bin + b];
                lay_out<F>((const Vec<F>*)cells, bins, (F*)bench.staged_cells);
                copy_bins(l, place, c, min(used, int64_t(N)), winners, bench.staged_cells + skip * bins, true);
            }
    }

    // Add the gradient of bins whose winners are known, plane by plane.
    void send_to_winners(const Tensor& to, T* image, int64_t place, int64_t c, int64_t used) {
        bool flat = to.row == to.width * to.cell;
        for (int64_t lane = c; lane < c + used; lane++) {
            T* plane = image + lane * lane_stride(to);
            for (int k = 0; k < pyramid.count; k++) {
                const Level& l = pyramid.levels[k];
                int64_t first = bins_of(l, place, lane);
                for (int64_t b = first; b < first + int64_t(l.n) * l.n; b++) {
                    int64_t cell = winners[b];
                    if (!flat) cell = cell / to.width * to.row + cell % to.width * to.cell;
                    add_to(plane + (flat ? cell * to.cell : cell), pooled[b]);
                }
            }
        }
    }

    void add_gradient(
        const Tensor& to, T* image, int64_t place, int64_t c, int64_t used, int64_t skip, Bench<T>& bench
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
                send_back<F>(*block, l, gradient, skip, skip + count, first, lane, to.row, to.cell);
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
