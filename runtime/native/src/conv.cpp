// Ring convolutions: a matrix product whose right operand, the windows of an image, is gathered panel
// by panel and never stored whole.
#include "entries.hpp"
#include "gemm.hpp"

namespace SRC_PATH {
namespace {

// The window matrix of one group of channels: row (channel, i, j), column (output row, output column).
template <class T>
struct WindowPanel {
    const ConvShape &s;
    const T *image;

    const T *operator()(size_t p, size_t rows, size_t first, size_t columns, T *buffer,
                        ptrdiff_t *) const {
        constexpr size_t NR = Tile<T>::columns;
        const ptrdiff_t height = static_cast<ptrdiff_t>(s.height);
        const ptrdiff_t width = static_cast<ptrdiff_t>(s.width);
        // top-left corner of each column's window, in the unpadded image
        ptrdiff_t top[NR], left[NR];
        for (size_t v = 0; v < columns; v++) {
            top[v] = static_cast<ptrdiff_t>((first + v) / s.out_width) * s.stride[0] - s.padding[0];
            left[v] = static_cast<ptrdiff_t>((first + v) % s.out_width) * s.stride[1] - s.padding[1];
        }
        const bool one_run = s.stride[1] == 1 && columns == NR && top[0] == top[NR - 1];
        size_t channel = p / (s.kh * s.kw), i = p / s.kw % s.kh, j = p % s.kw;
        for (size_t r = 0; r < rows; r++, buffer += NR) {
            const T *plane = image + channel * s.height * s.width;
            const ptrdiff_t down = static_cast<ptrdiff_t>(i) * s.dilation[0];
            const ptrdiff_t right = static_cast<ptrdiff_t>(j) * s.dilation[1];
            const ptrdiff_t y = top[0] + down, x = left[0] + right;
            if (one_run && y >= 0 && y < height && x >= 0 && x + static_cast<ptrdiff_t>(NR) <= width)
                memcpy(buffer, plane + y * width + x, sizeof(T) * NR);
            else
                for (size_t v = 0; v < columns; v++) {
                    const ptrdiff_t row = top[v] + down, column = left[v] + right;
                    const bool inside = row >= 0 && row < height && column >= 0 && column < width;
                    buffer[v] = inside ? plane[row * width + column] : 0;
                }
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
    for (size_t n = 0; n < s.batch; n++)
        for (size_t g = 0; g < s.groups; g++) {
            WindowPanel<T> panel{s, x + (n * s.channels + g * in) * s.height * s.width};
            gemm<T>(out, k, pixels, w + g * out * k, static_cast<ptrdiff_t>(k), 1, panel,
                    y + (n * s.outputs + g * out) * pixels, pixels);
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
