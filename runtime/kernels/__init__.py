"""Local kernels of a party and of the dealer: ring arithmetic, bit packing, PRG, DPF and DCF.

`load()` returns the fastest implementation this machine has; all of them give the same bits.
SRCOMPILE_KERNELS chooses one of `CHOICES`: native is the best path of the native kernels,
native-avx512 needs AVX-512 with VAES, native-vaes AVX2 with VAES, native-avx2 AVX2 with AES-NI.
"""

from __future__ import annotations

import os

from srcompile.runtime.errors import KernelError
from srcompile.runtime.kernels.definition import NumpyKernels
from srcompile.runtime.kernels.interface import Kernels, PackedMatrix, ring_dtype
from srcompile.runtime.kernels.layout import dcf_key_bytes, dpf_key_bytes

CHOICES = (
    "numpy",
    "native",
    "native-avx512",
    "native-vaes",
    "native-avx2",
    "native-portable",
)

__all__ = [
    "CHOICES",
    "Kernels",
    "PackedMatrix",
    "dcf_key_bytes",
    "dpf_key_bytes",
    "load",
    "ring_dtype",
]


def load(name: str | None = None) -> Kernels:
    """Return the kernels called `name`; without one, those SRCOMPILE_KERNELS names or the fastest.

    KernelError if the name is unknown, or if this machine cannot run what it names.
    """
    wanted = name or os.environ.get("SRCOMPILE_KERNELS") or None
    if wanted is not None and wanted not in CHOICES:
        raise KernelError(f"There are no kernels '{wanted}': choose one of {', '.join(CHOICES)}.")
    if wanted == "numpy":
        return NumpyKernels()
    try:
        from srcompile.runtime.kernels.native import NativeKernels
    except ImportError as error:
        if wanted is None:
            return NumpyKernels()
        raise KernelError(
            f"The kernels '{wanted}' need the native module, which is not built here ({error}); "
            f"install srcompile with a C++ compiler, or choose numpy."
        ) from error
    path = "" if wanted in (None, "native") else wanted.removeprefix("native-")
    try:
        return NativeKernels(path)
    except ValueError as error:
        raise KernelError(str(error)) from None
