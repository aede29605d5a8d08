// Between bins of vectors of channels and the pooled vector, where a channel's bins lie together.
#pragma once

#include "bins.h"
#include "lanes.h"

// (bins, LANES) -> (LANES, bins). Bins in quarters of a tile and rests run over into the next row, and are written
// before it: `to` needs LANES elements to spare.
template <class F, class T> inline void lay_out(const Vec<F>* values, int64_t bins, T* to) {
    constexpr int N = LANES<F>;
    if (bins == 1) return store(to, values[0]);
    int64_t whole = bins / N * N;
    for (int64_t b = whole + (bins - whole - 1) / 4 * 4; b >= whole; b -= 4) {
        Vec<F> quad[4];
        for (int i = 0; i < 4; i++) quad[i] = b + i < bins ? values[b + i] : Vec<F>{};
        transpose_quads<F>(quad);
        store_quads<F>(to + b, bins, quad, typename CountTo<N / 4>::All());
    }
    for (int64_t b = whole - N; b >= 0; b -= N) {
        Vec<F> tile[N];
        for (int i = 0; i < N; i++) tile[i] = values[b + i];
        transpose<F>(tile);
        for (int c = 0; c < N; c++) store(to + c * bins + b, tile[c]);
    }
}

// (LANES, bins) -> (bins, LANES), the way back. Reads LANES elements past the end.
template <class F, class T> inline void take_in(const T* from, int64_t bins, Vec<F>* values) {
    constexpr int N = LANES<F>;
    if (bins == 1) {
        values[0] = load(from);
        return;
    }
    int64_t whole = bins / N * N;
    for (int64_t b = 0; b < whole; b += N) {
        Vec<F> tile[N];
        for (int c = 0; c < N; c++) tile[c] = load(from + c * bins + b);
        transpose<F>(tile);
        for (int i = 0; i < N; i++) values[b + i] = tile[i];
    }
    for (int64_t b = whole; b < bins; b += 4) {
        Vec<F> quad[4];
        load_quads<F>(from + b, bins, quad);
        transpose_quads<F>(quad);
        for (int i = 0; i < 4 && b + i < bins; i++) values[b + i] = quad[i];
    }
}

// Copy past the caches where whole lines are written: the output is far larger than they are.
inline void stream_out(void* to, const void* from, int64_t bytes) {
    typedef int64_t Line __attribute__((vector_size(64)));
    if ((uintptr_t)to % 64 || bytes % 64) {
        memcpy(to, from, bytes);
        return;
    }
    for (int64_t i = 0; i < bytes / 64; i++) {
        Line line;
        memcpy(&line, (const char*)from + i * 64, 64);
        __builtin_nontemporal_store(line, (Line*)to + i);
    }
}
