"""Distributed point functions and table gates in NumPy, all gates at once; see `halftree`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from srcompile.runtime.kernels.halftree import (
    ONE,
    bit_of,
    child,
    correction_word,
    hash_blocks,
    mask,
    root_nodes,
    signed,
    value_words,
)
from srcompile.runtime.kernels.interface import Bytes, Ring, Words, ring_dtype
from srcompile.runtime.kernels.keybits import from_bits, to_bits
from srcompile.runtime.kernels.layout import DpfLayout

_CHUNK = 1 << 20  # points expanded at a time


def _leaf_values(layout: DpfLayout, st: Words) -> Ring:
    """Return Convert(st), lazy, for leaves (..., 2): shape (..., k, points)."""
    dtype = ring_dtype(layout.w)
    words = value_words(st, 0, layout.blocks)
    lanes = np.ascontiguousarray(words).view(f"<u{layout.lane // 8}")
    used = lanes[..., : layout.k * layout.points].astype(dtype)
    return used.reshape(*st.shape[:-1], layout.k, layout.points)


def dpf_keys(layout: DpfLayout, alpha: Words, beta: Ring, seeds0: Bytes, seeds1: Bytes) -> Bytes:
    """Return the correction words (N, key_bytes) of a DPF; see `Kernels.dpf_keys`."""
    count, tree_bytes = len(alpha), 16 * layout.depth
    keys = np.zeros((count, layout.key_bytes), dtype=np.uint8)
    st0, st1 = root_nodes(0, seeds0), root_nodes(1, seeds1)
    for i in range(layout.depth):
        bit = bit_of(alpha, layout.n - 1 - i)
        h0, h1 = hash_blocks(st0), hash_blocks(st1)
        cw = correction_word(st0, st1, h0, h1, bit)
        keys[:, 16 * i : 16 * i + 16] = cw.view(np.uint8)
        st0, st1 = child(st0, h0, cw, bit), child(st1, h1, cw, bit)
    # CW = (-1)^t_1·(C(st_1) - C(st_0) + beta at the point alpha)
    here = np.arange(layout.points, dtype=np.uint64) == (alpha[:, None] % np.uint64(layout.points))
    payload = beta[:, :, None] * here[:, None, :].astype(beta.dtype)  # (N, k, points)
    final = _leaf_values(layout, st1) - _leaf_values(layout, st0) + payload
    final = signed(st1[:, 0] & ONE, final).reshape(count, layout.k * layout.points)
    keys[:, tree_bytes:] = np.packbits(to_bits(final, layout.w), axis=-1, bitorder="little")
    return keys


def dpf_shares(layout: DpfLayout, party: int, seeds: Bytes, keys: Bytes) -> Ring:
    """Return a party's lazy shares (N, k, 2^n) of a DPF at every point."""
    count, tree_bytes = len(seeds), 16 * layout.depth
    st = root_nodes(party, seeds)[:, None, :]  # (N, nodes, 2)
    tree = np.ascontiguousarray(keys[:, :tree_bytes]).view(np.uint64).reshape(count, -1, 1, 2)
    for i in range(layout.depth):
        left = hash_blocks(st) ^ (tree[:, i] & mask(st[..., 0]))
        st = np.stack([left, left ^ st], axis=2).reshape(count, -1, 2)
    bits = np.unpackbits(
        keys[:, tree_bytes:], axis=-1, bitorder="little", count=layout.k * layout.points * layout.w
    )
    final = from_bits(bits, layout.w, ring_dtype(layout.w))
    final = final.reshape(count, 1, layout.k, layout.points)
    t = (st[..., 0] & ONE).astype(final.dtype)[:, :, None, None]
    e = _leaf_values(layout, st) + t * final  # (N, leaves, k, points)
    if party == 1:
        e = ~e + e.dtype.type(1)
    return np.ascontiguousarray(e.transpose(0, 2, 1, 3)).reshape(count, layout.k, 1 << layout.n)


def dpf_table(
    layout: DpfLayout,
    party: int,
    index: NDArray[np.uint32],
    low: Ring | None,
    seeds: Bytes,
    keys: Bytes,
    tables: Sequence[Ring],
) -> Ring:
    """Return a party's lazy shares (T, N) of table gates; see `Kernels.dpf_table`."""
    size, dtype = 1 << layout.n, tables[0].dtype
    y = np.zeros((tables[0].shape[0], len(index)), dtype=dtype)
    step = max(1, _CHUNK // size)
    for at in range(0, len(index), step):
        part = slice(at, at + step)
        e = dpf_shares(layout, party, seeds[part], keys[part])
        u = (index[part, None].astype(np.int64) - np.arange(size)) % size  # (chunk, 2^n)
        a = low[part].astype(dtype) if low is not None else None
        for c, m in itertools.combinations_with_replacement(range(len(tables)), 2):
            # (-1)^c binomial(m, c)·low^(m-c)·sum_j e_c,j·tables[m][u]
            factor = dtype.type(math.comb(m, c))
            power = factor if a is None else factor * a ** dtype.type(m - c)
            for row, table in zip(y, tables[m], strict=True):
                term = power * (e[:, c] * table[u]).sum(axis=1, dtype=dtype)
                row[part] += term if c % 2 == 0 else ~term + dtype.type(1)
    return y
