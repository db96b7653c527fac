"""Where shared randomness comes from: an AES-CTR PRG under a seed shared with the dealer.

Every draw names its block and slot. A block is dealt once and a slot stands in one instruction, so
no part of a stream is used twice.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from srcompile.runtime.gates import Bytes
from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import Kernels, ring_dtype
from srcompile.runtime.ring import Ring

SETUP_BLOCK = (1 << 64) - 1
"""The block whose slots mask the weights; blocks of material count from 0 and never get there."""


class Randomness(Protocol):
    """Uniform values by block and slot."""

    def ring(self, block: int, slot: int, type_: RingType) -> Ring:
        """Return uniform elements of the ring and shape of `type_`."""

    def roots(self, block: int, slot: int, count: int) -> Bytes:
        """Return (count, 16) uniform bytes, the roots of function keys."""


class Seeded:
    """AES-128-CTR under a 16-byte seed."""

    def __init__(self, seed: bytes, kernels: Kernels) -> None:
        self._seed, self._kernels = seed, kernels

    def ring(self, block: int, slot: int, type_: RingType) -> Ring:
        """Return uniform elements of the ring and shape of `type_`."""
        dtype = ring_dtype(type_.width)
        stream = self._kernels.prg(self._seed, block, slot, type_.size * dtype.itemsize)
        return np.asarray(stream).view(dtype).reshape(type_.shape)

    def roots(self, block: int, slot: int, count: int) -> Bytes:
        """Return (count, 16) uniform bytes, the roots of function keys."""
        return np.asarray(self._kernels.prg(self._seed, block, slot, 16 * count)).reshape(count, 16)
