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

// Packs `elements` of x, or of x + add, which is kept in `total`.
template <class T, int W, bool Add>
SRC_INLINE void pack_group(const T *x, const T *add, size_t elements, uint8_t *out, T *total) {
    uint64_t v[group];
    T sum[group];
    for (size_t i = 0; i < group; i++) {
        sum[i] = i < elements ? x[i] : 0;
        if (Add && i < elements) sum[i] = static_cast<T>(sum[i] + add[i]);
        v[i] = sum[i] & low_bits<T>(W);
    }
    if (Add)
        for (size_t i = 0; i < elements; i++) total[i] = sum[i];
    store_words<W>(v, out);
}

template <class T, int W, bool Add>
void pack(const T *x, const T *add, size_t count, uint8_t *out, T *total) {
    const size_t bytes = (count * W + 7) / 8;
    size_t i = 0, at = 0;
    for (; at + W + slack <= bytes; i += group, at += W)
        pack_group<T, W, Add>(x + i, Add ? add + i : add, group, out + at, Add ? total + i : total);
    for (; i < count; i += group, at += W) {
        uint8_t last[W + slack];
        pack_group<T, W, Add>(x + i, Add ? add + i : add, smaller<size_t>(group, count - i), last,
                              Add ? total + i : total);
        memcpy(out + at, last, smaller<size_t>(W, bytes - at));
    }
}

// Element by element, so that the result may start where `add` does.
template <class T, class Out, int W, bool Add>
SRC_INLINE void unpack_group(const uint8_t *buf, const T *add, size_t elements, int by, Out *out) {
    uint64_t v[group];
    load_elements<W>(buf, v);
    for (size_t i = 0; i < elements; i++) {
        T x = static_cast<T>(v[i]);
        out[i] = static_cast<Out>(Add ? (static_cast<T>(x + add[i]) & low_bits<T>(W)) >> by : x);
    }
}

template <class T, class Out, int W, bool Add>
void unpack(const uint8_t *buf, const T *add, size_t count, int by, Out *out) {
    const size_t bytes = (count * W + 7) / 8;
    size_t i = 0, at = 0;
    for (; at + W + slack <= bytes; i += group, at += W)
        unpack_group<T, Out, W, Add>(buf + at, Add ? add + i : add, group, by, out + i);
    for (; i < count; i += group, at += W) {
        uint8_t last[W + slack] = {};
        memcpy(last, buf + at, smaller<size_t>(W, bytes - at));
        unpack_group<T, Out, W, Add>(last, Add ? add + i : add, smaller<size_t>(group, count - i),
                                     by, out + i);
    }
}

// Calls the instance for the width w, out of the widths Low to High.
template <class T, int Low, int High>
struct ForWidth {
    static constexpr int middle = (Low + High) / 2;
    using Lower = ForWidth<T, Low, middle>;
    using Upper = ForWidth<T, Low == High ? High : middle + 1, High>;

    static void pack_any(const T *x, const T *add, size_t count, int w, uint8_t *out, T *total) {
        if constexpr (Low == High)
            return add ? pack<T, Low, true>(x, add, count, out, total)
                       : pack<T, Low, false>(x, add, count, out, total);
        else
            return w <= middle ? Lower::pack_any(x, add, count, w, out, total)
                               : Upper::pack_any(x, add, count, w, out, total);
    }

    template <class Out>
    static void unpack_any(const uint8_t *buf, const T *add, size_t count, int w, int by,
                           Out *out) {
        if constexpr (Low == High)
            return add ? unpack<T, Out, Low, true>(buf, add, count, by, out)
                       : unpack<T, Out, Low, false>(buf, add, count, by, out);
        else
            return w <= middle ? Lower::unpack_any(buf, add, count, w, by, out)
                               : Upper::unpack_any(buf, add, count, w, by, out);
    }
};

}  // namespace

void pack32(const uint32_t *x, const uint32_t *add, size_t count, int w, uint8_t *out,
            uint32_t *total) {
    ForWidth<uint32_t, 1, 32>::pack_any(x, add, count, w, out, total);
}

void pack64(const uint64_t *x, const uint64_t *add, size_t count, int w, uint8_t *out,
            uint64_t *total) {
    ForWidth<uint64_t, 33, 64>::pack_any(x, add, count, w, out, total);
}

void unpack32(const uint8_t *buf, const uint32_t *add, size_t count, int w, int by,
              uint32_t *out) {
    ForWidth<uint32_t, 1, 32>::unpack_any(buf, add, count, w, by, out);
}

void unpack64(const uint8_t *buf, const uint64_t *add, size_t count, int w, int by,
              uint64_t *out) {
    ForWidth<uint64_t, 33, 64>::unpack_any(buf, add, count, w, by, out);
}

void unpack64_to_32(const uint8_t *buf, const uint64_t *add, size_t count, int w, int by,
                    uint32_t *out) {
    ForWidth<uint64_t, 33, 64>::unpack_any(buf, add, count, w, by, out);
}

}  // namespace SRC_PATH
