// Sums of a DPF's shares over the bins of a public, rotated index.
#include "entries.hpp"
#include "full.hpp"

namespace SRC_PATH {
namespace {

// Sums mod 2^lane, of which w bits are wanted.
template <class Ring, class Lane>
class BinSums {
  public:
    explicit BinSums(const BinGates &a) : a_(a) {
        for (size_t i = 0; i < lanes; i++) window_[i] = static_cast<Lane>(~uint64_t{0});
    }

    void run() {
        Ring *const y = static_cast<Ring *>(a_.y);
        memset(y, 0, a_.count * bins_ * sizeof(Ring));
        for (size_t first = 0; first < a_.count; first += Domain::batch) {
            const size_t present = smaller(Domain::batch, a_.count - first);
            domain_.begin(first, present);
            for (size_t part = 0; part < domain_.parts(); part++) {
                domain_.expand_part(part);
                for (size_t g = 0; g < present; g++)
                    add_part(g, a_.index[first + g], part, y + (first + g) * bins_);
            }
        }
        for (size_t i = 0; i < a_.count * bins_; i++)
            y[i] = (a_.party ? 0 - y[i] : y[i]) & low_bits<Ring>(a_.shape.w);
    }

  private:
    typedef FullDomain<Lane> Domain;
    typedef typename Domain::Wide Wide;
    typedef Lane Loose __attribute__((vector_size(sizeof(Vec)), aligned(sizeof(Lane))));
    static constexpr size_t lanes = Domain::lanes;

    const BinGates &a_;
    const size_t size_ = size_t{1} << a_.shape.n, bins_ = size_ >> a_.bin_bits;
    const size_t bin_size_ = size_t{1} << a_.bin_bits;
    Domain domain_{a_.shape, a_.party, a_.seeds, a_.keys};
    Scratch<Lane> shares_{domain_.points() + 2 * lanes};
    Scratch<Lane> window_{2 * lanes};  // ones, then zeros: the mask of a part of a vector

    // From left to right over the points j of a part, their indices i = index - j mod 2^n fall: a run
    // of points is in one bin until i is a multiple of the bins' size.
    void add_part(size_t g, size_t index, size_t part, Ring *y) {
        Lane *const shares = shares_.get();
        domain_.template shares<1>(g, [=](size_t j, const Wide *e) SRC_LAMBDA {
            *reinterpret_cast<Wide *>(shares + j) = e[0];
        });
        const size_t points = domain_.points();
        size_t i = (index - part * points) & (size_ - 1);
        for (size_t j = 0, run; j < points; j += run, i = (i - run) & (size_ - 1)) {
            run = smaller((i & (bin_size_ - 1)) + 1, points - j);
            Ring &sum = y[i >> a_.bin_bits];
            sum = static_cast<Ring>(sum + sum_of(shares + j, run));
        }
    }

    // The sum of `count` lanes; a whole vector behind the first is there to be read.
    Lane sum_of(const Lane *from, size_t count) {
        Lane sum = 0;
        if (count < 8) {
            for (size_t i = 0; i < count; i++) sum = static_cast<Lane>(sum + from[i]);
            return sum;
        }
        Loose sums = {};
        for (; count >= lanes; count -= lanes, from += lanes)
            sums += *reinterpret_cast<const Loose *>(from);
        sums += *reinterpret_cast<const Loose *>(from) &
                *reinterpret_cast<const Loose *>(window_.get() + lanes - count);
        return sum_of_lanes<Lane>((Wide)sums);
    }
};

}  // namespace

void dpf_bins(const BinGates &a) {
    if (a.shape.lane == 8) return BinSums<uint32_t, uint8_t>(a).run();
    if (a.shape.lane == 16) return BinSums<uint32_t, uint16_t>(a).run();
    if (a.shape.lane == 32) return BinSums<uint32_t, uint32_t>(a).run();
    BinSums<uint64_t, uint64_t>(a).run();
}

}  // namespace SRC_PATH
