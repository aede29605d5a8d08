// Vectors of 64 bytes: one lane is one channel. The compiler lowers them to what the processor has.
#pragma once

#include <stdint.h>
#include <string.h>

struct Half {
    _Float16 bits;
};
struct Brain {
    uint16_t bits;
};

// The same elements, to be summed in double.
template <class T> struct Summed {
    T element;
};

// F is the type of the arithmetic: float for 16-bit maps, which it holds exactly.
template <class T> struct ComputeOf {
    using F = float;
};
template <> struct ComputeOf<double> {
    using F = double;
};
template <class T> struct ComputeOf<Summed<T>> {
    using F = double;
};

// The number of a cell, which a lane of F holds in its bits.
template <class G> struct CellNumber {
    uint16_t number;
};
template <class G> struct ComputeOf<CellNumber<G>> {
    using F = G;
};

template <class F> struct Vectors;
template <> struct Vectors<float> {
    typedef float V __attribute__((vector_size(64), may_alias));
    typedef int32_t I __attribute__((vector_size(64), may_alias));
    using Int = int32_t;
};
template <> struct Vectors<double> {
    typedef double V __attribute__((vector_size(64), may_alias));
    typedef int64_t I __attribute__((vector_size(64), may_alias));
    using Int = int64_t;
};

template <class F> using Vec = typename Vectors<F>::V;
template <class F> using IntVec = typename Vectors<F>::I;
template <class F> constexpr int LANES = 64 / sizeof(F);

typedef _Float16 Half16 __attribute__((vector_size(32)));
typedef uint16_t Short16 __attribute__((vector_size(32)));
typedef uint32_t Word16 __attribute__((vector_size(64)));

inline Vec<float> load(const float* p) {
    Vec<float> v;
    memcpy(&v, p, sizeof v);
    return v;
}
inline Vec<double> load(const double* p) {
    Vec<double> v;
    memcpy(&v, p, sizeof v);
    return v;
}
inline Vec<float> load(const Half* p) {
    Half16 v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, Vec<float>);
}
inline Vec<float> load(const Brain* p) {
    Short16 v;
    memcpy(&v, p, sizeof v);
    Word16 wide = __builtin_convertvector(v, Word16) << 16;
    Vec<float> f;
    memcpy(&f, &wide, sizeof f);
    return f;
}

inline void store(float* p, Vec<float> v) { memcpy(p, &v, sizeof v); }
inline void store(double* p, Vec<double> v) { memcpy(p, &v, sizeof v); }
inline void store(Half* p, Vec<float> v) {
    Half16 narrow = __builtin_convertvector(v, Half16);
    memcpy(p, &narrow, sizeof narrow);
}
inline void store(Brain* p, Vec<float> v) {  // to the nearest, ties to even; a NaN stays one
    Word16 bits;
    memcpy(&bits, &v, sizeof bits);
    Word16 rounded = bits + (0x7fff + ((bits >> 16) & 1));
    Word16 nan = bits | 0x400000;
    Word16 kept = (Word16)(v != v) ? nan : rounded;
    Short16 narrow = __builtin_convertvector(kept >> 16, Short16);
    memcpy(p, &narrow, sizeof narrow);
}

template <class F> inline void store(CellNumber<F>* p, Vec<F> v) {
    using Numbers = uint16_t __attribute__((vector_size(2 * LANES<F>)));
    Numbers numbers = __builtin_convertvector((IntVec<F>)v, Numbers);
    memcpy(p, &numbers, sizeof numbers);
}

typedef float Float8 __attribute__((vector_size(32)));

template <class T> inline Vec<double> load(const Summed<T>* p) {
    if constexpr (sizeof(T) == sizeof(double)) return load((const double*)p);
    T padded[LANES<float>] = {};
    memcpy(padded, p, LANES<double> * sizeof(T));
    Vec<float> v = load(padded);
    return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7), Vec<double>);
}
template <class T> inline void store(Summed<T>* p, Vec<double> v) {
    if constexpr (sizeof(T) == sizeof(double)) {
        store((double*)p, v);
    } else {
        Float8 half = __builtin_convertvector(v, Float8);
        T padded[LANES<float>];
        store(padded, __builtin_shufflevector(half, half, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7));
        memcpy(p, padded, LANES<double> * sizeof(T));
    }
}

// A part of a vector; what is missing is zero.
template <class T> inline Vec<typename ComputeOf<T>::F> load_some(const T* p, int count) {
    T padded[LANES<typename ComputeOf<T>::F>] = {};
    memcpy(padded, p, count * sizeof(T));
    return load(padded);
}
template <class T> inline void store_some(T* p, Vec<typename ComputeOf<T>::F> v, int count) {
    T padded[LANES<typename ComputeOf<T>::F>];
    store(padded, v);
    memcpy(p, padded, count * sizeof(T));
}

template <int... K> struct Indices {};
template <int N, int... K> struct CountTo : CountTo<N - 1, N - 1, K...> {};
template <int... K> struct CountTo<0, K...> {
    using All = Indices<K...>;
};

template <int H, class V, int... K> inline void swap_halves(V& a, V& b, Indices<K...>) {
    constexpr int N = sizeof...(K);
    V upper = __builtin_shufflevector(a, b, ((K & H) ? N + K - H : K)...);
    b = __builtin_shufflevector(a, b, ((K & H) ? N + K : K + H)...);
    a = upper;
}

template <int H, class F> inline void transpose_from(Vec<F>* rows) {
    constexpr int N = LANES<F>;
    if constexpr (H < N) {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (!(i & H)) swap_halves<H>(rows[i], rows[i | H], typename CountTo<N>::All());
        transpose_from<2 * H, F>(rows);
    }
}

// Transpose LANES vectors in place.
template <class F> inline void transpose(Vec<F>* rows) { transpose_from<1, F>(rows); }

// Transpose the squares of 4 x 4 that lie side by side in four vectors.
template <class F> inline void transpose_quads(Vec<F>* rows) {
    using All = typename CountTo<LANES<F>>::All;
    swap_halves<1>(rows[0], rows[1], All());
    swap_halves<1>(rows[2], rows[3], All());
    swap_halves<2>(rows[0], rows[2], All());
    swap_halves<2>(rows[1], rows[3], All());
}

template <class F> using Quad = F __attribute__((vector_size(4 * sizeof(F))));

// Elements 4 * Q .. 4 * Q + 3 of a vector.
template <int Q, class F, class T> inline void store_quad(T* p, Vec<F> v) {
    Quad<F> part = __builtin_shufflevector(v, v, 4 * Q, 4 * Q + 1, 4 * Q + 2, 4 * Q + 3);
    if constexpr (sizeof(T) == sizeof(F)) {
        memcpy(p, &part, sizeof part);
    } else {
        Vec<F> spread = {part[0], part[1], part[2], part[3]};
        store_some(p, spread, 4);
    }
}

// Row c of `to` gets the four bins of channel c.
template <class F, class T, int... Q>
inline void store_quads(T* to, int64_t stride, const Vec<F>* quads, Indices<Q...>) {
    for (int i = 0; i < 4; i++) (store_quad<Q, F>(to + (4 * Q + i) * stride, quads[i]), ...);
}

// The way back: four bins of every channel, a square of channels in each vector.
template <class F, class T> inline void load_quads(const T* from, int64_t stride, Vec<F>* quads) {
    constexpr int N = LANES<F>;
    T gathered[4][N];
    for (int c = 0; c < N; c++) memcpy(&gathered[c % 4][c / 4 * 4], from + c * stride, 4 * sizeof(T));
    for (int i = 0; i < 4; i++) quads[i] = load(gathered[i]);
}
