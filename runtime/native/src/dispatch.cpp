// Chooses a path that this processor can run.
#include <cstring>

#include "kernels.hpp"

namespace portable {
const PathKernels &path_kernels();
}

#if defined(SRC_HAS_X86)
namespace vaes {
const PathKernels &path_kernels();
}
namespace avx2 {
const PathKernels &path_kernels();
}
namespace avx512 {
const PathKernels &path_kernels();
}
#endif

namespace {

struct Path {
    const char *name;
    bool (*runs_here)();
    const PathKernels &(*kernels)();
};

#if defined(SRC_HAS_X86)
// These ask the operating system too: it must keep the registers of each width.
bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("aes") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

bool has_vaes() { return has_avx2() && __builtin_cpu_supports("vaes"); }

// Exactly what CMakeLists.txt lets the compiler use; this asks the operating system's part too.
bool has_avx512() {
    return has_vaes() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi");
}
#endif

// Best first.
const Path paths[] = {
#if defined(SRC_HAS_X86)
    {"avx512", has_avx512, avx512::path_kernels},
    {"vaes", has_vaes, vaes::path_kernels},
    {"avx2", has_avx2, avx2::path_kernels},
#endif
    {"portable", [] { return true; }, portable::path_kernels},
};

}  // namespace

const PathKernels *find_path(const char *name) {
    for (const Path &path : paths)
        if ((!*name || !strcmp(name, path.name)) && path.runs_here()) return &path.kernels();
    return nullptr;
}
