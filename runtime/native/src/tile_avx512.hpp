// Register tiles with AVX-512, which multiplies 64-bit integers too (vpmullq, of AVX512DQ).
//
// Zen 4 multiplies on two of its four vector pipes and adds on any of them. If products and sums
// alternate, sums take the multipliers' turns: 0.75 of their rate is reached. So eight products are
// formed in a row, then eight sums, which the processor spreads over the other pipes: 0.93.
#pragma once

#include <immintrin.h>

#include "path.hpp"

namespace SRC_PATH {

template <class T>
struct Lanes;

template <>
struct Lanes<uint32_t> {
    static __m512i all(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
    static __m512i add(__m512i x, __m512i y) { return _mm512_add_epi32(x, y); }
    static __m512i mul(__m512i x, __m512i y) { return _mm512_mullo_epi32(x, y); }
};

template <>
struct Lanes<uint64_t> {
    static __m512i all(uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
    static __m512i add(__m512i x, __m512i y) { return _mm512_add_epi64(x, y); }
    static __m512i mul(__m512i x, __m512i y) { return _mm512_mullo_epi64(x, y); }
};

// Keeps the compiler from moving a sum in front of these products. No instruction.
inline __attribute__((always_inline)) void together(__m512i (&x)[8]) {
    asm volatile(""
                 : "+v"(x[0]), "+v"(x[1]), "+v"(x[2]), "+v"(x[3]), "+v"(x[4]), "+v"(x[5]),
                   "+v"(x[6]), "+v"(x[7]));
}

template <class T>
struct Tile {
    static constexpr size_t rows = 8;
    static constexpr size_t vector = 64 / sizeof(T);  // columns in a vector
    static constexpr size_t columns = 2 * vector;
    static constexpr bool copy_left = true;  // rather than read its rows where they are

    // c (M, C·vector) = a (M, k) · b (k, C·vector), or c += ..; strides in elements;
    // `ahead`: what to fetch into L2 meanwhile, so many elements for each p. Every loop
    // over rows or vectors is unrolled at once: otherwise GCC 12 keeps the sums in memory.
    template <size_t M, size_t C>
    static void run(size_t k, const T *a, ptrdiff_t a_row, ptrdiff_t a_col, const T *b,
                    ptrdiff_t b_row, T *c, size_t c_row, bool add, const T *ahead,
                    size_t ahead_step) {
        constexpr size_t group = M * C < 8 ? M : 8 / C;  // rows whose products come together
        __m512i sum[M][C];
#pragma GCC unroll 16
        for (size_t i = 0; i < M; i++)
#pragma GCC unroll 16
            for (size_t v = 0; v < C; v++) sum[i][v] = _mm512_setzero_si512();
        for (size_t p = 0; p < k; p++, a += a_col, b += b_row, ahead += ahead_step) {
            __builtin_prefetch(ahead, 0, 2);
            __m512i y[C], product[8];
#pragma GCC unroll 16
            for (size_t v = 0; v < C; v++) y[v] = _mm512_loadu_si512(b + v * vector);
#pragma GCC unroll 16
            for (size_t first = 0; first < M; first += group) {
#pragma GCC unroll 16
                for (size_t i = 0; i < group; i++) {
                    __m512i x = Lanes<T>::all(a[static_cast<ptrdiff_t>(first + i) * a_row]);
#pragma GCC unroll 16
                    for (size_t v = 0; v < C; v++) product[i * C + v] = Lanes<T>::mul(x, y[v]);
                }
                if constexpr (group * C == 8) together(product);
#pragma GCC unroll 16
                for (size_t i = 0; i < group; i++)
#pragma GCC unroll 16
                    for (size_t v = 0; v < C; v++)
                        sum[first + i][v] = Lanes<T>::add(sum[first + i][v], product[i * C + v]);
            }
        }
#pragma GCC unroll 16
        for (size_t i = 0; i < M; i++)
#pragma GCC unroll 16
            for (size_t v = 0; v < C; v++) {
                T *to = c + i * c_row + v * vector;
                __m512i z = sum[i][v];
                if (add) z = Lanes<T>::add(z, _mm512_loadu_si512(to));
                _mm512_storeu_si512(to, z);
            }
    }
};

}  // namespace SRC_PATH
