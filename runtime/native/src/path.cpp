// The table of this path's kernels.
#include "path.hpp"

#include "aes.hpp"
#include "entries.hpp"

#define SRC_TEXT_(x) #x
#define SRC_TEXT(x) SRC_TEXT_(x)

namespace SRC_PATH {

namespace {

PathKernels prepare() {
    prepare_hash();
    return {
        SRC_TEXT(SRC_PATH),
        path_description(),
#if defined(SRC_HAS_PRG)
        prg,
#else
        nullptr,
#endif
        gemm32,
        gemm64,
        conv32,
        conv64,
        pack32,
        pack64,
        unpack32,
        unpack64,
        dpf_keys,
        dpf_table,
        dpf_bins,
        dcf_keys,
        dcf_eval,
    };
}

}  // namespace

const PathKernels &path_kernels() {
    static const PathKernels table = prepare();
    return table;
}

}  // namespace SRC_PATH
