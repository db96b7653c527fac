// Evaluation of DPFs with one to three components, for a batch of gates: at all points, or in a
// window, at neighbouring leaves from one of each gate's choice on, the first leaf following the last.
//
// The nodes of a level are kept gate after gate, each gate's from left to right. At all points a
// level's nodes are one row of independent blocks, twice as long in the next level. Trees deeper than
// `subtree` levels are cut: the top is expanded once, then one subtree after the other, each small
// enough for the L1 cache. In a window the top are the levels that a window may need in full, and
// below it a gate keeps the parents of the nodes it needs: half of them, and one.
#pragma once

#include "lanes.hpp"
#include "tree.hpp"

namespace SRC_PATH {

template <class Lane>
class Domain {
  public:
    static constexpr size_t batch = 16;  // a multiple of vec_blocks
    static constexpr int subtree = 6;
    static constexpr size_t lanes = sizeof(Vec) / sizeof(Lane);

    typedef typename Lanes<Lane>::Wide Wide;

    // window: how many leaves, or 0 for all of them.
    Domain(const DpfShape &s, int party, const uint8_t *seeds, const uint8_t *keys, size_t window)
        : s_(s), party_(party), seeds_(seeds), keys_(keys), window_(window) {}

    // Leaves that are expanded for a window of so many: whole parts.
    static size_t expanded(size_t window) {
        return round_up(window, smaller(part_leaves, round_up(window, vec_blocks)));
    }

    size_t parts() const { return window_ ? expanded(window_) / leaves_ : size_t{1} << top_; }

    // Points of one part of the domain.
    size_t points() const { return points_; }

    // Reads gates first .. first + present, present <= batch, and expands the tops of their trees.
    // starts: the first leaf of each gate's window, if there is one.
    void begin(size_t first, size_t present, const size_t *starts = nullptr) {
        gates_ = round_up(present, vec_blocks);
        for (size_t g = 0; g < present; g++) read_gate(first + g, g);
        if (starts) memcpy(starts_, starts, present * sizeof *starts);
        expand(top_, cw_.get(), crown_.get());
    }

    // Expands part `part` of the domain, or window, of all gates.
    void expand_part(size_t part) {
        if (window_) return expand_window(part * leaves_);
        for (size_t g = 0; g < gates_; g++) nodes_[g] = crown_[(g << top_) + part];
        expand(s_.depth - top_, cw_.get() + static_cast<size_t>(top_) * row, nodes_.get());
    }

    // Calls sink(j, e) for a gate's shares e[c] at the points j, j + 1, .. of the part that was
    // expanded, `lanes` of each of K components, lazy and not yet negated for party 1. All points
    // are visited; past the last one the shares are zero.
    template <int K, class Sink>
    SRC_INLINE void shares(size_t g, Sink sink) {
        if (leaves_ < vec_blocks) return few_shares<K>(g, sink);
        const Block *const nodes = leaves_of(g);
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
    static constexpr size_t part_leaves = size_t{1} << subtree;
    static constexpr size_t front = vec_blocks;

    const DpfShape &s_;
    const int party_;
    const uint8_t *const seeds_, *const keys_;
    const size_t window_;
    size_t gates_ = 0;
    const size_t tree_bytes_ = 16 * static_cast<size_t>(s_.depth);
    const size_t leaves_ = window_ ? smaller(part_leaves, round_up(window_, vec_blocks))
                                   : size_t{1} << smaller(s_.depth, subtree);  // of a part
    const int top_ = window_ ? full_levels() : s_.depth - smaller(s_.depth, subtree);
    const size_t points_ = leaves_ * static_cast<size_t>(s_.points);

    Scratch<Block> cw_{static_cast<size_t>(s_.depth) * row};
    Scratch<Block> crown_{batch << top_};
    Scratch<Block> nodes_{window_ ? 2 * level_blocks() : batch * leaves_};  // of two levels, or one
    Scratch<Block> final_{leaf_blocks * row};  // (gates, leaf_blocks, vec_blocks)
    size_t starts_[batch] = {};                // first leaves of windows

    // -- windows: level i has `kept(i)` nodes of each gate, of which `needed(i)` are looked at, a row
    // of them after the other, `stride(i)` apart, from `front` on.

    size_t needed(int level) const {
        size_t count = leaves_;
        for (int i = s_.depth; i > level; i--) count = count / 2 + 1;
        return count;
    }

    size_t kept(int level) const { return round_up(needed(level), vec_blocks); }

    // Below the top a row has the children of all that was kept above, and one place in front.
    size_t stride(int level) const { return level == top_ ? kept(top_) : front + 2 * kept(level - 1); }

    // Levels with no more nodes than a window may need.
    int full_levels() const {
        int level = 0;
        while (level < s_.depth && needed(level + 1) >= size_t{2} << level) level++;
        return level;
    }

    size_t level_blocks() const { return front + batch * (leaves_ + 3 * vec_blocks); }

    Block *window_level(int level) {
        return nodes_.get() + static_cast<size_t>(level & 1) * level_blocks();
    }

    // Fills in the leaves from `first` on, counted from the start of each gate's window.
    void expand_window(size_t first) {
        size_t start[batch];
        for (size_t g = 0; g < gates_; g++) start[g] = starts_[g] + first;
        const size_t across = (size_t{1} << top_) - 1, width = kept(top_);
        for (size_t g = 0; g < gates_; g++)
            for (size_t i = 0; i < width; i++)
                window_level(top_)[front + g * width + i] =
                    crown_[(g << top_) + (((start[g] >> (s_.depth - top_)) + i) & across)];
        for (int i = top_; i < s_.depth; i++) {
            const size_t vectors = kept(i) / vec_blocks, reciprocal = (size_t{1} << 20) / vectors + 1;
            const size_t from_stride = stride(i), to_stride = stride(i + 1);
            const Block *const from = window_level(i) + front;
            const Block *const cw = cw_.get() + static_cast<size_t>(i) * row;
            Block *const to = window_level(i + 1) + front;
            const int below = s_.depth - i - 1;
            const size_t *const starts = start;
            const auto gate_of = [=](size_t v) SRC_LAMBDA { return v * reciprocal >> 20; };
            const auto place_of = [=](size_t v) SRC_LAMBDA {
                const size_t g = gate_of(v);
                return g * from_stride + (v - g * vectors) * vec_blocks;
            };
            hash_each<1>(
                gates_ * vectors,
                [=](size_t v, Vec *x) SRC_LAMBDA { x[0] = load_vec(from + place_of(v)); },
                [=](size_t v, const Vec *h) SRC_LAMBDA {
                    const size_t g = gate_of(v);
                    const Vec st = load_vec(from + place_of(v));
                    const Vec left = child(st, h[0], load_vec(cw + g * vec_blocks), Vec{});
                    const Vec right = left ^ st;
                    // the window may begin with a right child: the left one goes in front
                    Block *const out = to + g * to_stride + 2 * (v - g * vectors) * vec_blocks -
                                       (starts[g] >> below & 1);
                    store_vec(out, zip_low(left, right));
                    store_vec(out + vec_blocks, zip_high(left, right));
                });
        }
    }

    // v + t·CW for the control bits of st.
    static Wide add_controlled(Vec v, Vec st, Vec cw) {
        if constexpr (sizeof(Lane) == sizeof(uint32_t)) {
            const Wide sum = (Wide)v + (Wide)cw;
            return (Wide)(repeat_control(st) & 1) != 0 ? sum : (Wide)v;
        }
        return (Wide)v + (Wide)(control_mask(st) & cw);
    }

    // Level `level` has each gate's correction word as often as the gate has nodes in a vector.
    int log_copies(int level) const {
        if (window_ && level >= top_) return log_vec;
        return smaller(level < top_ ? level : level - top_, log_vec);
    }

    void read_gate(size_t gate, size_t g) {
        const uint8_t *key = keys_ + gate * s_.key_bytes;
        crown_[g] = root_node(seeds_ + 16 * gate, party_);
        for (int i = 0; i < s_.depth; i++) {
            const int copies = log_copies(i);
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
            const int copies = smaller(i, log_vec);
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

    Block *leaves_of(size_t g) {
        return window_ ? window_level(s_.depth) + front + g * stride(s_.depth)
                       : nodes_.get() + g * leaves_;
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
