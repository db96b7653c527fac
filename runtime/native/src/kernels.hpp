// The table of kernels that every path (avx512, portable, ..) fills in, and the shapes they take.
//
// Sizes, dtypes and ranges have been checked by the caller. Layouts are specified in
// srcompile/runtime/kernels/layout.py; names are the same here. Nothing secret (keys, seeds, alpha,
// beta, tree nodes, shares) decides a branch or an address.
#pragma once

#include <cstddef>
#include <cstdint>

struct DpfShape {
    int n, k, w, lane, points, depth, blocks;
    size_t key_bytes;
};

struct DcfShape {
    int n, fields, value_bits, words;
    const int *widths;
    const int *offsets;
    size_t key_bytes;
};

// A matrix product: c (m, n) contiguous = a (m, k) · b (k, n), or c += .. if `add`; strides in
// elements, of any sign.
struct GemmShape {
    size_t m, k, n;
    ptrdiff_t a_row, a_col, b_row, b_col;
    bool add;
};

// How a right operand (k, n) is laid out for products: see strassen.hpp.
struct Packing {
    size_t k, n;
    int levels, stored;
    size_t size;  // in elements
};

// x (batch, channels, height, width), w (outputs, channels / groups, kh, kw), both contiguous.
struct ConvShape {
    size_t batch, channels, height, width, outputs, kh, kw, groups, out_height, out_width;
    ptrdiff_t stride[2], padding[2], dilation[2];
};

struct TableGates {
    DpfShape shape;
    int party;
    size_t count, tables;
    const uint32_t *index;
    const void *low;       // (count,) of the ring's type; null if shape.k is 1
    const uint8_t *seeds;  // (count, 16)
    const uint8_t *keys;   // (count, key_bytes)
    const void *curves[3];  // shape.k of them, (tables, 2^n): the coefficients of d^0, d^1, d^2
    void *y;               // (tables, count)
};

struct ReluGates {
    DcfShape shape;  // of a comparison on in_width - 1 bits, with two or three fields
    int party, in_width, width;
    size_t count;
    const void *x;         // (count,) of the type of Z_in_width
    const uint8_t *seeds;  // (count, 16)
    const uint8_t *keys;   // (count, key_bytes)
    const void *m, *mr, *r;  // (count,) of the type of Z_width, as is y
    void *y;
};

struct PathKernels {
    const char *name;
    const char *description;

    // null without AES instructions: there the stream comes from the library `cryptography`
    void (*prg)(const uint8_t *key, uint64_t block, uint32_t slot, uint8_t *out, size_t bytes);
    void (*gemm32)(const GemmShape &, const uint32_t *a, const uint32_t *b, uint32_t *c);
    void (*gemm64)(const GemmShape &, const uint64_t *a, const uint64_t *b, uint64_t *c);
    // How to lay out a right operand for products with m rows, with at most so many levels of
    // Strassen's method; keep: for many products.
    Packing (*packing32)(size_t m, size_t k, size_t n, bool keep, int levels);
    Packing (*packing64)(size_t m, size_t k, size_t n, bool keep, int levels);
    void (*pack_right32)(const Packing &, ptrdiff_t row, ptrdiff_t column, const uint32_t *b,
                         uint32_t *to);
    void (*pack_right64)(const Packing &, ptrdiff_t row, ptrdiff_t column, const uint64_t *b,
                         uint64_t *to);
    void (*gemm_packed32)(const GemmShape &, const Packing &, const uint32_t *a, const uint32_t *b,
                          uint32_t *c);
    void (*gemm_packed64)(const GemmShape &, const Packing &, const uint64_t *a, const uint64_t *b,
                          uint64_t *c);
    void (*conv32)(const ConvShape &, const uint32_t *x, const uint32_t *w, uint32_t *y);
    void (*conv64)(const ConvShape &, const uint64_t *x, const uint64_t *w, uint64_t *y);
    // Elements as a bit string of w bits each.
    void (*pack32)(const uint32_t *x, size_t count, int w, uint8_t *out);
    void (*pack64)(const uint64_t *x, size_t count, int w, uint8_t *out);
    // total = (x + m + plus mod 2^w) >> by, and its bit string of w - by bits an element; total has
    // 32 bits in add_pack64_to_32, for w - by up to 32.
    void (*add_pack32)(const uint32_t *x, const uint32_t *m, size_t count, uint32_t plus, int w,
                       int by, uint8_t *out, uint32_t *total);
    void (*add_pack64)(const uint64_t *x, const uint64_t *m, size_t count, uint64_t plus, int w,
                       int by, uint8_t *out, uint64_t *total);
    void (*add_pack64_to_32)(const uint64_t *x, const uint64_t *m, size_t count, uint64_t plus,
                             int w, int by, uint8_t *out, uint32_t *total);
    // Unpack x, or x + add mod 2^w; add has count elements, or is null. The result may lie where
    // add does.
    void (*unpack32)(const uint8_t *buf, const uint32_t *add, size_t count, int w, uint32_t *out);
    void (*unpack64)(const uint8_t *buf, const uint64_t *add, size_t count, int w, uint64_t *out);
    void (*dpf_keys)(const DpfShape &, size_t count, const uint64_t *alpha, const void *beta,
                     const uint8_t *seeds0, const uint8_t *seeds1, uint8_t *keys);
    void (*dpf_table)(const TableGates &);
    void (*dcf_keys)(const DcfShape &, size_t count, const uint64_t *alpha, const uint64_t *beta,
                     const uint8_t *seeds0, const uint8_t *seeds1, uint8_t *keys);
    void (*dcf_eval)(const DcfShape &, int party, size_t count, const uint64_t *x,
                     const uint8_t *seeds, const uint8_t *keys, uint64_t *y);
    void (*relu)(const ReluGates &);
};

// Returns the kernels of the path called `name` ("" for the best), or null if there are none here.
const PathKernels *find_path(const char *name);
