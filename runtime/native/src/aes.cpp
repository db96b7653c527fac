// AES-128 by the processor's instructions where the path has them, else in constant-time software.
#include "aes.hpp"

#if defined(__AES__)
#include "aes_x86.hpp"
#else
#include "aes_soft.hpp"
#endif
