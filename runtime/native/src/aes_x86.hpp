// AES-128 with AES-NI, and with VAES (two blocks a register) where the processor has it.
#pragma once

#include <immintrin.h>

#include "aes.hpp"

#define SRC_VAES __attribute__((target("avx2,aes,vaes")))
#define SRC_INLINE inline __attribute__((always_inline))

namespace SRC_PATH {
namespace {

struct RoundKeys {
    __m128i key[11];

    explicit RoundKeys(const uint8_t *bytes) {
        key[0] = _mm_loadu_si128(reinterpret_cast<const __m128i *>(bytes));
        expand<1, 0x01>();
        expand<2, 0x02>();
        expand<3, 0x04>();
        expand<4, 0x08>();
        expand<5, 0x10>();
        expand<6, 0x20>();
        expand<7, 0x40>();
        expand<8, 0x80>();
        expand<9, 0x1b>();
        expand<10, 0x36>();
    }

    template <int Round, int Constant>
    void expand() {
        __m128i k = key[Round - 1];
        __m128i mix = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(k, Constant), 0xff);
        k = _mm_xor_si128(k, _mm_slli_si128(k, 4));
        k = _mm_xor_si128(k, _mm_slli_si128(k, 8));
        key[Round] = _mm_xor_si128(k, mix);
    }
};

const RoundKeys &fixed_keys() {
    static const RoundKeys keys(hash_key);
    return keys;
}

bool has_vaes() {
    static const bool has = __builtin_cpu_supports("vaes");
    return has;
}

SRC_INLINE __m128i encrypt(const RoundKeys &rk, __m128i x) {
    x = _mm_xor_si128(x, rk.key[0]);
    for (int r = 1; r < 10; r++) x = _mm_aesenc_si128(x, rk.key[r]);
    return _mm_aesenclast_si128(x, rk.key[10]);
}

// sigma(hi || lo) = (hi ^ lo) || hi
SRC_INLINE __m128i sigma(__m128i x) {
    const __m128i high = _mm_set_epi64x(-1, 0);
    return _mm_xor_si128(_mm_shuffle_epi32(x, 0x4e), _mm_and_si128(x, high));
}

SRC_INLINE __m128i hash_one(const RoundKeys &rk, __m128i x) {
    __m128i s = sigma(x);
    return _mm_xor_si128(encrypt(rk, s), s);
}

// Counter blocks are kept with the last 4 bytes little-endian, so that they count by addition.
SRC_INLINE __m128i count_bytes() {
    return _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 14, 13, 12);
}

__m128i first_counter(uint64_t block, uint32_t slot) {
    return _mm_setr_epi32(static_cast<int>(__builtin_bswap32(static_cast<uint32_t>(block >> 32))),
                          static_cast<int>(__builtin_bswap32(static_cast<uint32_t>(block))),
                          static_cast<int>(__builtin_bswap32(slot)), 0);
}

// Runs `Width` registers of two blocks each through AES at once: the unit is pipelined.
template <int Width>
SRC_VAES SRC_INLINE void encrypt_wide(const RoundKeys &rk, __m256i *x) {
    __m256i k = _mm256_broadcastsi128_si256(rk.key[0]);
    for (int i = 0; i < Width; i++) x[i] = _mm256_xor_si256(x[i], k);
    for (int r = 1; r < 10; r++) {
        k = _mm256_broadcastsi128_si256(rk.key[r]);
        for (int i = 0; i < Width; i++) x[i] = _mm256_aesenc_epi128(x[i], k);
    }
    k = _mm256_broadcastsi128_si256(rk.key[10]);
    for (int i = 0; i < Width; i++) x[i] = _mm256_aesenclast_epi128(x[i], k);
}

SRC_VAES SRC_INLINE __m256i sigma_wide(__m256i x) {
    const __m256i high = _mm256_set_epi64x(-1, 0, -1, 0);
    return _mm256_xor_si256(_mm256_shuffle_epi32(x, 0x4e), _mm256_and_si256(x, high));
}

template <int Width>
SRC_VAES SRC_INLINE void hash_wide(const RoundKeys &rk, const Block *in, Block *out) {
    __m256i x[Width];
    const __m256i *from = reinterpret_cast<const __m256i *>(in);
    __m256i *to = reinterpret_cast<__m256i *>(out);
    for (int i = 0; i < Width; i++) x[i] = sigma_wide(_mm256_loadu_si256(from + i));
    encrypt_wide<Width>(rk, x);
    for (int i = 0; i < Width; i++) {
        __m256i s = sigma_wide(_mm256_loadu_si256(from + i));
        _mm256_storeu_si256(to + i, _mm256_xor_si256(x[i], s));
    }
}

SRC_VAES size_t hash_vaes(const RoundKeys &rk, const Block *in, Block *out, size_t count) {
    size_t i = 0;
    for (; i + 16 <= count; i += 16) hash_wide<8>(rk, in + i, out + i);
    for (; i + 8 <= count; i += 8) hash_wide<4>(rk, in + i, out + i);
    for (; i + 2 <= count; i += 2) hash_wide<1>(rk, in + i, out + i);
    return i;
}

template <int Width>
SRC_VAES SRC_INLINE void hash_leaves_wide(const RoundKeys &rk, const Block *leaves, size_t stride,
                                          Block *out) {
    // sigma of (st, st ^ 1): the flipped bit moves to the upper word
    const __m256i flip = _mm256_set_epi64x(1, 0, 0, 0);
    __m256i s[Width], x[Width];
    for (int i = 0; i < Width; i++) {
        __m128i st = _mm_load_si128(reinterpret_cast<const __m128i *>(leaves + i * stride));
        s[i] = _mm256_xor_si256(_mm256_broadcastsi128_si256(sigma(st)), flip);
        x[i] = s[i];
    }
    encrypt_wide<Width>(rk, x);
    for (int i = 0; i < Width; i++)
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(out + 2 * i), _mm256_xor_si256(x[i], s[i]));
}

SRC_VAES size_t hash_leaves_vaes(const RoundKeys &rk, const Block *leaves, size_t stride,
                                 size_t count, Block *out) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        hash_leaves_wide<8>(rk, leaves + i * stride, stride, out + 2 * i);
    for (; i < count; i++) hash_leaves_wide<1>(rk, leaves + i * stride, stride, out + 2 * i);
    return i;
}

SRC_VAES size_t prg_vaes(const RoundKeys &rk, __m128i first, uint8_t *out, size_t blocks) {
    const __m256i order = _mm256_broadcastsi128_si256(count_bytes());
    __m256i at = _mm256_broadcastsi128_si256(first);
    at = _mm256_add_epi32(at, _mm256_setr_epi32(0, 0, 0, 0, 0, 0, 0, 1));
    const __m256i two = _mm256_setr_epi32(0, 0, 0, 2, 0, 0, 0, 2);
    size_t i = 0;
    for (; i + 16 <= blocks; i += 16) {
        __m256i x[8];
        for (int j = 0; j < 8; j++) {
            x[j] = _mm256_shuffle_epi8(at, order);
            at = _mm256_add_epi32(at, two);
        }
        encrypt_wide<8>(rk, x);
        __m256i *to = reinterpret_cast<__m256i *>(out + 16 * i);
        for (int j = 0; j < 8; j++) _mm256_storeu_si256(to + j, x[j]);
    }
    return i;
}

SRC_INLINE void encrypt_eight(const RoundKeys &rk, __m128i *x) {
    for (int j = 0; j < 8; j++) x[j] = _mm_xor_si128(x[j], rk.key[0]);
    for (int r = 1; r < 10; r++)
        for (int j = 0; j < 8; j++) x[j] = _mm_aesenc_si128(x[j], rk.key[r]);
    for (int j = 0; j < 8; j++) x[j] = _mm_aesenclast_si128(x[j], rk.key[10]);
}

size_t hash_narrow(const RoundKeys &rk, const Block *in, Block *out, size_t count) {
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m128i s[8], x[8];
        for (int j = 0; j < 8; j++)
            x[j] = s[j] = sigma(_mm_load_si128(reinterpret_cast<const __m128i *>(in + i + j)));
        encrypt_eight(rk, x);
        for (int j = 0; j < 8; j++)
            _mm_store_si128(reinterpret_cast<__m128i *>(out + i + j), _mm_xor_si128(x[j], s[j]));
    }
    return i;
}

size_t prg_narrow(const RoundKeys &rk, __m128i first, uint8_t *out, size_t blocks) {
    __m128i at = first;
    size_t i = 0;
    for (; i + 8 <= blocks; i += 8) {
        __m128i x[8];
        for (int j = 0; j < 8; j++) {
            x[j] = _mm_shuffle_epi8(at, count_bytes());
            at = _mm_add_epi32(at, _mm_setr_epi32(0, 0, 0, 1));
        }
        encrypt_eight(rk, x);
        __m128i *to = reinterpret_cast<__m128i *>(out + 16 * i);
        for (int j = 0; j < 8; j++) _mm_storeu_si128(to + j, x[j]);
    }
    return i;
}

}  // namespace

void hash_blocks(const Block *in, Block *out, size_t count) {
    const RoundKeys &rk = fixed_keys();
    size_t i = (has_vaes() ? hash_vaes : hash_narrow)(rk, in, out, count);
    for (; i < count; i++) {
        __m128i x = _mm_load_si128(reinterpret_cast<const __m128i *>(in + i));
        _mm_store_si128(reinterpret_cast<__m128i *>(out + i), hash_one(rk, x));
    }
}

void hash_leaves(const Block *leaves, size_t stride, size_t count, Block *out) {
    const RoundKeys &rk = fixed_keys();
    size_t i = has_vaes() ? hash_leaves_vaes(rk, leaves, stride, count, out) : 0;
    if (i == count) return;
    for (size_t j = i; j < count; j++) {
        out[2 * j] = leaves[j * stride];
        out[2 * j + 1] = leaves[j * stride] ^ Block { 1, 0 };
    }
    hash_blocks(out + 2 * i, out + 2 * i, 2 * (count - i));
}

void prg(const uint8_t *key, uint64_t block, uint32_t slot, uint8_t *out, size_t bytes) {
    const RoundKeys rk(key);
    const __m128i first = first_counter(block, slot);
    size_t i = (has_vaes() ? prg_vaes : prg_narrow)(rk, first, out, bytes / 16);
    for (; 16 * i < bytes; i++) {
        __m128i at = _mm_add_epi32(first, _mm_setr_epi32(0, 0, 0, static_cast<int>(i)));
        alignas(16) uint8_t stream[16];
        __m128i x = encrypt(rk, _mm_shuffle_epi8(at, count_bytes()));
        _mm_store_si128(reinterpret_cast<__m128i *>(stream), x);
        memcpy(out + 16 * i, stream, smaller<size_t>(16, bytes - 16 * i));
    }
}

const char *aes_description() { return has_vaes() ? "vaes" : "aes-ni"; }

}  // namespace SRC_PATH
