// Distributed point functions: keys for the dealer.
#include "entries.hpp"
#include "lanes.hpp"
#include "tree.hpp"

namespace SRC_PATH {
namespace {

constexpr size_t batch = 32;  // gates whose nodes are hashed together; even

// Writes (-1)^t_1·(C(st_1) - C(st_0) + beta at the point alpha), element (c, p) after element.
template <class Ring, class Lane>
void write_final(const DpfShape &s, uint64_t alpha, const Ring *beta, uint64_t t1,
                 const Block *leaf0, const Block *leaf1, uint8_t *out) {
    BitWriter bits(out);
    const uint64_t here = alpha & static_cast<uint64_t>(s.points - 1);
    for (int c = 0; c < s.k; c++)
        for (int p = 0; p < s.points; p++) {
            const size_t lane = static_cast<size_t>(c * s.points + p);
            const uint64_t other = here ^ static_cast<uint64_t>(p);
            const Ring at_alpha = static_cast<Ring>(~mask_of((other | (0 - other)) >> 63));
            const Ring v0 = lane_of<Ring, Lane>(leaf0, lane), v1 = lane_of<Ring, Lane>(leaf1, lane);
            const Ring v = static_cast<Ring>(v1 - v0 + (at_alpha & beta[c]));
            bits.put(signed_by(t1, v) & low_bits<Ring>(s.w), s.w);
        }
    bits.finish();
}

template <class Ring, class Lane>
void keys_of(const DpfShape &s, size_t count, const uint64_t *alpha, const Ring *beta,
             const uint8_t *seeds0, const uint8_t *seeds1, uint8_t *keys) {
    const size_t blocks = static_cast<size_t>(s.blocks), k = static_cast<size_t>(s.k);
    Scratch<Block> points(batch), st(2 * batch), h(2 * batch), cw(batch);
    Scratch<Block> leaf(2 * batch * blocks);
    for (size_t first = 0; first < count; first += batch) {
        const size_t present = smaller(batch, count - first), gates = (present + 1) / 2 * 2;
        Block *st0 = st.get(), *st1 = st0 + gates;
        uint8_t *rows = keys + first * s.key_bytes;
        for (size_t g = 0; g < present; g++) {
            points[g] = Block{alpha[first + g], alpha[first + g]};
            st0[g] = root_node(seeds0 + 16 * (first + g), 0);
            st1[g] = root_node(seeds1 + 16 * (first + g), 1);
        }
        for (int i = 0; i < s.depth; i++) {
            hash_blocks(st0, h.get(), 2 * gates);
            descend(gates, points.get(), s.n - 1 - i, st0, st1, h.get(), cw.get());
            for (size_t g = 0; g < present; g++)
                store_block(rows + g * s.key_bytes + 16 * static_cast<size_t>(i), cw[g]);
        }
        leaf_inputs(st0, 2 * gates, blocks, leaf.get());
        hash_blocks(leaf.get(), leaf.get(), 2 * gates * blocks);
        for (size_t g = 0; g < present; g++)
            write_final<Ring, Lane>(s, alpha[first + g], beta + (first + g) * k, st1[g][0] & 1,
                                    leaf.get() + g * blocks, leaf.get() + (gates + g) * blocks,
                                    rows + g * s.key_bytes + 16 * static_cast<size_t>(s.depth));
    }
}

}  // namespace

void dpf_keys(const DpfShape &s, size_t count, const uint64_t *alpha, const void *beta,
              const uint8_t *seeds0, const uint8_t *seeds1, uint8_t *keys) {
    const auto *beta32 = static_cast<const uint32_t *>(beta);
    const auto *beta64 = static_cast<const uint64_t *>(beta);
    if (s.lane == 8)
        return keys_of<uint32_t, uint8_t>(s, count, alpha, beta32, seeds0, seeds1, keys);
    if (s.lane == 16)
        return keys_of<uint32_t, uint16_t>(s, count, alpha, beta32, seeds0, seeds1, keys);
    if (s.lane == 32)
        return keys_of<uint32_t, uint32_t>(s, count, alpha, beta32, seeds0, seeds1, keys);
    keys_of<uint64_t, uint64_t>(s, count, alpha, beta64, seeds0, seeds1, keys);
}

}  // namespace SRC_PATH
