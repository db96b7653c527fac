// The correlated GGM tree that DPF and DCF keys share; reasons and notation: kernels/halftree.py.
#pragma once

#include "aes.hpp"

namespace SRC_PATH {

// The root of a party: its seed with the control bit t = party.
inline Block root_node(const uint8_t *seed, int party) {
    Block st = load_block(seed);
    return (st & Block{~uint64_t{1}, ~uint64_t{0}}) | Block{static_cast<uint64_t>(party), 0};
}

// child_x = H(st) ^ x·st ^ t·CW_i; x is given as a mask.
inline Vec child(Vec st, Vec h, Vec cw, Vec x) { return h ^ (st & x) ^ (cw & control_mask(st)); }

// (-1)^t·x for the lowest bit of t, word by word.
inline Vec signed_by(Vec t, Vec x) {
    const Vec m = bit_mask(t, 0);
    return (x ^ m) - m;
}

// A level of key generation: moves both parties' nodes of `gates` gates, a multiple of vec_blocks,
// one level down. alpha has each gate's point in both words of a block; its bit `place` is alpha_i.
// cw is filled with each gate's CW_i = H(st_0) ^ H(st_1) ^ (not alpha_i)·Delta, where
// Delta = st_0 ^ st_1.
inline void descend(size_t gates, const Block *alpha, int place, Block *st0, Block *st1,
                    Block *cw) {
    hash_each<2>(
        gates / vec_blocks,
        [=](size_t i, Vec *x) SRC_LAMBDA {
            x[0] = load_vec(st0 + i * vec_blocks);
            x[1] = load_vec(st1 + i * vec_blocks);
        },
        [=](size_t i, const Vec *h) SRC_LAMBDA {
            const size_t g = i * vec_blocks;
            const Vec x = bit_mask(load_vec(alpha + g), place);
            const Vec a = load_vec(st0 + g), b = load_vec(st1 + g);
            const Vec word = h[0] ^ h[1] ^ ((a ^ b) & ~x);
            store_vec(cw + g, word);
            store_vec(st0 + g, child(a, h[0], word, x));
            store_vec(st1 + g, child(b, h[1], word, x));
        });
}

}  // namespace SRC_PATH
