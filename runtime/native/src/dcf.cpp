// Distributed comparison functions: keys for the dealer, evaluation for a party [BCGGIKR21].
#include "entries.hpp"
#include "tree.hpp"

namespace SRC_PATH {
namespace {

constexpr size_t batch = 32;  // gates whose nodes are hashed together

// Returns field c of the q words of a value.
inline uint64_t field(const DcfShape &s, const uint64_t *words, int c) {
    const int word = s.offsets[c] / 64, shift = s.offsets[c] % 64, w = s.widths[c];
    uint64_t v = words[word] >> shift;
    if (shift + w > 64) v |= words[word + 1] << (64 - shift);
    return v & low_bits<uint64_t>(w);
}

}  // namespace

void dcf_keys(const DcfShape &s, size_t count, const uint64_t *alpha, const uint64_t *beta,
              const uint8_t *seeds0, const uint8_t *seeds1, uint8_t *keys) {
    const size_t q = static_cast<size_t>(s.words), n = static_cast<size_t>(s.n);
    const size_t fields = static_cast<size_t>(s.fields);
    // blocks of a level: tree (2·gates), then values (2·gates, q)
    Scratch<Block> st(2 * batch), in(2 * batch * (1 + q)), cw(batch);
    Scratch<uint64_t> v_alpha(batch * fields);
    BitWriter tails[batch];

    for (size_t first = 0; first < count; first += batch) {
        const size_t gates = smaller(batch, count - first);
        Block *st0 = st.get(), *st1 = st0 + gates, *values = in.get() + 2 * gates;
        uint8_t *rows = keys + first * s.key_bytes;
        memset(v_alpha.get(), 0, sizeof(uint64_t) * batch * fields);
        for (size_t g = 0; g < gates; g++) {
            st0[g] = root_node(seeds0 + 16 * (first + g), 0);
            st1[g] = root_node(seeds1 + 16 * (first + g), 1);
            tails[g] = BitWriter(rows + g * s.key_bytes + 16 * n);
        }
        auto value_inputs = [&] {
            for (size_t g = 0; g < 2 * gates; g++)
                for (size_t j = 0; j < q; j++) values[g * q + j] = st0[g] ^ Block{static_cast<uint64_t>(1 + j), 0};
        };
        for (size_t i = 0; i < n; i++) {
            const int place = static_cast<int>(n - 1 - i);
            memcpy(in.get(), st0, 2 * gates * sizeof(Block));
            value_inputs();
            hash_blocks(in.get(), in.get(), 2 * gates * (1 + q));
            for (size_t g = 0; g < gates; g++) {
                const auto *words0 = reinterpret_cast<const uint64_t *>(values + g * q);
                const auto *words1 = reinterpret_cast<const uint64_t *>(values + (gates + g) * q);
                const uint64_t right = mask_of(alpha[first + g] >> place), t1 = st1[g][0] & 1;
                for (int c = 0; c < s.fields; c++) {
                    // v_b^child 1 - v_b^child 0 differences, then chosen by alpha_i without a branch
                    const uint64_t d_left = field(s, words1, c) - field(s, words0, c);
                    const uint64_t d_right = field(s, words1 + q, c) - field(s, words0 + q, c);
                    const uint64_t keep = d_left ^ ((d_left ^ d_right) & right);
                    const uint64_t lose = d_left ^ d_right ^ keep;
                    // V_CW = (-1)^t_1·(v_1^lose - v_0^lose - V_alpha + alpha_i·beta)
                    uint64_t &v = v_alpha[g * fields + static_cast<size_t>(c)];
                    const uint64_t payload =
                        beta[(first + g) * fields + static_cast<size_t>(c)] & right;
                    const uint64_t v_cw = signed_by(t1, lose - v + payload);
                    tails[g].put(v_cw & low_bits<uint64_t>(s.widths[c]), s.widths[c]);
                    // V_alpha += v_0^keep - v_1^keep + (-1)^t_1·V_CW
                    v = v - keep + signed_by(t1, v_cw);
                }
            }
            descend(gates, alpha + first, place, st0, st1, in.get(), cw.get());
            for (size_t g = 0; g < gates; g++) store_block(rows + g * s.key_bytes + 16 * i, cw[g]);
        }
        // final CW = (-1)^t_1·(C(st_1) - C(st_0) - V_alpha)
        value_inputs();
        hash_blocks(values, values, 2 * gates * q);
        for (size_t g = 0; g < gates; g++) {
            const auto *words0 = reinterpret_cast<const uint64_t *>(values + g * q);
            const auto *words1 = reinterpret_cast<const uint64_t *>(values + (gates + g) * q);
            for (int c = 0; c < s.fields; c++) {
                const uint64_t v = v_alpha[g * fields + static_cast<size_t>(c)];
                const uint64_t d = field(s, words1, c) - field(s, words0, c) - v;
                tails[g].put(signed_by(st1[g][0], d) & low_bits<uint64_t>(s.widths[c]), s.widths[c]);
            }
            tails[g].finish();
        }
    }
}

void dcf_eval(const DcfShape &s, int party, size_t count, const uint64_t *x, const uint8_t *seeds,
              const uint8_t *keys, uint64_t *y) {
    const size_t q = static_cast<size_t>(s.words), n = static_cast<size_t>(s.n);
    const size_t fields = static_cast<size_t>(s.fields), own = (q + 1) / 2;  // blocks of one child
    const size_t tail_bytes = s.key_bytes - 16 * n, room = tail_bytes + 16;
    Scratch<Block> st(batch), in(batch * (1 + own));
    Scratch<uint64_t> total(batch * fields);
    Scratch<uint8_t> tails(batch * room);

    for (size_t first = 0; first < count; first += batch) {
        const size_t gates = smaller(batch, count - first);
        Block *values = in.get() + gates;
        const uint8_t *rows = keys + first * s.key_bytes;
        memset(total.get(), 0, sizeof(uint64_t) * batch * fields);
        for (size_t g = 0; g < gates; g++) {
            st[g] = root_node(seeds + 16 * (first + g), party);
            memcpy(tails.get() + g * room, rows + g * s.key_bytes + 16 * n, tail_bytes);
        }
        // level n is the final value: words [0, q) of the leaf, and no child
        for (size_t i = 0; i <= n; i++) {
            const bool leaf = i == n;
            const int place = static_cast<int>(n - 1 - i);
            for (size_t g = 0; g < gates; g++) {
                in[g] = st[g];
                const size_t side = leaf ? 0 : x[first + g] >> place & 1;
                for (size_t j = 0; j < own; j++)
                    values[g * own + j] = st[g] ^ Block{static_cast<uint64_t>(1 + side * q / 2 + j), 0};
            }
            hash_blocks(leaf ? values : in.get(), leaf ? values : in.get(),
                        gates * (leaf ? own : 1 + own));
            for (size_t g = 0; g < gates; g++) {
                const size_t side = leaf ? 0 : x[first + g] >> place & 1;
                const auto *words =
                    reinterpret_cast<const uint64_t *>(values + g * own) + (side * q & 1);
                const uint64_t t = mask_of(st[g][0]);
                // V += v^x_i + t·V_CW
                for (int c = 0; c < s.fields; c++) {
                    const size_t at = i * static_cast<size_t>(s.value_bits) +
                                      static_cast<size_t>(s.offsets[c]);
                    const uint64_t v_cw = get_bits(tails.get() + g * room, at, s.widths[c]);
                    total[g * fields + static_cast<size_t>(c)] += field(s, words, c) + (t & v_cw);
                }
                if (leaf) continue;
                const Block cw = load_block(rows + g * s.key_bytes + 16 * i);
                st[g] = child(st[g], in[g], cw, side);
            }
        }
        for (size_t g = 0; g < gates; g++)
            for (size_t c = 0; c < fields; c++) {
                const uint64_t v = total[g * fields + c];
                y[(first + g) * fields + c] =
                    (party ? 0 - v : v) & low_bits<uint64_t>(s.widths[c]);
            }
    }
}

}  // namespace SRC_PATH
