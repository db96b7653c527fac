"""What the local kernels do: the protocol `Kernels` that every implementation fulfils alike.

Elements of Z_w, integers mod 2^w, are stored in np.uint32 if w <= 32 and in np.uint64 otherwise
(`ring_dtype`). An array is *lazy* if bits above w may be garbage and *canonical* if they are zero.
Arguments may be lazy; results are canonical where it is said. Every implementation returns the same
bits and raises ValueError before it touches memory if a size, dtype or range is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint64]
Ring = NDArray[np.unsignedinteger]  # np.uint32 or np.uint64


def ring_dtype(w: int) -> np.dtype[np.unsignedinteger]:
    """Return the dtype that stores Z_w: np.uint32 if w <= 32, else np.uint64."""
    if not 1 <= w <= 64:
        raise ValueError(f"A ring has 1 to 64 bits, but w = {w}.")
    return _UINT32 if w <= 32 else _UINT64


_UINT32: np.dtype[np.unsignedinteger] = np.dtype(np.uint32)
_UINT64: np.dtype[np.unsignedinteger] = np.dtype(np.uint64)


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A right operand (k, n) as `Kernels.pack_matrix` has laid it out, for kernels of that name."""

    kernels: str
    shape: tuple[int, int]
    words: Ring
    layout: object = None

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """Say in which ring it is."""
        return self.words.dtype


class Kernels(Protocol):
    """The arithmetic of one party or of the dealer, without any communication."""

    @property
    def name(self) -> str:
        """Say which implementation this is, for reports: "numpy" or "native (avx512, vaes)"."""
        ...

    def prg(self, key: bytes, block: int, slot: int, n_bytes: int) -> Bytes:
        """Return n_bytes <= 2^36 of AES-128-CTR under a 16-byte key.

        The first counter block is block (8 bytes, big-endian) || slot (4 bytes) || 0 (4 bytes); the
        last 4 bytes count. So no two (block, slot) of one key share a counter.
        """
        ...

    def matmul(self, a: Ring, b: Ring | PackedMatrix, threads: int = 1) -> Ring:
        """Return a @ b mod 2^32 or 2^64: (..., m, k) @ (..., k, n), same dtype, any strides."""
        ...

    def matmul_add(self, c: Ring, a: Ring, b: Ring | PackedMatrix, threads: int = 1) -> None:
        """Add a @ b to c, a contiguous array of the product's shape that shares no memory."""
        ...

    def pack_matrix(self, b: Ring, rows: int, levels: int | None = None) -> PackedMatrix:
        """Return a copy of b (k, n), for many products with left operands of `rows` rows in all.

        Other numbers of rows are right too, but slower. It holds sums of blocks for at most
        `levels` levels of Strassen's method, each of which takes 7/4 of the memory; with 0 it is
        as large as b but for padding. None: as many as are fastest, up to 5.4 times the memory.
        """
        ...

    def conv2d(
        self,
        x: Ring,
        w: Ring,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Ring:
        """Return the cross-correlation of x (N, C, H, W) with w (O, C/groups, kh, kw), wrapping."""
        ...

    def pack(self, x: Ring, w: int) -> Bytes:
        """Return x mod 2^w, read in C order, as a bit string, w bits an element."""
        ...

    def add_pack(
        self, x: Ring, m: Ring, w: int, total: Ring, buf: Bytes, by: int = 0, plus: int = 0
    ) -> None:
        """Write (x + m + plus mod 2^w) >> by into `total`, and pack(total, w - by) into `buf`.

        In one pass. x, m and `total` have one shape; `total` is contiguous, of the dtype of
        Z_(w-by), and `buf` has ceil(n·(w-by)/8) bytes.
        """
        ...

    def unpack(self, buf: Bytes, n: int, w: int) -> Ring:
        """Return the n canonical elements of Z_w in a bit string of exactly ceil(n·w/8) bytes."""
        ...

    def unpack_add(self, buf: Bytes, y: Ring, w: int, out: Ring | None = None) -> Ring:
        """Return unpack(buf, n, w) + y mod 2^w, canonical, in the shape of y.

        In one pass, into `out` if it is given: contiguous, of y's shape and dtype; it may be y
        itself, and replaces it then.
        """
        ...

    def dpf_keys(
        self, alpha: Words, n: int, beta: Ring, w: int, seeds0: Bytes, seeds1: Bytes
    ) -> Bytes:
        """Return (N, dpf_key_bytes(n, k, w)) correction words, the same for both parties.

        alpha (N,) below 2^n is the point, beta (N, k) its payload in Z_w, the seeds (N, 16) are
        the roots, drawn by each party itself; their lowest bit is ignored.
        """
        ...

    def dpf_table(
        self,
        party: int,
        index: NDArray[np.uint32],
        low: Ring | None,
        n: int,
        w: int,
        seeds: Bytes,
        keys: Bytes,
        tables: Sequence[Ring],
    ) -> Ring:
        """Return this party's share (T, N), canonical, of N gates reading T public curves.

        tables[m], of shape (T, 2^n), holds the coefficient of d^m; there are k <= 3. The DPF has
        payload (1, b, .. b^(k-1)), d = low - b. With e_c the party's share of component c at every
        point j, and u = (index - j) mod 2^n,
            y[t] = sum_c (-1)^c sum_j e_c,j sum_(m>=c) binomial(m, c)·low^(m-c)·tables[m][t, u]
        index (N,) below 2^n and low (N,) are public.
        """
        ...

    def dcf_keys(
        self,
        alpha: Words,
        n: int,
        beta: Words,
        widths: Sequence[int],
        seeds0: Bytes,
        seeds1: Bytes,
    ) -> Bytes:
        """Return (N, dcf_key_bytes(n, widths)) correction words, the same for both parties.

        alpha (N,) below 2^n is the threshold, beta (N, K) the payload, field c in Z_widths[c].
        """
        ...

    def dcf_eval(
        self, party: int, x: Words, n: int, widths: Sequence[int], seeds: Bytes, keys: Bytes
    ) -> Words:
        """Return this party's share (N, K), canonical, of beta where x < alpha, of 0 elsewhere."""
        ...

    def relu(
        self,
        party: int,
        x: Ring,
        in_width: int,
        width: int,
        seeds: Bytes,
        keys: Bytes,
        shares: tuple[Ring, Ring, Ring],
    ) -> Ring:
        """Return this party's share, lazy in Z_width, of max(x, 0), from the masked wire and a DCF.

        x is x^ in Z_in_width, |x| < 2^(in_width-1); `shares` are [m], [m·r] and [r] in Z_width, all
        of x's shape, for m = msb r. The keys compare on in_width - 1 bits and have the fields
        `relu_fields(in_width, width)`; docs/protocol-2pc.md has the formulas.
        """
        ...
