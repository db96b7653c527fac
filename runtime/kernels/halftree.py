"""The correlated GGM tree of DPF and DCF keys [GYWZXZL23], in NumPy, all gates at once.

Notation: N gates, n index bits, alpha the secret point, beta its payload, st_b the node of party b
on the path to alpha, t_b its lowest bit, Delta = st_0 ^ st_1 at the root. Bits are numbered from
the top: alpha_1 is the most significant. `layout` says where every bit of a key is.

Why it is correct. The roots differ in their lowest bit, so Delta has lowest bit 1. Keygen keeps
st_0 ^ st_1 = Delta on the path. With CW_i = H(st_0) ^ H(st_1) ^ (not alpha_i)·Delta, t_0 ^ t_1 = 1,
    child_0: H(st_0) ^ H(st_1) ^ CW_i          = (not alpha_i)·Delta
    child_1: H(st_0) ^ H(st_1) ^ Delta ^ CW_i  =      alpha_i ·Delta,
so the child on the path has difference Delta, the other has equal nodes, and so has everything
below it. Equal nodes give equal values, which cancel: party 1 negates. On the path t_0 - t_1 is
(-1)^t_1, so
    C(st_0) - C(st_1) + (t_0 - t_1)·CW = beta   with   CW = (-1)^t_1·(C(st_1) - C(st_0) + beta).

Why it hides alpha and beta. Party b knows st_b, so each CW is made of known terms, H(x ^ Delta) or
H(x ^ Delta) ^ Delta for a known x, all x different: tree nodes st_b, and st_b ^ j for values. H is
circular correlation robust for Delta with 127 random bits [GKWY20, GYWZXZL23], so these look like
fresh random blocks. No block masks two things, so every CW looks random, whatever alpha and beta.

Where it differs from the papers. [GYWZXZL23] hashes the last level twice and converts the seeds
after it. Here the tree stops one level earlier and its leaf gives two blocks of values, H(st) and
H(st ^ 1): per block 1.5 hashes instead of 2.5, and a key shorter by at least a bit, because values
do not share a block with t. The DCF has the value words of [BCGGIKR21] on the same tree: a level
takes one 128-bit CW instead of 127 + 2 bits, and keygen half the hashes. The hash has a fixed
public key, so guesses count against all gates ever made: 2^40 gates leave about 2^80 work for one.
"""

from __future__ import annotations

import numpy as np

from srcompile.runtime.kernels.aes import encrypt_blocks
from srcompile.runtime.kernels.interface import Bytes, Ring, Words
from srcompile.runtime.kernels.layout import HASH_KEY

ONE = np.uint64(1)


def hash_blocks(x: Words) -> Words:
    """Return H(x) = AES(sigma(x)) ^ sigma(x) of blocks (..., 2) of words (lo, hi)."""
    # sigma(hi || lo) = (hi ^ lo) || hi
    sigma = np.stack([x[..., 1], x[..., 0] ^ x[..., 1]], axis=-1)
    return encrypt_blocks(HASH_KEY, sigma.view(np.uint8)).view(np.uint64) ^ sigma


def root_nodes(party: int, seeds: Bytes) -> Words:
    """Return the roots (N, 2) of a party: its seeds with the control bit t = party."""
    st = np.ascontiguousarray(seeds).view(np.uint64).copy()
    st[:, 0] = (st[:, 0] & ~ONE) | np.uint64(party)
    return st


def mask(bit: Words) -> Words:
    """Return 0 or all ones for the lowest bit of each word, with an axis for (lo, hi) added."""
    return (np.uint64(0) - (bit & ONE))[..., None]


def correction_word(st0: Words, st1: Words, h0: Words, h1: Words, bit: Words) -> Words:
    """Return CW_i = H(st_0) ^ H(st_1) ^ (not alpha_i)·Delta, where Delta = st_0 ^ st_1."""
    return h0 ^ h1 ^ ((st0 ^ st1) & mask(bit ^ ONE))


def child(st: Words, h: Words, cw: Words, bit: Words) -> Words:
    """Return child_x = H(st) ^ x·st ^ t·CW_i for the bits x, given h = H(st)."""
    out: Words = h ^ (st & mask(bit)) ^ (cw & mask(st[..., 0]))
    return out


def bit_of(x: Words, place: int) -> Words:
    """Return the bit of value 2^place of every element, as 0 or 1."""
    return (x >> np.uint64(place)) & ONE


def value_words(st: Words, first: int, blocks: int) -> Words:
    """Return the words (..., 2·blocks) of H(st ^ first), H(st ^ (first + 1)), .."""
    out = [hash_blocks(st ^ np.array([first + j, 0], dtype=np.uint64)) for j in range(blocks)]
    return np.concatenate(out, axis=-1)


def signed(t: Words, x: Ring) -> Ring:
    """Return (-1)^t·x for a control bit t (N,) and x (N, ...)."""
    m = (np.uint64(0) - t).astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return (x ^ m) - m
