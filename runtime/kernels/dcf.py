"""Distributed comparison functions in NumPy, all gates at once; see `halftree`."""

from __future__ import annotations

import numpy as np

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
from srcompile.runtime.kernels.interface import Bytes, Words
from srcompile.runtime.kernels.keybits import from_bits, to_bits
from srcompile.runtime.kernels.layout import DcfLayout


def _fields(layout: DcfLayout, words: Words) -> Words:
    """Return the canonical fields (N, K) of the bit strings in words (N, q)."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    return _split(layout, bits)


def _split(layout: DcfLayout, bits: Bytes) -> Words:
    """Return the fields (N, K) of bit strings (N, at least value_bits) of 0 and 1."""
    out = np.zeros((len(bits), len(layout.widths)), dtype=np.uint64)
    for c, (offset, w) in enumerate(zip(layout.offsets, layout.widths, strict=True)):
        out[:, c] = from_bits(bits[:, offset : offset + w], w, np.dtype(np.uint64))[:, 0]
    return out


def _side(layout: DcfLayout, words: Words, bit: Words) -> Words:
    """Return the canonical value fields (N, K) of child `bit` out of a node's words (N, >= 2q)."""
    q = layout.words
    left, right = words[:, :q], words[:, q : 2 * q]
    return _fields(layout, left ^ ((left ^ right) & mask(bit)))


def dcf_keys(layout: DcfLayout, alpha: Words, beta: Words, seeds0: Bytes, seeds1: Bytes) -> Bytes:
    """Return the correction words (N, key_bytes) of a DCF; see `Kernels.dcf_keys`."""
    n, count, tree_bytes = layout.n, len(alpha), 16 * layout.n
    keys = np.zeros((count, layout.key_bytes), dtype=np.uint8)
    st0, st1 = root_nodes(0, seeds0), root_nodes(1, seeds1)
    v_alpha = np.zeros((count, len(layout.widths)), dtype=np.uint64)
    values: list[Bytes] = []
    for i in range(n):
        bit = bit_of(alpha, n - 1 - i)
        words0, words1 = (value_words(st, 1, layout.words) for st in (st0, st1))
        # V_CW = (-1)^t_1·(v_1^lose - v_0^lose - V_alpha + alpha_i·beta)   [BCGGIKR21]
        lose0, lose1 = (_side(layout, words, bit ^ ONE) for words in (words0, words1))
        keep0, keep1 = (_side(layout, words, bit) for words in (words0, words1))
        t1 = st1[:, 0] & ONE
        v_cw = signed(t1, lose1 - lose0 - v_alpha + bit[:, None] * beta)
        values += _field_bits(layout, v_cw)
        # V_alpha += v_0^keep - v_1^keep + (-1)^t_1·V_CW
        v_alpha = v_alpha + keep0 - keep1 + signed(t1, v_cw)
        h0, h1 = hash_blocks(st0), hash_blocks(st1)
        cw = correction_word(st0, st1, h0, h1, bit)
        keys[:, 16 * i : 16 * i + 16] = cw.view(np.uint8)
        st0, st1 = child(st0, h0, cw, bit), child(st1, h1, cw, bit)
    # final CW = (-1)^t_1·(C(st_1) - C(st_0) - V_alpha)
    last0, last1 = (_final_value(layout, st) for st in (st0, st1))
    values += _field_bits(layout, signed(st1[:, 0] & ONE, last1 - last0 - v_alpha))
    bits = np.concatenate(values, axis=-1)
    keys[:, tree_bytes:] = np.packbits(bits, axis=-1, bitorder="little")
    return keys


def _field_bits(layout: DcfLayout, v: Words) -> list[Bytes]:
    return [to_bits(v[:, c : c + 1], w) for c, w in enumerate(layout.widths)]


def _final_value(layout: DcfLayout, st: Words) -> Words:
    return _fields(layout, value_words(st, 1, -(-layout.words // 2))[:, : layout.words])


def dcf_eval(layout: DcfLayout, party: int, x: Words, seeds: Bytes, keys: Bytes) -> Words:
    """Return a party's lazy shares (N, K) of [x < alpha]·beta; see `Kernels.dcf_eval`."""
    n, count, tree_bytes, size = layout.n, len(x), 16 * layout.n, layout.value_bits
    tree = np.ascontiguousarray(keys[:, :tree_bytes]).view(np.uint64).reshape(count, n, 2)
    bits = np.unpackbits(keys[:, tree_bytes:], axis=-1, bitorder="little")
    st = root_nodes(party, seeds)
    total = np.zeros((count, len(layout.widths)), dtype=np.uint64)
    for i in range(n):
        bit, t = bit_of(x, n - 1 - i), st[:, 0] & ONE
        # V += v^x_i + t·V_CW
        v_cw = _split(layout, bits[:, i * size : (i + 1) * size])
        total += _side(layout, value_words(st, 1, layout.words), bit) + t[:, None] * v_cw
        st = child(st, hash_blocks(st), tree[:, i], bit)
    v_cw = _split(layout, bits[:, n * size :])
    total += _final_value(layout, st) + (st[:, 0] & ONE)[:, None] * v_cw
    return ~total + np.uint64(1) if party == 1 else total
