// What kernels do when there is no memory left.
#pragma once

// Throws std::bad_alloc, of which nanobind makes a MemoryError. The kernels of a path call this
// instead of throwing by themselves, so that they use nothing of the standard library's headers.
[[noreturn]] void out_of_memory();
