// The Python module _native: one class, Path, with the kernels of one path as methods.
//
// Callers have checked sizes, dtypes and ranges (kernels/checks.py) and pass output arrays in.
// Arrays are never converted; wrong dtypes or non-contiguous arrays raise TypeError.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
template <class T>
using View = nb::ndarray<const T, nb::device::cpu>;

// Our own mistake in the layer above: the sizes there and here disagree.
void require(bool holds) {
    if (!holds) throw std::logic_error("The native kernels were called with wrong sizes.");
}

class Path {
  public:
    explicit Path(const std::string &name) : k_(find_path(name.c_str())) {
        if (!k_)
            throw nb::value_error(
                ("This machine cannot run the kernels of path '" + name + "'.").c_str());
    }

    std::string describe() const {
        std::string extra = k_->description;
        return k_->name + (extra.empty() ? "" : ", " + extra);
    }

    bool has_prg() const { return k_->prg; }

    void prg(nb::bytes key, uint64_t block, uint32_t slot, Out<uint8_t> out) const {
        require(k_->prg && key.size() == 16);
        const auto *bytes = static_cast<const uint8_t *>(key.data());
        nb::gil_scoped_release release;
        k_->prg(bytes, block, slot, out.data(), out.size());
    }

    // a (.., m, k), b (.., k, n) with the same batch sizes, c (.., m, n)
    template <class T>
    void matmul(View<T> a, View<T> b, Out<T> c) const {
        const size_t d = a.ndim();
        require(d >= 2 && b.ndim() == d && c.ndim() == d);
        GemmShape s{};
        s.m = a.shape(d - 2), s.k = a.shape(d - 1), s.n = b.shape(d - 1);
        require(b.shape(d - 2) == s.k && c.shape(d - 2) == s.m && c.shape(d - 1) == s.n);
        s.a_row = a.stride(d - 2), s.a_col = a.stride(d - 1);
        s.b_row = b.stride(d - 2), s.b_col = b.stride(d - 1);
        size_t products = 1;
        for (size_t i = 0; i + 2 < d; i++) {
            require(a.shape(i) == c.shape(i) && b.shape(i) == c.shape(i));
            products *= c.shape(i);
        }
        nb::gil_scoped_release release;
        for (size_t index = 0; index < products; index++) {
            ptrdiff_t at_a = 0, at_b = 0;
            size_t rest = index;
            for (size_t i = d - 2; i-- > 0; rest /= c.shape(i)) {
                const auto place = static_cast<ptrdiff_t>(rest % c.shape(i));
                at_a += place * a.stride(i), at_b += place * b.stride(i);
            }
            gemm(s, a.data() + at_a, b.data() + at_b, c.data() + index * s.m * s.n);
        }
    }

    template <class T>
    void conv2d(In<T> x, In<T> w, Out<T> y, std::vector<int64_t> geometry, size_t groups) const {
        require(x.ndim() == 4 && w.ndim() == 4 && y.ndim() == 4 && geometry.size() == 6);
        ConvShape s{};
        s.batch = x.shape(0), s.channels = x.shape(1), s.height = x.shape(2), s.width = x.shape(3);
        s.outputs = w.shape(0), s.kh = w.shape(2), s.kw = w.shape(3), s.groups = groups;
        s.out_height = y.shape(2), s.out_width = y.shape(3);
        for (size_t i = 0; i < 2; i++) {
            s.stride[i] = geometry[i], s.padding[i] = geometry[2 + i];
            s.dilation[i] = geometry[4 + i];
        }
        require(groups >= 1 && w.shape(1) * groups == s.channels && s.outputs % groups == 0);
        require(y.shape(0) == s.batch && y.shape(1) == s.outputs);
        nb::gil_scoped_release release;
        conv(s, x.data(), w.data(), y.data());
    }

    template <class T>
    void pack(In<T> x, std::optional<In<T>> add, int w, Out<uint8_t> out) const {
        check_packed(x.size(), w, out.size(), sizeof(T));
        require(!add || add->size() == x.size());
        const T *other = add ? add->data() : nullptr;
        nb::gil_scoped_release release;
        pack(x.data(), other, x.size(), w, out.data());
    }

    template <class T>
    void unpack(In<uint8_t> buf, std::optional<In<T>> add, int w, Out<T> out) const {
        check_packed(out.size(), w, buf.size(), sizeof(T));
        require(!add || add->size() == out.size());
        const T *other = add ? add->data() : nullptr;
        nb::gil_scoped_release release;
        unpack(buf.data(), other, out.size(), w, out.data());
    }

    template <class T>
    void dpf_keys(const DpfShape &s, In<uint64_t> alpha, In<T> beta, In<uint8_t> seeds0,
                  In<uint8_t> seeds1, Out<uint8_t> keys) const {
        const size_t count = alpha.size();
        require(s.lane <= 32 ? sizeof(T) == 4 : sizeof(T) == 8);
        require(beta.size() == count * static_cast<size_t>(s.k) &&
                keys.size() == count * s.key_bytes);
        require(seeds0.size() == 16 * count && seeds1.size() == 16 * count);
        nb::gil_scoped_release release;
        k_->dpf_keys(s, count, alpha.data(), beta.data(), seeds0.data(), seeds1.data(),
                     keys.data());
    }

    template <class T>
    void dpf_table(const DpfShape &s, int party, In<uint32_t> index, std::optional<In<T>> low,
                   In<uint8_t> seeds, In<uint8_t> keys, In<T> t0, std::optional<In<T>> t1,
                   Out<T> y) const {
        const size_t count = index.size(), size = size_t{1} << s.n;
        require(s.lane <= 32 ? sizeof(T) == 4 : sizeof(T) == 8);
        require(t0.ndim() == 2 && t0.shape(1) == size && y.size() == t0.shape(0) * count);
        require(seeds.size() == 16 * count && keys.size() == count * s.key_bytes);
        require(t1 ? s.k == 2 && low && low->size() == count && t1->size() == t0.size() : s.k == 1);
        TableGates a{};
        a.shape = s, a.party = party, a.count = count, a.tables = t0.shape(0);
        a.index = index.data(), a.low = t1 ? low->data() : nullptr;
        a.seeds = seeds.data(), a.keys = keys.data();
        a.t0 = t0.data(), a.t1 = t1 ? t1->data() : nullptr, a.y = y.data();
        nb::gil_scoped_release release;
        k_->dpf_table(a);
    }

    template <class T>
    void dpf_bins(const DpfShape &s, int party, int bin_bits, In<uint32_t> index, In<uint8_t> seeds,
                  In<uint8_t> keys, Out<T> y) const {
        const size_t count = index.size();
        require(s.lane <= 32 ? sizeof(T) == 4 : sizeof(T) == 8);
        require(s.k == 1 && 0 <= bin_bits && bin_bits <= s.n);
        require(seeds.size() == 16 * count && keys.size() == count * s.key_bytes);
        require(y.size() == count << (s.n - bin_bits));
        BinGates a{};
        a.shape = s, a.party = party, a.bin_bits = bin_bits, a.count = count;
        a.index = index.data(), a.seeds = seeds.data(), a.keys = keys.data(), a.y = y.data();
        nb::gil_scoped_release release;
        k_->dpf_bins(a);
    }

    void dcf_keys(size_t n, std::vector<int> widths, size_t key_bytes, In<uint64_t> alpha,
                  In<uint64_t> beta, In<uint8_t> seeds0, In<uint8_t> seeds1,
                  Out<uint8_t> keys) const {
        const size_t count = alpha.size();
        std::vector<int> offsets;
        const DcfShape s = dcf_shape(n, widths, &offsets, key_bytes);
        require(beta.size() == count * widths.size() && keys.size() == count * key_bytes);
        require(seeds0.size() == 16 * count && seeds1.size() == 16 * count);
        nb::gil_scoped_release release;
        k_->dcf_keys(s, count, alpha.data(), beta.data(), seeds0.data(), seeds1.data(),
                     keys.data());
    }

    void dcf_eval(size_t n, std::vector<int> widths, size_t key_bytes, int party, In<uint64_t> x,
                  In<uint8_t> seeds, In<uint8_t> keys, Out<uint64_t> y) const {
        const size_t count = x.size();
        std::vector<int> offsets;
        const DcfShape s = dcf_shape(n, widths, &offsets, key_bytes);
        require(seeds.size() == 16 * count && keys.size() == count * key_bytes);
        require(y.size() == count * widths.size());
        nb::gil_scoped_release release;
        k_->dcf_eval(s, party, count, x.data(), seeds.data(), keys.data(), y.data());
    }

  private:
    const PathKernels *k_;

    void gemm(const GemmShape &s, const uint32_t *a, const uint32_t *b, uint32_t *c) const {
        k_->gemm32(s, a, b, c);
    }
    void gemm(const GemmShape &s, const uint64_t *a, const uint64_t *b, uint64_t *c) const {
        k_->gemm64(s, a, b, c);
    }
    void conv(const ConvShape &s, const uint32_t *x, const uint32_t *w, uint32_t *y) const {
        k_->conv32(s, x, w, y);
    }
    void conv(const ConvShape &s, const uint64_t *x, const uint64_t *w, uint64_t *y) const {
        k_->conv64(s, x, w, y);
    }
    void pack(const uint32_t *x, const uint32_t *add, size_t n, int w, uint8_t *out) const {
        k_->pack32(x, add, n, w, out);
    }
    void pack(const uint64_t *x, const uint64_t *add, size_t n, int w, uint8_t *out) const {
        k_->pack64(x, add, n, w, out);
    }
    void unpack(const uint8_t *buf, const uint32_t *add, size_t n, int w, uint32_t *out) const {
        k_->unpack32(buf, add, n, w, out);
    }
    void unpack(const uint8_t *buf, const uint64_t *add, size_t n, int w, uint64_t *out) const {
        k_->unpack64(buf, add, n, w, out);
    }

    static void check_packed(size_t count, int w, size_t bytes, size_t element) {
        require(element == 4 ? 1 <= w && w <= 32 : 33 <= w && w <= 64);
        require(bytes == (count * static_cast<size_t>(w) + 7) / 8);
    }

    static DcfShape dcf_shape(size_t n, const std::vector<int> &widths, std::vector<int> *offsets,
                              size_t key_bytes) {
        int bits = 0;
        for (int w : widths) {
            require(1 <= w && w <= 64);
            offsets->push_back(bits);
            bits += w;
        }
        require(1 <= n && n <= 64 && !widths.empty());
        require(key_bytes == 16 * n + ((n + 1) * static_cast<size_t>(bits) + 7) / 8);
        return {static_cast<int>(n),
                static_cast<int>(widths.size()),
                bits,
                (bits + 63) / 64,
                widths.data(),
                offsets->data(),
                key_bytes};
    }
};

template <class T>
void bind_ring_kernels(nb::class_<Path> &path) {
    path.def("matmul", &Path::matmul<T>, "a"_a.noconvert(), "b"_a.noconvert(), "c"_a.noconvert());
    path.def("conv2d", &Path::conv2d<T>, "x"_a.noconvert(), "w"_a.noconvert(), "y"_a.noconvert(),
             "geometry"_a, "groups"_a);
    path.def("pack",
             nb::overload_cast<In<T>, std::optional<In<T>>, int, Out<uint8_t>>(&Path::pack<T>,
                                                                               nb::const_),
             "x"_a.noconvert(), "add"_a.noconvert().none(), "w"_a, "out"_a.noconvert());
    path.def("unpack",
             nb::overload_cast<In<uint8_t>, std::optional<In<T>>, int, Out<T>>(&Path::unpack<T>,
                                                                               nb::const_),
             "buf"_a.noconvert(), "add"_a.noconvert().none(), "w"_a, "out"_a.noconvert());
    path.def("dpf_keys", &Path::dpf_keys<T>, "shape"_a, "alpha"_a.noconvert(), "beta"_a.noconvert(),
             "seeds0"_a.noconvert(), "seeds1"_a.noconvert(), "keys"_a.noconvert());
    path.def("dpf_table", &Path::dpf_table<T>, "shape"_a, "party"_a, "index"_a.noconvert(),
             "low"_a.noconvert().none(), "seeds"_a.noconvert(), "keys"_a.noconvert(),
             "t0"_a.noconvert(), "t1"_a.noconvert().none(), "y"_a.noconvert());
    path.def("dpf_bins", &Path::dpf_bins<T>, "shape"_a, "party"_a, "bin_bits"_a,
             "index"_a.noconvert(), "seeds"_a.noconvert(), "keys"_a.noconvert(),
             "y"_a.noconvert());
}

DpfShape dpf_shape(int n, int k, int w, int lane, int points, int depth, int blocks,
                   size_t key_bytes) {
    require(1 <= n && n <= 20 && 1 <= k && k <= 8 && 1 <= w && w <= lane);
    require(lane == 8 || lane == 16 || lane == 32 || lane == 64);
    require(0 <= depth && depth <= n && points == 1 << (n - depth));
    require(blocks == (points * k * lane + 127) / 128);
    require(depth == 0 || k > 2 || points * k * lane == 256);
    require(key_bytes == static_cast<size_t>(16 * depth + (points * k * w + 7) / 8));
    return {n, k, w, lane, points, depth, blocks, key_bytes};
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "Native kernels; see srcompile.runtime.kernels.native.";
    nb::class_<DpfShape>(m, "DpfShape")
        .def("__init__", [](DpfShape *self, int n, int k, int w, int lane, int points, int depth,
                            int blocks, size_t key_bytes) {
            new (self) DpfShape(dpf_shape(n, k, w, lane, points, depth, blocks, key_bytes));
        });
    nb::class_<Path> path(m, "Path");
    path.def(nb::init<const std::string &>(), "name"_a);
    path.def("describe", &Path::describe);
    path.def("has_prg", &Path::has_prg);
    path.def("prg", &Path::prg, "key"_a, "block"_a, "slot"_a, "out"_a.noconvert());
    bind_ring_kernels<uint32_t>(path);
    bind_ring_kernels<uint64_t>(path);
    path.def("dcf_keys", &Path::dcf_keys, "n"_a, "widths"_a, "key_bytes"_a, "alpha"_a.noconvert(),
             "beta"_a.noconvert(), "seeds0"_a.noconvert(), "seeds1"_a.noconvert(),
             "keys"_a.noconvert());
    path.def("dcf_eval", &Path::dcf_eval, "n"_a, "widths"_a, "key_bytes"_a, "party"_a,
             "x"_a.noconvert(), "seeds"_a.noconvert(), "keys"_a.noconvert(), "y"_a.noconvert());
}
