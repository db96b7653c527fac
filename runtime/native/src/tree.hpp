// The correlated GGM tree that DPF and DCF keys share; reasons and notation: kernels/halftree.py.
#pragma once

#include "aes.hpp"

namespace SRC_PATH {

inline Pair load_pair(const Block *p) { return *reinterpret_cast<const Pair *>(p); }
inline void store_pair(Block *p, Pair x) { *reinterpret_cast<Pair *>(p) = x; }

// Bit `place` of each word as a mask of ones or zeros.
inline Pair bit_mask(Pair words, int place) { return 0 - ((words >> place) & 1); }

// child_x = H(st) ^ x·st ^ t·CW_i; x is given as a mask.
inline Pair child(Pair st, Pair h, Pair cw, Pair x) {
    return h ^ (st & x) ^ (cw & control_mask(st));
}

// (-1)^t·x for the lowest bit of t; word by word for a pair.
template <class T>
inline T signed_by(uint64_t t, T x) {
    const T m = static_cast<T>(mask_of(t));
    return static_cast<T>((x ^ m) - m);
}
inline Pair signed_by(Pair t, Pair x) {
    const Pair m = bit_mask(t, 0);
    return (x ^ m) - m;
}

// Moves both parties' nodes of `gates` gates, an even number, one level down. h holds H(st0), then
// H(st1). alpha has each gate's point in both words of a block; its bit `place` is alpha_i. cw is
// filled with each gate's CW_i = H(st_0) ^ H(st_1) ^ (not alpha_i)·Delta, where Delta = st_0 ^
// st_1.
inline void descend(size_t gates, const Block *alpha, int place, Block *st0, Block *st1,
                    const Block *h, Block *cw) {
    for (size_t g = 0; g < gates; g += 2) {
        const Pair x = bit_mask(load_pair(alpha + g), place);
        const Pair a = load_pair(st0 + g), b = load_pair(st1 + g);
        const Pair ha = load_pair(h + g), hb = load_pair(h + gates + g);
        const Pair word = ha ^ hb ^ ((a ^ b) & ~x);
        store_pair(cw + g, word);
        store_pair(st0 + g, child(a, ha, word, x));
        store_pair(st1 + g, child(b, hb, word, x));
    }
}

}  // namespace SRC_PATH
