// Packing of w-bit elements into bit strings and back: 8 elements of w bits are w bytes.
#include "entries.hpp"

namespace SRC_PATH {
namespace {

constexpr int group = 8;

// With one instance for each width the compiler stops inlining somewhere, at a third of the speed.
#define SRC_INLINE __attribute__((always_inline)) inline

// Bits [64·Word, 64·Word + 64) of the string that 8 canonical elements of W bits make.
template <int W, int Word, int I = 0>
SRC_INLINE uint64_t packed_word(const uint64_t *x) {
    if constexpr (I == group) {
        return 0;
    } else {
        constexpr int shift = I * W - 64 * Word;
        uint64_t rest = packed_word<W, Word, I + 1>(x);
        if constexpr (shift > -W && shift < 0) return rest | x[I] >> -shift;
        if constexpr (shift >= 0 && shift < 64) return rest | x[I] << shift;
        return rest;
    }
}

template <int W, int Word = 0>
SRC_INLINE void store_words(const uint64_t *x, uint8_t *out) {
    if constexpr (64 * Word < group * W) {
        uint64_t v = packed_word<W, Word>(x);
        memcpy(out + 8 * Word, &v, 8);  // the last word may run past the group: the next overwrites
        store_words<W, Word + 1>(x, out);
    }
}

template <int W, int I = 0>
SRC_INLINE void load_elements(const uint8_t *buf, uint64_t *x) {
    if constexpr (I < group) {
        constexpr int at = I * W / 8, shift = I * W % 8;
        uint64_t v;
        memcpy(&v, buf + at, 8);
        v >>= shift;
        if constexpr (shift + W > 64) v |= static_cast<uint64_t>(buf[at + 8]) << (64 - shift);
        x[I] = v & low_bits<uint64_t>(W);
        load_elements<W, I + 1>(buf, x);
    }
}

constexpr size_t slack = 16;  // bytes that a group may read or write beyond its own

template <class T, int W>
SRC_INLINE void pack_group(const T *x, size_t elements, uint8_t *out) {
    uint64_t v[group];
    for (size_t i = 0; i < group; i++) v[i] = i < elements ? x[i] & low_bits<T>(W) : 0;
    store_words<W>(v, out);
}

template <class T, int W>
void pack(const T *x, size_t count, uint8_t *out) {
    const size_t bytes = (count * W + 7) / 8;
    size_t i = 0, at = 0;
    for (; at + W + slack <= bytes; i += group, at += W) pack_group<T, W>(x + i, group, out + at);
    for (; i < count; i += group, at += W) {
        uint8_t last[W + slack];
        pack_group<T, W>(x + i, smaller<size_t>(group, count - i), last);
        memcpy(out + at, last, smaller<size_t>(W, bytes - at));
    }
}

// Element by element, so that the result may start where `add` does.
template <class T, int W, bool Add>
SRC_INLINE void unpack_group(const uint8_t *buf, const T *add, size_t elements, T *out) {
    uint64_t v[group];
    load_elements<W>(buf, v);
    for (size_t i = 0; i < elements; i++) {
        T x = static_cast<T>(v[i]);
        out[i] = Add ? static_cast<T>(x + add[i]) & low_bits<T>(W) : x;
    }
}

template <class T, int W, bool Add>
void unpack(const uint8_t *buf, const T *add, size_t count, T *out) {
    const size_t bytes = (count * W + 7) / 8;
    size_t i = 0, at = 0;
    for (; at + W + slack <= bytes; i += group, at += W)
        unpack_group<T, W, Add>(buf + at, Add ? add + i : add, group, out + i);
    for (; i < count; i += group, at += W) {
        uint8_t last[W + slack] = {};
        memcpy(last, buf + at, smaller<size_t>(W, bytes - at));
        unpack_group<T, W, Add>(last, Add ? add + i : add, smaller<size_t>(group, count - i),
                                out + i);
    }
}

// Calls the instance for the width w, out of the widths Low to High.
template <class T, int Low, int High>
struct ForWidth {
    static constexpr int middle = (Low + High) / 2;
    using Lower = ForWidth<T, Low, middle>;
    using Upper = ForWidth<T, Low == High ? High : middle + 1, High>;

    static void pack_any(const T *x, size_t count, int w, uint8_t *out) {
        if constexpr (Low == High)
            return pack<T, Low>(x, count, out);
        else
            return w <= middle ? Lower::pack_any(x, count, w, out)
                               : Upper::pack_any(x, count, w, out);
    }

    static void unpack_any(const uint8_t *buf, const T *add, size_t count, int w, T *out) {
        if constexpr (Low == High)
            return add ? unpack<T, Low, true>(buf, add, count, out)
                       : unpack<T, Low, false>(buf, add, count, out);
        else
            return w <= middle ? Lower::unpack_any(buf, add, count, w, out)
                               : Upper::unpack_any(buf, add, count, w, out);
    }
};

using Width32 = ForWidth<uint32_t, 1, 32>;
using Width64 = ForWidth<uint64_t, 33, 64>;

constexpr size_t block = 2048;  // elements, a multiple of `group`: sums stay in the L1 cache

template <class Width, class T, class Out>
void add_pack(const T *x, const T *m, size_t count, T plus, int w, int by, uint8_t *out,
              Out *total) {
    const int narrow = w - by;
    for (size_t i = 0; i < count; i += block) {
        const size_t size = smaller(block, count - i);
        for (size_t k = i; k < i + size; k++)
            total[k] = static_cast<Out>((static_cast<T>(x[k] + m[k] + plus) & low_bits<T>(w)) >> by);
        Width::pack_any(total + i, size, narrow, out + i / group * static_cast<size_t>(narrow));
    }
}

}  // namespace

void pack32(const uint32_t *x, size_t count, int w, uint8_t *out) {
    Width32::pack_any(x, count, w, out);
}

void pack64(const uint64_t *x, size_t count, int w, uint8_t *out) {
    Width64::pack_any(x, count, w, out);
}

void add_pack32(const uint32_t *x, const uint32_t *m, size_t count, uint32_t plus, int w, int by,
                uint8_t *out, uint32_t *total) {
    add_pack<Width32>(x, m, count, plus, w, by, out, total);
}

void add_pack64(const uint64_t *x, const uint64_t *m, size_t count, uint64_t plus, int w, int by,
                uint8_t *out, uint64_t *total) {
    add_pack<Width64>(x, m, count, plus, w, by, out, total);
}

void add_pack64_to_32(const uint64_t *x, const uint64_t *m, size_t count, uint64_t plus, int w,
                      int by, uint8_t *out, uint32_t *total) {
    add_pack<Width32>(x, m, count, plus, w, by, out, total);
}

void unpack32(const uint8_t *buf, const uint32_t *add, size_t count, int w, uint32_t *out) {
    Width32::unpack_any(buf, add, count, w, out);
}

void unpack64(const uint8_t *buf, const uint64_t *add, size_t count, int w, uint64_t *out) {
    Width64::unpack_any(buf, add, count, w, out);
}

}  // namespace SRC_PATH
