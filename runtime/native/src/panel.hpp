// Panels: strips of an operand copied so that a tile reads them in order.
//
// A left panel has Tile<T>::rows rows, a right panel Tile<T>::columns columns; in both the elements
// that one step of a tile multiplies stand together: left[p·rows + i], right[p·columns + j].
#pragma once

#include "tile.hpp"

namespace SRC_PATH {

// A square of elements, each vector a row: 4 x 4 of 64 bits, 8 x 8 of 32 bits.
template <class T>
struct Square;

template <>
struct Square<uint64_t> {
    static constexpr size_t size = 4;
    typedef uint64_t Row __attribute__((vector_size(32), aligned(8), may_alias));

    static void transpose(const uint64_t *from, ptrdiff_t from_row, uint64_t *to, size_t to_row) {
        Row x[4], y[4];
        for (ptrdiff_t i = 0; i < 4; i++)
            x[i] = *reinterpret_cast<const Row *>(from + i * from_row);
        for (size_t i = 0; i < 4; i += 2) {
            y[i] = __builtin_shufflevector(x[i], x[i + 1], 0, 4, 2, 6);
            y[i + 1] = __builtin_shufflevector(x[i], x[i + 1], 1, 5, 3, 7);
        }
        for (size_t i = 0; i < 2; i++) {
            store(to + i * to_row, __builtin_shufflevector(y[i], y[i + 2], 0, 1, 4, 5));
            store(to + (i + 2) * to_row, __builtin_shufflevector(y[i], y[i + 2], 2, 3, 6, 7));
        }
    }

  private:
    static void store(uint64_t *to, Row x) { *reinterpret_cast<Row *>(to) = x; }
};

template <>
struct Square<uint32_t> {
    static constexpr size_t size = 8;
    typedef uint32_t Row __attribute__((vector_size(32), aligned(4), may_alias));

    static void transpose(const uint32_t *from, ptrdiff_t from_row, uint32_t *to, size_t to_row) {
        Row x[8], y[8];
        for (ptrdiff_t i = 0; i < 8; i++)
            x[i] = *reinterpret_cast<const Row *>(from + i * from_row);
        for (size_t i = 0; i < 8; i += 2) {
            y[i] = __builtin_shufflevector(x[i], x[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
            y[i + 1] = __builtin_shufflevector(x[i], x[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
        }
        for (size_t first = 0; first < 8; first += 4)
            for (size_t i = first; i < first + 2; i++) {
                x[i] = __builtin_shufflevector(y[i], y[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
                x[i + 2] = __builtin_shufflevector(y[i], y[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
            }
        for (size_t i = 0; i < 4; i++) {
            store(to + i * to_row,
                  __builtin_shufflevector(x[i], x[i + 4], 0, 1, 2, 3, 8, 9, 10, 11));
            store(to + (i + 4) * to_row,
                  __builtin_shufflevector(x[i], x[i + 4], 4, 5, 6, 7, 12, 13, 14, 15));
        }
    }

  private:
    static void store(uint32_t *to, Row x) { *reinterpret_cast<Row *>(to) = x; }
};

// to[q·to_row + i] = from[i·line + q·step] for i < lines, q < length.
template <class T>
inline void interleave(const T *from, size_t lines, ptrdiff_t line, size_t length, ptrdiff_t step,
                       T *to, size_t to_row) {
    constexpr size_t S = Square<T>::size;
    size_t i = 0;
    for (; step == 1 && i + S <= lines; i += S) {
        const T *at = from + static_cast<ptrdiff_t>(i) * line;
        size_t q = 0;
        for (; q + S <= length; q += S)
            Square<T>::transpose(at + q, line, to + q * to_row + i, to_row);
        for (; q < length; q++)
            for (size_t v = 0; v < S; v++)
                to[q * to_row + i + v] =
                    at[static_cast<ptrdiff_t>(v) * line + static_cast<ptrdiff_t>(q)];
    }
    for (; i < lines; i++) {
        const T *at = from + static_cast<ptrdiff_t>(i) * line;
        for (size_t q = 0; q < length; q++)
            to[q * to_row + i] = at[static_cast<ptrdiff_t>(q) * step];
    }
}

// A matrix, strides in elements.
template <class T>
struct Matrix {
    const T *data;
    ptrdiff_t row, column;

    const T *at(size_t i, size_t j) const {
        return data + static_cast<ptrdiff_t>(i) * row + static_cast<ptrdiff_t>(j) * column;
    }
};

// Copies `lines` <= width lines of the given length, zeros behind the last one:
// to[q·width + i] = from(i, q), lines · along being (row, column) strides.
template <size_t width, class T>
inline void copy_panel(const T *from, size_t lines, ptrdiff_t line, size_t length, ptrdiff_t step,
                       T *to) {
    if (line == 1 && lines == width) {
        for (size_t q = 0; q < length; q++, from += step, to += width) {
            // the panel copied next is beside this one: its rows are too far apart for the
            // processor to foresee them
            for (size_t i = 0; i < width; i += 64 / sizeof(T)) __builtin_prefetch(from + width + i);
            memcpy(to, from, sizeof(T) * width);
        }
        return;
    }
    if (lines < width) memset(to, 0, sizeof(T) * width * length);
    if (line != 1) return interleave(from, lines, line, length, step, to, width);
    for (size_t q = 0; q < length; q++, from += step, to += width)
        for (size_t i = 0; i < lines; i++) to[i] = from[i];
}

// The left operand of a product: panels of Tile<T>::rows rows, at `panel` from each other.
template <class T>
struct Left {
    const T *data;
    ptrdiff_t row, column, panel;

    // The rows of a matrix where they are.
    explicit Left(const Matrix<T> &a)
        : data(a.data), row(a.row), column(a.column), panel(a.row * ptrdiff_t{Tile<T>::rows}) {}
    // Panels of depth k that pack_left has copied.
    Left(const T *panels, size_t k)
        : data(panels),
          row(1),
          column(Tile<T>::rows),
          panel(static_cast<ptrdiff_t>(k * Tile<T>::rows)) {}

    const T *at(size_t i, size_t p) const {  // i is the first row of a panel, or a row in the last
        constexpr size_t MR = Tile<T>::rows;
        return data + static_cast<ptrdiff_t>(i / MR) * panel +
               static_cast<ptrdiff_t>(i % MR) * row + static_cast<ptrdiff_t>(p) * column;
    }
};

// Elements of left panels for m rows of depth k, and of right panels for n columns.
template <class T>
inline size_t left_size(size_t m, size_t k) {
    return rounded_up(m, Tile<T>::rows) * k;
}
template <class T>
inline size_t right_size(size_t k, size_t n) {
    return rounded_up(n, Tile<T>::columns) * k;
}

template <class T>
inline void pack_left(const Matrix<T> &a, size_t m, size_t k, T *to) {
    constexpr size_t MR = Tile<T>::rows;
    for (size_t i = 0; i < m; i += MR, to += MR * k)
        copy_panel<MR>(a.at(i, 0), smaller(MR, m - i), a.row, k, a.column, to);
}

// What gemm() reads right panels from. (p, rows, j, columns, buffer, &stride) gives rows p.. and
// columns j.. with Tile<T>::columns readable elements in each row: in place, or in the buffer.
// `stays`: panels are in place, one behind the other.
template <class T>
struct MatrixPanel {
    static constexpr bool stays = false;
    Matrix<T> b;
    bool in_place;  // few rows of the left operand: reading b once is cheaper than copying it

    const T *operator()(size_t p, size_t rows, size_t j, size_t columns, T *buffer,
                        ptrdiff_t *stride) const {
        constexpr size_t NR = Tile<T>::columns;
        if (in_place && columns == NR) {
            *stride = b.row;
            return b.at(p, j);
        }
        copy_panel<NR>(b.at(p, j), columns, b.column, rows, b.row, buffer);
        return buffer;
    }
};

// Right panels of depth k, copied before.
template <class T>
struct PackedPanel {
    static constexpr bool stays = true;
    const T *panels;
    size_t k;

    const T *operator()(size_t p, size_t, size_t j, size_t, T *, ptrdiff_t *) const {
        return panels + j * k + p * Tile<T>::columns;
    }
};

}  // namespace SRC_PATH
