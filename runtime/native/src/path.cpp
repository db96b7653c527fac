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
        packing32,
        packing64,
        pack_right32,
        pack_right64,
        gemm_packed32,
        gemm_packed64,
        conv32,
        conv64,
        pack32,
        pack64,
        add_pack32,
        add_pack64,
        add_pack64_to_32,
        unpack32,
        unpack64,
        dpf_keys,
        dpf_table,
        dcf_keys,
        dcf_eval,
        relu,
    };
}

}  // namespace

const PathKernels &path_kernels() {
    static const PathKernels table = prepare();
    return table;
}

}  // namespace SRC_PATH
