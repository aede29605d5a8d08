// Spatial pyramid pooling for processors. See cpu.py for what each function takes.
#include "exported.h"
#include "maps.h"
#include "regions.h"

namespace {

enum Kind { FLOAT32, FLOAT64, FLOAT16, BFLOAT16 };
enum { MAXIMUM, MEAN };

struct OwnPyramid {
    Arena arena;
    Pyramid pyramid;
    OwnPyramid(const int64_t* levels, int64_t count, bool unite) {
        Level* table = arena.take<Level>(count);
        int* order = arena.take<int>(count);
        if (!arena.failed) fill_pyramid(pyramid, levels, int(count), unite, table, order);
    }
};

template <bool B> struct Flag {
    static constexpr bool value = B;
};

template <class T, class Call> int for_mode(int64_t mode, Call call) {
    return mode == MAXIMUM ? call(T(), Flag<false>()) : call(Summed<T>(), Flag<true>());
}

template <class Call> int for_kind(int64_t kind, int64_t mode, Call call) {
    switch (kind) {
        case FLOAT32: return for_mode<float>(mode, call);
        case FLOAT64: return for_mode<double>(mode, call);
        case FLOAT16: return for_mode<Half>(mode, call);
        case BFLOAT16: return for_mode<Brain>(mode, call);
    }
    return 2;
}

int pool_maps(
    int64_t kind, const Tensor* maps, const Tensor* gradients, int64_t count, const int64_t* levels,
    int64_t level_count, int64_t mode, void* pooled, void* winners, int64_t threads
) {
    OwnPyramid own(levels, level_count, mode == MAXIMUM);
    if (own.arena.failed) return 1;
    return for_kind(kind, mode, [&](auto sample, auto mean) {
        using T = decltype(sample);
        MapsWork<T, decltype(mean)::value> work(own.pyramid, maps, gradients, count, (T*)pooled, winners, threads);
        return run_parallel(work, work.tasks(), threads);
    });
}

int pool_regions(
    int64_t kind, const Tensor* maps, const Tensor* gradients, int64_t count, const Region* regions,
    int64_t region_count, const int64_t* levels, int64_t level_count, int64_t mode, void* pooled,
    int64_t threads
) {
    OwnPyramid own(levels, level_count, mode == MAXIMUM);
    RegionLists lists(maps, count, regions, region_count);
    if (own.arena.failed || lists.arena.failed) return 1;
    return for_kind(kind, mode, [&](auto sample, auto mean) {
        using T = decltype(sample);
        RegionsWork<T, decltype(mean)::value> work(own.pyramid, lists, maps, gradients, (T*)pooled, threads);
        if (work.arena.failed) return 1;
        return run_parallel(work, work.tasks(), threads);
    });
}

int score_regions(
    int64_t kind, const Tensor* maps, int64_t count, const Region* regions, int64_t region_count,
    const int64_t* levels, int64_t level_count, const void* weights, int64_t columns, void* scores, int64_t threads
) {
    OwnPyramid own(levels, level_count, true);
    RegionLists lists(maps, count, regions, region_count);
    if (own.arena.failed || lists.arena.failed) return 1;
    return for_kind(kind, MAXIMUM, [&](auto sample, auto mean) {
        using Work = RegionsWork<decltype(sample), decltype(mean)::value>;
        using F = typename Work::F;
        int64_t size = region_count * columns, blocks = (maps[0].channels + Work::N - 1) / Work::N;
        Arena arena;
        F* sums = arena.take<F>(blocks * size);
        if (arena.failed) return 1;
        Work work(own.pyramid, lists, maps, nullptr, nullptr, threads, {(const F*)weights, columns, sums});
        if (work.arena.failed) return 1;
        int failed = run_parallel(work, work.tasks(), threads);
        for (int64_t i = 0; i < size && !failed; i++) {
            F sum = 0;
            for (int64_t block = 0; block < blocks; block++) sum += sums[block * size + i];
            ((F*)scores)[i] = sum;
        }
        return failed;
    });
}

// Fault fresh memory in, in order: windows written here and there would do it far slower.
struct FreshMemory {
    static constexpr int64_t PIECE = int64_t(4) << 20, PAGE = 4096;
    char* first;
    int64_t bytes;
    struct State {
        bool ready() const { return true; }
    };
    State start() { return {}; }
    bool run(int64_t piece, State&) {
        int64_t end = min(bytes, (piece + 1) * PIECE);
        for (int64_t i = piece * PIECE; i < end; i += PAGE) ((volatile char*)first)[i] = 0;
        return true;
    }
};

}  // namespace

// `gradients` null: write `pooled`. Otherwise `pooled` is a gradient, to be added to those of the maps. `winners` are the
// cells of whole maps that hold the maxima, written with them and read with their gradient; or null.
EXPORTED int sppnet_pool_maps(
    int64_t kind, const Tensor* maps, const Tensor* gradients, int64_t count, const int64_t* levels,
    int64_t level_count, int64_t mode, void* pooled, void* winners, int64_t threads
) {
    return pool_maps(kind, maps, gradients, count, levels, level_count, mode, pooled, winners, threads);
}

// Whether gradients sent to winners overwrite what lay there: zeros are then not needed.
EXPORTED int sppnet_overwrites(const Tensor* gradients, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!is_near(gradients[i])) return 0;
    return 1;
}

EXPORTED int sppnet_pool_regions(
    int64_t kind, const Tensor* maps, const Tensor* gradients, int64_t count, const Region* regions,
    int64_t region_count, const int64_t* levels, int64_t level_count, int64_t mode, void* pooled, int64_t threads
) {
    return pool_regions(
        kind, maps, gradients, count, regions, region_count, levels, level_count, mode, pooled, threads
    );
}

// (regions, columns) products of the maxima with `weights`; both in float for the halves.
EXPORTED int sppnet_score_regions(
    int64_t kind, const Tensor* maps, int64_t count, const Region* regions, int64_t region_count,
    const int64_t* levels, int64_t level_count, const void* weights, int64_t columns, void* scores, int64_t threads
) {
    return score_regions(
        kind, maps, count, regions, region_count, levels, level_count, weights, columns, scores, threads
    );
}

EXPORTED int sppnet_touch(void* start, int64_t bytes, int64_t threads) {
    advise_large_pages(start, bytes);
    FreshMemory memory = {(char*)start, bytes};
    return run_parallel(memory, (bytes + FreshMemory::PIECE - 1) / FreshMemory::PIECE, threads);
}
