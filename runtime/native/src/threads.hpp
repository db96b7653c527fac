// Work shared among threads of the process.
#pragma once

#include <cstddef>

// Calls part(context, 0) .. part(context, parts - 1), each on a thread of its own, and waits.
// Parts write to different places, so that the result does not depend on the number of threads.
// If parts throw, the others go on to their end, and one of what was thrown is thrown here.
void run_parts(size_t parts, void (*part)(void *context, size_t index), void *context);
