// The blocked ring product behind matmul and conv2d, for any source of the right operand.
#pragma once

#include "tile.hpp"

namespace SRC_PATH {

constexpr size_t depth_block = 256;  // rows of the right operand in a panel: it stays in L1

template <class T, size_t M>
inline void tile_edge(size_t k, const T *a, ptrdiff_t a_row, ptrdiff_t a_col, const T *b,
                      ptrdiff_t b_row, T *c, size_t c_row, size_t columns, bool add) {
    constexpr size_t NR = Tile<T>::columns;
    if (columns == NR) return Tile<T>::template run<M>(k, a, a_row, a_col, b, b_row, c, c_row, add);
    T part[M * NR];
    Tile<T>::template run<M>(k, a, a_row, a_col, b, b_row, part, NR, false);
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < columns; j++)
            c[i * c_row + j] = part[i * NR + j] + (add ? c[i * c_row + j] : 0);
}

// c (m, n) = a (m, k) · b (k, n). panel(p, rows, j, columns, buffer, &stride) returns rows
// p.. and columns j.. of b, with Tile<T>::columns readable elements in each row: in place, or
// copied to the buffer. If k = 0, c is zero.
template <class T, class Panel>
void gemm(size_t m, size_t k, size_t n, const T *a, ptrdiff_t a_row, ptrdiff_t a_col,
          const Panel &panel, T *c, size_t c_row) {
    constexpr size_t MR = Tile<T>::rows, NR = Tile<T>::columns;
    alignas(64) T buffer[depth_block * NR];
    for (size_t j = 0; j < n; j += NR) {
        size_t columns = smaller(NR, n - j);
        for (size_t p = 0; p == 0 || p < k; p += depth_block) {
            size_t rows = smaller(depth_block, k - p);
            ptrdiff_t stride = NR;
            const T *b = panel(p, rows, j, columns, buffer, &stride);
            const T *left = a + static_cast<ptrdiff_t>(p) * a_col;
            size_t i = 0;
            for (; i + MR <= m; i += MR)
                tile_edge<T, MR>(rows, left + static_cast<ptrdiff_t>(i) * a_row, a_row, a_col, b,
                                 stride, c + i * c_row + j, c_row, columns, p > 0);
            for (; i < m; i++)
                tile_edge<T, 1>(rows, left + static_cast<ptrdiff_t>(i) * a_row, a_row, a_col, b,
                                stride, c + i * c_row + j, c_row, columns, p > 0);
        }
    }
}

}  // namespace SRC_PATH
