// The values in a leaf of a DPF: lanes of the blocks H(st ^ 0), H(st ^ 1), ..
#pragma once

#include "path.hpp"

namespace SRC_PATH {

// Sets in[l·blocks + j] = leaf l ^ j, of which the hashes are the leaf's values.
inline void leaf_inputs(const Block *leaves, size_t count, size_t blocks, Block *in) {
    for (size_t l = 0; l < count; l++)
        for (size_t j = 0; j < blocks; j++) in[l * blocks + j] = leaves[l] ^ Block { j, 0 };
}

// Returns lane `i` of consecutive blocks.
template <class Ring, class Lane>
inline Ring lane_of(const Block *blocks, size_t i) {
    Lane v;
    memcpy(&v, reinterpret_cast<const uint8_t *>(blocks) + i * sizeof(Lane), sizeof(Lane));
    return static_cast<Ring>(v);
}

}  // namespace SRC_PATH
