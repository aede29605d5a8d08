// Where the bins of a pyramid lie: bin i of n along a side is floor(i * side / n) up to ceil((i + 1) * side / n).
#pragma once

#include <stdint.h>

template <class A> inline A max(A a, A b) { return a > b ? a : b; }
template <class A> inline A min(A a, A b) { return a < b ? a : b; }

struct Edges {
    int64_t start, end;
};

struct Level {
    int n;
    int finer;   // a finer level whose bins unite to this one's exactly, or -1
    int ratio;   // bins of it along a side of a bin
    int64_t first_bin;   // of this level among the bins of all levels
    int64_t first_side;  // the same along a side
};

struct Pyramid {
    int count;
    int64_t bins, sides;
    Level* levels;
    int* finest_first;  // order in which every finer level comes before its unions
};

// Only maxima unite: bins of one level share cells where they do not divide the side.
inline void fill_pyramid(
    Pyramid& pyramid, const int64_t* n, int count, bool unite, Level* levels, int* order
) {
    pyramid = {count, 0, 0, levels, order};
    for (int i = 0; i < count; i++) {
        levels[i] = {int(n[i]), -1, 1, pyramid.bins, pyramid.sides};
        pyramid.bins += n[i] * n[i];
        pyramid.sides += n[i];
    }
    for (int i = 0; i < count; i++)  // the coarsest of the finer ones: the fewest parts
        for (int k = 0; k < count; k++) {
            bool nests = unite && levels[k].n > levels[i].n && levels[k].n % levels[i].n == 0;
            if (nests && (levels[i].finer < 0 || levels[k].n < levels[levels[i].finer].n)) {
                levels[i].finer = k;
                levels[i].ratio = levels[k].n / levels[i].n;
            }
        }
    for (int i = 0; i < count; i++) order[i] = i;
    for (int i = 1; i < count; i++)
        for (int k = i; k > 0 && levels[order[k]].n > levels[order[k - 1]].n; k--) {
            int swapped = order[k];
            order[k] = order[k - 1];
            order[k - 1] = swapped;
        }
}

inline void fill_edges(const Pyramid& pyramid, int64_t side, Edges* edges) {
    for (int l = 0; l < pyramid.count; l++) {
        int64_t n = pyramid.levels[l].n;
        for (int64_t i = 0; i < n; i++)
            edges[pyramid.levels[l].first_side + i] = {i * side / n, ((i + 1) * side + n - 1) / n};
    }
}
