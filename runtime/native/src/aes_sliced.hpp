// AES-128 without AES instructions, in constant time: 64 blocks at once, a bit of a word each.
#pragma once

#include "path.hpp"

namespace SRC_PATH {
namespace {

constexpr int lanes = 64;

// Bit b of byte p of all 64 blocks; byte p is row p % 4, column p / 4 of the AES state.
struct Sliced {
    uint64_t byte[16][8];
};

// Round keys with each bit spread over a word: 0 or all ones.
struct RoundKeys {
    Sliced key[11];
};

// The AES S-box on bits q[0..7], low to high: a circuit of Boyar and Peralta; docs/papers.md.
inline void sbox(uint64_t *q) {
    uint64_t x0 = q[7], x1 = q[6], x2 = q[5], x3 = q[4], x4 = q[3], x5 = q[2], x6 = q[1], x7 = q[0];

    uint64_t y14 = x3 ^ x5, y13 = x0 ^ x6, y9 = x0 ^ x3, y8 = x0 ^ x5, t0 = x1 ^ x2;
    uint64_t y1 = t0 ^ x7, y4 = y1 ^ x3, y12 = y13 ^ y14, y2 = y1 ^ x0, y5 = y1 ^ x6;
    uint64_t y3 = y5 ^ y8, t1 = x4 ^ y12, y15 = t1 ^ x5, y20 = t1 ^ x1, y6 = y15 ^ x7;
    uint64_t y10 = y15 ^ t0, y11 = y20 ^ y9, y7 = x7 ^ y11, y17 = y10 ^ y11, y19 = y10 ^ y8;
    uint64_t y16 = t0 ^ y11, y21 = y13 ^ y16, y18 = x0 ^ y16;

    uint64_t t2 = y12 & y15, t3 = y3 & y6, t4 = t3 ^ t2, t5 = y4 & x7, t6 = t5 ^ t2;
    uint64_t t7 = y13 & y16, t8 = y5 & y1, t9 = t8 ^ t7, t10 = y2 & y7, t11 = t10 ^ t7;
    uint64_t t12 = y9 & y11, t13 = y14 & y17, t14 = t13 ^ t12, t15 = y8 & y10, t16 = t15 ^ t12;
    uint64_t t17 = t4 ^ t14, t18 = t6 ^ t16, t19 = t9 ^ t14, t20 = t11 ^ t16;
    uint64_t t21 = t17 ^ y20, t22 = t18 ^ y19, t23 = t19 ^ y21, t24 = t20 ^ y18;

    uint64_t t25 = t21 ^ t22, t26 = t21 & t23, t27 = t24 ^ t26, t28 = t25 & t27, t29 = t28 ^ t22;
    uint64_t t30 = t23 ^ t24, t31 = t22 ^ t26, t32 = t31 & t30, t33 = t32 ^ t24, t34 = t23 ^ t33;
    uint64_t t35 = t27 ^ t33, t36 = t24 & t35, t37 = t36 ^ t34, t38 = t27 ^ t36, t39 = t29 & t38;
    uint64_t t40 = t25 ^ t39, t41 = t40 ^ t37, t42 = t29 ^ t33, t43 = t29 ^ t40, t44 = t33 ^ t37;
    uint64_t t45 = t42 ^ t41;

    uint64_t z0 = t44 & y15, z1 = t37 & y6, z2 = t33 & x7, z3 = t43 & y16, z4 = t40 & y1;
    uint64_t z5 = t29 & y7, z6 = t42 & y11, z7 = t45 & y17, z8 = t41 & y10, z9 = t44 & y12;
    uint64_t z10 = t37 & y3, z11 = t33 & y4, z12 = t43 & y13, z13 = t40 & y5, z14 = t29 & y2;
    uint64_t z15 = t42 & y9, z16 = t45 & y14, z17 = t41 & y8;

    uint64_t t46 = z15 ^ z16, t47 = z10 ^ z11, t48 = z5 ^ z13, t49 = z9 ^ z10, t50 = z2 ^ z12;
    uint64_t t51 = z2 ^ z5, t52 = z7 ^ z8, t53 = z0 ^ z3, t54 = z6 ^ z7, t55 = z16 ^ z17;
    uint64_t t56 = z12 ^ t48, t57 = t50 ^ t53, t58 = z4 ^ t46, t59 = z3 ^ t54, t60 = t46 ^ t57;
    uint64_t t61 = z14 ^ t57, t62 = t52 ^ t58, t63 = t49 ^ t58, t64 = z4 ^ t59, t65 = t61 ^ t62;
    uint64_t t66 = z1 ^ t63, s0 = t59 ^ t63, s6 = t56 ^ ~t62, s7 = t48 ^ ~t60, t67 = t64 ^ t65;
    uint64_t s3 = t53 ^ t66, s4 = t51 ^ t66, s5 = t47 ^ t65, s1 = t64 ^ ~s3, s2 = t55 ^ ~t67;

    q[7] = s0, q[6] = s1, q[5] = s2, q[4] = s3, q[3] = s4, q[2] = s5, q[1] = s6, q[0] = s7;
}

uint32_t sub_word(uint32_t x) {
    uint64_t q[8] = {};
    for (int i = 0; i < 4; i++)
        for (int b = 0; b < 8; b++) q[b] |= static_cast<uint64_t>(x >> (8 * i + b) & 1) << i;
    sbox(q);
    uint32_t y = 0;
    for (int i = 0; i < 4; i++)
        for (int b = 0; b < 8; b++) y |= static_cast<uint32_t>(q[b] >> i & 1) << (8 * i + b);
    return y;
}

void expand_key(const uint8_t *key, RoundKeys *out) {
    constexpr uint8_t constants[10] = {1, 2, 4, 8, 16, 32, 64, 128, 0x1b, 0x36};
    uint32_t word[44];
    memcpy(word, key, 16);
    for (int i = 4; i < 44; i++) {
        uint32_t x = word[i - 1];
        if (i % 4 == 0) x = sub_word(x >> 8 | x << 24) ^ constants[i / 4 - 1];
        word[i] = word[i - 4] ^ x;
    }
    for (int r = 0; r < 11; r++)
        for (int p = 0; p < 16; p++)
            for (int b = 0; b < 8; b++)
                out->key[r].byte[p][b] = mask_of(word[4 * r + p / 4] >> (8 * (p % 4) + b));
}

void add_key(Sliced *s, const Sliced &key) {
    for (int p = 0; p < 16; p++)
        for (int b = 0; b < 8; b++) s->byte[p][b] ^= key.byte[p][b];
}

// Row r of the state moves r columns to the left.
void sub_and_shift(const Sliced &s, Sliced *out) {
    for (int p = 0; p < 16; p++) {
        uint64_t *q = out->byte[p];
        memcpy(q, s.byte[(p + 4 * (p % 4)) % 16], sizeof s.byte[0]);
        sbox(q);
    }
}

// y_r = 2·x_r + 3·x_(r+1) + x_(r+2) + x_(r+3) = x_r + sum + 2·(x_r + x_(r+1))  in GF(2^8)
void mix_columns(Sliced *s) {
    for (int c = 0; c < 16; c += 4) {
        uint64_t x[5][8], sum[8];
        memcpy(x, s->byte[c], 4 * sizeof x[0]);
        memcpy(x[4], x[0], sizeof x[0]);
        for (int b = 0; b < 8; b++) sum[b] = x[0][b] ^ x[1][b] ^ x[2][b] ^ x[3][b];
        for (int r = 0; r < 4; r++) {
            uint64_t d[8];
            for (int b = 0; b < 8; b++) d[b] = x[r][b] ^ x[r + 1][b];
            const uint64_t twice[8] = {d[7],        d[0] ^ d[7], d[1], d[2] ^ d[7],
                                       d[3] ^ d[7], d[4],        d[5], d[6]};
            for (int b = 0; b < 8; b++) s->byte[c + r][b] = x[r][b] ^ sum[b] ^ twice[b];
        }
    }
}

// Transposes an 8x8 bit matrix: bit 8i + j moves to bit 8j + i.
inline uint64_t transpose(uint64_t x) {
    uint64_t t = (x ^ x >> 7) & 0x00aa00aa00aa00aa;
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000cccc0000cccc;
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & 0x00000000f0f0f0f0;
    return x ^ t ^ t << 28;
}

void slice(const uint8_t (*blocks)[16], Sliced *s) {
    memset(s, 0, sizeof *s);
    for (int p = 0; p < 16; p++)
        for (int g = 0; g < 8; g++) {
            uint64_t x = 0;
            for (int i = 0; i < 8; i++) x |= static_cast<uint64_t>(blocks[8 * g + i][p]) << 8 * i;
            x = transpose(x);
            for (int b = 0; b < 8; b++) s->byte[p][b] |= (x >> 8 * b & 255) << 8 * g;
        }
}

void unslice(const Sliced &s, uint8_t (*blocks)[16]) {
    for (int p = 0; p < 16; p++)
        for (int g = 0; g < 8; g++) {
            uint64_t x = 0;
            for (int b = 0; b < 8; b++) x |= (s.byte[p][b] >> 8 * g & 255) << 8 * b;
            x = transpose(x);
            for (int i = 0; i < 8; i++) blocks[8 * g + i][p] = static_cast<uint8_t>(x >> 8 * i);
        }
}

void encrypt(const RoundKeys &rk, uint8_t (*blocks)[16]) {
    Sliced s, t;
    slice(blocks, &s);
    add_key(&s, rk.key[0]);
    for (int r = 1; r < 10; r++) {
        sub_and_shift(s, &t);
        mix_columns(&t);
        add_key(&t, rk.key[r]);
        s = t;
    }
    sub_and_shift(s, &t);
    add_key(&t, rk.key[10]);
    unslice(t, blocks);
}

}  // namespace
}  // namespace SRC_PATH
