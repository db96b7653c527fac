"""Random arguments for kernel tests, from a seed that a failing test prints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from srcompile.runtime.kernels import ring_dtype
from srcompile.runtime.kernels.interface import Bytes, Ring, Words


def lazy(rng: np.random.Generator, shape: tuple[int, ...], w: int) -> Ring:
    """Return uniform elements of Z_w with garbage above bit w."""
    dtype = ring_dtype(w)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def below(rng: np.random.Generator, count: int, bits: int) -> Words:
    """Return integers below 2^bits, the smallest and the largest among them."""
    out = rng.integers(0, (1 << bits) - 1, count, dtype=np.uint64, endpoint=True)
    out[: count // 4] = 0
    out[count // 4 : count // 2] = (1 << bits) - 1
    return out


def seeds(rng: np.random.Generator, count: int) -> tuple[Bytes, Bytes]:
    """Return one root for each party and gate."""
    pair: NDArray[np.uint8] = rng.integers(0, 256, (2, count, 16), dtype=np.uint8)
    return pair[0], pair[1]


def reduce(x: Ring, w: int) -> Ring:
    """Return x mod 2^w."""
    return x & x.dtype.type((1 << w) - 1)
