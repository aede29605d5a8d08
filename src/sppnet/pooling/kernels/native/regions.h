// Many windows of maps: one task is one block of channels of one image, with all or some of its windows.
#pragma once

#include "layout.h"
#include "maps.h"
#include "parallel.h"
#include "tables.h"

// The distinct windows of each image, and where in the output each belongs.
struct RegionLists {
    Arena arena;
    int64_t images = 0, count;
    const Region* regions;
    const Tensor** map_of;   // (images)
    int64_t* image_in_map;   // (images)
    int64_t* first;          // (images + 1) into `distinct`
    int64_t* distinct;       // one row of each window that is there
    int64_t* next;           // the next row of the same window, or -1

    RegionLists(const Tensor* maps, int64_t map_count, const Region* regions, int64_t count)
        : count(count), regions(regions) {
        for (int64_t i = 0; i < map_count; i++) images += maps[i].images;
        map_of = arena.take<const Tensor*>(images);
        image_in_map = arena.take<int64_t>(images);
        first = arena.take<int64_t>(images + 1);
        distinct = arena.take<int64_t>(count);
        next = arena.take<int64_t>(count);
        int64_t slots = int64_t(4) << floor_log2(count + 1);
        int64_t* slot = arena.take<int64_t>(slots);
        char* repeated = arena.take<char>(count);
        if (arena.failed) return;
        for (int64_t i = 0, image = 0; i < map_count; i++)
            for (int64_t k = 0; k < maps[i].images; k++, image++)
                map_of[image] = maps + i, image_in_map[image] = k;
        link_equal_rows(slot, slots, repeated);
    }

  private:
    static bool same(const Region& a, const Region& b) { return memcmp(&a, &b, sizeof a) == 0; }

    static uint64_t hash(const Region& r) {
        const int64_t sides[5] = {r.map, r.x0, r.y0, r.x1, r.y1};
        uint64_t h = 0;
        for (int i = 0; i < 5; i++) h = (h ^ uint64_t(sides[i])) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
        return h;
    }

    void link_equal_rows(int64_t* slot, int64_t slots, char* repeated) {
        uint64_t mask = uint64_t(slots - 1);
        memset(repeated, 0, count);
        for (int64_t i = 0; i < slots; i++) slot[i] = -1;
        for (int64_t i = 0; i <= images; i++) first[i] = 0;
        for (int64_t r = count - 1; r >= 0; r--) {  // backwards, so that chains go forwards
            uint64_t at = hash(regions[r]) & mask;
            while (slot[at] >= 0 && !same(regions[slot[at]], regions[r])) at = (at + 1) & mask;
            next[r] = slot[at];
            if (slot[at] >= 0)
                repeated[slot[at]] = 1;
            else
                first[regions[r].map + 1]++;
            slot[at] = r;
        }
        for (int64_t i = 0; i < images; i++) first[i + 1] += first[i];
        for (int64_t r = 0; r < count; r++)
            if (!repeated[r]) distinct[first[regions[r].map]++] = r;
        for (int64_t i = images; i > 0; i--) first[i] = first[i - 1];
        first[0] = 0;
    }
};

// How the windows of one image are pooled: whichever loads the fewest vectors.
struct ImagePlan {
    enum Way { FROM_MAP, FROM_PACKED, FROM_TABLES } way;
    TableSet needed, tables;
    int64_t cells, direct, covered[CAPS];  // vectors to load from the map, and from tables of each cap

    int64_t by_tables(int cap) const { return needed.completed(cap).count * cells + covered[cap]; }
};

// Largest scratch of one thread, bytes. Larger maps are read where they lie.
constexpr int64_t SCRATCH_LIMIT = int64_t(1) << 30;

inline ImagePlan count_loads(const Pyramid& pyramid, const RegionLists& lists, int64_t image) {
    const Tensor& map = *lists.map_of[image];
    ImagePlan plan = {};
    plan.cells = map.height * map.width;
    for (int64_t k = lists.first[image]; k < lists.first[image + 1]; k++) {
        const Region& r = lists.regions[lists.distinct[k]];
        int64_t height = r.y1 - r.y0, width = r.x1 - r.x0;
        for (int l = 0; l < pyramid.count; l++) {
            if (pyramid.levels[l].finer >= 0) continue;
            int64_t n = pyramid.levels[l].n;
            plan.direct += 5 * height * width / 2;  // a cell with its rows and merges costs more than one load
            plan.needed.need(exponents(height, n), exponents(width, n));
            for (int cap = 0; cap < CAPS; cap++)
                plan.covered[cap] += n * n * windows_along(height / n + 1, cap) * windows_along(width / n + 1, cap);
        }
    }
    return plan;
}

inline void choose_way(ImagePlan& plan, int cap, int64_t bytes_per_cell, bool mean, bool backward) {
    plan.tables = plan.needed.completed(cap);
    int64_t limit = SCRATCH_LIMIT / bytes_per_cell;
    bool no_tables = mean || plan.direct <= plan.by_tables(cap) || plan.tables.count * plan.cells > limit;
    if (plan.cells > limit || (plan.direct <= plan.cells && !backward))
        plan.way = ImagePlan::FROM_MAP;
    else
        plan.way = no_tables ? ImagePlan::FROM_PACKED : ImagePlan::FROM_TABLES;
}

// Products of the pooled vectors with a few columns, in place of the vectors: nothing large is written. Every block of
// channels has sums of its own, so that the order of additions does not depend on the threads.
template <class F> struct Products {
    const F* weights = nullptr;  // (channels * bins, columns), ordered as the vectors; null: the vectors are wanted
    int64_t columns = 0;
    F* sums = nullptr;           // (blocks of channels, regions, columns)
};

// Sums of (bins) values times (COLUMNS, bins) weights, lane by lane, each in PARTS: an addition waits for the one before.
template <int COLUMNS, int PARTS, class V> inline void multiply_bins(const V* values, const V* weights, int64_t bins, V* sums) {
    V parts[COLUMNS][PARTS] = {};
    int64_t b = 0;
    for (; b + PARTS <= bins; b += PARTS)
        for (int k = 0; k < COLUMNS; k++)
            for (int i = 0; i < PARTS; i++) parts[k][i] += values[b + i] * weights[k * bins + b + i];
    for (; b < bins; b++)
        for (int k = 0; k < COLUMNS; k++) parts[k][0] += values[b] * weights[k * bins + b];
    for (int k = 0; k < COLUMNS; k++) {
        sums[k] = parts[k][0];
        for (int i = 1; i < PARTS; i++) sums[k] += parts[k][i];
    }
}

// The sum of the first lanes; the others may hold anything.
template <class F> inline F add_lanes(const Vec<F>& lanes, int used) {
    F parts[LANES<F>];
    for (int i = 0; i < LANES<F>; i++) parts[i] = i < used ? lanes[i] : 0;
    for (int half = LANES<F> / 2; half; half /= 2)
        for (int i = 0; i < half; i++) parts[i] += parts[i + half];
    return parts[0];
}

template <class T, bool MEAN> struct RegionsWork {
    using F = typename ComputeOf<T>::F;
    static constexpr int N = LANES<F>;
    const Pyramid& pyramid;
    const RegionLists& lists;
    const Tensor* maps;
    const Tensor* gradients;  // zeros to add to; null: forward
    T* pooled;                // (regions, channels * bins): written, or the gradient to send back
    Products<F> products;
    int64_t channels, parts = 1;
    int64_t widest = 1, largest_map = 1, largest_tables = 1, longest_side = 0;
    Arena arena;
    ImagePlan* plans;
    Covers covers;

    struct State : Bench<T> {
        Tables<F> tables;
        IntVec<F>* winners;
        F* gradient;
        Vec<F>* weights;  // (columns, bins) of one block of channels
        State(const RegionsWork& work) : Bench<T>(work.pyramid, work.widest, 1, work.gradients) {
            Arena& own = this->arena;
            tables.first_values = own.template take<F>(work.largest_tables * N);
            tables.first_winners = work.gradients ? own.template take<IntVec<F>>(work.largest_tables) : nullptr;
            winners = work.gradients ? own.template take<IntVec<F>>(work.pyramid.bins) : nullptr;
            gradient = work.gradients ? own.template take<F>(work.largest_map * N) : nullptr;
            weights = own.template take<Vec<F>>(work.products.columns * work.pyramid.bins);
        }
    };

    RegionsWork(
        const Pyramid& pyramid, const RegionLists& lists, const Tensor* maps, const Tensor* gradients, T* pooled,
        int64_t threads, Products<F> products = {}
    )
        : pyramid(pyramid), lists(lists), maps(maps), gradients(gradients), pooled(pooled), products(products),
          channels(maps[0].channels) {
        plans = arena.take<ImagePlan>(lists.images);
        if (arena.failed) return;
        int64_t costs[CAPS] = {};
        for (int64_t i = 0; i < lists.images; i++) {
            plans[i] = count_loads(pyramid, lists, i);
            for (int k = 0; k < CAPS; k++) costs[k] += plans[i].by_tables(k);
        }
        int cap = CAPS - 1;
        for (int k = CAPS - 1; k >= 0; k--)
            if (costs[k] < costs[cap]) cap = k;
        for (int64_t i = 0; i < lists.images; i++) {
            const Tensor& map = *lists.map_of[i];
            choose_way(plans[i], cap, (gradients ? 2 : 1) * N * sizeof(F), MEAN, gradients);
            widest = max(widest, map.width);
            if (plans[i].way == ImagePlan::FROM_MAP) continue;
            bool tables = plans[i].way == ImagePlan::FROM_TABLES;
            largest_map = max(largest_map, plans[i].cells);
            largest_tables = max(largest_tables, plans[i].cells * (tables ? plans[i].tables.count : 1));
            if (tables) longest_side = max(longest_side, max(map.height, map.width));
        }
        covers.rows = arena.take<Cover>((longest_side + 1) * pyramid.sides);
        covers.columns = arena.take<Cover>((longest_side + 1) * pyramid.sides);
        for (int64_t side = 1; side <= longest_side && !arena.failed; side++) {
            fill_covers(pyramid, side, cap, 1, covers.rows + side * pyramid.sides);
            fill_covers(pyramid, side, cap, N, covers.columns + side * pyramid.sides);
        }
        int64_t tasks = lists.images * blocks();  // few channels of one image still keep all threads busy
        if (!gradients && tasks) parts = (2 * threads + tasks - 1) / tasks;
    }
    int64_t blocks() const { return (channels + N - 1) / N; }
    int64_t tasks() const { return lists.images * blocks() * parts; }
    State start() { return State(*this); }

    bool run(int64_t task, State& state) {
        int64_t image = task / parts / blocks(), c = task / parts % blocks() * N, part = task % parts;
        int64_t first = lists.first[image], count = lists.first[image + 1] - first;
        const int64_t* rows = lists.distinct + first + count * part / parts;
        const int64_t* end = lists.distinct + first + count * (part + 1) / parts;
        if (rows == end) return true;
        int used = int(min(channels - c, int64_t(N)));
        take_weights(c, used, state);
        const Tensor& map = *lists.map_of[image];
        View<T> whole = view_image<T>(map, lists.image_in_map[image]);
        const Tensor* to = gradients ? gradients + (&map - maps) : nullptr;
        T* to_image = to ? (T*)to->data + lists.image_in_map[image] * to->image + c * to->channel : nullptr;
        if (plans[image].way == ImagePlan::FROM_MAP) {
            if (MEAN && to) return false;  // a gradient that touches every cell needs its block of them
            for (; rows < end; rows++)
                pool_view_of(whole, *rows, c, used, used, c, state, to_image, to ? *to : map);
            return true;
        }
        F* cells = state.tables.first_values;
        pack_view(whole, c, used, cells);
        if (to) memset(state.gradient, 0, map.height * map.width * N * sizeof(F));
        bool tables = plans[image].way == ImagePlan::FROM_TABLES && !has_special(cells, map.height * map.width);
        if (tables) fill_tables<F>(state.tables, plans[image].tables, map.height, map.width, to);
        View<F> packed = {cells, map.height, map.width, 1, map.width * N, N};
        Tensor block = {nullptr, 1, N, map.height, map.width, 0, 1, map.width * N, N};
        for (; rows < end; rows++)
            if (tables)
                pool_from_tables(*rows, c, used, state);
            else
                pool_view_of(packed, *rows, 0, N, used, c, state, state.gradient, block);
        if (to)
            for (int64_t y = 0; y < map.height; y++)
                unpack_cells(
                    state.gradient + y * map.width * N, map.width, used, to_image + y * to->row, to->channel, to->cell
                );
        return true;
    }

    // One window by reading `count` channels of its cells from `view_c` on, of which `used` are those from c on of the
    // map; `to` is where the map's gradient lies, with the strides of `place`.
    template <class V, class G>
    void pool_view_of(
        const View<V>& map, int64_t row, int64_t view_c, int count, int used, int64_t c, State& state, G* to,
        const Tensor& place
    ) {
        const Region& r = lists.regions[row];
        View<V> window = map;
        window.base += r.y0 * map.row + r.x0 * map.cell;
        window.height = r.y1 - r.y0, window.width = r.x1 - r.x0;
        fill_bounds(pyramid, window.height, window.width, state.bounds);
        if (!gradients) {
            pool_view<V, MEAN ? SUMS : MAXIMA>(
                pyramid, window, view_c, count, state.bounds, state.band, *state.pooled
            );
            if constexpr (MEAN)
                divide_by_cells<F>(pyramid, state.bounds, state.pooled->values);
            write(row, c, used, state);
            return;
        }
        if constexpr (MEAN) {
            to += r.y0 * place.row + r.x0 * place.cell;
            spread(row, c, used, state, window.height, window.width, (F*)to, place.row);
            return;
        }
        pool_view<V, WINNERS>(pyramid, window, view_c, count, state.bounds, state.band, *state.pooled);
        to += r.y0 * place.row + r.x0 * place.cell;
        for_each_gradient(row, c, used, state, [&](const Level& l, const Vec<F>* gradient) {
            send_back<F>(*state.pooled, l, gradient, 0, used, to, place.channel, place.row, place.cell);
        });
    }

    // The gradient of means to the block of cells of the map, for every row of this window.
    void spread(
        int64_t row, int64_t c, int used, State& state, int64_t height, int64_t width, F* to, int64_t row_stride
    ) {
        Vec<F>* values = state.pooled->values;
        for (int64_t r = row; r >= 0; r = lists.next[r]) {
            for (int k = 0; k < pyramid.count; k++) take_level(pyramid.levels[k], r, c, used, state);
            divide_by_cells<F>(pyramid, state.bounds, values);
            for (int64_t y = 0; y < height; y++) {
                spread_row<F>(pyramid, y, width, state.bounds, values, state.band);
                for (int64_t i = 0; i < width * N; i += N)
                    store(to + y * row_stride + i, load(to + y * row_stride + i) + load(state.band + i));
            }
        }
    }

    void pool_from_tables(int64_t row, int64_t c, int used, State& state) {
        const Region& r = lists.regions[row];
        if (!gradients) {
            pool_region<F, false>(pyramid, state.tables, covers, r, state.pooled->values, nullptr);
            write(row, c, used, state);
            return;
        }
        pool_region<F, true>(pyramid, state.tables, covers, r, state.pooled->values, state.winners);
        for_each_gradient(row, c, used, state, [&](const Level& l, const Vec<F>* gradient) {
            for (int64_t b = 0; b < int64_t(l.n) * l.n; b++) {
                auto at = (const typename Vectors<F>::Int*)(state.winners + l.first_bin + b);
                const F* more = (const F*)(gradient + b);
                for (int k = 0; k < N; k++) state.gradient[int64_t(at[k]) * N + k] += more[k];
            }
        });
    }

    // The columns' weights for one block of channels.
    void take_weights(int64_t c, int used, State& state) {
        for (int64_t k = 0; k < products.columns; k++)
            for (int i = 0; i < pyramid.count; i++) {
                const Level& l = pyramid.levels[i];
                int64_t bins = int64_t(l.n) * l.n;
                for (int64_t b = 0; b < bins; b++) {
                    Vec<F> lanes = {};
                    for (int lane = 0; lane < used; lane++)
                        lanes[lane] =
                            products.weights[(channels * l.first_bin + (c + lane) * bins + b) * products.columns + k];
                    state.weights[k * pyramid.bins + l.first_bin + b] = lanes;
                }
            }
    }

    // The products of the pooled bins, for all rows of this window.
    void multiply(int64_t row, int64_t c, int used, State& state) {
        constexpr int MANY = 8;
        for (int64_t k = 0, some; k < products.columns; k += some) {
            Vec<F> lanes[MANY] = {};
            bool many = k + MANY <= products.columns;
            some = many ? MANY : 1;
            const Vec<F>* weights = state.weights + k * pyramid.bins;
            if (many)
                multiply_bins<MANY, 1>(state.pooled->values, weights, pyramid.bins, lanes);
            else
                multiply_bins<1, 4>(state.pooled->values, weights, pyramid.bins, lanes);
            for (int64_t i = 0; i < some; i++) {
                F sum = add_lanes<F>(lanes[i], used);
                for (int64_t r = row; r >= 0; r = lists.next[r])
                    products.sums[(c / N * lists.count + r) * products.columns + k + i] = sum;
            }
        }
    }

    // The pooled bins, or their products, into all rows of this window.
    void write(int64_t row, int64_t c, int used, State& state) {
        if (products.weights) return multiply(row, c, used, state);
        for (int k = 0; k < pyramid.count; k++) {
            const Level& l = pyramid.levels[k];
            int64_t bins = int64_t(l.n) * l.n;
            lay_out<F>(state.pooled->values + l.first_bin, bins, state.staged);
            for (int64_t r = row; r >= 0; r = lists.next[r]) {
                T* to = pooled + r * channels * pyramid.bins + channels * l.first_bin + c * bins;
                stream_out(to, state.staged, used * bins * sizeof(T));
            }
        }
    }

    // The gradient of the bins of every row of this window, level by level.
    template <class Send> void for_each_gradient(int64_t row, int64_t c, int used, State& state, Send send) {
        for (int64_t r = row; r >= 0; r = lists.next[r])
            for (int k = 0; k < pyramid.count; k++) {
                take_level(pyramid.levels[k], r, c, used, state);
                send(pyramid.levels[k], state.pooled->values + pyramid.levels[k].first_bin);
            }
    }

    void take_level(const Level& l, int64_t row, int64_t c, int used, State& state) {
        int64_t bins = int64_t(l.n) * l.n;
        const T* from = pooled + row * channels * pyramid.bins + channels * l.first_bin + c * bins;
        memcpy(state.staged, from, used * bins * sizeof(T));  // what is left of other channels is not used
        take_in<F>(state.staged, bins, state.pooled->values + l.first_bin);
    }
};
