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

// Unions of squares of R x R bins, values alone.
template <int R, class F> inline void unite_squares(int n, int finer_n, const Vec<F>* finer, Vec<F>* values) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const Vec<F>* first = finer + i * R * finer_n + j * R;
            Vec<F> best = first[0];
#pragma unroll
            for (int part = 1; part < R * R; part++) {
                Vec<F> value = first[part / R * finer_n + part % R];
                best = value > best ? value : best;
            }
            *values++ = best;
        }
}

// Unions of a finer level's bins.
template <class F, bool AT>
inline void unite_level(
    const Level& l, int finer_n, const Vec<F>* finer, const IntVec<F>* finer_winners, Vec<F>* values,
    IntVec<F>* winners
) {
    if constexpr (!AT) {
        if (l.ratio == 2) return unite_squares<2, F>(l.n, finer_n, finer, values);
        if (l.ratio == 3) return unite_squares<3, F>(l.n, finer_n, finer, values);
    }
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
