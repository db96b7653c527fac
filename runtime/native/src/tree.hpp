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

// Key generation, one level of the vector of gates from g on: moves both parties' nodes down, given
// h0, h1 = H(st_0), H(st_1). alpha has each gate's point in both words of a block; its bit `place` is
// alpha_i. Sets CW_i = H(st_0) ^ H(st_1) ^ (not alpha_i)·Delta, where Delta = st_0 ^ st_1.
SRC_INLINE void descend(size_t g, const Block *alpha, int place, Block *st0, Block *st1, Vec h0,
                        Vec h1, Block *cw) {
    const Vec x = bit_mask(load_vec(alpha + g), place);
    const Vec a = load_vec(st0 + g), b = load_vec(st1 + g);
    const Vec word = h0 ^ h1 ^ ((a ^ b) & ~x);
    store_vec(cw + g, word);
    store_vec(st0 + g, child(a, h0, word, x));
    store_vec(st1 + g, child(b, h1, word, x));
}

}  // namespace SRC_PATH
