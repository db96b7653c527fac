// Ring convolutions: a matrix product whose right operand, the windows of an image, is gathered
// panel by panel and never stored whole.
#include "entries.hpp"
#include "gemm.hpp"

namespace SRC_PATH {
namespace {

// The window matrix of one group of channels: rows (channel, i, j), columns (output row, column).
template <class T>
struct WindowPanel {
    static constexpr bool stays = false;
    const ConvShape &s;
    const T *image;  // (channels / groups, height, width), zero padding included
    size_t height, width;

    const T *operator()(size_t p, size_t rows, size_t first, size_t columns, T *buffer,
                        ptrdiff_t *) const {
        constexpr size_t NR = Tile<T>::columns;
        const size_t down = static_cast<size_t>(s.stride[0]),
                     right = static_cast<size_t>(s.stride[1]);
        size_t corner[NR];    // of each column's window
        bool one_run = true;  // neighbouring corners throughout
        for (size_t v = 0; v < NR; v++) {
            const size_t pixel = first + smaller(v, columns - 1);
            corner[v] = pixel / s.out_width * down * width + pixel % s.out_width * right;
            one_run = one_run && corner[v] == corner[0] + v;
        }
        size_t channel = p / (s.kh * s.kw), i = p / s.kw % s.kh, j = p % s.kw;
        for (size_t r = 0; r < rows; r++, buffer += NR) {
            const T *from = image + channel * height * width +
                            i * static_cast<size_t>(s.dilation[0]) * width +
                            j * static_cast<size_t>(s.dilation[1]);
            if (one_run) memcpy(buffer, from + corner[0], sizeof(T) * NR);
            else
                for (size_t v = 0; v < NR; v++) buffer[v] = from[corner[v]];
            if (++j == s.kw) j = 0, i++;
            if (i == s.kh) i = 0, channel++;
        }
        return buffer - rows * NR;
    }
};

template <class T>
void conv(const ConvShape &s, const T *x, const T *w, T *y) {
    const size_t in = s.channels / s.groups, out = s.outputs / s.groups;
    const size_t k = in * s.kh * s.kw, pixels = s.out_height * s.out_width;
    const size_t top = static_cast<size_t>(s.padding[0]), left = static_cast<size_t>(s.padding[1]);
    const size_t height = s.height + 2 * top, width = s.width + 2 * left;
    Scratch<T> padded(top + left ? checked_product(checked_product(in, height), width) : 0);
    Workspace<T> filters(checked_product(s.groups, left_size<T>(out, k)));
    for (size_t g = 0; g < s.groups; g++)
        pack_left(Matrix<T>{w + g * out * k, static_cast<ptrdiff_t>(k), 1}, out, k,
                  filters.get() + g * left_size<T>(out, k));
    for (size_t n = 0; n < s.batch; n++)
        for (size_t g = 0; g < s.groups; g++) {
            const T *image = x + (n * s.channels + g * in) * s.height * s.width;
            if (top + left) {
                for (size_t row = 0; row < in * s.height; row++)
                    memcpy(padded.get() + (row / s.height * height + top + row % s.height) * width +
                               left,
                           image + row * s.width, sizeof(T) * s.width);
                image = padded.get();
            }
            WindowPanel<T> panel{s, image, height, width};
            Left<T> weights(filters.get() + g * left_size<T>(out, k), k);
            gemm<T>(out, k, pixels, weights, panel, y + (n * s.outputs + g * out) * pixels, pixels,
                    false);
        }
}

}  // namespace

void conv32(const ConvShape &s, const uint32_t *x, const uint32_t *w, uint32_t *y) {
    conv(s, x, w, y);
}

void conv64(const ConvShape &s, const uint64_t *x, const uint64_t *w, uint64_t *y) {
    conv(s, x, w, y);
}

}  // namespace SRC_PATH
