// Ring matrix products of strided matrices, and of strided with packed ones.
#include "gemm.hpp"

#include "entries.hpp"
#include "strassen.hpp"

namespace SRC_PATH {
namespace {

constexpr size_t copied_rows = 512;  // rows of the left operand copied into panels at a time

// c = a · b for rows that are worth copying: each is read once for every right panel.
template <class T, class Panel>
void gemm_copied(const GemmShape &s, const Matrix<T> &a, const Panel &panel, T *c) {
    Workspace<T> memory(left_size<T>(smaller(s.m, copied_rows), s.k));
    for (size_t i = 0; i < s.m; i += copied_rows) {
        const size_t rows = smaller(copied_rows, s.m - i);
        pack_left(Matrix<T>{a.at(i, 0), a.row, a.column}, rows, s.k, memory.get());
        gemm<T>(rows, s.k, s.n, Left<T>(memory.get(), s.k), panel, c + i * s.n, s.n, s.add);
    }
}

template <class T>
void matmul(const GemmShape &s, const T *left, const T *right, T *c) {
    const Matrix<T> a{left, s.a_row, s.a_col}, b{right, s.b_row, s.b_col};
    const MatrixPanel<T> panel{b, s.b_col == 1 && s.m <= 2 * Tile<T>::rows};
    const bool copy = s.a_col != 1 || (Tile<T>::copy_left && s.m >= Tile<T>::rows);
    if (!copy || s.n <= 2 * Tile<T>::columns)
        return gemm<T>(s.m, s.k, s.n, Left<T>(a), panel, c, s.n, s.add);
    gemm_copied(s, a, panel, c);
}

template <class T>
Packing packing(size_t m, size_t k, size_t n, bool keep, int most) {
    const int levels = levels_for<T>(m, k, n, keep, most), stored = keep ? levels : 0;
    return {k, n, levels, stored, right_size<T>(padded<T>(1, k, n, levels), levels, stored)};
}

template <class T>
void pack_right(const Packing &s, ptrdiff_t row, ptrdiff_t column, const T *b, T *to) {
    const Block3 whole = padded<T>(1, s.k, s.n, s.levels);
    const Matrix<T> matrix{b, row, column};
    if (s.stored == 0) return nest_right(matrix, s.k, s.n, whole, s.levels, to);
    Workspace<T> nested(right_size<T>(whole, s.levels, 0));
    nest_right(matrix, s.k, s.n, whole, s.levels, nested.get());
    store_sums(nested.get(), whole, s.levels, s.stored, to);
}

template <class T>
void matmul_packed(const GemmShape &s, const Packing &packing, const T *left, const T *b, T *c) {
    const Matrix<T> a{left, s.a_row, s.a_col};
    const int levels = packing.levels;
    if (levels == 0) {
        const PackedPanel<T> panel{b, s.k};
        if (s.a_col == 1 && (!Tile<T>::copy_left || s.m < Tile<T>::rows))
            return gemm<T>(s.m, s.k, s.n, Left<T>(a), panel, c, s.n, s.add);
        return gemm_copied(s, a, panel, c);
    }
    const size_t chunk = row_chunk(packing.stored > 0), chunks = (s.m + chunk - 1) / chunk;
    const size_t most = (s.m + chunks - 1) / chunks;
    const Block3 whole = padded<T>(most, s.k, s.n, levels);
    // in one piece, or malloc gives the memory back and the pages have to be zeroed in each call
    const size_t a_size = left_size<T>(whole, levels), c_size = whole.m * whole.n;
    Workspace<T> memory(a_size + c_size + workspace_size<T>(whole, levels, packing.stored) + 128);
    T *work = memory.get(), *nested_a = take(work, a_size), *nested_c = take(work, c_size);
    for (size_t i = 0; i < s.m; i += most) {
        const size_t rows = smaller(most, s.m - i);
        nest_left(Matrix<T>{a.at(i, 0), a.row, a.column}, rows, s.k, whole, levels, nested_a);
        product(whole, levels, packing.stored, nested_a, b, nested_c, false, work);
        flatten(nested_c, whole, levels, rows, s.n, c + i * s.n, s.n, s.add);
    }
}

}  // namespace

void gemm32(const GemmShape &s, const uint32_t *a, const uint32_t *b, uint32_t *c) {
    matmul(s, a, b, c);
}

void gemm64(const GemmShape &s, const uint64_t *a, const uint64_t *b, uint64_t *c) {
    matmul(s, a, b, c);
}

Packing packing32(size_t m, size_t k, size_t n, bool keep, int levels) {
    return packing<uint32_t>(m, k, n, keep, levels);
}

Packing packing64(size_t m, size_t k, size_t n, bool keep, int levels) {
    return packing<uint64_t>(m, k, n, keep, levels);
}

void pack_right32(const Packing &s, ptrdiff_t row, ptrdiff_t column, const uint32_t *b,
                  uint32_t *to) {
    pack_right(s, row, column, b, to);
}

void pack_right64(const Packing &s, ptrdiff_t row, ptrdiff_t column, const uint64_t *b,
                  uint64_t *to) {
    pack_right(s, row, column, b, to);
}

void gemm_packed32(const GemmShape &s, const Packing &p, const uint32_t *a, const uint32_t *b,
                   uint32_t *c) {
    matmul_packed(s, p, a, b, c);
}

void gemm_packed64(const GemmShape &s, const Packing &p, const uint64_t *a, const uint64_t *b,
                   uint64_t *c) {
    matmul_packed(s, p, a, b, c);
}

}  // namespace SRC_PATH
