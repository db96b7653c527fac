// The innermost block of a ring product: M rows by C vectors of columns, held in registers.
#pragma once

#include "path.hpp"

#if defined(__AVX512DQ__)
#include "tile_avx512.hpp"
#elif defined(__AVX2__)
#include "tile_avx2.hpp"
#else

namespace SRC_PATH {

template <class T>
struct Tile {
    static constexpr size_t rows = 4;
    static constexpr size_t vector = 16 / sizeof(T);  // columns in a vector
    static constexpr size_t columns = 2 * vector;
    static constexpr bool copy_left = false;  // rather than read its rows where they are

    // c (M, C·vector) = a (M, k) · b (k, C·vector), or c += ..; strides in elements.
    // The last arguments, what to fetch ahead, are not used: products are slower than memory here.
    template <size_t M, size_t C>
    static void run(size_t k, const T *a, ptrdiff_t a_row, ptrdiff_t a_col, const T *b,
                    ptrdiff_t b_row, T *c, size_t c_row, bool add, const T *, size_t) {
        constexpr size_t N = C * vector;
        T sum[M][N] = {};
        for (size_t p = 0; p < k; p++, a += a_col, b += b_row) {
            for (size_t i = 0; i < M; i++)
                for (size_t j = 0; j < N; j++)
                    sum[i][j] += a[static_cast<ptrdiff_t>(i) * a_row] * b[j];
        }
        for (size_t i = 0; i < M; i++)
            for (size_t j = 0; j < N; j++)
                c[i * c_row + j] = sum[i][j] + (add ? c[i * c_row + j] : 0);
    }
};

}  // namespace SRC_PATH

#endif
