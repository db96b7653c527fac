// The blocked ring product behind matmul and conv2d, for any source of the right operand.
#pragma once

#include "panel.hpp"

namespace SRC_PATH {

constexpr size_t depth_block = 384;  // rows of the right operand in a panel: it stays near

// M rows at i, i + M, .. while they fit; then half as many at a time.
template <class T, size_t M, size_t C, class Block>
inline void run_rows(size_t i, size_t m, const Block &block) {
    for (; i + M <= m; i += M) block.template run<M, C>(i);
    if constexpr (M > 1) run_rows<T, M / 2, C>(i, m, block);
}

// A panel of the result: c (m, columns) = a (m, k) · b (k, columns), or c += ...
template <class T>
struct ColumnBlock {
    const Left<T> &a;
    size_t p, depth;
    const T *b;
    ptrdiff_t b_row;
    T *c;
    size_t c_row, columns;
    bool add;
    // The panel behind this one, and how much of it to fetch for each step of a tile: all tiles take
    // part, as one tile alone would wait for memory.
    const T *next;
    size_t next_step;

    template <size_t M, size_t C>
    void run(size_t i) const {
        constexpr size_t N = C * Tile<T>::vector;
        const T *left = a.at(i, p);
        T *to = c + i * c_row;
        const T *ahead = next + i / Tile<T>::rows * depth * next_step;
        if (columns >= N)
            return Tile<T>::template run<M, C>(depth, left, a.row, a.column, b, b_row, to, c_row,
                                               add, ahead, next_step);
        T part[M * N];
        Tile<T>::template run<M, C>(depth, left, a.row, a.column, b, b_row, part, N, false, ahead,
                                    next_step);
        for (size_t r = 0; r < M; r++)
            for (size_t j = 0; j < columns; j++)
                to[r * c_row + j] = part[r * N + j] + (add ? to[r * c_row + j] : 0);
    }
};

// c (m, n) = a (m, k) · b (k, n), or c += ..; b is read through `panel` (see panel.hpp).
// If k = 0, the product is zero.
template <class T, class Panel>
void gemm(size_t m, size_t k, size_t n, const Left<T> &a, const Panel &panel, T *c, size_t c_row,
          bool add) {
    constexpr size_t MR = Tile<T>::rows, NR = Tile<T>::columns;
    const size_t next_step = Panel::stays ? NR * MR / rounded_up(m, MR) : 0;
    alignas(64) T buffer[depth_block * NR];
    for (size_t j = 0; j < n; j += NR) {
        const size_t columns = smaller(NR, n - j);
        for (size_t p = 0; p == 0 || p < k; p += depth_block) {
            const size_t depth = smaller(depth_block, k - p);
            ptrdiff_t stride = NR;
            const T *b = panel(p, depth, j, columns, buffer, &stride);
            const ColumnBlock<T> block{a, p, depth, b, stride, c + j, c_row, columns, add || p > 0,
                                       Panel::stays ? b + depth * NR : b, next_step};
            if (columns > Tile<T>::vector) run_rows<T, MR, 2>(0, m, block);
            else run_rows<T, MR, 1>(0, m, block);
        }
    }
}

}  // namespace SRC_PATH
