// Felzenszwalb and Huttenlocher's segmentation of a graph: of pixels, and of the segments that this gives.
#pragma once

#include "colours.h"
#include "lists.h"

// Differences of colour are counted in steps of 1 / 32, so that edges are sorted by counting.
constexpr int STEPS = 32, WEIGHTS = 1 << 14;

struct Edge {
    int32_t a, b, weight;
};

// Trees of joined nodes. A join needs an edge no longer than either tree's longest edge + k / size.
struct Forest {
    Arena arena;
    int32_t *parents, *sizes, *longest;
    float* bounds;
    float k;

    Forest(int64_t nodes, float k) : k(k * STEPS) {
        parents = arena.take<int32_t>(nodes), sizes = arena.take<int32_t>(nodes);
        longest = arena.take<int32_t>(nodes), bounds = arena.take<float>(nodes);
    }
    void plant(int64_t node, int32_t size, int32_t edge) {
        parents[node] = int32_t(node), sizes[node] = size, longest[node] = edge;
        bounds[node] = edge + k / size;
    }
    int32_t root(int32_t node) {
        for (; parents[node] != node; node = parents[node]) parents[node] = parents[parents[node]];
        return node;
    }
    void join(int32_t a, int32_t b, int32_t edge) {
        int32_t kept = sizes[a] < sizes[b] ? b : a, gone = kept == a ? b : a;
        parents[gone] = kept;
        plant(kept, sizes[a] + sizes[b], edge);
    }
    // Whether the edge is of no use any more.
    bool take(Edge edge) {
        int32_t a = root(edge.a), b = root(edge.b);
        if (a == b) return true;
        if (edge.weight > bounds[a] || edge.weight > bounds[b]) return false;
        join(a, b, edge.weight);
        return true;
    }
    // Whether the edge is of no use any more.
    bool join_if_small(Edge edge, int32_t least_size) {
        int32_t a = root(edge.a), b = root(edge.b);
        if (a == b) return true;
        if (sizes[a] >= least_size && sizes[b] >= least_size) return false;
        join(a, b, longest[sizes[a] < sizes[b] ? b : a]);
        return true;
    }
};

// Number the trees in the order of their first nodes; tells how many there are, 0 without memory.
inline int32_t number_trees(Forest& forest, int64_t nodes, int32_t* labels) {
    Arena arena;
    int32_t *numbers = arena.take<int32_t>(nodes), count = 0;
    if (arena.failed) return 0;
    for (int64_t i = 0; i < nodes; i++) numbers[i] = -1;
    for (int64_t i = 0; i < nodes; i++) {
        int32_t& number = numbers[forest.root(int32_t(i))];
        if (number < 0) number = count++;
        labels[i] = number;
    }
    return count;
}

// Segments of an image, their longest inner edges, and the shortest edge between any two that touch, shortest first.
struct Segments {
    Arena arena;
    int32_t *labels = nullptr, *longest = nullptr, count = 0;
    List<Edge> borders;
};

// Right, down, down and right, up and right.
constexpr int DIRECTIONS = 4, RIGHT[DIRECTIONS] = {1, 0, 1, 1}, DOWN[DIRECTIONS] = {0, 1, 1, -1};

// Lengths of the edges of one direction, those at the border left as they are.
inline void measure_edges(const Planes& planes, int direction, uint16_t* weights) {
    int64_t width = planes.width, step = DOWN[direction] * width + RIGHT[direction];
    int64_t first = DOWN[direction] < 0, last = planes.height - (DOWN[direction] > 0);
    const float *one = planes.channels[0], *two = planes.channels[1], *three = planes.channels[2];
    for (int64_t y = first; y < last; y++)
        for (int64_t i = y * width; i < (y + 1) * width - RIGHT[direction]; i++) {
            float a = one[i] - one[i + step], b = two[i] - two[i + step], c = three[i] - three[i + step];
            float length = STEPS * sqrtf(a * a + b * b + c * c);
            weights[i] = uint16_t(length < WEIGHTS - 1 ? length : WEIGHTS - 1);
        }
}

// Edges of a grid of pixels by length; of equal ones by their first pixel, then by their direction.
struct SortedEdges {
    static constexpr uint16_t NONE = UINT16_MAX;
    Arena arena;
    int64_t width;
    int32_t* codes;  // first pixel * DIRECTIONS + direction
    int64_t starts[WEIGHTS + 1] = {};

    explicit SortedEdges(const Planes& planes) : width(planes.width) {
        int64_t n = planes.pixels();
        codes = arena.take<int32_t>(DIRECTIONS * n);
        uint16_t* weights = arena.take<uint16_t>(DIRECTIONS * n);
        if (arena.failed) return;
        memset(weights, 255, DIRECTIONS * n * sizeof *weights);
        for (int d = 0; d < DIRECTIONS; d++) measure_edges(planes, d, weights + d * n);
        for (int64_t i = 0; i < DIRECTIONS * n; i++)
            if (weights[i] != NONE) starts[weights[i] + 1]++;
        for (int w = 0; w < WEIGHTS; w++) starts[w + 1] += starts[w];
        for (int64_t i = 0; i < n; i++)
            for (int d = 0; d < DIRECTIONS; d++)
                if (uint16_t w = weights[d * n + i]; w != NONE) codes[starts[w]++] = int32_t(i * DIRECTIONS + d);
        for (int w = WEIGHTS; w; w--) starts[w] = starts[w - 1];
        starts[0] = 0;
    }
    template <class Call> void for_each(Call call) const {
        for (int w = 0; w < WEIGHTS; w++)
            for (int64_t e = starts[w]; e < starts[w + 1]; e++) {
                int32_t a = codes[e] / DIRECTIONS, d = codes[e] % DIRECTIONS;
                call(Edge{a, int32_t(a + DOWN[d] * width + RIGHT[d]), w});
            }
    }
};

// Of the edges between two segments keep the first, which is the shortest.
// The labels of edges' ends take their places.
inline bool keep_first_edges(const List<Edge>& edges, const int32_t* labels, List<Edge>& kept) {
    Arena arena;
    int64_t room = 256;
    while (room < 2 * edges.count) room *= 2;
    uint64_t* seen = arena.take<uint64_t>(room);
    if (arena.failed) return false;
    memset(seen, 0, room * sizeof *seen);
    for (int64_t e = 0; e < edges.count; e++) {
        uint64_t a = labels[edges.items[e].a], b = labels[edges.items[e].b];
        if (a == b) continue;
        if (a > b) a ^= b, b ^= a, a ^= b;
        uint64_t pair = a << 32 | b;  // b > 0, so that 0 is free to mean nobody
        int64_t place = int64_t(pair * 0x9E3779B97F4A7C15 >> 20) & (room - 1);
        while (seen[place] && seen[place] != pair) place = (place + 1) & (room - 1);
        if (seen[place]) continue;
        seen[place] = pair;
        kept.add({int32_t(a), int32_t(b), edges.items[e].weight});
    }
    return !kept.failed;
}

inline bool segment_pixels(const Planes& planes, float k, Segments& segments) {
    int64_t n = planes.pixels();
    SortedEdges edges(planes);
    Forest forest(n, k);
    List<Edge> left;
    segments.labels = segments.arena.take<int32_t>(n);
    if (edges.arena.failed || forest.arena.failed || segments.arena.failed) return false;
    for (int64_t i = 0; i < n; i++) forest.plant(i, 1, 0);
    edges.for_each([&](Edge edge) {
        if (!forest.take(edge)) left.add(edge);
    });
    int64_t kept = 0;
    for (int64_t e = 0; e < left.count; e++)
        if (!forest.join_if_small(left[e], int32_t(k))) left[kept++] = left[e];
    left.count = kept;
    segments.count = number_trees(forest, n, segments.labels);
    segments.longest = segments.arena.take<int32_t>(segments.count);
    if (left.failed || segments.arena.failed || !segments.count) return false;
    for (int64_t i = 0; i < n; i++) segments.longest[segments.labels[i]] = forest.longest[forest.root(int32_t(i))];
    return keep_first_edges(left, segments.labels, segments.borders);
}

// Join segments with a larger k; `numbers` gets the new segment of each. Tells how many there are, 0 without memory.
template <class Sized>
inline int32_t join_segments(const Segments& segments, const Sized* sized, float k, int32_t* numbers) {
    Forest forest(segments.count, k);
    if (forest.arena.failed) return 0;
    for (int32_t i = 0; i < segments.count; i++) forest.plant(i, sized[i].size, segments.longest[i]);
    const List<Edge>& borders = segments.borders;
    for (int64_t e = 0; e < borders.count; e++) forest.take(borders.items[e]);
    for (int64_t e = 0; e < borders.count; e++) forest.join_if_small(borders.items[e], int32_t(k));
    return number_trees(forest, segments.count, numbers);
}
