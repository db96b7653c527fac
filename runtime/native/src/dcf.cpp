// Distributed comparison functions: keys for the dealer, evaluation for a party [BCGGIKR21].
//
// Both run level by level over a batch of gates, so that many independent blocks are hashed at
// once. They are compiled twice: for any fields, and for a single one (Single).
#include "entries.hpp"
#include "tree.hpp"

namespace SRC_PATH {
namespace {

constexpr size_t batch = 32;  // even: nodes are moved in pairs

// Returns field c of the q words of a value; with garbage above its width if it is the only one.
template <bool Single>
inline uint64_t field(const DcfShape &s, const uint64_t *words, size_t c) {
    if (Single) return words[0];
    const int word = s.offsets[c] / 64, shift = s.offsets[c] % 64, w = s.widths[c];
    uint64_t v = words[word] >> shift;
    if (shift + w > 64) v |= words[word + 1] << (64 - shift);
    return v & low_bits<uint64_t>(w);
}

inline const uint64_t *words_of(const Block *blocks) {
    return reinterpret_cast<const uint64_t *>(blocks);
}

// in[g·q + j] = st[g] ^ (1 + j), of which the hashes are the values of the children of st[g].
void value_inputs(const Block *st, size_t gates, size_t q, Block *in) {
    if (q == 1) {
        const Pair one = {1, 0, 1, 0};
        for (size_t g = 0; g < gates; g += 2) store_pair(in + g, load_pair(st + g) ^ one);
        return;
    }
    for (size_t g = 0; g < gates; g++)
        for (size_t j = 0; j < q; j++) in[g * q + j] = st[g] ^ Block { 1 + j, 0 };
}

template <bool Single>
void keys_of(const DcfShape &s, size_t count, const uint64_t *alpha, const uint64_t *beta,
             const uint8_t *seeds0, const uint8_t *seeds1, uint8_t *keys) {
    const size_t q = Single ? 1 : static_cast<size_t>(s.words), n = static_cast<size_t>(s.n);
    const size_t fields = Single ? 1 : static_cast<size_t>(s.fields);
    // the hashes of a level: tree (2·gates), then values (2·gates, q)
    Scratch<Block> point_memory(batch), node_memory(2 * batch), hash_memory(2 * batch * (1 + q));
    Scratch<Block> cw_memory(n * batch);
    Scratch<uint64_t> sum_memory(batch * fields);
    Scratch<uint64_t> value_cw_memory((n + 1) * fields * batch);
    Block *const points = point_memory.get(), *const st0 = node_memory.get();
    Block *const h = hash_memory.get(), *const cw = cw_memory.get();  // cw (n, batch)
    uint64_t *const v_alpha = sum_memory.get();
    uint64_t *const value_cw = value_cw_memory.get();  // (n + 1, fields, batch)

    for (size_t first = 0; first < count; first += batch) {
        const size_t present = smaller(batch, count - first), gates = (present + 1) / 2 * 2;
        Block *const st1 = st0 + gates, *const values = h + 2 * gates;
        memset(v_alpha, 0, sizeof(uint64_t) * batch * fields);
        for (size_t g = 0; g < present; g++) {
            st0[g] = root_node(seeds0 + 16 * (first + g), 0);
            st1[g] = root_node(seeds1 + 16 * (first + g), 1);
            points[g] = Block{alpha[first + g], alpha[first + g]};
        }
        for (size_t i = 0; i < n; i++) {
            const int place = static_cast<int>(n - 1 - i);
            hash_blocks(st0, h, 2 * gates);
            value_inputs(st0, 2 * gates, q, values);
            hash_blocks(values, values, 2 * gates * q);
            for (size_t g = 0; g < present; g++) {
                const uint64_t *words0 = words_of(values + g * q);
                const uint64_t *words1 = words_of(values + (gates + g) * q);
                const uint64_t right = mask_of(alpha[first + g] >> place), t1 = st1[g][0];
                for (size_t c = 0; c < fields; c++) {
                    // differences v_1 - v_0 of both children; alpha_i says which is kept
                    const uint64_t d_left =
                        field<Single>(s, words1, c) - field<Single>(s, words0, c);
                    const uint64_t d_right =
                        field<Single>(s, words1 + q, c) - field<Single>(s, words0 + q, c);
                    const uint64_t keep = d_left ^ ((d_left ^ d_right) & right);
                    const uint64_t lose = d_left ^ d_right ^ keep;
                    // V_CW = (-1)^t_1·(v_1^lose - v_0^lose - V_alpha + alpha_i·beta)
                    uint64_t &v = v_alpha[g * fields + c];
                    const uint64_t payload = beta[(first + g) * fields + c] & right;
                    const uint64_t v_cw = signed_by(t1, lose - v + payload);
                    value_cw[(i * fields + c) * batch + g] = v_cw;
                    // V_alpha += v_0^keep - v_1^keep + (-1)^t_1·V_CW
                    v = v - keep + signed_by(t1, v_cw);
                }
            }
            descend(gates, points, place, st0, st1, h, cw + i * batch);
        }
        // final CW = (-1)^t_1·(C(st_1) - C(st_0) - V_alpha)
        value_inputs(st0, 2 * gates, q, values);
        hash_blocks(values, values, 2 * gates * q);
        for (size_t g = 0; g < present; g++) {
            const uint64_t *words0 = words_of(values + g * q);
            const uint64_t *words1 = words_of(values + (gates + g) * q);
            for (size_t c = 0; c < fields; c++) {
                const uint64_t d = field<Single>(s, words1, c) - field<Single>(s, words0, c);
                const uint64_t v_cw = signed_by(st1[g][0], d - v_alpha[g * fields + c]);
                value_cw[(n * fields + c) * batch + g] = v_cw;
            }
            uint8_t *key = keys + (first + g) * s.key_bytes;  // written once, from front to back
            for (size_t i = 0; i < n; i++) store_block(key + 16 * i, cw[i * batch + g]);
            BitWriter bits(key + 16 * n);
            const uint64_t *next = value_cw + g;
            for (size_t i = 0; i <= n; i++)
                for (size_t c = 0; c < fields; c++, next += batch)
                    bits.put(*next & low_bits<uint64_t>(s.widths[c]), s.widths[c]);
            bits.finish();
        }
    }
}

template <bool Single>
void eval_of(const DcfShape &s, int party, size_t count, const uint64_t *x, const uint8_t *seeds,
             const uint8_t *keys, uint64_t *y) {
    const size_t q = Single ? 1 : static_cast<size_t>(s.words), n = static_cast<size_t>(s.n);
    const size_t fields = Single ? 1 : static_cast<size_t>(s.fields);
    const size_t own = (q + 1) / 2;  // blocks that hold the values of one child
    const size_t tail_bytes = s.key_bytes - 16 * n, room = tail_bytes + 16;
    Scratch<Block> point_memory(batch), node_memory(batch), hash_memory(batch);
    Scratch<Block> value_memory(batch * own), cw_memory(n * batch);
    Scratch<uint64_t> sum_memory(batch * fields);
    Scratch<uint8_t> tail_memory(batch * room);
    Block *const points = point_memory.get(), *const st = node_memory.get();
    Block *const h = hash_memory.get(), *const values = value_memory.get();
    Block *const cw = cw_memory.get();  // (n, batch): keys are read once, from front to back
    uint64_t *const total = sum_memory.get();
    uint8_t *const tails = tail_memory.get();
    const int only = s.widths[0];

    for (size_t first = 0; first < count; first += batch) {
        const size_t present = smaller(batch, count - first), gates = (present + 1) / 2 * 2;
        const uint8_t *rows = keys + first * s.key_bytes;
        memset(total, 0, sizeof(uint64_t) * batch * fields);
        for (size_t g = 0; g < present; g++) {
            st[g] = root_node(seeds + 16 * (first + g), party);
            points[g] = Block{x[first + g], x[first + g]};
            const uint8_t *key = rows + g * s.key_bytes;
            for (size_t i = 0; i < n; i++) cw[i * batch + g] = load_block(key + 16 * i);
            memcpy(tails + g * room, key + 16 * n, tail_bytes);
        }
        // level n is the final value: words [0, q) of the leaf, which has no children
        for (size_t i = 0; i <= n; i++) {
            const bool leaf = i == n;
            const int place = static_cast<int>(n - 1 - i);
            auto side_of = [&](size_t g) { return leaf ? 0 : points[g][0] >> place & 1; };
            if (q == 1) value_inputs(st, gates, 1, values);
            else
                for (size_t g = 0; g < gates; g++)
                    for (size_t j = 0; j < own; j++)
                        values[g * own + j] = st[g] ^ Block { 1 + side_of(g) * q / 2 + j, 0 };
            hash_blocks(values, values, gates * own);
            for (size_t g = 0; g < present; g++) {
                const uint64_t *words = words_of(values + g * own) + (side_of(g) * q & 1);
                const uint64_t t = mask_of(st[g][0]);
                // V += v^x_i + t·V_CW
                for (size_t c = 0; c < fields; c++) {
                    const size_t at = i * static_cast<size_t>(s.value_bits) +
                                      (Single ? 0 : static_cast<size_t>(s.offsets[c]));
                    const int w = Single ? only : s.widths[c];
                    const uint64_t v_cw = get_bits(tails + g * room, at, w);
                    total[g * fields + c] += field<Single>(s, words, c) + (t & v_cw);
                }
            }
            if (leaf) break;
            hash_blocks(st, h, gates);
            for (size_t g = 0; g < gates; g += 2) {
                const Pair word = load_pair(cw + i * batch + g);
                const Pair bit = bit_mask(load_pair(points + g), place);
                const Pair node = load_pair(st + g), hashed = load_pair(h + g);
                store_pair(st + g, child(node, hashed, word, bit));
            }
        }
        for (size_t g = 0; g < present; g++)
            for (size_t c = 0; c < fields; c++) {
                const uint64_t v = total[g * fields + c];
                y[(first + g) * fields + c] = (party ? 0 - v : v) & low_bits<uint64_t>(s.widths[c]);
            }
    }
}

}  // namespace

void dcf_keys(const DcfShape &s, size_t count, const uint64_t *alpha, const uint64_t *beta,
              const uint8_t *seeds0, const uint8_t *seeds1, uint8_t *keys) {
    if (s.fields == 1) return keys_of<true>(s, count, alpha, beta, seeds0, seeds1, keys);
    keys_of<false>(s, count, alpha, beta, seeds0, seeds1, keys);
}

void dcf_eval(const DcfShape &s, int party, size_t count, const uint64_t *x, const uint8_t *seeds,
              const uint8_t *keys, uint64_t *y) {
    if (s.fields == 1) return eval_of<true>(s, party, count, x, seeds, keys, y);
    eval_of<false>(s, party, count, x, seeds, keys, y);
}

}  // namespace SRC_PATH
