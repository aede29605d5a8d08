// Bins of coarse levels from those of finer ones that they are made of.
#pragma once

#include "bins.h"
#include "lanes.h"

// Greater value, or the earlier cell of equals.
template <class F> inline void take_better(Vec<F>& best, IntVec<F>& at, Vec<F> value, IntVec<F> cell) {
    IntVec<F> wins = (value > best) | ((value == best) & (cell < at));
    best = wins ? value : best;
    at = wins ? cell : at;
}

// Unions of a finer level's bins.
template <class F, bool AT>
inline void unite_level(
    const Level& l, int finer_n, const Vec<F>* finer, const IntVec<F>* finer_winners, Vec<F>* values,
    IntVec<F>* winners
) {
    for (int i = 0; i < l.n; i++)
        for (int j = 0; j < l.n; j++) {
            int64_t first = int64_t(i) * l.ratio * finer_n + j * l.ratio;
            Vec<F> best = finer[first];
            IntVec<F> at = {};
            if constexpr (AT) at = finer_winners[first];
            for (int p = 0; p < l.ratio; p++)
                for (int q = 0; q < l.ratio; q++) {
                    int64_t part = first + int64_t(p) * finer_n + q;
                    if constexpr (AT)
                        take_better<F>(best, at, finer[part], finer_winners[part]);
                    else
                        best = finer[part] > best ? finer[part] : best;
                }
            values[i * l.n + j] = best;
            if constexpr (AT) winners[i * l.n + j] = at;
        }
}
