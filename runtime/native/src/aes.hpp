// AES-128: the fixed-key hash of the trees, and the counter stream.
#pragma once

#include "path.hpp"

namespace SRC_PATH {

// out[i] = H(in[i]) = AES_K(sigma(in[i])) ^ sigma(in[i]), sigma(hi || lo) = (hi ^ lo) || hi.
// in and out may be the same array.
void hash_blocks(const Block *in, Block *out, size_t count);

// out[2i], out[2i + 1] = H(st), H(st ^ 1) of st = leaves[i·stride].
void hash_leaves(const Block *leaves, size_t stride, size_t count, Block *out);

// AES-128-CTR from the counter block (8 bytes, big-endian) || slot (4) || 0 (4).
void prg(const uint8_t *key, uint64_t block, uint32_t slot, uint8_t *out, size_t bytes);

// "aes-ni", "vaes", or "" for software.
const char *aes_description();

// HASH_KEY of layout.py: the first 128 fraction bits of pi.
constexpr uint8_t hash_key[16] = {0x24, 0x3f, 0x6a, 0x88, 0x85, 0xa3, 0x08, 0xd3,
                                  0x13, 0x19, 0x8a, 0x2e, 0x03, 0x70, 0x73, 0x44};

}  // namespace SRC_PATH
