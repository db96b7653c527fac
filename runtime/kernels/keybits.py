"""Bit strings of keys in NumPy: one row of bits, 0 or 1 in a byte each, for every gate."""

from __future__ import annotations

import numpy as np

from srcompile.runtime.kernels.interface import Bytes, Ring


def to_bits(x: Ring, w: int) -> Bytes:
    """Return the low w bits of each element: (N, m) -> (N, m·w) of 0 and 1."""
    bits = np.unpackbits(
        np.ascontiguousarray(x).view(np.uint8).reshape(*x.shape, x.dtype.itemsize),
        axis=-1,
        bitorder="little",
    )
    return bits[..., :w].reshape(x.shape[0], x.shape[1] * w)


def from_bits(bits: Bytes, w: int, dtype: np.dtype[np.unsignedinteger]) -> Ring:
    """Return the elements of w bits each: (N, m·w) -> (N, m)."""
    size = 8 * dtype.itemsize
    rows = bits.reshape(bits.shape[0], bits.shape[1] // w, w)
    full = np.zeros((*rows.shape[:2], size), dtype=np.uint8)
    full[..., :w] = rows
    return np.packbits(full, axis=-1, bitorder="little").view(dtype)[..., 0]
