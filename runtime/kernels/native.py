"""The kernels in C++: checks arguments, makes them contiguous and calls the module `_native`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from srcompile.runtime.kernels import checks
from srcompile.runtime.kernels._native import DpfShape, Layout, Path
from srcompile.runtime.kernels.aes import counter_block, counter_stream
from srcompile.runtime.kernels.interface import Bytes, PackedMatrix, Ring, Words, ring_dtype
from srcompile.runtime.kernels.layout import DpfLayout, dcf_layout, packed_bytes, relu_fields

Scalar = TypeVar("Scalar", bound=np.generic)

_MOST_LEVELS = 3  # of Strassen's method; strassen.hpp takes fewer where they do not pay


class NativeKernels:
    """`Kernels` in C++, with the instructions of one path: see `CHOICES`; "" for the best.

    A path without AES instructions takes the counter stream from `cryptography`.
    """

    def __init__(self, path: str = "") -> None:
        """ValueError if this machine cannot run the path."""
        self._path = Path(path)
        self._name = f"native ({self._path.describe()})"

    @property
    def name(self) -> str:
        """Say which implementation this is."""
        return self._name

    def prg(self, key: bytes, block: int, slot: int, n_bytes: int) -> Bytes:
        """Return a keystream; see `Kernels.prg`."""
        checks.check_prg(key, block, slot, n_bytes)
        if not self._path.has_prg():
            return counter_stream(key, counter_block(block, slot), n_bytes)
        out = np.empty(n_bytes, dtype=np.uint8)
        self._path.prg(key, block, slot, out)
        return out

    def matmul(self, a: Ring, b: Ring | PackedMatrix, threads: int = 1) -> Ring:
        """Return a wrapping matrix product; see `Kernels.matmul`."""
        c = np.empty(self._product_shape(a, b, threads), dtype=a.dtype)
        if a.shape[-1] == 0:
            c.fill(0)
        else:
            self._multiply(a, b, c, False, threads)
        return c

    def matmul_add(self, c: Ring, a: Ring, b: Ring | PackedMatrix, threads: int = 1) -> None:
        """Add a wrapping matrix product to c; see `Kernels.matmul_add`."""
        checks.check_sum(c, self._product_shape(a, b, threads), a.dtype)
        if a.shape[-1]:
            self._multiply(a, b, c, True, threads)

    def pack_matrix(self, b: Ring, rows: int, levels: int | None = None) -> PackedMatrix:
        """Return b laid out for products; see `Kernels.pack_matrix`."""
        checks.check_pack_matrix(b, rows, levels)
        make = self._path.layout32 if b.dtype == np.uint32 else self._path.layout64
        k, n = b.shape
        layout = make(rows, k, n, _MOST_LEVELS if levels is None else levels)
        words = _vectors(layout.size, b.dtype)
        if b.size:
            self._path.pack_matrix(layout, _aligned(b), words)
        return PackedMatrix(self.name, b.shape, words, layout)

    def _product_shape(self, a: Ring, b: Ring | PackedMatrix, threads: int) -> tuple[int, ...]:
        checks.check_threads(threads)
        if isinstance(b, PackedMatrix):
            return checks.check_packed(self.name, a, b)
        return (*checks.check_matmul(a, b), a.shape[-2], b.shape[-1])

    def _multiply(self, a: Ring, b: Ring | PackedMatrix, c: Ring, add: bool, threads: int) -> None:
        if c.size == 0:
            return
        a = _aligned(a)
        if isinstance(b, PackedMatrix):
            assert isinstance(b.layout, Layout)
            rows, out = a.reshape(-1, a.shape[-1]), c.reshape(-1, c.shape[-1])
            self._path.matmul_packed(rows, b.layout, b.words, out, add, threads)
            return
        b = _aligned(b)
        batch = c.shape[:-2]
        if batch:
            if b.ndim == 2 and a.flags.c_contiguous:
                rows, out = a.reshape(-1, a.shape[-1]), c.reshape(-1, c.shape[-1])
                self._path.matmul(rows, b, out, add, threads)
                return
            a = np.broadcast_to(a, (*batch, *a.shape[-2:]))
            b = np.broadcast_to(b, (*batch, *b.shape[-2:]))
        self._path.matmul(a, b, c, add, threads)

    def conv2d(
        self,
        x: Ring,
        w: Ring,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> Ring:
        """Return a wrapping cross-correlation; see `Kernels.conv2d`."""
        height, width = checks.check_conv2d(x, w, stride, padding, dilation, groups)
        y = np.empty((x.shape[0], w.shape[0], height, width), dtype=x.dtype)
        self._path.conv2d(_dense(x), _dense(w), y, (*stride, *padding, *dilation), groups)
        return y

    def pack(self, x: Ring, w: int) -> Bytes:
        """Return a bit string; see `Kernels.pack`."""
        checks.check_ring(w, x)
        out = np.empty(packed_bytes(x.size, w), dtype=np.uint8)
        self._path.pack(_dense(x), w, out)
        return out

    def add_pack(
        self, x: Ring, m: Ring, w: int, total: Ring, buf: Bytes, by: int = 0, plus: int = 0
    ) -> None:
        """Write a shifted sum and its bit string; see `Kernels.add_pack`."""
        checks.check_add_pack(x, m, w, total, buf, by, plus)
        self._path.add_pack(_dense(x), _dense(m), plus, w, by, buf, total)

    def unpack(self, buf: Bytes, n: int, w: int) -> Ring:
        """Return the elements of a bit string; see `Kernels.unpack`."""
        checks.check_unpack(buf, n, w)
        out = np.empty(n, dtype=ring_dtype(w))
        self._path.unpack(_dense(buf), None, w, out)
        return out

    def unpack_add(self, buf: Bytes, y: Ring, w: int, out: Ring | None = None) -> Ring:
        """Return the canonical sum of a bit string and y; see `Kernels.unpack_add`."""
        checks.check_unpack_add(buf, y, w, out)
        if out is None:
            out = np.empty(y.shape, dtype=ring_dtype(w))
        self._path.unpack(_dense(buf), _dense(y), w, out)
        return out

    def dpf_keys(
        self, alpha: Words, n: int, beta: Ring, w: int, seeds0: Bytes, seeds1: Bytes
    ) -> Bytes:
        """Return DPF correction words; see `Kernels.dpf_keys`."""
        layout = checks.check_dpf_keys(alpha, n, beta, w, seeds0, seeds1)
        keys = np.empty((len(alpha), layout.key_bytes), dtype=np.uint8)
        self._path.dpf_keys(
            _shape(layout), _dense(alpha), _dense(beta), _dense(seeds0), _dense(seeds1), keys
        )
        return keys

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
        """Return shares of table gates; see `Kernels.dpf_table`."""
        layout = checks.check_dpf_table(party, index, low, n, w, seeds, keys, tables)
        first = tables[0]
        y = np.empty((first.shape[0], len(index)), dtype=first.dtype)
        needed = low if len(tables) > 1 else None
        self._path.dpf_table(
            _shape(layout),
            party,
            _dense(index),
            None if needed is None else _dense(needed.astype(first.dtype, copy=False)),
            _dense(seeds),
            _dense(keys),
            [_dense(table) for table in tables],
            y,
        )
        return y

    def dcf_keys(
        self,
        alpha: Words,
        n: int,
        beta: Words,
        widths: Sequence[int],
        seeds0: Bytes,
        seeds1: Bytes,
    ) -> Bytes:
        """Return DCF correction words; see `Kernels.dcf_keys`."""
        layout = dcf_layout(n, widths)
        checks.check_dcf_keys(alpha, n, beta, layout, seeds0, seeds1)
        keys = np.empty((len(alpha), layout.key_bytes), dtype=np.uint8)
        self._path.dcf_keys(
            n,
            layout.widths,
            layout.key_bytes,
            _dense(alpha),
            _dense(beta),
            _dense(seeds0),
            _dense(seeds1),
            keys,
        )
        return keys

    def dcf_eval(
        self, party: int, x: Words, n: int, widths: Sequence[int], seeds: Bytes, keys: Bytes
    ) -> Words:
        """Return shares of comparisons; see `Kernels.dcf_eval`."""
        layout = dcf_layout(n, widths)
        checks.check_dcf_eval(party, x, n, layout, seeds, keys)
        y = np.empty((len(x), len(layout.widths)), dtype=np.uint64)
        self._path.dcf_eval(
            n, layout.widths, layout.key_bytes, party, _dense(x), _dense(seeds), _dense(keys), y
        )
        return y

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
        """Return a share of max(x, 0); see `Kernels.relu`."""
        layout = dcf_layout(in_width - 1, relu_fields(in_width, width))
        checks.check_relu(party, x, in_width, width, layout, seeds, keys, shares)
        m, mr, r = shares
        y = np.empty(x.shape, dtype=shares[0].dtype)
        self._path.relu(
            party,
            in_width,
            width,
            layout.widths,
            layout.key_bytes,
            _dense(x),
            _dense(seeds),
            _dense(keys),
            _dense(m),
            _dense(mr),
            _dense(r),
            y,
        )
        return y


@lru_cache(maxsize=1024)
def _shape(layout: DpfLayout) -> DpfShape:
    return DpfShape(
        layout.n,
        layout.k,
        layout.w,
        layout.lane,
        layout.points,
        layout.depth,
        layout.blocks,
        layout.key_bytes,
    )


def _dense(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """Return a C-contiguous, aligned array: itself or a copy."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else array.copy("C")


def _vectors(size: int, dtype: np.dtype[np.unsignedinteger]) -> Ring:
    """Return an uninitialised array that begins at a multiple of 64 bytes, as vectors like it."""
    spare = 64 // dtype.itemsize
    array: Ring = np.empty(size + spare, dtype=dtype)
    first = -array.ctypes.data % 64 // dtype.itemsize
    return array[first : first + size]


def _aligned(array: NDArray[Scalar]) -> NDArray[Scalar]:
    """Return an array whose strides are whole elements: itself or a copy."""
    flags = array.flags
    if flags.aligned:
        size = array.itemsize
        if flags.c_contiguous or not any(stride % size for stride in array.strides):
            return array
    return array.copy("C")
