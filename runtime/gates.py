"""The gates: what a party computes from a masked wire and its key, without any message.

Notation: v-bit wire x^ = x + r mod 2^v, result in Z_(2^w), party p; h = msb x^, public; m = msb r.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srcompile.runtime.isa import RingType, sign_fields
from srcompile.runtime.kernels import Kernels, ring_dtype
from srcompile.runtime.ring import Ring, canonical, number

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Key:
    """A function key per element: this party's roots (N, 16) and the correction words (N, B)."""

    seeds: Bytes
    words: Bytes


# -- tables ---------------------------------------------------------------------------------------


def table_keys(
    kernels: Kernels,
    r: Ring,
    index_bits: int,
    low_bits: int,
    degree: int,
    width: int,
    roots: tuple[Bytes, Bytes],
) -> Bytes:
    """Return the correction words of DPF keys at point r >> s with payload (1, b, .. b^degree).

    b = r mod 2^s, s the low bits.
    """
    r = canonical(r.reshape(-1).astype(np.uint64), index_bits + low_bits)
    b = canonical(r, low_bits) if low_bits else r
    beta = np.stack([b ** np.uint64(c) for c in range(degree + 1)], axis=1)
    beta = canonical(beta, width).astype(ring_dtype(width))
    return kernels.dpf_keys(r >> np.uint64(low_bits), index_bits, beta, width, *roots)


def table(
    kernels: Kernels,
    party: int,
    x: Ring,
    index_bits: int,
    low_bits: int,
    width: int,
    key: Key,
    tables: list[Ring],
) -> Ring:
    """Return a share of t0[i] + t1[i]·d + t2[i]·d^2 for x = i·2^s + d. See Kernels.dpf_table.

    Tables of shape (T, 2^n) give T results for each element, as a last axis.
    """
    flat = canonical(x.reshape(-1), index_bits + low_bits)
    index = (flat >> flat.dtype.type(low_bits)).astype(np.uint32)
    low = canonical(flat, low_bits).astype(ring_dtype(width)) if low_bits else None
    several = tables[0].ndim > 1
    read = [t if several else t[None] for t in tables]
    y = kernels.dpf_table(party, index, low, index_bits, width, key.seeds, key.words, read)
    return y.T.reshape(*x.shape, len(y)) if several else y.reshape(x.shape)


def plain_table(x: Ring, index_bits: int, low_bits: int, tables: list[Ring]) -> Ring:
    """Return t0[i] + t1[i]·d + t2[i]·d^2 of a clear x."""
    flat = canonical(x, index_bits + low_bits)
    index = flat >> flat.dtype.type(low_bits)
    dtype = tables[0].dtype
    d = canonical(flat, low_bits).astype(dtype) if low_bits else None
    y = tables[0][..., index]
    for m, table in enumerate(tables[1:], 1):
        assert d is not None
        y = y + table[..., index] * d ** dtype.type(m)
    return np.asarray(np.moveaxis(y, 0, -1) if tables[0].ndim > 1 else y)


# -- signs ----------------------------------------------------------------------------------------
#
# Below the sign bit x^ = x + r borrows: c = [x^ < r] on v-1 bits, and [x < 0] = h xor m xor c.
# One DCF key gives shares of T = c·(1 - 2m) and, to select x itself, R = r·T and U = c·m:
#
#     b = [x >= 0]      = 1 - m - T            if h = 0,   m + T          if h = 1
#     b·r               = r - m·r - R          if h = 0,   m·r + R        if h = 1
#     relu x            = b·x^ - b·r + 2^v·U   if h = 0,   b·x^ - b·r     if h = 1
#
# as integers: x = x^ - r + 2^v·[wrap], and where x >= 0 the sum x + r wraps iff h = 0 and m = 1.


def sign_keys(
    kernels: Kernels, r: Ring, in_width: int, width: int, select: bool, roots: tuple[Bytes, Bytes]
) -> Bytes:
    """Return the correction words of DCF keys that tell the borrow below the sign bit."""
    r = canonical(r.reshape(-1).astype(np.uint64), in_width)
    m = r >> np.uint64(in_width - 1)
    t = np.uint64(1) - np.uint64(2) * m  # 1 - 2m, mod 2^64
    fields = sign_fields(in_width, {"width": width, "select": select})
    beta = np.stack([t, r * t, m][: len(fields)], axis=1)
    for k, field in enumerate(fields):
        beta[:, k] = canonical(beta[:, k], field)
    alpha = canonical(r, in_width - 1)
    return kernels.dcf_keys(alpha, in_width - 1, beta, fields, *roots)


def nonneg(
    kernels: Kernels, party: int, in_width: int, width: int, x: Ring, key: Key, m: Ring
) -> Ring:
    """Return a share of b = [x >= 0]."""
    flat = canonical(x.reshape(-1).astype(np.uint64), in_width)
    h = flat >> np.uint64(in_width - 1) != 0
    low = canonical(flat, in_width - 1)
    fields = kernels.dcf_eval(party, low, in_width - 1, (width,), key.seeds, key.words)
    t = m.reshape(-1) + fields[:, 0].astype(m.dtype)
    return np.asarray(np.where(h, t, m.dtype.type(1 - party) - t)).reshape(x.shape)


def relu(
    kernels: Kernels,
    party: int,
    in_width: int,
    width: int,
    x: Ring,
    key: Key,
    m: Ring,
    mr: Ring,
    r: Ring,
) -> Ring:
    """Return a share of max(x, 0) from [m], [m·r] and [r]."""
    return kernels.relu(party, x, in_width, width, key.seeds, key.words, (m, mr, r))


def signed(x: Ring, width: int) -> NDArray[np.int64]:
    """Return the signed integers that canonical or lazy elements of Z_(2^width) stand for."""
    up = np.uint64(64 - width)
    return (x.astype(np.uint64) << up).view(np.int64) >> np.int64(64 - width)


# -- extension ------------------------------------------------------------------------------------
#
# With c = x + 2^(v-2) + r mod 2^v, |x| < 2^(v-2), r as an integer and m = msb r:
#
#     x = a - r + k·m,     a = c - 2^(v-2),     k = 2^v·(1 - msb c)
#
# in any ring: x + 2^(v-2) has its top bit clear, so adding r wraps around iff m = 1 and msb c = 0.
# a and k are public.


def _unwrapped(old: RingType, width: int, x: Ring) -> tuple[Ring, Ring]:
    """Return (a, k) in Z_(2^width) of a wire."""
    v, dtype = old.width, ring_dtype(width)
    c = canonical(x + x.dtype.type(1 << (v - 2)), v)
    low = c >> x.dtype.type(v - 1) == 0
    return c.astype(dtype) - number(1 << (v - 2), dtype), low * number(1 << v, dtype)


def extend(party: int, old: RingType, width: int, x: Ring, r: Ring, m: Ring) -> Ring:
    """Return a share in Z_(2^width) of x from [r] and [m]."""
    a, k = _unwrapped(old, width, x)
    y = k * m - r
    return np.asarray(y + a if party == 0 else y)


def square(
    party: int, old: RingType, width: int, x: Ring, r: Ring, m: Ring, rr: Ring, mr: Ring
) -> Ring:
    """Return a share in Z_(2^width) of x^2 from [r], [m], [r^2] and [m·r]."""
    # x^2 = a^2 + r^2 - 2a·r + k·((2a + k)·m - 2m·r),  m^2 = m
    a, k = _unwrapped(old, width, x)
    twice = a + a
    y = rr - twice * r + k * ((twice + k) * m - (mr + mr))
    return np.asarray(y + a * a if party == 0 else y)


def multiply(
    party: int,
    old: tuple[RingType, RingType],
    width: int,
    wires: tuple[Ring, Ring],
    first: tuple[Ring, Ring],
    second: tuple[Ring, Ring],
    products: tuple[Ring, Ring, Ring, Ring],
) -> Ring:
    """Return a share in Z_(2^width) of x·y, from the shares `first` of r and m = msb r for x,
    `second` of s and n = msb s for y, and `products` of r·s, r·n, m·s and m·n."""
    # x·y = b·x - x·s + h·x·n,  with x·s = a·s - r·s + k·m·s,  x·n = a·n - r·n + k·m·n
    (a, k), (b, h) = (_unwrapped(t, width, x) for t, x in zip(old, wires, strict=True))
    (r, m), (s, n), (rs, rn, ms, mn) = first, second, products
    xs = a * s - rs + k * ms
    xn = a * n - rn + k * mn
    y = b * (k * m - r) - xs + h * xn
    return np.asarray(y + a * b if party == 0 else y)
