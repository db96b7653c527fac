// Ring matrix products of strided matrices.
#include "gemm.hpp"

#include "entries.hpp"

namespace SRC_PATH {
namespace {

template <class T>
struct MatrixPanel {
    const T *b;
    ptrdiff_t row, column;
    bool in_place;  // few rows of the left operand: reading b once is cheaper than copying it

    const T *operator()(size_t p, size_t rows, size_t j, size_t columns, T *buffer,
                        ptrdiff_t *stride) const {
        constexpr size_t NR = Tile<T>::columns;
        const T *from = b + static_cast<ptrdiff_t>(p) * row + static_cast<ptrdiff_t>(j) * column;
        if (in_place && columns == NR) {
            *stride = row;
            return from;
        }
        if (column == 1) {
            for (size_t i = 0; i < rows; i++, from += row)
                for (size_t v = 0; v < NR; v++) buffer[i * NR + v] = v < columns ? from[v] : 0;
        } else {
            for (size_t v = 0; v < columns; v++, from += column)
                for (size_t i = 0; i < rows; i++)
                    buffer[i * NR + v] = from[static_cast<ptrdiff_t>(i) * row];
        }
        return buffer;
    }
};

template <class T>
void matmul(const GemmShape &s, const T *a, const T *b, T *c) {
    bool in_place = s.b_col == 1 && s.m <= 2 * Tile<T>::rows;
    MatrixPanel<T> panel{b, s.b_row, s.b_col, in_place};
    if (s.a_col == 1 || s.n <= Tile<T>::columns)
        return gemm<T>(s.m, s.k, s.n, a, s.a_row, s.a_col, panel, c, s.n);
    Scratch<T> copy(s.m * s.k);
    for (size_t p = 0; p < s.k; p++)
        for (size_t i = 0; i < s.m; i++)
            copy[i * s.k + p] =
                a[static_cast<ptrdiff_t>(i) * s.a_row + static_cast<ptrdiff_t>(p) * s.a_col];
    gemm<T>(s.m, s.k, s.n, copy.get(), static_cast<ptrdiff_t>(s.k), 1, panel, c, s.n);
}

}  // namespace

void gemm32(const GemmShape &s, const uint32_t *a, const uint32_t *b, uint32_t *c) {
    matmul(s, a, b, c);
}

void gemm64(const GemmShape &s, const uint64_t *a, const uint64_t *b, uint64_t *c) {
    matmul(s, a, b, c);
}

}  // namespace SRC_PATH
