// AES-128 of this path: its key schedule and the counter stream.
#include "aes.hpp"

#if !defined(__AES__)
#include "aes_sliced.hpp"
#endif

namespace SRC_PATH {

#if defined(__AES__)
namespace {

// Counter blocks are kept with the last 4 bytes little-endian, so that they count by addition.
inline Vec count_bytes(Vec at) {
    const Block order = {0x0706050403020100, 0x0c0d0e0f0b0a0908};
#if defined(__AVX512F__)
    return (Vec)_mm512_shuffle_epi8((__m512i)at, (__m512i)every(order));
#else
    return (Vec)_mm256_shuffle_epi8((__m256i)at, (__m256i)every(order));
#endif
}

}  // namespace

WideKeys hash_keys;

void prepare_hash() { hash_keys.spread(RoundKeys(hash_key)); }

void prg(const uint8_t *key, uint64_t block, uint32_t slot, uint8_t *out, size_t bytes) {
    WideKeys keys;
    keys.spread(RoundKeys(key));
    const uint64_t one = uint64_t{1} << 32;  // of the counter, the upper half of the high word
    Vec at = every(Block{__builtin_bswap64(block), __builtin_bswap32(slot)});
    at += swap_words(block_numbers(0, one));
    const Vec next = every(Block{0, one * vec_blocks});
    // A slot has less than 2^32 blocks, and no carry leaves the high word.
    for (; bytes >= aes_group * sizeof(Vec); bytes -= aes_group * sizeof(Vec)) {
        Vec x[aes_group];
        for (size_t i = 0; i < aes_group; i++, at += next) x[i] = count_bytes(at) ^ keys.white;
        encrypt<aes_group>(keys, x);
        memcpy(out, x, sizeof x), out += sizeof x;
    }
    for (size_t part; bytes; bytes -= part, out += part, at += next) {
        Vec x = count_bytes(at) ^ keys.white;
        encrypt<1>(keys, &x);
        part = smaller(bytes, sizeof(Vec));
        memcpy(out, &x, part);
    }
}

#if defined(__AVX512F__)
const char *path_description() { return "vaes"; }
#elif defined(__VAES__)
const char *path_description() { return "avx2"; }
#else
const char *path_description() { return "aes-ni"; }
#endif

#else

static RoundKeys hash_keys;

void prepare_hash() { expand_key(hash_key, &hash_keys); }

void hash_sliced(Vec *x) {
    constexpr size_t vectors = lanes / vec_blocks;
    Vec s[vectors];
    alignas(64) uint8_t y[lanes][16];
    for (size_t i = 0; i < vectors; i++) s[i] = sigma(x[i]);
    memcpy(y, s, sizeof y);
    encrypt(hash_keys, y);
    memcpy(x, y, sizeof y);
    for (size_t i = 0; i < vectors; i++) x[i] ^= s[i];
}

const char *path_description() { return ""; }

#endif

}  // namespace SRC_PATH
