// AES-128 by the processor's instructions: VAES, which take a vector, or AES-NI, block by block.
#pragma once

#include <immintrin.h>

#include "vec.hpp"

namespace SRC_PATH {

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

// encrypt<Count>: rounds 1 to 10 on every block of x; the 0-th key has been added.
//
// Groups have so many vectors that the unit is kept busy, measured on Zen 4. With AVX-512 four at
// once are enough, and where the uses are long the next group's rounds overlap with them.
#if defined(__VAES__)
constexpr size_t aes_group = 8;

#if defined(__AVX512F__)
constexpr size_t pair_group = 2;
typedef __m512i Register;
SRC_INLINE Register aes_round(Register x, Register k) { return _mm512_aesenc_epi128(x, k); }
SRC_INLINE Register aes_last(Register x, Register k) { return _mm512_aesenclast_epi128(x, k); }
#else
constexpr size_t pair_group = 4;
typedef __m256i Register;
SRC_INLINE Register aes_round(Register x, Register k) { return _mm256_aesenc_epi128(x, k); }
SRC_INLINE Register aes_last(Register x, Register k) { return _mm256_aesenclast_epi128(x, k); }
#endif

struct WideKeys {
    Vec white, key[11];  // key[0], white, is added outside

    void spread(const RoundKeys &rk) {
        white = every((Block)rk.key[0]);
        for (int r = 0; r < 11; r++) key[r] = every((Block)rk.key[r]);
    }
};

template <size_t Count>
SRC_INLINE void encrypt(const WideKeys &k, Vec *x) {
    for (int r = 1; r < 10; r++) {
        const Register key = (Register)k.key[r];
        for (size_t i = 0; i < Count; i++) x[i] = (Vec)aes_round((Register)x[i], key);
    }
    const Register key = (Register)k.key[10];
    for (size_t i = 0; i < Count; i++) x[i] = (Vec)aes_last((Register)x[i], key);
}
#else
constexpr size_t aes_group = 4, pair_group = 2;

struct WideKeys {
    Vec white;
    __m128i key[11];

    void spread(const RoundKeys &rk) {
        white = every((Block)rk.key[0]);
        memcpy(key, rk.key, sizeof key);
    }
};

template <size_t Count>
SRC_INLINE void encrypt(const WideKeys &k, Vec *x) {
    constexpr size_t blocks = Count * vec_blocks;
    __m128i y[blocks];
    for (size_t i = 0; i < Count; i++) {
        y[2 * i] = _mm256_castsi256_si128((__m256i)x[i]);
        y[2 * i + 1] = _mm256_extracti128_si256((__m256i)x[i], 1);
    }
    for (int r = 1; r < 10; r++) {
        const __m128i key = k.key[r];
        for (size_t i = 0; i < blocks; i++) y[i] = _mm_aesenc_si128(y[i], key);
    }
    const __m128i key = k.key[10];
    for (size_t i = 0; i < blocks; i++) y[i] = _mm_aesenclast_si128(y[i], key);
    for (size_t i = 0; i < Count; i++) x[i] = (Vec)_mm256_set_m128i(y[2 * i + 1], y[2 * i]);
}
#endif

// The round keys of HASH_KEY, once prepare_hash has run. Not initialised when the program is loaded:
// that may be on a processor without these instructions.
extern WideKeys hash_keys;

// With 32 registers the keys and the inputs stay in them. With 16, the keys come from memory and the
// inputs are computed again after the rounds, lest the compiler spill the blocks between rounds.
#if defined(__AVX512F__)
typedef const WideKeys KeysAtHand;
SRC_INLINE void forget_inputs() {}
#else
typedef const WideKeys &KeysAtHand;
SRC_INLINE void forget_inputs() { __asm__ volatile("" ::: "memory"); }
#endif

template <size_t Each, size_t Items, class Load, class Use>
SRC_INLINE void hash_group(const WideKeys &keys, size_t first, Load load, Use use) {
    Vec x[Each * Items], in[Each * Items];
    for (size_t i = 0; i < Items; i++) load(first + i, in + Each * i);
    for (size_t i = 0; i < Each * Items; i++) x[i] = sigma(in[i]) ^ keys.white;
    encrypt<Each * Items>(keys, x);
    forget_inputs();
    for (size_t i = 0; i < Items; i++) load(first + i, in + Each * i);
    for (size_t i = 0; i < Each * Items; i++) x[i] ^= sigma(in[i]);
    for (size_t i = 0; i < Items; i++) use(first + i, x + Each * i);
}

template <size_t Each, class Load, class Use>
SRC_INLINE void hash_each(size_t items, Load load, Use use) {
    constexpr size_t group = aes_group / Each;
    KeysAtHand keys = hash_keys;
    size_t i = 0;
    for (; i + group <= items; i += group) hash_group<Each, group>(keys, i, load, use);
    for (; i < items; i++) hash_group<Each, 1>(keys, i, load, use);
}

template <size_t Items, class Load, class Use>
SRC_INLINE void hash_pair_group(const WideKeys &keys, size_t first, Load load, Use use) {
    const Vec flip = every(Block{0, 1});  // sigma(st ^ 1) ^ sigma(st)
    Vec x[2 * Items];
    for (size_t i = 0; i < Items; i++) {
        x[2 * i] = sigma(load(first + i)) ^ keys.white;
        x[2 * i + 1] = x[2 * i] ^ flip;
    }
    encrypt<2 * Items>(keys, x);
    forget_inputs();
    for (size_t i = 0; i < Items; i++) {
        const Vec s = sigma(load(first + i));
        use(first + i, x[2 * i] ^ s, x[2 * i + 1] ^ s ^ flip);
    }
}

template <class Load, class Use>
SRC_INLINE void hash_pairs(size_t items, Load load, Use use) {
    constexpr size_t group = pair_group;
    KeysAtHand keys = hash_keys;
    size_t i = 0;
    for (; i + group <= items; i += group) hash_pair_group<group>(keys, i, load, use);
    for (; i < items; i++) hash_pair_group<1>(keys, i, load, use);
}

}  // namespace SRC_PATH
