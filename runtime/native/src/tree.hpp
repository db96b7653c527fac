// The correlated GGM tree that DPF and DCF keys share; reasons and notation are in kernels/halftree.py.
#pragma once

#include "aes.hpp"

namespace SRC_PATH {

// CW_i = H(st_0) ^ H(st_1) ^ (not alpha_i)·Delta, and Delta = st_0 ^ st_1
inline Block correction_word(Block st0, Block st1, Block h0, Block h1, uint64_t bit) {
    return h0 ^ h1 ^ ((st0 ^ st1) & ~mask_of(bit));
}

// child_x = H(st) ^ x·st ^ t·CW_i
inline Block child(Block st, Block h, Block cw, uint64_t bit) {
    return h ^ (st & mask_of(bit)) ^ (cw & control_mask(st));
}

// (-1)^t·x
template <class T>
inline T signed_by(uint64_t t, T x) {
    const T m = static_cast<T>(mask_of(t));
    return static_cast<T>((x ^ m) - m);
}

// Moves both parties' nodes of `gates` gates one level down; h has room for 2·gates blocks and
// already holds H(st0), H(st1). alpha_i is bit `place` of alpha. Returns the CW of each gate in cw.
inline void descend(size_t gates, const uint64_t *alpha, int place, Block *st0, Block *st1,
                    const Block *h, Block *cw) {
    for (size_t g = 0; g < gates; g++) {
        const uint64_t bit = alpha[g] >> place & 1;
        cw[g] = correction_word(st0[g], st1[g], h[g], h[gates + g], bit);
        st0[g] = child(st0[g], h[g], cw[g], bit);
        st1[g] = child(st1[g], h[gates + g], cw[g], bit);
    }
}

}  // namespace SRC_PATH
