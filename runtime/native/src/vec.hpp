// Vectors of blocks, as wide as a register of the path: the same loops run on all paths.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "path.hpp"

#define SRC_INLINE inline __attribute__((always_inline))
#define SRC_LAMBDA __attribute__((always_inline))

namespace SRC_PATH {

#if defined(__AVX512F__)
constexpr int log_vec = 2;
#else
constexpr int log_vec = 1;
#endif
constexpr size_t vec_blocks = size_t{1} << log_vec, vec_words = 2 * vec_blocks;
typedef uint64_t Vec __attribute__((vector_size(16 << log_vec), aligned(16)));
typedef uint32_t Vec32 __attribute__((vector_size(16 << log_vec), aligned(16)));

inline Vec load_vec(const void *p) { return *static_cast<const Vec *>(p); }
inline void store_vec(void *p, Vec x) { *static_cast<Vec *>(p) = x; }

// every(b): b in all places. swap_words(x): words (hi, lo) of each block. repeat_control(st): the low
// 32 bits of each block, all over the block.
// even_words(a, b), odd_words(a, b): the low, the high words of the blocks of a, then of b.
// zip_low(a, b), zip_high(a, b): blocks a_0, b_0, a_1, b_1, .. of both; the first and second half.
#if defined(__AVX512F__)
// (With a mask of all, as GCC 12 warns of the plain intrinsic.)
inline Vec every(Block b) { return (Vec)_mm512_maskz_broadcast_i32x4(0xffff, (__m128i)b); }
inline Vec32 repeat_control(Vec st) {
    const Vec32 x = (Vec32)st;
    return __builtin_shufflevector(x, x, 0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
}
inline Vec swap_words(Vec x) { return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6); }
inline Vec even_words(Vec a, Vec b) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
}
inline Vec odd_words(Vec a, Vec b) {
    return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}
inline Vec zip_low(Vec a, Vec b) { return __builtin_shufflevector(a, b, 0, 1, 8, 9, 2, 3, 10, 11); }
inline Vec zip_high(Vec a, Vec b) {
    return __builtin_shufflevector(a, b, 4, 5, 12, 13, 6, 7, 14, 15);
}
#else
inline Vec every(Block b) { return __builtin_shufflevector(b, b, 0, 1, 0, 1); }
inline Vec32 repeat_control(Vec st) {
    return __builtin_shufflevector((Vec32)st, (Vec32)st, 0, 0, 0, 0, 4, 4, 4, 4);
}
inline Vec swap_words(Vec x) { return __builtin_shufflevector(x, x, 1, 0, 3, 2); }
inline Vec even_words(Vec a, Vec b) { return __builtin_shufflevector(a, b, 0, 2, 4, 6); }
inline Vec odd_words(Vec a, Vec b) { return __builtin_shufflevector(a, b, 1, 3, 5, 7); }
inline Vec zip_low(Vec a, Vec b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); }
inline Vec zip_high(Vec a, Vec b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); }
#endif

// (0, a), (1, b), ..: the blocks (j, 0) for j = first, first + step, ..
inline Vec block_numbers(uint64_t first, uint64_t step) {
    Vec x = {};
    for (size_t i = 0; i < vec_blocks; i++) x[2 * i] = first + i * step;
    return x;
}

// Bit `place` of each word as a mask of ones or zeros.
inline Vec bit_mask(Vec words, int place) { return 0 - ((words >> place) & 1); }

// The control bit of each block as a mask all over the block.
inline Vec control_mask(Vec st) { return (Vec)(0 - (repeat_control(st) & 1)); }

// sigma(hi || lo) = (hi ^ lo) || hi
inline Vec sigma(Vec x) {
    const Vec high = every(Block{0, ~uint64_t{0}});
    return swap_words(x) ^ (x & high);
}

constexpr size_t round_up(size_t count, size_t to) { return (count + to - 1) / to * to; }

}  // namespace SRC_PATH
