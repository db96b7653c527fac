// Register tiles with AVX2, which multiplies 32-bit integers only.
#pragma once

#include <immintrin.h>

#include "path.hpp"

namespace SRC_PATH {

template <class T>
struct Tile;

template <>
struct Tile<uint32_t> {
    static constexpr size_t rows = 6;
    static constexpr size_t vector = 8;  // columns in a vector
    static constexpr size_t columns = 16;
    static constexpr bool copy_left = false;  // rather than read its rows where they are

    // c (M, C·vector) = a (M, k) · b (k, C·vector), or c += ..; strides in elements.
    // The last arguments, what to fetch ahead, are not used: products are slower than memory here.
    template <size_t M, size_t C>
    static void run(size_t k, const uint32_t *a, ptrdiff_t a_row, ptrdiff_t a_col,
                    const uint32_t *b, ptrdiff_t b_row, uint32_t *c, size_t c_row, bool add,
                    const uint32_t *, size_t) {
        __m256i sum[M][C];
        for (size_t i = 0; i < M; i++)
            for (size_t v = 0; v < C; v++) sum[i][v] = _mm256_setzero_si256();
        for (size_t p = 0; p < k; p++, a += a_col, b += b_row) {
            __m256i y[C];
            for (size_t v = 0; v < C; v++)
                y[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(b + 8 * v));
            for (size_t i = 0; i < M; i++) {
                __m256i x =
                    _mm256_set1_epi32(static_cast<int>(a[static_cast<ptrdiff_t>(i) * a_row]));
                for (size_t v = 0; v < C; v++)
                    sum[i][v] = _mm256_add_epi32(sum[i][v], _mm256_mullo_epi32(x, y[v]));
            }
        }
        for (size_t i = 0; i < M; i++)
            for (size_t v = 0; v < C; v++) {
                __m256i *to = reinterpret_cast<__m256i *>(c + i * c_row + 8 * v);
                __m256i y = sum[i][v];
                if (add) y = _mm256_add_epi32(y, _mm256_loadu_si256(to));
                _mm256_storeu_si256(to, y);
            }
    }
};

template <>
struct Tile<uint64_t> {
    static constexpr size_t rows = 3;
    static constexpr size_t vector = 4;
    static constexpr size_t columns = 8;
    static constexpr bool copy_left = false;  // rather than read its rows where they are

    // With a = a1·2^32 + a0 and b alike: a·b = a0·b0 + 2^32·(a0·b1 + a1·b0) mod 2^64. One vpmulld
    // of a with b's halves swapped gives both cross terms: only their low 32 bits matter.
    template <size_t M, size_t C>
    static void run(size_t k, const uint64_t *a, ptrdiff_t a_row, ptrdiff_t a_col,
                    const uint64_t *b, ptrdiff_t b_row, uint64_t *c, size_t c_row, bool add,
                    const uint64_t *, size_t) {
        __m256i low[M][C], cross[M][C];
        for (size_t i = 0; i < M; i++)
            for (size_t v = 0; v < C; v++) low[i][v] = cross[i][v] = _mm256_setzero_si256();
        for (size_t p = 0; p < k; p++, a += a_col, b += b_row) {
            for (size_t v = 0; v < C; v++) {
                __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(b + 4 * v));
                __m256i swapped = _mm256_shuffle_epi32(y, 0xb1);
                for (size_t i = 0; i < M; i++) {
                    __m256i x = _mm256_set1_epi64x(
                        static_cast<int64_t>(a[static_cast<ptrdiff_t>(i) * a_row]));
                    low[i][v] = _mm256_add_epi64(low[i][v], _mm256_mul_epu32(x, y));
                    cross[i][v] = _mm256_add_epi32(cross[i][v], _mm256_mullo_epi32(x, swapped));
                }
            }
        }
        for (size_t i = 0; i < M; i++)
            for (size_t v = 0; v < C; v++) {
                __m256i *to = reinterpret_cast<__m256i *>(c + i * c_row + 4 * v);
                __m256i both = _mm256_add_epi32(cross[i][v], _mm256_slli_epi64(cross[i][v], 32));
                __m256i high = _mm256_and_si256(both, _mm256_set1_epi64x(~0xffffffffLL));
                __m256i y = _mm256_add_epi64(low[i][v], high);
                if (add) y = _mm256_add_epi64(y, _mm256_loadu_si256(to));
                _mm256_storeu_si256(to, y);
            }
    }
};

}  // namespace SRC_PATH
