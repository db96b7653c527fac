// The values in a leaf of a DPF: lanes of the blocks H(st ^ 0), H(st ^ 1), ..
#pragma once

#include "vec.hpp"

namespace SRC_PATH {

// The lanes of a whole vector, of two blocks.
template <class Lane>
struct Lanes {
    typedef Lane Wide __attribute__((vector_size(sizeof(Vec)), aligned(16)));
    typedef Lane Leaf __attribute__((vector_size(32), aligned(16)));
};

// The sum of all lanes of a vector: halves are added until one lane is left.
template <class Lane>
SRC_INLINE Lane sum_of_lanes(typename Lanes<Lane>::Wide x) {
    typedef Lane Quarter __attribute__((vector_size(16)));
    typedef typename Lanes<Lane>::Leaf Leaf;
    Leaf leaf = reinterpret_cast<const Leaf *>(&x)[0];
    if constexpr (sizeof x > sizeof leaf) leaf += reinterpret_cast<const Leaf *>(&x)[1];
    Quarter sum = reinterpret_cast<const Quarter *>(&leaf)[0];
    sum += reinterpret_cast<const Quarter *>(&leaf)[1];
    sum += (Quarter)__builtin_shufflevector((Block)sum, (Block)sum, 1, 0);
    if constexpr (sizeof(Lane) <= 4) sum += (Quarter)((Block)sum >> 32);
    if constexpr (sizeof(Lane) <= 2) sum += (Quarter)((Block)sum >> 16);
    if constexpr (sizeof(Lane) <= 1) sum += (Quarter)((Block)sum >> 8);
    return sum[0];
}

// Reads the count·w bits of a final correction word into `count` lanes.
template <class Lane>
inline void read_final(const uint8_t *bits, size_t bytes, size_t count, int w, Lane *out) {
    if (static_cast<size_t>(w) == 8 * sizeof(Lane)) {
        memcpy(out, bits, bytes);
        return;
    }
    uint8_t padded[48 + 16] = {};  // a leaf of at most three components has at most three blocks
    memcpy(padded, bits, bytes);
    for (size_t i = 0; i < count; i++)
        out[i] = static_cast<Lane>(get_bits(padded, i * static_cast<size_t>(w), w));
}

}  // namespace SRC_PATH
