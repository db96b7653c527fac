// The hash without AES instructions: 64 blocks at once, in constant time.
#pragma once

#include "vec.hpp"

namespace SRC_PATH {

constexpr size_t soft_group = 64 / vec_blocks;

// x[i] = H(x[i]) block by block, of soft_group vectors.
void hash_sliced(Vec *x);

template <size_t Each, class Load, class Use>
inline void hash_each(size_t items, Load load, Use use) {
    constexpr size_t group = soft_group / Each;
    for (size_t first = 0; first < items; first += group) {
        const size_t present = smaller(group, items - first);
        Vec x[soft_group] = {};
        for (size_t i = 0; i < present; i++) load(first + i, x + Each * i);
        hash_sliced(x);
        for (size_t i = 0; i < present; i++) use(first + i, x + Each * i);
    }
}

template <class Load, class Use>
inline void hash_pairs(size_t items, Load load, Use use) {
    hash_each<2>(
        items,
        [=](size_t i, Vec *x) {
            x[0] = load(i);
            x[1] = x[0] ^ every(Block{1, 0});
        },
        [=](size_t i, const Vec *h) { use(i, h[0], h[1]); });
}

}  // namespace SRC_PATH
