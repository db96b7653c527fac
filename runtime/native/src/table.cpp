// Table gates: full-domain evaluation of a DPF, fused with the inner product with public tables.
//
// The tree of several gates is expanded level by level, node-major and gate-minor, so that every
// hash_blocks call has many independent blocks. Trees deeper than `subtree` levels are cut: the top
// is expanded once, then one subtree after the other, each small enough for the L1 cache.
#include "entries.hpp"
#include "lanes.hpp"
#include "tree.hpp"

namespace SRC_PATH {
namespace {

constexpr size_t batch = 8;
constexpr int subtree = 6;

// nodes (2^levels, gates), the first row given, the rest filled in; h is scratch of half the size.
// gates is even.
void expand(size_t gates, int levels, const Block *cw, Block *nodes, Block *h) {
    for (int i = 0; i < levels; i++, cw += gates) {
        const size_t parents = size_t{1} << i;
        hash_blocks(nodes, h, parents * gates);
        for (size_t g = 0; g < gates; g += 2) {
            const Pair word = *reinterpret_cast<const Pair *>(cw + g);
            for (size_t p = parents; p-- > 0;) {
                const Pair st = *reinterpret_cast<const Pair *>(nodes + p * gates + g);
                const Pair hashed = *reinterpret_cast<const Pair *>(h + p * gates + g);
                const Pair left = hashed ^ (word & control_mask(st));
                *reinterpret_cast<Pair *>(nodes + 2 * p * gates + g) = left;
                *reinterpret_cast<Pair *>(nodes + (2 * p + 1) * gates + g) = left ^ st;
            }
        }
    }
}

// Writes e[c][l·points + p] = lane + t·CW of `leaves` leaves, `gates` nodes apart.
template <class Ring, class Lane>
void leaf_shares(const DpfShape &s, size_t leaves, const Block *nodes, size_t gates, const Ring *cw,
                 Block *values, Ring *const *e) {
    constexpr size_t per_block = sizeof(Block) / sizeof(Lane);
    typedef Lane Lanes __attribute__((vector_size(32), aligned(16)));
    typedef Ring Values __attribute__((vector_size(2 * per_block * sizeof(Ring)), aligned(4)));
    typedef Ring Half __attribute__((vector_size(per_block * sizeof(Ring)), aligned(4)));

    const size_t points = static_cast<size_t>(s.points);
    if (s.depth == 0) {
        leaf_inputs(nodes, 1, static_cast<size_t>(s.blocks), values);
        hash_blocks(values, values, static_cast<size_t>(s.blocks));
        const Ring t = static_cast<Ring>(mask_of((*nodes)[0]));
        for (size_t i = 0; i < static_cast<size_t>(s.k) * points; i++)
            e[i / points][i % points] = lane_of<Ring, Lane>(values, i) + (t & cw[i]);
        return;
    }
    // two blocks in a leaf; all lanes of a block belong to one component
    hash_leaves(nodes, gates, leaves, values);
    const Values final = *reinterpret_cast<const Values *>(cw);
    Ring *to0 = e[0], *to1 = s.k == 2 ? e[1] : e[0] + per_block;
    for (size_t l = 0; l < leaves; l++, to0 += points, to1 += points) {
        const Values t = 0 - ((Values{} + static_cast<Ring>(nodes[l * gates][0])) & 1);
        const Lanes v = reinterpret_cast<const Lanes *>(values)[l];
        const Values share = __builtin_convertvector(v, Values) + (t & final);
        *reinterpret_cast<Half *>(to0) = reinterpret_cast<const Half *>(&share)[0];
        *reinterpret_cast<Half *>(to1) = reinterpret_cast<const Half *>(&share)[1];
    }
}

// sum[0] += e0·a, and with slopes b: sum[1] += e0·b, sum[2] += e1·b
template <class Ring>
void inner_products(size_t count, Ring *const *e, const Ring *a, const Ring *b, Ring *sum) {
    const Ring *e0 = e[0], *e1 = e[1];
    Ring s0 = 0, s1 = 0, s2 = 0;
    if (!b) {
        for (size_t j = 0; j < count; j++) s0 += e0[j] * a[j];
    } else {
        for (size_t j = 0; j < count; j++) {
            s0 += e0[j] * a[j];
            s1 += e0[j] * b[j];
            s2 += e1[j] * b[j];
        }
    }
    sum[0] += s0, sum[1] += s1, sum[2] += s2;
}

// out[u] = table[-u mod size] for u < 2·size: table[index - j] is out[j - index mod size].
template <class Ring>
void reverse_twice(const Ring *table, size_t tables, size_t size, Ring *out) {
    for (size_t t = 0; t < tables; t++)
        for (size_t u = 0; u < 2 * size; u++)
            out[2 * t * size + u] = table[t * size + ((size - u) & (size - 1))];
}

// Unpacks the final correction word of a key; tail is scratch of the key's size and 16 bytes more.
template <class Ring>
void read_final(const DpfShape &s, const uint8_t *packed, uint8_t *tail, Ring *final) {
    const size_t lanes = static_cast<size_t>(s.k) * static_cast<size_t>(s.points);
    if (static_cast<size_t>(s.w) == 8 * sizeof(Ring)) {
        memcpy(final, packed, lanes * sizeof(Ring));
        return;
    }
    memcpy(tail, packed, (lanes * static_cast<size_t>(s.w) + 7) / 8);
    for (size_t i = 0; i < lanes; i++)
        final[i] = static_cast<Ring>(get_bits(tail, i * static_cast<size_t>(s.w), s.w));
}

template <class Ring, class Lane>
void table_gates(const TableGates &a) {
    const DpfShape &s = a.shape;
    const size_t size = size_t{1} << s.n, lanes = static_cast<size_t>(s.k) * s.points;
    const int levels = smaller(s.depth, subtree), top = s.depth - levels;
    const size_t leaves = size_t{1} << levels, points = leaves * static_cast<size_t>(s.points);

    Scratch<Ring> t0(2 * size * a.tables), t1(a.t1 ? 2 * size * a.tables : 0);
    reverse_twice(static_cast<const Ring *>(a.t0), a.tables, size, t0.get());
    if (a.t1) reverse_twice(static_cast<const Ring *>(a.t1), a.tables, size, t1.get());

    Scratch<Block> cw(batch * static_cast<size_t>(s.depth)), h(batch << (levels > top ? levels : top));
    Scratch<Block> crown(batch << top), nodes(batch << levels);
    Scratch<Block> values(leaves * static_cast<size_t>(s.blocks));
    Scratch<Ring> final(batch * lanes), shares(2 * points), sums(batch * a.tables * 3);
    Ring *const e[2] = {shares.get(), shares.get() + points};
    Scratch<uint8_t> tail(s.key_bytes + 16);

    for (size_t first = 0; first < a.count; first += batch) {
        const size_t present = smaller(batch, a.count - first), gates = (present + 1) / 2 * 2;
        for (size_t g = 0; g < present; g++) {
            crown[g] = root_node(a.seeds + 16 * (first + g), a.party);
            const uint8_t *key = a.keys + (first + g) * s.key_bytes;
            const size_t tree_bytes = 16 * static_cast<size_t>(s.depth);
            for (int i = 0; i < s.depth; i++)
                cw[static_cast<size_t>(i) * gates + g] = load_block(key + 16 * i);
            read_final(s, key + tree_bytes, tail.get(), final.get() + g * lanes);
        }
        memset(sums.get(), 0, sizeof(Ring) * batch * a.tables * 3);
        expand(gates, top, cw.get(), crown.get(), h.get());
        for (size_t part = 0; part < size_t{1} << top; part++) {
            memcpy(nodes.get(), crown.get() + part * gates, gates * sizeof(Block));
            expand(gates, levels, cw.get() + static_cast<size_t>(top) * gates, nodes.get(), h.get());
            for (size_t g = 0; g < present; g++) {
                leaf_shares<Ring, Lane>(s, leaves, nodes.get() + g, gates, final.get() + g * lanes,
                                        values.get(), e);
                const size_t at = ((0 - a.index[first + g]) & (size - 1)) + part * points;
                for (size_t t = 0; t < a.tables; t++)
                    inner_products<Ring>(points, e, t0.get() + 2 * t * size + at,
                                         a.t1 ? t1.get() + 2 * t * size + at : nullptr,
                                         sums.get() + 3 * (g * a.tables + t));
            }
        }
        // y = ±(sum_j e0_j·t0 + low·sum_j e0_j·t1 - sum_j e1_j·t1), minus for party 1
        for (size_t g = 0; g < present; g++)
            for (size_t t = 0; t < a.tables; t++) {
                const Ring *sum = sums.get() + 3 * (g * a.tables + t);
                const Ring low = a.t1 ? static_cast<const Ring *>(a.low)[first + g] : 0;
                const Ring y = sum[0] + low * sum[1] - sum[2];
                static_cast<Ring *>(a.y)[t * a.count + first + g] =
                    (a.party ? 0 - y : y) & low_bits<Ring>(s.w);
            }
    }
}

}  // namespace

void dpf_table(const TableGates &a) {
    if (a.shape.lane == 8) return table_gates<uint32_t, uint8_t>(a);
    if (a.shape.lane == 16) return table_gates<uint32_t, uint16_t>(a);
    if (a.shape.lane == 32) return table_gates<uint32_t, uint32_t>(a);
    table_gates<uint64_t, uint64_t>(a);
}

}  // namespace SRC_PATH
