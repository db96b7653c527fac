// Full-domain evaluation of DPFs with one to three components, for a batch of gates.
//
// The nodes of a level are kept gate after gate, each gate's from left to right, so a level's nodes
// are one row of independent blocks, twice as long in the next level. Trees deeper than `subtree`
// levels are cut: the top is expanded once, then one subtree after the other, each small enough for
// the L1 cache.
#pragma once

#include "lanes.hpp"
#include "tree.hpp"

namespace SRC_PATH {

template <class Lane>
class FullDomain {
  public:
    static constexpr size_t batch = 16;  // a multiple of vec_blocks
    static constexpr int subtree = 6;
    static constexpr size_t lanes = sizeof(Vec) / sizeof(Lane);

    typedef typename Lanes<Lane>::Wide Wide;

    FullDomain(const DpfShape &s, int party, const uint8_t *seeds, const uint8_t *keys)
        : s_(s), party_(party), seeds_(seeds), keys_(keys) {}

    size_t parts() const { return size_t{1} << top_; }

    // Points of one part of the domain.
    size_t points() const { return points_; }

    // Reads gates first .. first + present, present <= batch, and expands the tops of their trees.
    void begin(size_t first, size_t present) {
        gates_ = round_up(present, vec_blocks);
        for (size_t g = 0; g < present; g++) read_gate(first + g, g);
        expand(top_, cw_.get(), crown_.get());
    }

    // Expands part `part` of the domain of all gates.
    void expand_part(size_t part) {
        for (size_t g = 0; g < gates_; g++) nodes_[g] = crown_[(g << top_) + part];
        expand(levels_, cw_.get() + static_cast<size_t>(top_) * row, nodes_.get());
    }

    // Calls sink(j, e) for a gate's shares e[c] at the points j, j + 1, .. of the part that was
    // expanded, `lanes` of each of K components, lazy and not yet negated for party 1. All points
    // are visited; past the last one the shares are zero.
    template <int K, class Sink>
    SRC_INLINE void shares(size_t g, Sink sink) {
        if (leaves_ < vec_blocks) return few_shares<K>(g, sink);
        const Block *const nodes = nodes_.get() + g * leaves_;
        const Block *const words = final_.get() + leaf_blocks * vec_blocks * g;
        if constexpr (K == 3) {
            hash_each<3>(
                leaves_ / vec_blocks,
                [=](size_t i, Vec *x) SRC_LAMBDA {
                    for (uint64_t c = 0; c < 3; c++)
                        x[c] = load_vec(nodes + i * vec_blocks) ^ every(Block{c, 0});
                },
                [=](size_t i, const Vec *h) SRC_LAMBDA {
                    const Vec st = load_vec(nodes + i * vec_blocks);
                    Wide e[3];
                    for (size_t c = 0; c < 3; c++)
                        e[c] = add_controlled(h[c], st, load_vec(words + c * vec_blocks));
                    sink(i * lanes, e);
                });
            return;
        }
        const Vec final[2] = {load_vec(words), load_vec(words + vec_blocks)};
        hash_pairs(
            leaves_ / vec_blocks,
            [=](size_t i) SRC_LAMBDA { return load_vec(nodes + i * vec_blocks); },
            [=](size_t i, Vec h0, Vec h1) SRC_LAMBDA {
                const Vec st = load_vec(nodes + i * vec_blocks);
                const Wide e[2] = {add_controlled(h0, st, final[0]),
                                   add_controlled(h1, st, final[1])};
                if constexpr (K == 2) {
                    sink(i * lanes, e);
                } else {
                    const Wide in_order[2] = {(Wide)zip_low((Vec)e[0], (Vec)e[1]),
                                              (Wide)zip_high((Vec)e[0], (Vec)e[1])};
                    sink(2 * i * lanes, in_order);
                    sink((2 * i + 1) * lanes, in_order + 1);
                }
            });
    }

  private:
    static constexpr size_t row = batch * vec_blocks;  // correction words of a level
    static constexpr size_t leaf_blocks = 3;           // at most: one for each component

    const DpfShape &s_;
    const int party_;
    const uint8_t *const seeds_, *const keys_;
    size_t gates_ = 0;
    const size_t tree_bytes_ = 16 * static_cast<size_t>(s_.depth);
    const int levels_ = smaller(s_.depth, subtree), top_ = s_.depth - levels_;
    const size_t leaves_ = size_t{1} << levels_;  // of a part
    const size_t points_ = leaves_ * static_cast<size_t>(s_.points);

    Scratch<Block> cw_{static_cast<size_t>(s_.depth) * row};
    Scratch<Block> crown_{batch << top_}, nodes_{batch << levels_};
    Scratch<Block> final_{leaf_blocks * row};  // (gates, leaf_blocks, vec_blocks)

    // v + t·CW for the control bits of st.
    static Wide add_controlled(Vec v, Vec st, Vec cw) {
        if constexpr (sizeof(Lane) == sizeof(uint32_t)) {
            const Wide sum = (Wide)v + (Wide)cw;
            return (Wide)(repeat_control(st) & 1) != 0 ? sum : (Wide)v;
        }
        return (Wide)v + (Wide)(control_mask(st) & cw);
    }

    // Level `level` of the tops or of the subtrees has each gate's correction word as often as the
    // gate has nodes in a vector.
    static int log_copies(int level) { return smaller(level, log_vec); }

    void read_gate(size_t gate, size_t g) {
        const uint8_t *key = keys_ + gate * s_.key_bytes;
        crown_[g] = root_node(seeds_ + 16 * gate, party_);
        for (int i = 0; i < s_.depth; i++) {
            const int copies = log_copies(i < top_ ? i : i - top_);
            Block *cw = cw_.get() + static_cast<size_t>(i) * row + (g << copies);
            const Block word = load_block(key + 16 * static_cast<size_t>(i));
            for (size_t c = 0; c < size_t{1} << copies; c++) cw[c] = word;
        }
        Block leaf[leaf_blocks] = {};
        read_final(key + tree_bytes_, s_.key_bytes - tree_bytes_,
                   static_cast<size_t>(s_.k * s_.points), s_.w, reinterpret_cast<Lane *>(leaf));
        for (size_t i = 0; i < leaf_blocks * vec_blocks; i++)
            final_[leaf_blocks * vec_blocks * g + i] = leaf[i / vec_blocks];
    }

    // Fills in nodes (gates, 2^levels); the roots (gates,) are given.
    void expand(int levels, const Block *cw, Block *nodes) const {
        for (int i = 0; i < levels; i++, cw += row) {
            const size_t last = (gates_ << i) - vec_blocks;
            const int copies = log_copies(i);
            // From right to left: children are written behind the nodes still to be read.
            hash_each<1>(
                (gates_ << i) / vec_blocks,
                [=](size_t v, Vec *x) SRC_LAMBDA { x[0] = load_vec(nodes + last - v * vec_blocks); },
                [=](size_t v, const Vec *h) SRC_LAMBDA {
                    const size_t at = last - v * vec_blocks;
                    const Vec st = load_vec(nodes + at);
                    const Vec left = child(st, h[0], load_vec(cw + (at >> i << copies)), Vec{});
                    const Vec right = left ^ st;
                    store_vec(nodes + 2 * at, zip_low(left, right));
                    store_vec(nodes + 2 * at + vec_blocks, zip_high(left, right));
                });
        }
    }

    // shares() of a tree with fewer leaves than a vector has blocks: all are in one vector.
    template <int K, class Sink>
    void few_shares(size_t g, Sink sink) {
        const size_t points = static_cast<size_t>(s_.points);
        Wide e[K] = {};
        for (size_t l = 0; l < leaves_; l++) {
            const Block st = nodes_[g * leaves_ + l];
            Block values[round_up(leaf_blocks, vec_blocks)];
            for (uint64_t c = 0; c < round_up(leaf_blocks, vec_blocks); c++)
                values[c] = st ^ Block{c, 0};
            hash_blocks(values, values, round_up(leaf_blocks, vec_blocks));
            Block final[leaf_blocks];
            for (size_t c = 0; c < leaf_blocks; c++)
                final[c] = final_[(leaf_blocks * g + c) * vec_blocks];
            const Lane *v = reinterpret_cast<const Lane *>(values);
            const Lane *cw = reinterpret_cast<const Lane *>(final);
            const Lane t = static_cast<Lane>(mask_of(st[0]));
            for (size_t i = 0; i < K * points; i++)
                e[i / points][l * points + i % points] = static_cast<Lane>(v[i] + (t & cw[i]));
        }
        sink(0, e);
    }
};

}  // namespace SRC_PATH
