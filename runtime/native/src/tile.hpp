// The innermost block of a ring product: M rows by Tile<T>::columns columns held in registers.
#pragma once

#include "path.hpp"

#if defined(__AVX2__)
#include "tile_avx2.hpp"
#else

namespace SRC_PATH {

template <class T>
struct Tile {
    static constexpr size_t rows = 4;
    static constexpr size_t columns = 32 / sizeof(T);

    // c (M, columns) = a (M, k) · b (k, columns), or c += ..; strides in elements.
    template <size_t M>
    static void run(size_t k, const T *a, ptrdiff_t a_row, ptrdiff_t a_col, const T *b,
                    ptrdiff_t b_row, T *c, size_t c_row, bool add) {
        T sum[M][columns] = {};
        for (size_t p = 0; p < k; p++, a += a_col, b += b_row)
            for (size_t i = 0; i < M; i++)
                for (size_t j = 0; j < columns; j++)
                    sum[i][j] += a[static_cast<ptrdiff_t>(i) * a_row] * b[j];
        for (size_t i = 0; i < M; i++)
            for (size_t j = 0; j < columns; j++)
                c[i * c_row + j] = sum[i][j] + (add ? c[i * c_row + j] : 0);
    }
};

}  // namespace SRC_PATH

#endif
