// Proposals from the segmentation of an image and the grouping of its segments. See ../graph.py.
#include "../../../pooling/kernels/native/exported.h"
#include "grouping.h"

namespace {

struct Image {
    const uint8_t* rgb;  // three planes
    int64_t height, width;
};

// What is looked at: each colour space, segmented with each k, grouped with colour and without.
struct Plan {
    const int64_t* spaces;
    int64_t space_count;
    const float* ks;  // the smallest first
    int64_t k_count;

    int64_t runs() const { return space_count * k_count * 2; }
};

struct Stateless {
    bool ready() const { return true; }
};

// One colour space, with the smallest k.
struct Segmentation {
    Segments segments;
    RegionTable table;
};

struct SegmentingWork {
    Image image;
    Plan plan;
    Segmentation* results;

    Stateless start() { return {}; }
    bool run(int64_t task, Stateless&) {
        Arena arena;
        Planes planes(arena, image.height, image.width);
        if (arena.failed) return false;
        fill_planes(image.rgb, Space(plan.spaces[task]), planes);
        Segmentation& result = results[task];
        return smooth(planes) && segment_pixels(planes, plan.ks[0], result.segments) &&
               measure_segments(planes, result.segments, result.table);
    }
};

// Join a space's segments as the k of a run says; `numbers` gets the new segment of each.
bool join_regions(const Segmentation& from, float k, bool same_k, int32_t* numbers, RegionTable& joined) {
    const RegionTable& parts = from.table;
    int32_t count = parts.count;
    for (int32_t i = 0; i < count; i++) numbers[i] = i;
    if (!same_k) count = join_segments(from.segments, parts.regions, k, numbers);
    if (!count || !joined.reserve(count)) return false;
    for (int32_t i = 0; i < parts.count; i++) {
        joined.add(numbers[i], parts.regions[i]);
        joined.counts[numbers[i]].add(parts.counts[i]);
    }
    return true;
}

struct GroupingWork {
    Plan plan;
    int64_t pixels;
    const Segmentation* segmentations;
    List<Window>* results;

    Stateless start() { return {}; }
    bool run(int64_t task, Stateless&) {
        int64_t k = task / 2 % plan.k_count;
        const Segmentation& from = segmentations[task / 2 / plan.k_count];
        Arena arena;
        RegionTable joined;
        int32_t* numbers = arena.take<int32_t>(from.table.count);
        List<Edge> borders;
        if (arena.failed || !join_regions(from, plan.ks[k], k == 0, numbers, joined)) return false;
        if (!keep_first_edges(from.segments.borders, numbers, borders)) return false;
        Grouping grouping(joined, pixels, task % 2 == 0);
        for (int64_t e = 0; e < borders.count && !grouping.failed(); e++) grouping.touch(borders[e].a, borders[e].b);
        return grouping.run(int32_t(task), results[task]);
    }
};

}  // namespace

// Writes at most `room` windows, run after run, and tells how many there are; -1 without memory.
EXPORTED int64_t sppnet_graph_windows(
    const uint8_t* rgb, int64_t height, int64_t width, const int64_t* spaces, int64_t space_count, const float* ks,
    int64_t k_count, int64_t threads, Window* windows, int64_t room
) {
    constexpr int64_t MOST_RUNS = 64;
    Plan plan = {spaces, space_count, ks, k_count};
    if (plan.runs() > MOST_RUNS) return -1;
    Segmentation segmentations[MOST_RUNS / 2];
    List<Window> results[MOST_RUNS];
    SegmentingWork segmenting = {{rgb, height, width}, plan, segmentations};
    if (run_parallel(segmenting, space_count, threads)) return -1;
    GroupingWork grouping = {plan, height * width, segmentations, results};
    if (run_parallel(grouping, plan.runs(), threads)) return -1;
    int64_t count = 0;
    for (int64_t run = 0; run < plan.runs(); run++)
        for (int64_t i = 0; i < results[run].count; i++, count++)
            if (count < room) windows[count] = results[run][i];
    return count;
}
