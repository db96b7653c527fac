// The Python module _native: one class, Path, with the kernels of one path as methods.
//
// Callers have checked sizes, dtypes and ranges (kernels/checks.py) and pass output arrays in.
// Arrays are never converted; wrong dtypes or non-contiguous arrays raise TypeError.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "threads.hpp"

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

// A layout of right operands, of one path and one ring.
struct Layout {
    Packing packing;
    const PathKernels *path;
    size_t element;  // bytes
};

// Whether so many windows of a convolution lie within an image, along one axis. The largest numbers
// are those of kernels/windows.py.
bool windows_fit(size_t image, size_t kernel, size_t windows, ptrdiff_t stride, ptrdiff_t padding,
                 ptrdiff_t dilation) {
    constexpr ptrdiff_t most_spacing = 1 << 16;
    constexpr size_t most_size = size_t{1} << 32;
    if (stride < 1 || padding < 0 || dilation < 1) return false;
    if (std::max({stride, padding, dilation}) > most_spacing) return false;
    if (kernel < 1 || windows < 1 || std::max({image, kernel, windows}) > most_size) return false;
    const size_t last = (windows - 1) * static_cast<size_t>(stride) +
                        (kernel - 1) * static_cast<size_t>(dilation);
    return last < image + 2 * static_cast<size_t>(padding);
}

constexpr size_t rows_worth_a_thread = 16;
constexpr int most_levels = 3;  // of Strassen's method

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

    // a (.., m, k), b (.., k, n) with the same batch sizes, c (.., m, n); c += .. if `add`
    template <class T>
    void matmul(View<T> a, View<T> b, Out<T> c, bool add, size_t threads) const {
        const size_t d = a.ndim();
        require(d >= 2 && b.ndim() == d && c.ndim() == d);
        GemmShape s{};
        s.m = a.shape(d - 2), s.k = a.shape(d - 1), s.n = b.shape(d - 1), s.add = add;
        require(b.shape(d - 2) == s.k && c.shape(d - 2) == s.m && c.shape(d - 1) == s.n);
        s.a_row = a.stride(d - 2), s.a_col = a.stride(d - 1);
        s.b_row = b.stride(d - 2), s.b_col = b.stride(d - 1);
        size_t products = 1;
        for (size_t i = 0; i + 2 < d; i++) {
            require(a.shape(i) == c.shape(i) && b.shape(i) == c.shape(i));
            products *= c.shape(i);
        }
        nb::gil_scoped_release release;
        const Packing layout = packing<T>(s.m, s.k, s.n, false, most_levels);
        const size_t pieces = products >= threads ? 1 : threads;
        in_parts(products >= threads ? threads : 1, products, 1, [&](size_t first, size_t count) {
            for (size_t index = first; index < first + count; index++) {
                ptrdiff_t at_a = 0, at_b = 0;
                size_t rest = index;
                for (size_t i = d - 2; i-- > 0; rest /= c.shape(i)) {
                    const auto place = static_cast<ptrdiff_t>(rest % c.shape(i));
                    at_a += place * a.stride(i), at_b += place * b.stride(i);
                }
                product(s, layout, a.data() + at_a, b.data() + at_b, c.data() + index * s.m * s.n,
                        pieces);
            }
        });
    }

    template <class T>
    Layout layout(size_t rows, size_t k, size_t n, int levels) const {
        return {packing<T>(rows, k, n, true, levels), k_, sizeof(T)};
    }

    template <class T>
    void pack_matrix(const Layout &layout, View<T> b, Out<T> out) const {
        check_layout<T>(layout, out.size());
        require(b.ndim() == 2 && b.shape(0) == layout.packing.k && b.shape(1) == layout.packing.n);
        nb::gil_scoped_release release;
        pack_right(layout.packing, b.stride(0), b.stride(1), b.data(), out.data());
    }

    // a (m, k), b packed, c (m, n)
    template <class T>
    void matmul_packed(View<T> a, const Layout &layout, In<T> b, Out<T> c, bool add,
                       size_t threads) const {
        check_layout<T>(layout, b.size());
        const Packing &p = layout.packing;
        require(a.ndim() == 2 && a.shape(1) == p.k);
        require(c.ndim() == 2 && c.shape(0) == a.shape(0) && c.shape(1) == p.n);
        const GemmShape s{a.shape(0), p.k, p.n, a.stride(0), a.stride(1), 0, 0, add};
        nb::gil_scoped_release release;
        product_packed(s, p, a.data(), b.data(), c.data(), threads);
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
        for (size_t i = 0; i < 2; i++)
            require(windows_fit(x.shape(2 + i), w.shape(2 + i), y.shape(2 + i), s.stride[i],
                                s.padding[i], s.dilation[i]));
        nb::gil_scoped_release release;
        conv(s, x.data(), w.data(), y.data());
    }

    template <class T>
    void pack(In<T> x, int w, Out<uint8_t> out) const {
        check_packed(x.size(), w, out.size(), sizeof(T));
        nb::gil_scoped_release release;
        pack(x.data(), x.size(), w, out.data());
    }

    template <class T, class Result>
    void add_pack(In<T> x, In<T> m, uint64_t plus, int w, int by, Out<uint8_t> out,
                  Out<Result> total) const {
        require(sizeof(T) == 4 ? 1 <= w && w <= 32 : 33 <= w && w <= 64);
        require(0 <= by && by < w && m.size() == x.size() && total.size() == x.size());
        check_packed(x.size(), w - by, out.size(), sizeof(Result));
        nb::gil_scoped_release release;
        add_pack(x.data(), m.data(), x.size(), static_cast<T>(plus), w, by, out.data(),
                 total.data());
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
                   In<uint8_t> seeds, In<uint8_t> keys, std::vector<In<T>> curves,
                   Out<T> y) const {
        const size_t count = index.size(), size = size_t{1} << s.n;
        require(s.lane <= 32 ? sizeof(T) == 4 : sizeof(T) == 8);
        require(s.k <= 3 && curves.size() == static_cast<size_t>(s.k));
        for (const In<T> &curve : curves)
            require(curve.ndim() == 2 && curve.shape(1) == size &&
                    y.size() == curve.shape(0) * count);
        require(seeds.size() == 16 * count && keys.size() == count * s.key_bytes);
        require(s.k == 1 || (low && low->size() == count));
        TableGates a{};
        a.shape = s, a.party = party, a.count = count, a.tables = curves[0].shape(0);
        a.index = index.data(), a.low = s.k > 1 ? low->data() : nullptr;
        a.seeds = seeds.data(), a.keys = keys.data(), a.y = y.data();
        for (size_t m = 0; m < curves.size(); m++) a.curves[m] = curves[m].data();
        nb::gil_scoped_release release;
        k_->dpf_table(a);
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

    // x in Z_in_width, the shares and y in Z_width
    template <class X, class T>
    void relu(int party, int in_width, int width, std::vector<int> widths, size_t key_bytes,
              In<X> x, In<uint8_t> seeds, In<uint8_t> keys, In<T> m, In<T> mr, In<T> r,
              Out<T> y) const {
        const size_t count = x.size();
        require(2 <= in_width && in_width <= 64 && 1 <= width && width <= 64);
        require(in_width <= 32 ? sizeof(X) == 4 : sizeof(X) == 8);
        require(width <= 32 ? sizeof(T) == 4 : sizeof(T) == 8);
        require(widths.size() == (width > in_width ? 3u : 2u));
        std::vector<int> offsets;
        const DcfShape s =
            dcf_shape(static_cast<size_t>(in_width - 1), widths, &offsets, key_bytes);
        require(seeds.size() == 16 * count && keys.size() == count * key_bytes);
        require(m.size() == count && mr.size() == count && r.size() == count && y.size() == count);
        const ReluGates gates = {s,           party,       in_width, width,     count,    x.data(),
                                 seeds.data(), keys.data(), m.data(), mr.data(), r.data(), y.data()};
        nb::gil_scoped_release release;
        k_->relu(gates);
    }

  private:
    const PathKernels *k_;

    template <class T>
    void check_layout(const Layout &layout, size_t size) const {
        require(layout.path == k_ && layout.element == sizeof(T) && layout.packing.size == size);
    }

    // Splits 0 .. count among threads, at multiples of `unit`, and calls work(first, count).
    template <class Work>
    static void in_parts(size_t threads, size_t count, size_t unit, const Work &work) {
        const size_t units = (count + unit - 1) / unit;
        if (std::min(threads, units) <= 1) return work(size_t{0}, count);
        const size_t units_each = (units + threads - 1) / threads;
        const size_t parts = (units + units_each - 1) / units_each;  // none of them empty
        struct Context {
            const Work &work;
            size_t count, step;
        } context{work, count, units_each * unit};
        run_parts(
            parts,
            [](void *pointer, size_t index) {
                const auto &c = *static_cast<Context *>(pointer);
                const size_t first = index * c.step;
                c.work(first, std::min(c.step, c.count - first));
            },
            &context);
    }

    template <class T>
    void product(const GemmShape &s, const Packing &layout, const T *a, const T *b, T *c,
                 size_t threads) const {
        if (layout.levels > 0) {
            std::vector<T> packed(layout.size + 64 / sizeof(T));
            T *to = packed.data();
            while (reinterpret_cast<uintptr_t>(to) % 64) to++;
            pack_right(layout, s.b_row, s.b_col, b, to);
            return product_packed(s, layout, a, to, c, threads);
        }
        in_parts(threads, s.m, rows_worth_a_thread, [&](size_t first, size_t rows) {
            GemmShape part = s;
            part.m = rows;
            gemm(part, a + static_cast<ptrdiff_t>(first) * s.a_row, b, c + first * s.n);
        });
    }

    template <class T>
    void product_packed(const GemmShape &s, const Packing &layout, const T *a, const T *b, T *c,
                        size_t threads) const {
        const size_t unit = rows_worth_a_thread << layout.levels;
        in_parts(threads, s.m, layout.levels ? unit / 2 : unit, [&](size_t first, size_t rows) {
            GemmShape part = s;
            part.m = rows;
            gemm_packed(part, layout, a + static_cast<ptrdiff_t>(first) * s.a_row, b,
                        c + first * s.n);
        });
    }

    template <class T>
    Packing packing(size_t m, size_t k, size_t n, bool keep, int levels) const {
        return (sizeof(T) == 4 ? k_->packing32 : k_->packing64)(m, k, n, keep, levels);
    }
    void pack_right(const Packing &p, ptrdiff_t row, ptrdiff_t column, const uint32_t *b,
                    uint32_t *to) const {
        k_->pack_right32(p, row, column, b, to);
    }
    void pack_right(const Packing &p, ptrdiff_t row, ptrdiff_t column, const uint64_t *b,
                    uint64_t *to) const {
        k_->pack_right64(p, row, column, b, to);
    }
    void gemm_packed(const GemmShape &s, const Packing &p, const uint32_t *a, const uint32_t *b,
                     uint32_t *c) const {
        k_->gemm_packed32(s, p, a, b, c);
    }
    void gemm_packed(const GemmShape &s, const Packing &p, const uint64_t *a, const uint64_t *b,
                     uint64_t *c) const {
        k_->gemm_packed64(s, p, a, b, c);
    }
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
    void pack(const uint32_t *x, size_t n, int w, uint8_t *out) const { k_->pack32(x, n, w, out); }
    void pack(const uint64_t *x, size_t n, int w, uint8_t *out) const { k_->pack64(x, n, w, out); }
    void add_pack(const uint32_t *x, const uint32_t *m, size_t n, uint32_t plus, int w, int by,
                  uint8_t *out, uint32_t *total) const {
        k_->add_pack32(x, m, n, plus, w, by, out, total);
    }
    void add_pack(const uint64_t *x, const uint64_t *m, size_t n, uint64_t plus, int w, int by,
                  uint8_t *out, uint64_t *total) const {
        k_->add_pack64(x, m, n, plus, w, by, out, total);
    }
    void add_pack(const uint64_t *x, const uint64_t *m, size_t n, uint64_t plus, int w, int by,
                  uint8_t *out, uint32_t *total) const {
        k_->add_pack64_to_32(x, m, n, plus, w, by, out, total);
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

template <class T, class Result>
void bind_add_pack(nb::class_<Path> &path) {
    path.def("add_pack",
             nb::overload_cast<In<T>, In<T>, uint64_t, int, int, Out<uint8_t>, Out<Result>>(
                 &Path::add_pack<T, Result>, nb::const_),
             "x"_a.noconvert(), "m"_a.noconvert(), "plus"_a, "w"_a, "by"_a, "out"_a.noconvert(),
             "total"_a.noconvert());
}

template <class X, class T>
void bind_relu(nb::class_<Path> &path) {
    path.def("relu", &Path::relu<X, T>, "party"_a, "in_width"_a, "width"_a, "widths"_a,
             "key_bytes"_a, "x"_a.noconvert(), "seeds"_a.noconvert(), "keys"_a.noconvert(),
             "m"_a.noconvert(), "mr"_a.noconvert(), "r"_a.noconvert(), "y"_a.noconvert());
}

template <class T>
void bind_ring_kernels(nb::class_<Path> &path) {
    path.def("matmul", &Path::matmul<T>, "a"_a.noconvert(), "b"_a.noconvert(), "c"_a.noconvert(),
             "add"_a, "threads"_a);
    path.def(sizeof(T) == 4 ? "layout32" : "layout64", &Path::layout<T>, "rows"_a, "k"_a, "n"_a,
             "levels"_a);
    path.def("pack_matrix", &Path::pack_matrix<T>, "layout"_a, "b"_a.noconvert(),
             "out"_a.noconvert());
    path.def("matmul_packed", &Path::matmul_packed<T>, "a"_a.noconvert(), "layout"_a,
             "b"_a.noconvert(), "c"_a.noconvert(), "add"_a, "threads"_a);
    path.def("conv2d", &Path::conv2d<T>, "x"_a.noconvert(), "w"_a.noconvert(), "y"_a.noconvert(),
             "geometry"_a, "groups"_a);
    path.def("pack", nb::overload_cast<In<T>, int, Out<uint8_t>>(&Path::pack<T>, nb::const_),
             "x"_a.noconvert(), "w"_a, "out"_a.noconvert());
    bind_add_pack<T, T>(path);
    path.def("unpack",
             nb::overload_cast<In<uint8_t>, std::optional<In<T>>, int, Out<T>>(&Path::unpack<T>,
                                                                               nb::const_),
             "buf"_a.noconvert(), "add"_a.noconvert().none(), "w"_a, "out"_a.noconvert());
    path.def("dpf_keys", &Path::dpf_keys<T>, "shape"_a, "alpha"_a.noconvert(), "beta"_a.noconvert(),
             "seeds0"_a.noconvert(), "seeds1"_a.noconvert(), "keys"_a.noconvert());
    path.def("dpf_table", &Path::dpf_table<T>, "shape"_a, "party"_a, "index"_a.noconvert(),
             "low"_a.noconvert().none(), "seeds"_a.noconvert(), "keys"_a.noconvert(),
             "curves"_a, "y"_a.noconvert());
}

DpfShape dpf_shape(int n, int k, int w, int lane, int points, int depth, int blocks,
                   size_t key_bytes) {
    require(1 <= n && n <= 20 && 1 <= k && k <= 8 && 1 <= w && w <= lane);
    require(lane == 8 || lane == 16 || lane == 32 || lane == 64);
    require(0 <= depth && depth <= n && points == 1 << (n - depth));
    require(blocks == (points * k * lane + 127) / 128);
    require(depth == 0 || k > 3 || points * k * lane == 128 * (k > 2 ? k : 2));
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
    nb::class_<Layout>(m, "Layout").def_prop_ro(
        "size", [](const Layout &layout) { return layout.packing.size; });
    nb::class_<Path> path(m, "Path");
    path.def(nb::init<const std::string &>(), "name"_a);
    path.def("describe", &Path::describe);
    path.def("has_prg", &Path::has_prg);
    path.def("prg", &Path::prg, "key"_a, "block"_a, "slot"_a, "out"_a.noconvert());
    bind_ring_kernels<uint32_t>(path);
    bind_ring_kernels<uint64_t>(path);
    bind_add_pack<uint64_t, uint32_t>(path);
    bind_relu<uint32_t, uint32_t>(path);
    bind_relu<uint32_t, uint64_t>(path);
    bind_relu<uint64_t, uint32_t>(path);
    bind_relu<uint64_t, uint64_t>(path);
    path.def("dcf_keys", &Path::dcf_keys, "n"_a, "widths"_a, "key_bytes"_a, "alpha"_a.noconvert(),
             "beta"_a.noconvert(), "seeds0"_a.noconvert(), "seeds1"_a.noconvert(),
             "keys"_a.noconvert());
    path.def("dcf_eval", &Path::dcf_eval, "n"_a, "widths"_a, "key_bytes"_a, "party"_a,
             "x"_a.noconvert(), "seeds"_a.noconvert(), "keys"_a.noconvert(), "y"_a.noconvert());
}
