"""The kernels in NumPy: the specification that every faster implementation is tested against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from srcompile.runtime.kernels import checks, dcf, dpf
from srcompile.runtime.kernels.aes import counter_block, counter_stream
from srcompile.runtime.kernels.interface import Bytes, PackedMatrix, Ring, Words, ring_dtype
from srcompile.runtime.kernels.layout import dcf_layout, relu_fields

_CHUNK = 1 << 16  # elements whose bits are spread out at a time; a multiple of 8


class NumpyKernels:
    """`Kernels` in NumPy; AES comes from `cryptography`."""

    @property
    def name(self) -> str:
        """Say which implementation this is."""
        return "numpy"

    def prg(self, key: bytes, block: int, slot: int, n_bytes: int) -> Bytes:
        """Return a keystream; see `Kernels.prg`."""
        checks.check_prg(key, block, slot, n_bytes)
        return counter_stream(key, counter_block(block, slot), n_bytes)

    def matmul(self, a: Ring, b: Ring | PackedMatrix, threads: int = 1) -> Ring:
        """Return a wrapping matrix product; see `Kernels.matmul`."""
        checks.check_threads(threads)
        if isinstance(b, PackedMatrix):
            checks.check_packed(self.name, a, b)
            b = b.words
        checks.check_matmul(a, b)
        out: Ring = np.matmul(a, b)
        return out

    def matmul_add(self, c: Ring, a: Ring, b: Ring | PackedMatrix, threads: int = 1) -> None:
        """Add a wrapping matrix product to c; see `Kernels.matmul_add`."""
        product = self.matmul(a, b, threads)
        checks.check_sum(c, product.shape, product.dtype)
        c += product

    def pack_matrix(self, b: Ring, rows: int, levels: int | None = None) -> PackedMatrix:
        """Return a copy of b; see `Kernels.pack_matrix`."""
        checks.check_pack_matrix(b, rows, levels)
        return PackedMatrix(self.name, b.shape, b.copy())

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
        batch, channels = x.shape[:2]
        outputs, _, kh, kw = w.shape
        padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
        # window[n, c, i, j, h, v] = padded[n, c, h·stride + i·dilation, v·stride + j·dilation]
        window = np.zeros((batch, channels, kh, kw, height, width), dtype=x.dtype)
        for i in range(kh):
            for j in range(kw):
                top, left = i * dilation[0], j * dilation[1]
                rows = slice(top, top + stride[0] * (height - 1) + 1, stride[0])
                columns = slice(left, left + stride[1] * (width - 1) + 1, stride[1])
                window[:, :, i, j] = padded[:, :, rows, columns]
        matrix = w.reshape(groups, outputs // groups, -1)
        y: Ring = np.matmul(matrix, window.reshape(batch, groups, matrix.shape[2], height * width))
        return y.reshape(batch, outputs, height, width)

    def pack(self, x: Ring, w: int) -> Bytes:
        """Return a bit string; see `Kernels.pack`."""
        checks.check_ring(w, x)
        flat = x.reshape(-1)
        parts = [_pack_chunk(flat[at : at + _CHUNK], w) for at in range(0, flat.size, _CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8)

    def add_pack(
        self, x: Ring, m: Ring, w: int, total: Ring, buf: Bytes, by: int = 0, plus: int = 0
    ) -> None:
        """Write a shifted sum and its bit string; see `Kernels.add_pack`."""
        checks.check_add_pack(x, m, w, total, buf, by, plus)
        total[...] = _reduce(x + m + x.dtype.type(plus), w) >> x.dtype.type(by)
        buf[...] = self.pack(total, w - by)

    def unpack(self, buf: Bytes, n: int, w: int) -> Ring:
        """Return the elements of a bit string; see `Kernels.unpack`."""
        checks.check_unpack(buf, n, w)
        out = np.empty(n, dtype=ring_dtype(w))
        for at in range(0, n, _CHUNK):
            part = out[at : at + _CHUNK]
            part[:] = _unpack_chunk(buf[at * w // 8 :], len(part), w)
        return out

    def unpack_add(self, buf: Bytes, y: Ring, w: int, out: Ring | None = None) -> Ring:
        """Return the canonical sum of a bit string and y; see `Kernels.unpack_add`."""
        checks.check_unpack_add(buf, y, w, out)
        result = _reduce(self.unpack(buf, y.size, w).reshape(y.shape) + y, w)
        if out is None:
            return np.asarray(result)
        out[...] = result
        return out

    def dpf_keys(
        self, alpha: Words, n: int, beta: Ring, w: int, seeds0: Bytes, seeds1: Bytes
    ) -> Bytes:
        """Return DPF correction words; see `Kernels.dpf_keys`."""
        layout = checks.check_dpf_keys(alpha, n, beta, w, seeds0, seeds1)
        return dpf.dpf_keys(layout, alpha, beta, seeds0, seeds1)

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
        return _reduce(dpf.dpf_table(layout, party, index, low, seeds, keys, tables), w)

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
        return dcf.dcf_keys(layout, alpha, beta, seeds0, seeds1)

    def dcf_eval(
        self, party: int, x: Words, n: int, widths: Sequence[int], seeds: Bytes, keys: Bytes
    ) -> Words:
        """Return shares of comparisons; see `Kernels.dcf_eval`."""
        layout = dcf_layout(n, widths)
        checks.check_dcf_eval(party, x, n, layout, seeds, keys)
        total = dcf.dcf_eval(layout, party, x, seeds, keys)
        return total & np.array([(1 << w) - 1 for w in layout.widths], dtype=np.uint64)

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
        m, mr, r = (share.reshape(-1) for share in shares)
        hat = _reduce(x.reshape(-1).astype(np.uint64), in_width)
        h = hat >> np.uint64(in_width - 1) != 0
        fields = self.dcf_eval(
            party, _reduce(hat, in_width - 1), in_width - 1, layout.widths, seeds, keys
        )
        t, u = m + fields[:, 0].astype(m.dtype), mr + fields[:, 1].astype(m.dtype)
        b, br = np.where(h, t, m.dtype.type(1 - party) - t), np.where(h, u, r - u)
        y = b * hat.astype(m.dtype) - br
        if len(layout.widths) == 3:
            wrap = fields[:, 2].astype(m.dtype) << m.dtype.type(in_width)
            y += np.where(h, m.dtype.type(0), wrap)
        return np.asarray(y).reshape(x.shape)


def _reduce(x: Ring, w: int) -> Ring:
    """Return x mod 2^w."""
    return x & x.dtype.type((1 << w) - 1)


def _pack_chunk(x: Ring, w: int) -> Bytes:
    size = x.dtype.itemsize
    octets = np.ascontiguousarray(x).view(np.uint8).reshape(-1, size)
    bits = np.unpackbits(octets, axis=1, bitorder="little")[:, :w]
    return np.packbits(bits, bitorder="little")


def _unpack_chunk(buf: Bytes, n: int, w: int) -> Ring:
    dtype = ring_dtype(w)
    bits = np.zeros((n, 8 * dtype.itemsize), dtype=np.uint8)
    bits[:, :w] = np.unpackbits(buf, bitorder="little", count=n * w).reshape(n, w)
    return np.packbits(bits, axis=1, bitorder="little").view(dtype)[:, 0]
