// Small tools for kernels, which are compiled once for each path, in a namespace of its name.
//
// Inline code lives in that namespace and no templates of the standard library are used: the linker
// keeps one copy of what is shared, and it must not be one with another path's instructions.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "kernels.hpp"
#include "memory.hpp"

namespace SRC_PATH {

// A node or a hash, words (lo, hi).
typedef uint64_t Block __attribute__((vector_size(16)));

// All ones if the lowest bit is set, else zero.
inline uint64_t mask_of(uint64_t bit) { return 0 - (bit & 1); }

inline Block load_block(const uint8_t *p) {
    Block b;
    memcpy(&b, p, 16);
    return b;
}

inline void store_block(uint8_t *p, Block b) { memcpy(p, &b, 16); }

template <class T>
inline T low_bits(int w) {
    return static_cast<T>(~uint64_t{0} >> (64 - w));
}

template <class T>
inline T smaller(T a, T b) {
    return a < b ? a : b;
}

inline size_t rounded_up(size_t x, size_t to) { return (x + to - 1) / to * to; }

// Returns a · b, if memory can be so large. Throws std::bad_alloc.
inline size_t checked_product(size_t a, size_t b) {
    if (b && a > PTRDIFF_MAX / b) out_of_memory();
    return a * b;
}

// Memory for the length of a scope, aligned for vectors, not zeroed. Throws std::bad_alloc.
template <class T>
class Workspace {
  public:
    explicit Workspace(size_t count) : raw_(malloc(checked_product(count, sizeof(T)) + 64)) {
        if (!raw_) out_of_memory();
    }
    ~Workspace() { free(raw_); }
    Workspace(const Workspace &) = delete;
    Workspace &operator=(const Workspace &) = delete;
    T *get() { return reinterpret_cast<T *>(rounded_up(reinterpret_cast<uintptr_t>(raw_), 64)); }

  private:
    void *raw_;
};

// Zeroed memory for the length of a scope, aligned for vectors. Throws std::bad_alloc.
template <class T>
class Scratch {
  public:
    explicit Scratch(size_t count) {
        size_t bytes = (checked_product(count, sizeof(T)) + 127) / 64 * 64;
        raw_ = calloc(bytes + 64, 1);
        if (!raw_) out_of_memory();
        data_ = reinterpret_cast<T *>((reinterpret_cast<uintptr_t>(raw_) + 63) / 64 * 64);
    }
    ~Scratch() { free(raw_); }
    Scratch(const Scratch &) = delete;
    Scratch &operator=(const Scratch &) = delete;
    T *get() { return data_; }
    T &operator[](size_t i) { return data_[i]; }

  private:
    void *raw_;
    T *data_;
};

// Writes a bit string, lowest bit first; no byte past the last bit is touched.
class BitWriter {
  public:
    BitWriter() = default;
    explicit BitWriter(uint8_t *out) : out_(out) {}

    // Appends the low w bits of v, whose other bits must be zero.
    void put(uint64_t v, int w) {
        word_ |= v << used_;
        if (used_ + w < 64) {
            used_ += w;
            return;
        }
        memcpy(out_, &word_, 8);
        out_ += 8;
        word_ = used_ ? v >> (64 - used_) : 0;
        used_ += w - 64;
    }

    void finish() { memcpy(out_, &word_, static_cast<size_t>(used_ + 7) / 8); }

  private:
    uint8_t *out_ = nullptr;
    uint64_t word_ = 0;
    int used_ = 0;
};

// Returns the w bits from bit `at` on, of a bit string that has 8 more bytes of padding.
inline uint64_t get_bits(const uint8_t *bits, size_t at, int w) {
    int shift = static_cast<int>(at & 7);
    uint64_t v;
    memcpy(&v, bits + (at >> 3), 8);
    v >>= shift;
    if (shift + w > 64) v |= static_cast<uint64_t>(bits[(at >> 3) + 8]) << (64 - shift);
    return v & low_bits<uint64_t>(w);
}

}  // namespace SRC_PATH
