// Table gates: evaluation of a DPF, fused with the inner product with public tables. Only the leaves
// that meet entries other than zero are expanded.
#include "entries.hpp"
#include "domain.hpp"

namespace SRC_PATH {
namespace {

// The integers in which products of lanes are summed: no narrower than any multiplier.
template <class Lane>
struct Factor {
    typedef Lane type;
};
template <>
struct Factor<uint8_t> {
    typedef uint16_t type;
};

// out[u] = table[-u mod size] for u < 2·size: table[index - j] is out[j - index mod size].
template <class Ring, class Word>
void reverse_twice(const Ring *table, size_t tables, size_t size, Word *out) {
    for (size_t t = 0; t < tables; t++)
        for (size_t u = 0; u < 2 * size; u++)
            out[2 * t * size + u] = static_cast<Word>(table[t * size + ((size - u) & (size - 1))]);
}

// The entries outside the longest run of zeros, counted around the end: `count` of them, the last
// at `last`.
struct Entries {
    size_t last, count;
};

template <class Ring>
Entries nonzero_entries(const TableGates &a, size_t size) {
    Workspace<uint8_t> used(size);
    memset(used.get(), 0, size);
    for (size_t m = 0; m < static_cast<size_t>(a.shape.k); m++)
        for (size_t i = 0; i < a.tables * size; i++)
            if (static_cast<const Ring *>(a.curves[m])[i]) used.get()[i & (size - 1)] = 1;
    size_t longest = 0, end = 0, run = 0;  // a run of zeros that ends in front of `end`
    for (size_t i = 0; i < 2 * size; i++) {
        run = used.get()[i & (size - 1)] ? 0 : run + 1;
        if (run > longest) longest = run, end = i + 1;
    }
    if (longest >= size) return {0, 1};
    return {(end - longest - 1) & (size - 1), size - longest};
}

// All gates of a call, a batch after the other. Elements of Z_w are taken mod 2^lane.
template <class Ring, class Lane>
class TableEvaluation {
  public:
    explicit TableEvaluation(const TableGates &a) : a_(a) {
        for (size_t m = 0; m < static_cast<size_t>(s_.k); m++)
            reverse_twice(static_cast<const Ring *>(a.curves[m]), a.tables, size_,
                          curves_.get() + m * length_);
    }

    void run() {
        if (!a_.tables) return;
        for (size_t first = 0; first < a_.count; first += Domain::batch) {
            const size_t present = smaller(Domain::batch, a_.count - first);
            for (size_t g = 0; g < present; g++)
                starts_[g] = window_ ? first_point(first + g) / static_cast<size_t>(s_.points) : 0;
            domain_.begin(first, present, starts_);
            memset(sums_.get(), 0, sizeof(Vec) * Domain::batch * a_.tables);
            for (size_t part = 0; part < domain_.parts(); part++) {
                domain_.expand_part(part);
                for (size_t g = 0; g < present; g++) add_part(first + g, g, part);
            }
            for (size_t g = 0; g < present; g++) write_result(first + g, g);
        }
    }

  private:
    typedef SRC_PATH::Domain<Lane> Domain;
    typedef typename Domain::Wide Wide;
    typedef typename Factor<Lane>::type Word;
    typedef Word Words __attribute__((vector_size(sizeof(Vec)), aligned(sizeof(Word))));
    static constexpr size_t words = sizeof(Vec) / sizeof(Word);
    static constexpr size_t pieces = sizeof(Word) / sizeof(Lane);  // of words in a vector of lanes

    const TableGates &a_;
    const DpfShape &s_ = a_.shape;
    const size_t size_ = size_t{1} << s_.n, length_ = 2 * size_ * a_.tables + 2 * Domain::lanes;
    const Entries entries_ = nonzero_entries<Ring>(a_, size_);
    const size_t window_ = leaves_met();  // in leaves
    Domain domain_{s_, a_.party, a_.seeds, a_.keys, window_};
    size_t starts_[Domain::batch];
    Scratch<Word> curves_{length_ * static_cast<size_t>(s_.k)};
    // (vectors, K), unless one table reads them at once
    Scratch<Lane> stored_{a_.tables > 1 ? 3 * domain_.points() + 6 * Domain::lanes : 0};
    Scratch<Word> sums_{Domain::batch * a_.tables * words};  // (gates, tables) vectors to be summed

    // The leaves in which the entries may lie, or 0 if all leaves are expanded in about that time.
    size_t leaves_met() const {
        const size_t leaf = static_cast<size_t>(s_.points), leaves = size_t{1} << s_.depth;
        const size_t met = (entries_.count + 2 * leaf - 2) / leaf;
        return 4 * Domain::expanded(met) <= 3 * leaves ? met : 0;
    }

    // The first point j at which a gate reads an entry.
    size_t first_point(size_t gate) const {
        return (a_.index[gate] - entries_.last) & (size_ - 1);
    }

    // The i-th piece of a vector of lanes, widened.
    static Words piece(Wide e, size_t i) {
        if constexpr (pieces == 1) {
            return (Words)e;
        } else {
            typedef Lane Half __attribute__((vector_size(sizeof(Vec) / 2)));
            return __builtin_convertvector(reinterpret_cast<const Half *>(&e)[i], Words);
        }
    }

    static Words load(const Word *p) { return *reinterpret_cast<const Words *>(p); }

    // Adds the inner products over one part of the domain to the sums of a gate.
    void add_part(size_t gate, size_t g, size_t part) {
        const size_t from = starts_[g] * static_cast<size_t>(s_.points);
        const size_t at = ((from - a_.index[gate]) & (size_ - 1)) + part * domain_.points();
        if (s_.k == 1) return add_part<1>(gate, g, at);
        if (s_.k == 2) return add_part<2>(gate, g, at);
        add_part<3>(gate, g, at);
    }

    template <int K>
    void add_part(size_t gate, size_t g, size_t at) {
        if (a_.tables == 1)
            return add_products<K>(gate, g, at, 0, [&](auto sink) SRC_LAMBDA {
                domain_.template shares<K>(g, sink);
            });
        Wide *const stored = reinterpret_cast<Wide *>(stored_.get());
        domain_.template shares<K>(g, [=](size_t j, const Wide *e) SRC_LAMBDA {
            for (size_t c = 0; c < K; c++) stored[j / Domain::lanes * K + c] = e[c];
        });
        for (size_t t = 0; t < a_.tables; t++)
            add_products<K>(gate, g, at + 2 * t * size_, t, [&](auto sink) SRC_LAMBDA {
                for (size_t j = 0; j < domain_.points(); j += Domain::lanes)
                    sink(j, stored + j / Domain::lanes * K);
            });
    }

    // sum_j e0_j·t0 + (low·e0_j - e1_j)·t1 + (low^2·e0_j - 2·low·e1_j + e2_j)·t2, as far as there
    // are components, for the shares that each(sink) gives
    template <int K, class Each>
    SRC_INLINE void add_products(size_t gate, size_t g, size_t at, size_t table, Each each) {
        const Word *const t0 = curves_.get() + at, *const t1 = t0 + length_, *const t2 = t1 + length_;
        const Words low =
            Words{} + static_cast<Word>(K > 1 ? static_cast<const Ring *>(a_.low)[gate] : 0);
        Words sum = {};
        each([&](size_t j, const Wide *e) SRC_LAMBDA {
            for (size_t i = 0; i < pieces; i++, j += words) {
                const Words e0 = piece(e[0], i);
                sum += e0 * load(t0 + j);
                if constexpr (K > 1) {
                    const Words e1 = piece(e[1], i), line = low * e0 - e1;
                    sum += line * load(t1 + j);
                    if constexpr (K == 3)
                        sum += (low * (line - e1) + piece(e[2], i)) * load(t2 + j);
                }
            }
        });
        reinterpret_cast<Words *>(sums_.get())[g * a_.tables + table] += sum;
    }

    // y = ±sum, minus for party 1
    void write_result(size_t gate, size_t g) {
        const Words *const sums = reinterpret_cast<const Words *>(sums_.get());
        for (size_t t = 0; t < a_.tables; t++) {
            Word y = sum_of_lanes<Word>((typename Lanes<Word>::Wide)sums[g * a_.tables + t]);
            if (a_.party) y = static_cast<Word>(0 - y);
            static_cast<Ring *>(a_.y)[t * a_.count + gate] =
                static_cast<Ring>(y) & low_bits<Ring>(s_.w);
        }
    }
};

}  // namespace

void dpf_table(const TableGates &a) {
    if (a.shape.lane == 8) return TableEvaluation<uint32_t, uint8_t>(a).run();
    if (a.shape.lane == 16) return TableEvaluation<uint32_t, uint16_t>(a).run();
    if (a.shape.lane == 32) return TableEvaluation<uint32_t, uint32_t>(a).run();
    TableEvaluation<uint64_t, uint64_t>(a).run();
}

}  // namespace SRC_PATH
