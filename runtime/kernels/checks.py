"""Argument checks that all kernels share: each raises ValueError with a full sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from srcompile.runtime.kernels.interface import PackedMatrix, Ring, ring_dtype
from srcompile.runtime.kernels.layout import (
    MAX_PRG_BYTES,
    DcfLayout,
    DpfLayout,
    dpf_layout,
    packed_bytes,
)
from srcompile.runtime.kernels.windows import window_counts


def check_array(
    name: str, array: NDArray[np.generic], dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> None:
    """Check an array's dtype and shape."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        found = getattr(array, "dtype", type(array).__name__)
        raise ValueError(f"{name} must be an array of {dtype}, but is {found}.")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, but has shape {array.shape}.")


def _check_party(party: int) -> None:
    if party not in (0, 1):
        raise ValueError(f"A party is 0 or 1, but got {party}.")


def _check_below(name: str, array: NDArray[np.unsignedinteger], bits: int) -> None:
    if array.size and int(array.max()) >> bits:
        raise ValueError(f"Every element of {name} must be below 2^{bits}, but some are not.")


def _vector_length(name: str, array: NDArray[np.generic]) -> int:
    if not isinstance(array, np.ndarray) or array.ndim != 1:
        raise ValueError(f"{name} must be a one-dimensional array.")
    return len(array)


def check_prg(key: bytes, block: int, slot: int, n_bytes: int) -> None:
    """Check the arguments of `Kernels.prg`."""
    if not isinstance(key, bytes) or len(key) != 16:
        raise ValueError("A PRG key must be 16 bytes.")
    if not 0 <= block < 1 << 64:
        raise ValueError(f"A PRG block number must be in [0, 2^64), but is {block}.")
    if not 0 <= slot < 1 << 32:
        raise ValueError(f"A PRG slot must be in [0, 2^32), but is {slot}.")
    if not 0 <= n_bytes <= MAX_PRG_BYTES:
        raise ValueError(f"A PRG slot yields at most 2^36 bytes, but {n_bytes} were asked for.")


def check_matmul(a: Ring, b: Ring) -> tuple[int, ...]:
    """Check the arguments of `Kernels.matmul`; return the broadcast batch shape."""
    _check_same_ring("matmul", a, b)
    left, right = a.shape, b.shape
    if len(left) < 2 or len(right) < 2:
        raise ValueError(f"matmul needs matrices, but the shapes are {left} and {right}.")
    if left[-1] != right[-2]:
        raise ValueError(f"matmul needs equal inner sizes, but the shapes are {left} and {right}.")
    if len(left) == 2 and len(right) == 2:
        return ()
    try:
        return np.broadcast_shapes(left[:-2], right[:-2])
    except ValueError:
        raise ValueError(f"matmul cannot broadcast the batches of {left} and {right}.") from None


def check_packed(kernels: str, a: Ring, b: PackedMatrix) -> tuple[int, ...]:
    """Check a left operand for a packed matrix; return the shape of the product."""
    if b.kernels != kernels:
        raise ValueError(f"matmul of '{kernels}' cannot read a matrix packed by '{b.kernels}'.")
    _check_ring("matmul", a)
    if a.dtype != b.dtype:
        raise ValueError(f"matmul needs one dtype, but got {a.dtype} and {b.dtype}.")
    if a.ndim < 2 or a.shape[-1] != b.shape[0]:
        raise ValueError(f"matmul needs equal inner sizes, but got {a.shape} and {b.shape}.")
    return (*a.shape[:-1], b.shape[1])


def check_pack_matrix(b: Ring, rows: int, levels: int | None) -> None:
    """Check the arguments of `Kernels.pack_matrix`."""
    _check_ring("pack_matrix", b)
    if b.ndim != 2:
        raise ValueError(f"pack_matrix needs a matrix, but the shape is {b.shape}.")
    if rows < 0:
        raise ValueError(f"A number of rows cannot be negative, but rows = {rows}.")
    if levels is not None and not 0 <= levels <= 3:
        raise ValueError(f"pack_matrix has 0 to 3 levels, but levels = {levels}.")


def check_sum(c: Ring, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    """Check the array that `Kernels.matmul_add` adds to."""
    check_array("The array to add to", c, dtype, shape)
    if not (c.flags.c_contiguous and c.flags.aligned and c.flags.writeable):
        raise ValueError("The array to add to must be contiguous, aligned and writeable.")


def check_threads(threads: int) -> None:
    """Check a number of threads."""
    if not 1 <= threads <= 1024:
        raise ValueError(f"There must be 1 to 1024 threads, but threads = {threads}.")


def check_conv2d(
    x: Ring,
    w: Ring,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> tuple[int, int]:
    """Check the arguments of `Kernels.conv2d`; return the output height and width."""
    _check_same_ring("conv2d", x, w)
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(
            f"conv2d needs x (N, C, H, W) and w (O, C/groups, kh, kw), "
            f"but the shapes are {x.shape} and {w.shape}."
        )
    if groups < 1 or x.shape[1] != w.shape[1] * groups or w.shape[0] % groups:
        raise ValueError(
            f"conv2d with {groups} groups cannot apply weights {w.shape} to an input {x.shape}."
        )
    try:
        return window_counts(x.shape, w.shape, stride, padding, dilation)
    except ValueError as error:
        raise ValueError(f"conv2d cannot be computed: {error}.") from None


def check_ring(w: int, x: Ring) -> None:
    """Check the dtype of elements of Z_w, of any shape."""
    dtype = ring_dtype(w)
    if not isinstance(x, np.ndarray) or x.dtype != dtype:
        found = getattr(x, "dtype", type(x).__name__)
        raise ValueError(f"An array of Z_{w} must be an array of {dtype}, but is {found}.")


def check_add_pack(
    x: Ring, m: Ring, w: int, total: Ring, buf: NDArray[np.uint8], by: int, plus: int
) -> None:
    """Check the arguments of `Kernels.add_pack`."""
    check_ring(w, x)
    if not 0 <= by < w:
        raise ValueError(f"A shift of {w} bits goes by 0 to {w - 1}, not by {by}.")
    if not 0 <= plus < 1 << w:
        raise ValueError(f"A public summand in Z_{w} must be in 0..2^{w} - 1, but is {plus}.")
    check_array("The summand", m, x.dtype, x.shape)
    check_array("The sum", total, ring_dtype(w - by), x.shape)
    check_array("A packed buffer", buf, _BYTE, (packed_bytes(x.size, w - by),))
    _check_writable("The sum", total)
    _check_writable("A packed buffer", buf)


def check_unpack(buf: NDArray[np.uint8], n: int, w: int) -> None:
    """Check a buffer of n packed elements of w bits."""
    ring_dtype(w)
    if n < 0:
        raise ValueError(f"A number of elements cannot be negative, but n = {n}.")
    check_array("A packed buffer", buf, _BYTE, (packed_bytes(n, w),))


def check_unpack_add(buf: NDArray[np.uint8], y: Ring, w: int, out: Ring | None) -> None:
    """Check the arguments of `Kernels.unpack_add`."""
    check_ring(w, y)
    check_array("A packed buffer", buf, _BYTE, (packed_bytes(y.size, w),))
    if out is not None:
        check_array("The result", out, y.dtype, y.shape)
        _check_writable("The result", out)


def _check_writable(name: str, array: NDArray[np.generic]) -> None:
    if not array.flags.c_contiguous or not array.flags.writeable:
        raise ValueError(f"{name} must be contiguous and writable.")


_BYTE = np.dtype(np.uint8)


def check_dpf_keys(
    alpha: NDArray[np.uint64],
    n: int,
    beta: Ring,
    w: int,
    seeds0: NDArray[np.uint8],
    seeds1: NDArray[np.uint8],
) -> DpfLayout:
    """Check the arguments of `Kernels.dpf_keys`; return the layout."""
    count = _vector_length("alpha", alpha)
    if not isinstance(beta, np.ndarray) or beta.ndim != 2:
        raise ValueError("beta must be an array of shape (N, k).")
    layout = dpf_layout(n, beta.shape[1], w)
    check_array("alpha", alpha, np.dtype(np.uint64), (count,))
    check_array("beta", beta, ring_dtype(w), (count, layout.k))
    check_array("seeds0", seeds0, np.dtype(np.uint8), (count, 16))
    check_array("seeds1", seeds1, np.dtype(np.uint8), (count, 16))
    _check_below("alpha", alpha, n)
    return layout


def check_dpf_table(
    party: int,
    index: NDArray[np.uint32],
    low: Ring | None,
    n: int,
    w: int,
    seeds: NDArray[np.uint8],
    keys: NDArray[np.uint8],
    tables: Sequence[Ring],
) -> DpfLayout:
    """Check the arguments of `Kernels.dpf_table`; return the layout."""
    _check_party(party)
    if not 1 <= len(tables) <= 3:
        raise ValueError(f"A table gate reads 1 to 3 tables of coefficients, not {len(tables)}.")
    layout = dpf_layout(n, len(tables), w)
    count = _vector_length("index", index)
    first = tables[0]
    several = first.shape[0] if isinstance(first, np.ndarray) and first.ndim else 0
    check_array("index", index, np.dtype(np.uint32), (count,))
    check_array("seeds", seeds, np.dtype(np.uint8), (count, 16))
    check_array("keys", keys, np.dtype(np.uint8), (count, layout.key_bytes))
    for m, table in enumerate(tables):
        check_array(f"tables[{m}]", table, ring_dtype(w), (several, 1 << n))
    if len(tables) > 1:
        if low is None:
            raise ValueError("A spline gate, with several tables, needs low, but low is None.")
        wide = isinstance(low, np.ndarray) and low.dtype == np.uint64
        check_array("low", low, np.dtype(np.uint64) if wide else ring_dtype(w), (count,))
    _check_below("index", index, n)
    return layout


def check_dcf_keys(
    alpha: NDArray[np.uint64],
    n: int,
    beta: NDArray[np.uint64],
    layout: DcfLayout,
    seeds0: NDArray[np.uint8],
    seeds1: NDArray[np.uint8],
) -> None:
    """Check the arguments of `Kernels.dcf_keys`."""
    count = _vector_length("alpha", alpha)
    check_array("alpha", alpha, np.dtype(np.uint64), (count,))
    check_array("beta", beta, np.dtype(np.uint64), (count, len(layout.widths)))
    check_array("seeds0", seeds0, np.dtype(np.uint8), (count, 16))
    check_array("seeds1", seeds1, np.dtype(np.uint8), (count, 16))
    _check_below("alpha", alpha, n)


def check_dcf_eval(
    party: int,
    x: NDArray[np.uint64],
    n: int,
    layout: DcfLayout,
    seeds: NDArray[np.uint8],
    keys: NDArray[np.uint8],
) -> None:
    """Check the arguments of `Kernels.dcf_eval`."""
    _check_party(party)
    count = _vector_length("x", x)
    check_array("x", x, np.dtype(np.uint64), (count,))
    check_array("seeds", seeds, np.dtype(np.uint8), (count, 16))
    check_array("keys", keys, np.dtype(np.uint8), (count, layout.key_bytes))
    _check_below("x", x, n)


def check_relu(
    party: int,
    x: Ring,
    in_width: int,
    width: int,
    layout: DcfLayout,
    seeds: NDArray[np.uint8],
    keys: NDArray[np.uint8],
    shares: tuple[Ring, Ring, Ring],
) -> None:
    """Check the arguments of `Kernels.relu`."""
    _check_party(party)
    check_ring(in_width, x)
    for share in shares:
        check_array("A share of a ReLU gate", share, ring_dtype(width), x.shape)
    check_array("seeds", seeds, _BYTE, (x.size, 16))
    check_array("keys", keys, _BYTE, (x.size, layout.key_bytes))


_RINGS = (np.dtype(np.uint32), np.dtype(np.uint64))


def _check_ring(what: str, array: Ring) -> None:
    if not isinstance(array, np.ndarray) or array.dtype not in _RINGS:
        found = getattr(array, "dtype", type(array).__name__)
        raise ValueError(f"{what} needs arrays of uint32 or uint64, but got {found}.")


def _check_same_ring(what: str, a: Ring, b: Ring) -> None:
    for array in (a, b):
        _check_ring(what, array)
    if a.dtype != b.dtype:
        raise ValueError(f"{what} needs one dtype, but got {a.dtype} and {b.dtype}.")
