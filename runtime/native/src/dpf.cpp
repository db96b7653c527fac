// Distributed point functions: keys for the dealer.
#include "entries.hpp"
#include "lanes.hpp"
#include "tree.hpp"

namespace SRC_PATH {
namespace {

constexpr size_t batch = 32;  // gates whose nodes are hashed together; a multiple of vec_blocks

// All ones if a = b, else zero.
inline uint64_t mask_of_equal(uint64_t a, uint64_t b) {
    const uint64_t d = a ^ b;
    return ~mask_of((d | (0 - d)) >> 63);
}

// Sets out[c·points + p] = (-1)^t_1·(C(st_1) - C(st_0) + beta at the point alpha), lazy, for the
// values v0, v1 of the leaves.
template <class Ring, class Lane>
void final_words(const DpfShape &s, uint64_t alpha, const Ring *beta, uint64_t t1, const Lane *v0,
                 const Lane *v1, Lane *out) {
    const uint64_t here = alpha & static_cast<uint64_t>(s.points - 1);
    const Lane sign = static_cast<Lane>(mask_of(t1));
    for (int c = 0, i = 0; c < s.k; c++)
        for (int p = 0; p < s.points; p++, i++) {
            const uint64_t at_alpha = mask_of_equal(here, static_cast<uint64_t>(p));
            const Lane v = static_cast<Lane>(v1[i] - v0[i] + static_cast<Lane>(at_alpha & beta[c]));
            out[i] = static_cast<Lane>((v ^ sign) - sign);
        }
}

// The same for a leaf of exactly two blocks, all lanes at once; K components.
template <int K, class Ring, class Lane>
void final_leaf(uint64_t alpha, const Ring *beta, uint64_t t1, const Lane *v0, const Lane *v1,
                Lane *out) {
    typedef typename Lanes<Lane>::Leaf Leaf;
    constexpr size_t lanes = sizeof(Leaf) / sizeof(Lane), points = lanes / K;
    Leaf point, payload;
    for (size_t i = 0; i < lanes; i++) {
        point[i] = static_cast<Lane>(i % points);
        payload[i] = static_cast<Lane>(beta[i / points]);
    }
    const Leaf here = Leaf{} + static_cast<Lane>(alpha & (points - 1));
    const Leaf sign = Leaf{} + static_cast<Lane>(mask_of(t1));
    const Leaf d = *reinterpret_cast<const Leaf *>(v1) - *reinterpret_cast<const Leaf *>(v0);
    const Leaf v = d + (reinterpret_cast<Leaf>(point == here) & payload);
    *reinterpret_cast<Leaf *>(out) = (v ^ sign) - sign;
}

template <class Ring, class Lane>
void keys_of(const DpfShape &s, size_t count, const uint64_t *alpha, const Ring *beta,
             const uint8_t *seeds0, const uint8_t *seeds1, uint8_t *keys) {
    const size_t blocks = static_cast<size_t>(s.blocks), k = static_cast<size_t>(s.k);
    const size_t depth = static_cast<size_t>(s.depth), lanes = k * static_cast<size_t>(s.points);
    const bool two_blocks = lanes * sizeof(Lane) == 2 * sizeof(Block);
    Scratch<Block> points(batch), st(2 * batch), cw(depth * batch), final(blocks);
    Scratch<Block> leaf(2 * batch * blocks);  // (node, block)
    for (size_t first = 0; first < count; first += batch) {
        const size_t present = smaller(batch, count - first), gates = round_up(present, vec_blocks);
        Block *st0 = st.get(), *st1 = st0 + gates;
        for (size_t g = 0; g < present; g++) {
            points[g] = Block{alpha[first + g], alpha[first + g]};
            st0[g] = root_node(seeds0 + 16 * (first + g), 0);
            st1[g] = root_node(seeds1 + 16 * (first + g), 1);
        }
        for (size_t i = 0; i < depth; i++)
            hash_each<2>(
                gates / vec_blocks,
                [&](size_t v, Vec *x) SRC_LAMBDA {
                    x[0] = load_vec(st0 + v * vec_blocks);
                    x[1] = load_vec(st1 + v * vec_blocks);
                },
                [&](size_t v, const Vec *h) SRC_LAMBDA {
                    descend(v * vec_blocks, points.get(), s.n - 1 - static_cast<int>(i), st0, st1,
                            h[0], h[1], cw.get() + i * batch);
                });
        for (size_t g = 0; g < 2 * gates; g++)
            for (size_t j = 0; j < blocks; j++) leaf[g * blocks + j] = st0[g] ^ Block{j, 0};
        hash_blocks(leaf.get(), leaf.get(), 2 * gates * blocks);
        for (size_t g = 0; g < present; g++) {
            uint8_t *key = keys + (first + g) * s.key_bytes;  // written once, from front to back
            for (size_t i = 0; i < depth; i++, key += 16) store_block(key, cw[i * batch + g]);
            const Lane *v0 = reinterpret_cast<const Lane *>(leaf.get() + g * blocks);
            const Lane *v1 = reinterpret_cast<const Lane *>(leaf.get() + (gates + g) * blocks);
            const Ring *payload = beta + (first + g) * k;
            const uint64_t a = alpha[first + g], t1 = st1[g][0];
            Lane *out = reinterpret_cast<Lane *>(final.get());
            if (two_blocks && k == 1)
                final_leaf<1>(a, payload, t1, v0, v1, out);
            else if (two_blocks && k == 2)
                final_leaf<2>(a, payload, t1, v0, v1, out);
            else
                final_words(s, a, payload, t1, v0, v1, out);
            if (static_cast<size_t>(s.w) == 8 * sizeof(Lane)) {
                memcpy(key, out, lanes * sizeof(Lane));
                continue;
            }
            BitWriter bits(key);
            for (size_t i = 0; i < lanes; i++) bits.put(out[i] & low_bits<uint64_t>(s.w), s.w);
            bits.finish();
        }
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
