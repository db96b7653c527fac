"""Bit layouts of packed arrays and of DPF and DCF keys, the same for every implementation.

Notation: w ring bits, n index bits, k payload components, N gates. A *block* is 16 bytes, read as
two little-endian 64-bit words (lo, hi); bit 0 of a block is bit 0 of its first byte. A *bit string*
fills bytes from bit 0 up (little-endian bit order) and is padded with zero bits to a whole byte.

The tree of DPF and DCF is the correlated GGM tree of [GYWZXZL23]. A node is one block st; its
lowest bit is the control bit t, the other 127 bits are the seed. The root of party b has t = b.

    H(x)    = AES_K(sigma(x)) ^ sigma(x),   sigma(hi || lo) = (hi ^ lo) || hi,   K = HASH_KEY
    child_0 = H(st) ^ t·CW_i,               child_1 = H(st) ^ st ^ t·CW_i

DPF key (`DpfLayout`): depth blocks CW_1 .. CW_depth, then a bit string: the final correction word,
component-major, element (c, p) in bits (c·points + p)·w onwards, w bits each.

    A leaf holds `points` neighbouring points of k lanes each: the lanes of the blocks
    H(st ^ 0), H(st ^ 1), .. H(st ^ (blocks - 1)), component-major: element (c, p) is lane
    c·points + p, read little-endian and reduced mod 2^w.

DCF key (`DcfLayout`): n blocks CW_1 .. CW_n, then a bit string: n + 1 value correction words of W =
sum(widths) bits each, in a word field after field.

    The values of a node are the 64-bit words of H(st ^ 1), H(st ^ 2), ..: words [0, q) belong to
    child 0 and words [q, 2q) to child 1, q = ceil(W / 64). The final value is words [0, q) of the
    leaf. Of q words the lowest W bits are used, field after field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

BLOCK_BYTES = 16
BLOCK_BITS = 128
LEAF_BLOCKS = 2  # see `halftree`: two blocks a leaf cost no key bytes over one, and fewer hashes

# Public key of the fixed-key hash H: the first 128 fraction bits of pi.
HASH_KEY = bytes.fromhex("243f6a8885a308d313198a2e03707344")

MAX_DPF_BITS = 20
MAX_DPF_COMPONENTS = 8
MAX_DCF_BITS = 64
MAX_DCF_FIELDS = 16
MAX_PRG_BYTES = 1 << 36


def packed_bytes(n: int, w: int) -> int:
    """Return the bytes of n elements of w bits each, packed without gaps."""
    return (n * w + 7) // 8


def lane_bits(w: int) -> int:
    """Return the bits of a leaf that one element of Z_w takes: the next of 8, 16, 32, 64."""
    return next(lane for lane in (8, 16, 32, 64) if lane >= w)


@dataclass(frozen=True)
class DpfLayout:
    """Shape of a DPF: 2^depth leaves of `points` points, `blocks` blocks of values in each."""

    n: int
    k: int
    w: int
    lane: int
    points: int
    depth: int
    blocks: int
    key_bytes: int


@dataclass(frozen=True)
class DcfLayout:
    """Shape of a DCF: n levels; field c is widths[c] bits at bit offsets[c] of a value."""

    n: int
    widths: tuple[int, ...]
    offsets: tuple[int, ...]
    value_bits: int
    words: int
    key_bytes: int


@lru_cache(maxsize=1024)
def dpf_layout(n: int, k: int, w: int) -> DpfLayout:
    """Return the layout of a DPF on n index bits with k components of Z_w. ValueError if none."""
    if not 1 <= n <= MAX_DPF_BITS:
        raise ValueError(f"A DPF needs 1 to {MAX_DPF_BITS} index bits, but n = {n}.")
    if not 1 <= k <= MAX_DPF_COMPONENTS:
        raise ValueError(f"A DPF needs 1 to {MAX_DPF_COMPONENTS} payload components, but k = {k}.")
    check_width(w)
    lane = lane_bits(w)
    fit = max(1, BLOCK_BITS * max(k, LEAF_BLOCKS) // (lane * k))
    log_points = min(n, fit.bit_length() - 1)
    points, depth = 1 << log_points, n - log_points
    blocks = -(-points * k * lane // BLOCK_BITS)
    key_bytes = depth * BLOCK_BYTES + packed_bytes(points * k, w)
    return DpfLayout(n, k, w, lane, points, depth, blocks, key_bytes)


def relu_fields(in_width: int, width: int) -> tuple[int, ...]:
    """Return the payload widths of a ReLU's comparison: T, R and, in a larger ring, U."""
    return (width, width) if width <= in_width else (width, width, width - in_width)


@lru_cache(maxsize=1024)
def _dcf_layout(n: int, widths: tuple[int, ...]) -> DcfLayout:
    if not 1 <= n <= MAX_DCF_BITS:
        raise ValueError(f"A DCF needs 1 to {MAX_DCF_BITS} input bits, but n = {n}.")
    if not 1 <= len(widths) <= MAX_DCF_FIELDS:
        raise ValueError(f"A DCF needs 1 to {MAX_DCF_FIELDS} fields, but got {len(widths)}.")
    for w in widths:
        check_width(w)
    offsets = tuple(sum(widths[:c]) for c in range(len(widths)))
    bits = sum(widths)
    key_bytes = n * BLOCK_BYTES + packed_bytes(n + 1, bits)
    return DcfLayout(n, widths, offsets, bits, -(-bits // 64), key_bytes)


def dcf_layout(n: int, widths: Sequence[int]) -> DcfLayout:
    """Return the layout of a DCF on n input bits with these field widths. ValueError if none."""
    return _dcf_layout(n, tuple(widths))


def dpf_key_bytes(n: int, k: int, w: int) -> int:
    """Return the bytes of one DPF key: n index bits, k payload components in Z_w."""
    return dpf_layout(n, k, w).key_bytes


def dcf_key_bytes(n: int, widths: Sequence[int]) -> int:
    """Return the bytes of one DCF key: n input bits, a payload field for each of `widths`."""
    return dcf_layout(n, widths).key_bytes


def check_width(w: int) -> None:
    """Raise ValueError unless w is a ring width, 1 to 64 bits."""
    if not 1 <= w <= 64:
        raise ValueError(f"A ring has 1 to 64 bits, but w = {w}.")
