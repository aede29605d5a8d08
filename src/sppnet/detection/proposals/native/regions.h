// What is known of regions: how large they are, where they lie, which colours and gradients they hold.
#pragma once

#include "segmentation.h"

// Bins of one channel's colour, and of its gradient in each of four directions: 96 and 156, whole vectors of 32 lanes.
constexpr int COLOUR_BINS = 32, GRADIENT_REACH = 6, GRADIENT_BINS = 2 * GRADIENT_REACH + 1;
constexpr int GRADIENTS = 4, KINDS = 1 + GRADIENTS;
constexpr int COLOURS = 3 * COLOUR_BINS, BINS = 256;
constexpr uint32_t WHOLE = 65535;  // what the shares of colours add up to, and those of gradients

struct Region {
    int32_t x0, y0, x1, y1, size;

    int64_t area() const { return int64_t(x1 - x0) * (y1 - y0); }
};

inline Region enclose(const Region& a, const Region& b) {
    return {
        a.x0 < b.x0 ? a.x0 : b.x0, a.y0 < b.y0 ? a.y0 : b.y0, a.x1 > b.x1 ? a.x1 : b.x1, a.y1 > b.y1 ? a.y1 : b.y1,
        a.size + b.size
    };
}

typedef uint16_t Shares __attribute__((vector_size(64), may_alias));
constexpr int LANES = sizeof(Shares) / sizeof(uint16_t);

// Pixels in each bin: exact, so that the order in which regions are joined changes nothing.
struct Counts {
    int32_t bins[BINS];

    void add(const Counts& other) {
        for (int i = 0; i < BINS; i++) bins[i] += other.bins[i];
    }
};

// The same as shares of the region, rounded down.
struct Profile {
    Shares shares[BINS / LANES];

    void take(const Counts& counts, int32_t size) {
        uint16_t* to = (uint16_t*)shares;
        float colour = WHOLE / (3.0f * size), gradient = WHOLE / (3.0f * GRADIENTS * size);
        for (int i = 0; i < COLOURS; i++) to[i] = uint16_t(counts.bins[i] * colour);
        for (int i = COLOURS; i < BINS; i++) to[i] = uint16_t(counts.bins[i] * gradient);
    }
};

// How much two regions share, of WHOLE: their colours, or their gradients.
inline uint32_t shared(const Profile& a, const Profile& b, bool colours) {
    int first = colours ? 0 : COLOURS / LANES, end = colours ? COLOURS / LANES : BINS / LANES;
    Shares sums = {};
    for (int i = first; i < end; i++) sums += a.shares[i] < b.shares[i] ? a.shares[i] : b.shares[i];
    uint32_t total = 0;
    for (int lane = 0; lane < LANES; lane++) total += sums[lane];
    return total;
}

struct RegionTable {
    Arena arena;
    Region* regions = nullptr;
    Counts* counts = nullptr;
    int32_t count = 0;

    // So many regions without a pixel; false without memory.
    bool reserve(int32_t regions_wanted) {
        count = regions_wanted;
        regions = arena.take<Region>(count), counts = arena.take<Counts>(count);
        if (arena.failed) return false;
        for (int32_t i = 0; i < count; i++) regions[i] = {INT32_MAX, INT32_MAX, 0, 0, 0};
        memset(counts, 0, count * sizeof(Counts));
        return true;
    }
    void add(int32_t to, const Region& region) { regions[to] = enclose(regions[to], region); }
    void add(int32_t to, const Region& region, const Counts& more) {
        add(to, region);
        counts[to].add(more);
    }
};

inline uint8_t colour_bin(float value) {
    int bin = int(value * (COLOUR_BINS / 256.0f));
    return uint8_t(bin < 0 ? 0 : bin < COLOUR_BINS ? bin : COLOUR_BINS - 1);
}

// Bins of one sign on each side of the bin of no gradient, which is as wide as they are.
inline uint8_t gradient_bin(float scaled) {
    int bin = int(scaled + (GRADIENT_REACH + 0.5f));
    return uint8_t(bin < 0 ? 0 : bin < GRADIENT_BINS ? bin : GRADIENT_BINS - 1);
}

// One row of a channel with its neighbours, and the bins of its pixels.
struct Row {
    const float *above, *here, *below;
    int64_t width;

    Row(const Planes& planes, int channel, int64_t y) : width(planes.width) {
        const float* first = planes.channels[channel];
        here = first + y * width;
        above = y ? here - width : here, below = y + 1 < planes.height ? here + width : here;
    }
    float across(int64_t x) const { return here[x + 1 < width ? x + 1 : x] - here[x ? x - 1 : x]; }
    float down(int64_t x) const { return below[x] - above[x]; }
    float strongest() const {
        float found = 0;
        for (int64_t x = 0; x < width; x++) found = greatest(found, greatest(fabsf(across(x)), fabsf(down(x))));
        return found;
    }
    void fill_bins(float scale, uint8_t* bins) const {
        const float half = 0.70710678f * scale;
        for (int64_t x = 0; x < width; x++) {
            float right = across(x), under = down(x);
            bins[x] = colour_bin(here[x]);
            bins[width + x] = gradient_bin(scale * right);
            bins[2 * width + x] = gradient_bin(scale * under);
            bins[3 * width + x] = gradient_bin(half * (right + under));
            bins[4 * width + x] = gradient_bin(half * (under - right));
        }
    }
};

// Where the bins of each kind begin: three channels' colours, then three channels' gradients.
inline int first_bin(int channel, int kind) {
    return kind ? COLOURS + (channel * GRADIENTS + kind - 1) * GRADIENT_BINS : channel * COLOUR_BINS;
}

// Measure all segments of an image. Gradients are counted against the strongest of their channel.
inline bool measure_segments(const Planes& planes, const Segments& segments, RegionTable& table) {
    Arena arena;
    int64_t width = planes.width;
    uint8_t* bins = arena.take<uint8_t>(KINDS * width);
    if (arena.failed || !table.reserve(segments.count)) return false;
    for (int channel = 0; channel < 3; channel++) {
        float strongest = 1e-3f;
        for (int64_t y = 0; y < planes.height; y++) strongest = greatest(strongest, Row(planes, channel, y).strongest());
        for (int64_t y = 0; y < planes.height; y++) {
            const int32_t* labels = segments.labels + y * width;
            Row(planes, channel, y).fill_bins(GRADIENT_REACH / strongest, bins);
            for (int64_t x = 0; x < width; x++) {
                int32_t* counts = table.counts[labels[x]].bins;
                for (int kind = 0; kind < KINDS; kind++) counts[first_bin(channel, kind) + bins[kind * width + x]]++;
            }
        }
    }
    for (int64_t i = 0; i < planes.pixels(); i++) {
        int32_t x = int32_t(i % width), y = int32_t(i / width);
        table.add(segments.labels[i], {x, y, x + 1, y + 1, 1});
    }
    return true;
}
