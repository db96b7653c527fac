// Distributed comparison functions: keys for the dealer, evaluation for a party [BCGGIKR21].
//
// Both run level by level over a batch of gates: many independent blocks are hashed at once, and
// values are kept in rows, where a field is at the same bits for all gates.
#include "entries.hpp"
#include "tree.hpp"

namespace SRC_PATH {
namespace {

constexpr size_t batch = 32;

// The same word of vec_words gates is a vector, that of all gates of the batch a row. Rows one after
// the other are the gates' bit strings.
constexpr size_t row_size = batch / vec_words;

inline Vec *row(Vec *rows, size_t i) { return rows + i * row_size; }

inline uint64_t &word_of(Vec *rows, size_t i, size_t gate) {
    return reinterpret_cast<uint64_t *>(row(rows, i))[gate];
}

// Where a field of w bits begins in a bit string, and whether it goes on in the next word.
struct Field {
    size_t word;
    int shift;
    bool split;

    Field(int at, int w)
        : word(static_cast<size_t>(at / 64)), shift(at % 64), split(shift + w > 64) {}

    // Returns the field of the v-th vector of gates, with garbage above its width.
    Vec get(const Vec *rows, size_t v) const {
        const Vec *from = rows + word * row_size + v;
        return split ? from[0] >> shift | from[row_size] << (64 - shift) : from[0] >> shift;
    }

    // Sets the field, where zeros are, to x, which has zeros above its width.
    void put(Vec *rows, size_t v, Vec x) const {
        Vec *to = rows + word * row_size + v;
        to[0] |= x << shift;
        if (split) to[row_size] |= x >> (64 - shift);
    }
};

// Copies a bit string of a key into the rows of one gate, or out of them.
void load_rows(const uint8_t *bits, size_t bytes, Vec *rows, size_t gate) {
    uint64_t *to = &word_of(rows, 0, gate);
    for (; bytes >= 8; bytes -= 8, bits += 8, to += batch) memcpy(to, bits, 8);
    if (bytes) memcpy(to, bits, bytes);
}

void store_rows(Vec *rows, size_t gate, uint8_t *bits, size_t bytes) {
    const uint64_t *from = &word_of(rows, 0, gate);
    for (; bytes >= 8; bytes -= 8, bits += 8, from += batch) memcpy(bits, from, 8);
    if (bytes) memcpy(bits, from, bytes);
}

// Moves the words of one block of each gate to two rows.
inline void to_rows(const Block *blocks, size_t gates, Vec *rows) {
    for (size_t v = 0; v < gates / vec_words; v++) {
        const Vec a = load_vec(blocks + v * vec_words);
        const Vec b = load_vec(blocks + v * vec_words + vec_blocks);
        row(rows, 0)[v] = even_words(a, b);
        row(rows, 1)[v] = odd_words(a, b);
    }
}

// The low words only; their lowest bits are the nodes' control bits.
inline void to_control_row(const Block *st, size_t gates, Vec *rows) {
    for (size_t v = 0; v < gates / vec_words; v++)
        rows[v] = even_words(load_vec(st + v * vec_words),
                             load_vec(st + v * vec_words + vec_blocks));
}

// out[i] = H(st[i] ^ number(i)) for `nodes` nodes; number gives a vector.
template <class Number>
inline void hash_values(const Block *st, size_t nodes, Number number, Block *out) {
    hash_each<1>(
        nodes / vec_blocks,
        [=](size_t i, Vec *x) SRC_LAMBDA {
            x[0] = load_vec(st + i * vec_blocks) ^ number(i * vec_blocks);
        },
        [=](size_t i, const Vec *h) SRC_LAMBDA { store_vec(out + i * vec_blocks, h[0]); });
}

}  // namespace

void dcf_keys(const DcfShape &s, size_t count, const uint64_t *alpha, const uint64_t *beta,
              const uint8_t *seeds0, const uint8_t *seeds1, uint8_t *keys) {
    const size_t q = static_cast<size_t>(s.words), n = static_cast<size_t>(s.n);
    const size_t fields = static_cast<size_t>(s.fields);
    const size_t own = (q + 1) / 2;  // blocks that hold the values of one child
    const size_t tail_bytes = s.key_bytes - 16 * n, tail_rows = (tail_bytes + 7) / 8;
    Scratch<Block> point_memory(batch), node_memory(2 * batch), cw_memory(n * batch);
    Scratch<Block> value_memory(2 * batch * q);
    Scratch<uint64_t> row_memory((4 + 4 * q + 2 * fields + tail_rows) * batch);
    Block *const points = point_memory.get(), *const st0 = node_memory.get();
    Block *const values = value_memory.get(), *const cw = cw_memory.get();  // cw (n, batch)
    Vec *const alphas = reinterpret_cast<Vec *>(row_memory.get());
    Vec *const controls = row(alphas, 2);
    Vec *const words0 = row(controls, 2), *const words1 = row(words0, 2 * q);
    Vec *const v_alpha = row(words1, 2 * q), *const betas = row(v_alpha, fields);
    Vec *const tails = row(betas, fields);

    for (size_t first = 0; first < count; first += batch) {
        const size_t present = smaller(batch, count - first), gates = round_up(present, vec_words);
        Block *const st1 = st0 + gates;
        for (size_t g = 0; g < present; g++) {
            st0[g] = root_node(seeds0 + 16 * (first + g), 0);
            st1[g] = root_node(seeds1 + 16 * (first + g), 1);
            points[g] = Block{alpha[first + g], alpha[first + g]};
            for (size_t c = 0; c < fields; c++)
                word_of(betas, c, g) = beta[(first + g) * fields + c];
        }
        to_rows(points, gates, alphas);
        memset(v_alpha, 0, fields * row_size * sizeof(Vec));
        memset(tails, 0, tail_rows * row_size * sizeof(Vec));
        // values[j·2·gates + i] = H(st_i ^ (1 + j)): blocks of the values of both children
        auto hash_more = [&](size_t from, size_t blocks) {
            for (size_t j = from; j < blocks; j++)
                hash_values(
                    st0, 2 * gates, [=](size_t) { return block_numbers(1 + j, 0); },
                    values + j * 2 * gates);
        };
        auto spread = [&](size_t blocks) {
            for (size_t j = 0; j < blocks; j++) {
                to_rows(values + j * 2 * gates, gates, row(words0, 2 * j));
                to_rows(values + j * 2 * gates + gates, gates, row(words1, 2 * j));
            }
        };
        for (size_t i = 0; i < n; i++) {
            const int place = static_cast<int>(n - 1 - i);
            const int at = static_cast<int>(i) * s.value_bits;  // of V_CW in its bit string
            to_control_row(st1, gates, controls);
            hash_more(1, q);
            const Vec one = block_numbers(1, 0);
            hash_each<4>(
                gates / vec_blocks,
                [=](size_t v, Vec *x) SRC_LAMBDA {
                    x[0] = load_vec(st0 + v * vec_blocks);
                    x[1] = load_vec(st1 + v * vec_blocks);
                    x[2] = x[0] ^ one;
                    x[3] = x[1] ^ one;
                },
                [=](size_t v, const Vec *h) SRC_LAMBDA {
                    const size_t g = v * vec_blocks;
                    descend(g, points, place, st0, st1, h[0], h[1], cw + i * batch);
                    store_vec(values + g, h[2]);
                    store_vec(values + gates + g, h[3]);
                });
            spread(q);
            for (size_t c = 0; c < fields; c++) {
                const int w = s.widths[c], offset = s.offsets[c];
                const Field left(offset, w), right(64 * s.words + offset, w), out(at + offset, w);
                for (size_t v = 0; v < gates / vec_words; v++) {
                    const Vec bit = bit_mask(alphas[v], place);
                    // differences v_1 - v_0 of both children; alpha_i says which is kept
                    const Vec d_left = left.get(words1, v) - left.get(words0, v);
                    const Vec d_right = right.get(words1, v) - right.get(words0, v);
                    const Vec change = (d_left ^ d_right) & bit;
                    const Vec keep = d_left ^ change, lose = d_right ^ change;
                    // V_CW = (-1)^t_1·step,  step = v_1^lose - v_0^lose - V_alpha + alpha_i·beta
                    Vec &sum = row(v_alpha, c)[v];
                    const Vec step = lose - sum + (row(betas, c)[v] & bit);
                    out.put(tails, v, signed_by(controls[v], step) & low_bits<uint64_t>(w));
                    // V_alpha += v_0^keep - v_1^keep + (-1)^t_1·V_CW
                    sum += step - keep;
                }
            }
        }
        // final CW = (-1)^t_1·(C(st_1) - C(st_0) - V_alpha)
        to_control_row(st1, gates, controls);
        hash_more(0, own);
        spread(own);
        for (size_t c = 0; c < fields; c++) {
            const int w = s.widths[c], offset = s.offsets[c];
            const Field leaf(offset, w), out(s.n * s.value_bits + offset, w);
            for (size_t v = 0; v < gates / vec_words; v++) {
                const Vec d = leaf.get(words1, v) - leaf.get(words0, v);
                const Vec v_cw = signed_by(controls[v], d - row(v_alpha, c)[v]);
                out.put(tails, v, v_cw & low_bits<uint64_t>(w));
            }
        }
        for (size_t g = 0; g < present; g++) {
            uint8_t *key = keys + (first + g) * s.key_bytes;  // written once, from front to back
            for (size_t i = 0; i < n; i++) store_block(key + 16 * i, cw[i * batch + g]);
            store_rows(tails, g, key + 16 * n, tail_bytes);
        }
    }
}

void dcf_eval(const DcfShape &s, int party, size_t count, const uint64_t *x, const uint8_t *seeds,
              const uint8_t *keys, uint64_t *y) {
    const size_t q = static_cast<size_t>(s.words), n = static_cast<size_t>(s.n);
    const size_t fields = static_cast<size_t>(s.fields);
    const size_t own = (q + 1) / 2;  // blocks that hold the values of one child
    const size_t tail_bytes = s.key_bytes - 16 * n, tail_rows = (tail_bytes + 7) / 8;
    Scratch<Block> point_memory(batch), node_memory(batch);
    Scratch<Block> value_memory(batch * own), cw_memory(n * batch);
    Scratch<uint64_t> row_memory((4 + 2 * own + fields + tail_rows) * batch);
    Block *const points = point_memory.get(), *const st = node_memory.get();
    Block *const values = value_memory.get();
    Block *const cw = cw_memory.get();  // (n, batch): keys are read once, from front to back
    Vec *const inputs = reinterpret_cast<Vec *>(row_memory.get());
    Vec *const controls = row(inputs, 2);
    Vec *const words = row(controls, 2), *const total = row(words, 2 * own);
    Vec *const tails = row(total, fields);

    for (size_t first = 0; first < count; first += batch) {
        const size_t present = smaller(batch, count - first), gates = round_up(present, vec_words);
        for (size_t g = 0; g < present; g++) {
            const uint8_t *key = keys + (first + g) * s.key_bytes;
            st[g] = root_node(seeds + 16 * (first + g), party);
            points[g] = Block{x[first + g], x[first + g]};
            for (size_t i = 0; i < n; i++) cw[i * batch + g] = load_block(key + 16 * i);
            load_rows(key + 16 * n, tail_bytes, tails, g);
        }
        to_rows(points, gates, inputs);
        memset(total, 0, fields * row_size * sizeof(Vec));
        for (size_t i = 0; i <= n; i++) {
            const bool leaf = i == n;  // its value is at the words of child 0
            const int place = leaf ? 0 : static_cast<int>(n - 1 - i);
            // words [x_i·q, x_i·q + q) of the values: from block x_i·(q / 2) on, its high word
            // first if x_i·q is odd
            const Vec skip = block_numbers(leaf ? 0 : q / 2, 0);
            auto number = [=](size_t g, size_t j) SRC_LAMBDA {
                return block_numbers(1 + j, 0) + (skip & bit_mask(load_vec(points + g), place));
            };
            to_control_row(st, gates, controls);
            for (size_t j = leaf ? 0 : 1; j < own; j++)
                hash_values(
                    st, gates, [=](size_t g) SRC_LAMBDA { return number(g, j); },
                    values + j * gates);
            if (!leaf)
                hash_each<2>(
                    gates / vec_blocks,
                    [=](size_t v, Vec *x) SRC_LAMBDA {
                        x[0] = load_vec(st + v * vec_blocks);
                        x[1] = x[0] ^ number(v * vec_blocks, 0);
                    },
                    [=](size_t v, const Vec *h) SRC_LAMBDA {
                        const size_t g = v * vec_blocks;
                        const Vec side = bit_mask(load_vec(points + g), place);
                        const Vec word = load_vec(cw + i * batch + g);
                        store_vec(st + g, child(load_vec(st + g), h[0], word, side));
                        store_vec(values + g, h[1]);
                    });
            for (size_t j = 0; j < own; j++) to_rows(values + j * gates, gates, row(words, 2 * j));
            if (q % 2 && !leaf)
                for (size_t j = 0; j < q; j++)
                    for (size_t v = 0; v < gates / vec_words; v++) {
                        const Vec side = bit_mask(inputs[v], place);
                        Vec &word = row(words, j)[v];
                        word ^= (word ^ row(words, j + 1)[v]) & side;
                    }
            // V += v^x_i + t·V_CW
            const int at = static_cast<int>(i) * s.value_bits;  // of V_CW in its bit string
            for (size_t c = 0; c < fields; c++) {
                const int w = s.widths[c], offset = s.offsets[c];
                const Field value(offset, w), v_cw(at + offset, w);
                for (size_t v = 0; v < gates / vec_words; v++) {
                    const Vec t = bit_mask(controls[v], 0);
                    row(total, c)[v] += value.get(words, v) + (t & v_cw.get(tails, v));
                }
            }
        }
        for (size_t g = 0; g < present; g++)
            for (size_t c = 0; c < fields; c++) {
                const uint64_t v = word_of(total, c, g);
                y[(first + g) * fields + c] = (party ? 0 - v : v) & low_bits<uint64_t>(s.widths[c]);
            }
    }
}

}  // namespace SRC_PATH
