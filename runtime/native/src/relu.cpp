// The ReLU gate: a comparison below the sign bit, and what follows from it.
#include "entries.hpp"

namespace SRC_PATH {
namespace {

constexpr size_t chunk = 2048;  // elements whose comparisons stay in the cache

// y = b·x^ - b·r (+ 2^v·U) for the element's h, which is public; see gates.py for the formulas.
template <class X, class T>
void select(const ReluGates &g, size_t first, size_t count, const uint64_t *fields) {
    const X *x = static_cast<const X *>(g.x) + first;
    const T *m = static_cast<const T *>(g.m) + first, *mr = static_cast<const T *>(g.mr) + first;
    const T *r = static_cast<const T *>(g.r) + first;
    T *y = static_cast<T *>(g.y) + first;
    const int v = g.in_width;
    const T one = static_cast<T>(1 - g.party);
    const size_t width = static_cast<size_t>(g.shape.fields);
    for (size_t i = 0; i < count; i++) {
        const uint64_t hat = x[i] & low_bits<uint64_t>(v);
        const T h = static_cast<T>(0 - (hat >> (v - 1)));  // all ones if the sign bit is set
        const T t = static_cast<T>(m[i] + static_cast<T>(fields[i * width]));
        const T u = static_cast<T>(mr[i] + static_cast<T>(fields[i * width + 1]));
        const T b = (h & t) | (~h & static_cast<T>(one - t));
        const T br = (h & u) | (~h & static_cast<T>(r[i] - u));
        T wrap = 0;
        if (width == 3) wrap = static_cast<T>(fields[i * width + 2] << v) & ~h;
        y[i] = static_cast<T>(b * static_cast<T>(hat) - br + wrap);
    }
}

template <class X, class T>
void relu_of(const ReluGates &g) {
    const size_t fields = static_cast<size_t>(g.shape.fields);
    Scratch<uint64_t> low(smaller(chunk, g.count)), shares(smaller(chunk, g.count) * fields);
    for (size_t first = 0; first < g.count; first += chunk) {
        const size_t count = smaller(chunk, g.count - first);
        const X *x = static_cast<const X *>(g.x) + first;
        for (size_t i = 0; i < count; i++) low[i] = x[i] & low_bits<uint64_t>(g.in_width - 1);
        dcf_eval(g.shape, g.party, count, low.get(), g.seeds + 16 * first,
                 g.keys + g.shape.key_bytes * first, shares.get());
        select<X, T>(g, first, count, shares.get());
    }
}

}  // namespace

void relu(const ReluGates &g) {
    const bool narrow_in = g.in_width <= 32, narrow_out = g.width <= 32;
    if (narrow_in && narrow_out) return relu_of<uint32_t, uint32_t>(g);
    if (narrow_in) return relu_of<uint32_t, uint64_t>(g);
    if (narrow_out) return relu_of<uint64_t, uint32_t>(g);
    relu_of<uint64_t, uint64_t>(g);
}

}  // namespace SRC_PATH
