// Ring products with fewer multiplications: Strassen's method [Strassen69] in Winograd's form
// [Winograd71], seven products of halves a level instead of eight. In Z_2^w it is exact: there is
// no rounding, so the result has the same bits as any other order of the sums.
//
// Operands are stored in nested quarters: 11, 12, 21, 22, each again in quarters, `levels` times;
// at the bottom are panels (left, right) or rows (result). All of it is linear in the matrix, so a
// sum of quarters is a sum of two runs of memory, whatever is inside. Sizes are padded with zeros.
#pragma once

#include "gemm.hpp"

namespace SRC_PATH {

// Rows of the left operand at a time. Few keep the workspace in L2; sums of quarters of the right
// operand that are not stored are formed again for each chunk.
inline size_t row_chunk(bool stored) { return stored ? 128 : 512; }

// Sizes of a product's blocks after some halvings.
struct Block3 {
    size_t m, k, n;

    Block3 half() const { return {m / 2, k / 2, n / 2}; }
};

// The whole sizes, padded so that halves are whole: columns come in vectors.
template <class T>
inline Block3 padded(size_t m, size_t k, size_t n, int levels) {
    const size_t unit = size_t{1} << levels;
    return {rounded_up(m, unit), rounded_up(k, unit), rounded_up(n, unit * Tile<T>::vector)};
}

template <class T>
inline size_t left_size(const Block3 &s, int levels) {
    return levels ? 4 * left_size<T>(s.half(), levels - 1) : left_size<T>(s.m, s.k);
}

// Of a right operand that keeps the sums of its quarters for the first `stored` levels.
template <class T>
inline size_t right_size(const Block3 &s, int levels, int stored) {
    if (levels == 0) return right_size<T>(s.k, s.n);
    return (stored ? 7 : 4) * right_size<T>(s.half(), levels - 1, stored ? stored - 1 : 0);
}

// The level count, up to `most`, with the least estimated time. A level saves 1/8 of the products and costs sums
// (those of the right operand too, if they are not stored) and padding; blocks have to stay large
// enough for panels. Measured: docs/decisions/0016-strassen-in-rings.md.
template <class T>
inline int levels_for(size_t m, size_t k, size_t n, bool stored, int most) {
    const size_t rows = smaller(m, row_chunk(stored));
    const auto volume = [](const Block3 &s) {
        return static_cast<double>(s.m) * static_cast<double>(s.k) * static_cast<double>(s.n);
    };
    const double level = 0.875 * (1.03 + (stored ? 0 : 16 / static_cast<double>(rows + 1)));
    double least = volume({rows, k, n}), part = 1;
    int best = 0;
    for (int levels = 1; levels <= most; levels++) {
        const Block3 s = padded<T>(rows, k, n, levels);
        if (s.m >> levels < 16 || s.k >> levels < 64 || s.n >> levels < 64) break;
        part *= level;
        if (volume(s) * part < least) least = volume(s) * part, best = levels;
    }
    return best;
}

// z = x + y and z = x - y over runs of memory; z may be x or y (ivdep: and nothing in between).
template <class T>
inline void sum(const T *x, const T *y, size_t count, T *z) {
#pragma GCC ivdep
    for (size_t i = 0; i < count; i++) z[i] = x[i] + y[i];
}
template <class T>
inline void difference(const T *x, const T *y, size_t count, T *z) {
#pragma GCC ivdep
    for (size_t i = 0; i < count; i++) z[i] = x[i] - y[i];
}

// ---- packing

template <class T>
void nest_left(const Matrix<T> &a, size_t m, size_t k, const Block3 &s, int levels, T *to) {
    if (levels == 0) {
        // a block may lie behind the last row or column of the matrix
        if (k < s.k) memset(to, 0, sizeof(T) * left_size<T>(s.m, s.k));
        constexpr size_t MR = Tile<T>::rows;
        for (size_t i = 0; i < s.m; i += MR, to += MR * s.k) {
            if (i < m) copy_panel<MR>(a.at(i, 0), smaller(MR, m - i), a.row, k, a.column, to);
            else memset(to, 0, sizeof(T) * MR * s.k);
        }
        return;
    }
    const Block3 h = s.half();
    const size_t size = left_size<T>(h, levels - 1);
    for (size_t quarter = 0; quarter < 4; quarter++, to += size) {
        const size_t i = quarter / 2 * h.m, p = quarter % 2 * h.k;
        const bool inside = i < m && p < k;
        const Matrix<T> part{inside ? a.at(i, p) : a.data, a.row, a.column};
        nest_left(part, inside ? smaller(h.m, m - i) : 0, inside ? smaller(h.k, k - p) : 0, h,
                  levels - 1, to);
    }
}

template <class T>
void nest_right(const Matrix<T> &b, size_t k, size_t n, const Block3 &s, int levels, T *to) {
    if (levels == 0) {
        constexpr size_t NR = Tile<T>::columns;
        if (k < s.k) memset(to, 0, sizeof(T) * right_size<T>(s.k, s.n));
        for (size_t j = 0; j < s.n; j += NR, to += NR * s.k) {
            if (j < n) copy_panel<NR>(b.at(0, j), smaller(NR, n - j), b.column, k, b.row, to);
            else memset(to, 0, sizeof(T) * NR * s.k);
        }
        return;
    }
    const Block3 h = s.half();
    const size_t size = right_size<T>(h, levels - 1, 0);
    for (size_t quarter = 0; quarter < 4; quarter++, to += size) {
        const size_t p = quarter / 2 * h.k, j = quarter % 2 * h.n;
        const bool inside = p < k && j < n;
        const Matrix<T> part{inside ? b.at(p, j) : b.data, b.row, b.column};
        nest_right(part, inside ? smaller(h.k, k - p) : 0, inside ? smaller(h.n, n - j) : 0, h,
                   levels - 1, to);
    }
}

// The right factors of the seven products, in the order in which product() takes them.
enum Factor { T1, T2, B11, B21, B22, T4, T3 };

// Forms the stored sums of a nested right operand, all levels of them.
template <class T>
void store_sums(const T *nested, const Block3 &s, int levels, int stored, T *to) {
    if (stored == 0) {
        memcpy(to, nested, sizeof(T) * right_size<T>(s, levels, 0));
        return;
    }
    const Block3 h = s.half();
    const size_t size = right_size<T>(h, levels - 1, 0);
    const size_t step = right_size<T>(h, levels - 1, stored - 1);
    const T *b11 = nested, *b12 = b11 + size, *b21 = b12 + size, *b22 = b21 + size;
    Workspace<T> memory(size);
    T *t = memory.get();
    const auto store = [&](Factor factor, const T *block) {
        store_sums(block, h, levels - 1, stored - 1, to + factor * step);
    };
    store(B11, b11), store(B21, b21), store(B22, b22);
    difference(b12, b11, size, t), store(T1, t);  // T1 = B12 - B11
    difference(b22, t, size, t), store(T2, t);    // T2 = B22 - T1
    difference(b21, t, size, t), store(T4, t);    // T4 = B21 - T2
    difference(b22, b12, size, t), store(T3, t);  // T3 = B22 - B12
}

// ---- product

template <class T>
inline size_t workspace_size(const Block3 &s, int levels, int stored) {
    if (levels == 0) return 0;
    const Block3 h = s.half();
    const size_t t = stored ? 0 : right_size<T>(h, levels - 1, 0);
    return left_size<T>(h, levels - 1) + t + h.m * h.n + s.m * s.n + 64 +
           workspace_size<T>(h, levels - 1, stored ? stored - 1 : 0);
}

// Takes the next `count` elements of a workspace.
template <class T>
inline T *take(T *&work, size_t count) {
    T *taken = work;
    work += rounded_up(count, 64 / sizeof(T));
    return taken;
}

// c = a · b, or c += a · b, all nested.
template <class T>
void product(const Block3 &s, int levels, int stored, const T *a, const T *b, T *c, bool add,
             T *work) {
    if (levels == 0)
        return gemm<T>(s.m, s.k, s.n, Left<T>(a, s.k), PackedPanel<T>{b, s.k}, c, s.n, add);
    if (add) {
        T *whole = take(work, s.m * s.n);
        product(s, levels, stored, a, b, whole, false, work);
        return sum(c, whole, s.m * s.n, c);
    }
    const Block3 h = s.half();
    const int deeper = stored ? stored - 1 : 0;
    const size_t left = left_size<T>(h, levels - 1), result = h.m * h.n;
    const size_t right = right_size<T>(h, levels - 1, deeper);
    const T *a11 = a, *a12 = a11 + left, *a21 = a12 + left, *a22 = a21 + left;
    T *c11 = c, *c12 = c11 + result, *c21 = c12 + result, *c22 = c21 + result;
    T *x = take(work, result), *si = take(work, left);
    T *formed = stored ? nullptr : take(work, right);
    const T *b11 = stored ? b + B11 * right : b, *b12 = b + right;
    const T *b21 = stored ? b + B21 * right : b + 2 * right;
    const T *b22 = stored ? b + B22 * right : b + 3 * right;
    // T = p - q, formed here unless it is stored
    const auto t = [&](Factor factor, const T *p, const T *q) {
        if (stored) return b + factor * right;
        difference(p, q, right, formed);
        return static_cast<const T *>(formed);
    };
    const auto times = [&](const T *l, const T *r, T *to, bool also) {
        product(h, levels - 1, deeper, l, r, to, also, work);
    };
    sum(a21, a22, left, si);
    times(si, t(T1, b12, b11), c22, false);  // P5 = (S1 = A21 + A22) · (T1 = B12 - B11)
    difference(si, a11, left, si);
    times(si, t(T2, b22, formed), x, false);  // P6 = (S2 = S1 - A11) · (T2 = B22 - T1)
    times(a11, b11, c11, false);              // P1 = A11 · B11
    sum(x, c11, result, x);                   // U2 = P1 + P6
    times(a12, b21, c11, true);               // C11 = P1 + (P2 = A12 · B21)
    difference(a12, si, left, si);
    times(si, b22, c12, false);  // P3 = (S4 = A12 - S2) · B22
#pragma GCC ivdep
    for (size_t i = 0; i < result; i++) c12[i] += x[i] + c22[i];  // C12 = U2 + P5 + P3
    times(a22, t(T4, b21, formed), c21, false);                   // P4 = A22 · (T4 = B21 - T2)
    difference(a11, a21, left, si);
    times(si, t(T3, b22, b12), x, true);  // U3 = U2 + (P7 = (S3 = A11 - A21) · (T3 = B22 - B12))
    sum(c21, x, result, c21);             // C21 = U3 + P4
    sum(c22, x, result, c22);             // C22 = U3 + P5
}

// Writes the first rows and columns of a nested result to a matrix, or adds them to it.
template <class T>
void flatten(const T *nested, const Block3 &s, int levels, size_t m, size_t n, T *c, size_t c_row,
             bool add) {
    if (levels == 0) {
        for (size_t i = 0; i < m; i++, nested += s.n, c += c_row)
            if (add) sum(c, nested, n, c);
            else memcpy(c, nested, sizeof(T) * n);
        return;
    }
    const Block3 h = s.half();
    for (size_t quarter = 0; quarter < 4; quarter++, nested += h.m * h.n) {
        const size_t i = quarter / 2 * h.m, j = quarter % 2 * h.n;
        if (i < m && j < n)
            flatten(nested, h, levels - 1, smaller(h.m, m - i), smaller(h.n, n - j),
                    c + i * c_row + j, c_row, add);
    }
}

}  // namespace SRC_PATH
