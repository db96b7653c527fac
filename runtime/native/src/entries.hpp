// The kernels of this path, as path.cpp lists them; see kernels.hpp.
#pragma once

#include "path.hpp"

namespace SRC_PATH {

void gemm32(const GemmShape &, const uint32_t *a, const uint32_t *b, uint32_t *c);
void gemm64(const GemmShape &, const uint64_t *a, const uint64_t *b, uint64_t *c);
Packing packing32(size_t m, size_t k, size_t n, bool keep, int levels);
Packing packing64(size_t m, size_t k, size_t n, bool keep, int levels);
void pack_right32(const Packing &, ptrdiff_t row, ptrdiff_t column, const uint32_t *b,
                  uint32_t *to);
void pack_right64(const Packing &, ptrdiff_t row, ptrdiff_t column, const uint64_t *b,
                  uint64_t *to);
void gemm_packed32(const GemmShape &, const Packing &, const uint32_t *a, const uint32_t *b,
                   uint32_t *c);
void gemm_packed64(const GemmShape &, const Packing &, const uint64_t *a, const uint64_t *b,
                   uint64_t *c);
void conv32(const ConvShape &, const uint32_t *x, const uint32_t *w, uint32_t *y);
void conv64(const ConvShape &, const uint64_t *x, const uint64_t *w, uint64_t *y);
void pack32(const uint32_t *x, size_t count, int w, uint8_t *out);
void pack64(const uint64_t *x, size_t count, int w, uint8_t *out);
void add_pack32(const uint32_t *x, const uint32_t *m, size_t count, uint32_t plus, int w, int by,
                uint8_t *out, uint32_t *total);
void add_pack64(const uint64_t *x, const uint64_t *m, size_t count, uint64_t plus, int w, int by,
                uint8_t *out, uint64_t *total);
void add_pack64_to_32(const uint64_t *x, const uint64_t *m, size_t count, uint64_t plus, int w,
                      int by, uint8_t *out, uint32_t *total);
void unpack32(const uint8_t *buf, const uint32_t *add, size_t count, int w, uint32_t *out);
void unpack64(const uint8_t *buf, const uint64_t *add, size_t count, int w, uint64_t *out);
void dpf_keys(const DpfShape &, size_t count, const uint64_t *alpha, const void *beta,
              const uint8_t *seeds0, const uint8_t *seeds1, uint8_t *keys);
void dpf_table(const TableGates &);
void dcf_keys(const DcfShape &, size_t count, const uint64_t *alpha, const uint64_t *beta,
              const uint8_t *seeds0, const uint8_t *seeds1, uint8_t *keys);
void dcf_eval(const DcfShape &, int party, size_t count, const uint64_t *x, const uint8_t *seeds,
              const uint8_t *keys, uint64_t *y);
void relu(const ReluGates &);

}  // namespace SRC_PATH
