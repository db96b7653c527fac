// Chooses a path that this processor can run.
#include <cstring>

#include "kernels.hpp"

namespace portable {
const PathKernels &path_kernels();
}

#if defined(SRC_HAS_X86)
namespace avx2 {
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
bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("aes") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
#endif

// Best first.
const Path paths[] = {
#if defined(SRC_HAS_X86)
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
