// AES-128: the fixed-key hash of the trees, and the counter stream.
//
//     template <size_t Each, class Load, class Use>
//     void hash_each(size_t items, Load load, Use use)
//
// calls load(i, x), which sets the vectors x[0 .. Each), and use(i, h), with h[j] = H(x[j]) block by
// block, for i = 0, 1, .. items - 1. It goes on in groups of items: all loads of a group come
// before its uses. H(x) = AES_K(sigma(x)) ^ sigma(x), sigma(hi || lo) = (hi ^ lo) || hi.
//
//     template <class Load, class Use>
//     void hash_pairs(size_t items, Load load, Use use)
//
// calls use(i, H(st), H(st ^ 1)) for st = load(i) in the same way.
#pragma once

#include "vec.hpp"

namespace SRC_PATH {

// HASH_KEY of layout.py: the first 128 fraction bits of pi.
constexpr uint8_t hash_key[16] = {0x24, 0x3f, 0x6a, 0x88, 0x85, 0xa3, 0x08, 0xd3,
                                  0x13, 0x19, 0x8a, 0x2e, 0x03, 0x70, 0x73, 0x44};

// Expands the key of the hash, before anything is hashed.
void prepare_hash();

// The instructions that the path's name does not say.
const char *path_description();

#if defined(__AES__)
#define SRC_HAS_PRG
// AES-128-CTR from the counter block (8 bytes, big-endian) || slot (4) || 0 (4).
void prg(const uint8_t *key, uint64_t block, uint32_t slot, uint8_t *out, size_t bytes);
#endif

}  // namespace SRC_PATH

#if defined(__AES__)
#include "aes_x86.hpp"
#else
#include "aes_soft.hpp"
#endif

namespace SRC_PATH {

// out[i] = H(in[i]) for `count` blocks, a multiple of vec_blocks; both may be the same array.
inline void hash_blocks(const Block *in, Block *out, size_t count) {
    hash_each<1>(
        count / vec_blocks, [=](size_t i, Vec *x) SRC_LAMBDA { x[0] = load_vec(in + i * vec_blocks); },
        [=](size_t i, const Vec *h) SRC_LAMBDA { store_vec(out + i * vec_blocks, h[0]); });
}

}  // namespace SRC_PATH
