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

constexpr size_t batch = 8;  // even: nodes are moved in pairs
constexpr int subtree = 6;

// nodes (2^levels, gates), the first row given, the rest filled in; h is scratch of half the size.
// gates is even.
void expand(size_t gates, int levels, const Block *cw, Block *nodes, Block *h) {
    for (int i = 0; i < levels; i++, cw += gates) {
        const size_t parents = size_t{1} << i;
        hash_blocks(nodes, h, parents * gates);
        for (size_t g = 0; g < gates; g += 2) {
            const Pair word = load_pair(cw + g);
            for (size_t p = parents; p-- > 0;) {
                const Pair st = load_pair(nodes + p * gates + g);
                const Pair left = child(st, load_pair(h + p * gates + g), word, Pair{});
                store_pair(nodes + 2 * p * gates + g, left);
                store_pair(nodes + (2 * p + 1) * gates + g, left ^ st);
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

// All gates of a call, a batch after the other, and the memory that they share.
template <class Ring, class Lane>
class Evaluation {
  public:
    explicit Evaluation(const TableGates &a) : a_(a) {
        reverse_twice(static_cast<const Ring *>(a.t0), a.tables, size_, t0_.get());
        if (a.t1) reverse_twice(static_cast<const Ring *>(a.t1), a.tables, size_, t1_.get());
    }

    void run() {
        for (size_t first = 0; first < a_.count; first += batch) {
            const size_t present = smaller(batch, a_.count - first);
            const size_t gates = (present + 1) / 2 * 2;
            for (size_t g = 0; g < present; g++) read_gate(first + g, g, gates);
            memset(sums_.get(), 0, sizeof(Ring) * batch * a_.tables * 3);
            expand(gates, top_, cw_.get(), crown_.get(), h_.get());
            for (size_t part = 0; part < size_t{1} << top_; part++) {
                memcpy(nodes_.get(), crown_.get() + part * gates, gates * sizeof(Block));
                expand(gates, levels_, cw_.get() + static_cast<size_t>(top_) * gates, nodes_.get(),
                       h_.get());
                for (size_t g = 0; g < present; g++) add_part(first + g, g, gates, part);
            }
            for (size_t g = 0; g < present; g++) write_result(first + g, g);
        }
    }

  private:
    const TableGates &a_;
    const DpfShape &s_ = a_.shape;
    const size_t size_ = size_t{1} << s_.n, lanes_ = static_cast<size_t>(s_.k * s_.points);
    const size_t tree_bytes_ = 16 * static_cast<size_t>(s_.depth);
    const int levels_ = smaller(s_.depth, subtree), top_ = s_.depth - levels_;
    const size_t leaves_ = size_t{1} << levels_;
    const size_t points_ = leaves_ * static_cast<size_t>(s_.points);  // of a subtree

    Scratch<Ring> t0_{2 * size_ * a_.tables}, t1_{a_.t1 ? 2 * size_ * a_.tables : 0};
    Scratch<Block> cw_{batch * static_cast<size_t>(s_.depth)};  // (depth, gates)
    Scratch<Block> crown_{batch << top_}, nodes_{batch << levels_};
    Scratch<Block> h_{batch << (levels_ > top_ ? levels_ : top_)};
    Scratch<Block> values_{leaves_ * static_cast<size_t>(s_.blocks)};
    Scratch<Ring> final_{batch * lanes_}, shares_{2 * points_}, sums_{batch * a_.tables * 3};
    Scratch<uint8_t> tail_{s_.key_bytes + 16};

    void read_gate(size_t gate, size_t g, size_t gates) {
        const uint8_t *key = a_.keys + gate * s_.key_bytes;
        Block *const cw = cw_.get() + g;
        crown_[g] = root_node(a_.seeds + 16 * gate, a_.party);
        for (size_t i = 0; 16 * i < tree_bytes_; i++) cw[i * gates] = load_block(key + 16 * i);
        Ring *const final = final_.get() + g * lanes_;
        if (static_cast<size_t>(s_.w) == 8 * sizeof(Ring)) {
            memcpy(final, key + tree_bytes_, lanes_ * sizeof(Ring));
            return;
        }
        memcpy(tail_.get(), key + tree_bytes_, s_.key_bytes - tree_bytes_);
        for (size_t i = 0; i < lanes_; i++)
            final[i] =
                static_cast<Ring>(get_bits(tail_.get(), i * static_cast<size_t>(s_.w), s_.w));
    }

    // Adds the inner products over one subtree to the sums of a gate.
    void add_part(size_t gate, size_t g, size_t gates, size_t part) {
        Ring *const e[2] = {shares_.get(), shares_.get() + points_};
        leaf_shares<Ring, Lane>(s_, leaves_, nodes_.get() + g, gates, final_.get() + g * lanes_,
                                values_.get(), e);
        const size_t at = ((0 - a_.index[gate]) & (size_ - 1)) + part * points_;
        for (size_t t = 0; t < a_.tables; t++) {
            const Ring *slopes = a_.t1 ? t1_.get() + 2 * t * size_ + at : nullptr;
            inner_products<Ring>(points_, e, t0_.get() + 2 * t * size_ + at, slopes,
                                 sums_.get() + 3 * (g * a_.tables + t));
        }
    }

    // y = ±(sum_j e0_j·t0 + low·sum_j e0_j·t1 - sum_j e1_j·t1), minus for party 1
    void write_result(size_t gate, size_t g) {
        const Ring low = a_.t1 ? static_cast<const Ring *>(a_.low)[gate] : 0;
        for (size_t t = 0; t < a_.tables; t++) {
            const Ring *sum = sums_.get() + 3 * (g * a_.tables + t);
            const Ring y = sum[0] + low * sum[1] - sum[2];
            static_cast<Ring *>(a_.y)[t * a_.count + gate] =
                (a_.party ? 0 - y : y) & low_bits<Ring>(s_.w);
        }
    }
};

}  // namespace

void dpf_table(const TableGates &a) {
    if (a.shape.lane == 8) return Evaluation<uint32_t, uint8_t>(a).run();
    if (a.shape.lane == 16) return Evaluation<uint32_t, uint16_t>(a).run();
    if (a.shape.lane == 32) return Evaluation<uint32_t, uint32_t>(a).run();
    Evaluation<uint64_t, uint64_t>(a).run();
}

}  // namespace SRC_PATH
