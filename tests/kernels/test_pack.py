"""Packing writes element i to bits i·w onwards of a little-endian bit string, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcompile.runtime.kernels import Kernels, ring_dtype
from srcompile.runtime.kernels.interface import Bytes, Ring
from srcompile.runtime.kernels.layout import packed_bytes

from .draw import lazy, reduce
from .implementations import AVAILABLE, DEFINITION


def added(
    kernels: Kernels, x: Ring, m: Ring, w: int, by: int = 0, plus: int = 0, offset: int = 0
) -> tuple[Ring, Bytes]:
    """Return a sum and its bit string, which add_pack writes at an offset and nowhere else."""
    total, size = np.empty(x.shape, ring_dtype(w - by)), packed_bytes(x.size, w - by)
    message = np.full(offset + size + 9, 0xA5, np.uint8)
    kernels.add_pack(x, m, w, total, message[offset : offset + size], by, plus)
    assert np.all(message[:offset] == 0xA5)
    assert np.all(message[offset + size :] == 0xA5)
    return total, message[offset : offset + size]


def shifted(x: Ring, w: int, by: int) -> Ring:
    """Return (x mod 2^w) >> by in the dtype of Z_(w-by)."""
    return (reduce(x, w) >> x.dtype.type(by)).astype(ring_dtype(w - by))


@pytest.mark.parametrize("w", range(1, 65))
def test_every_width_packs_and_unpacks(kernels: Kernels, w: int) -> None:
    rng = np.random.default_rng(w)
    for n in (0, 1, 7, 8, 64, 203):
        x, y = lazy(rng, (n,), w), lazy(rng, (n,), w)
        buf = kernels.pack(x, w)
        value = sum(int(e) % (1 << w) << (i * w) for i, e in enumerate(x))
        assert buf.tobytes() == value.to_bytes((n * w + 7) // 8, "little")
        assert np.array_equal(kernels.unpack(buf, n, w), reduce(x, w))
        assert np.array_equal(kernels.unpack_add(buf, y, w), reduce(x + y, w))
        for by in {0, 1, w // 2, max(0, w - 32), w - 1} & set(range(w)):
            plus = (1 << by) >> 1
            total, sum_buf = added(kernels, x, y, w, by, plus)
            assert np.array_equal(total, shifted(x + y + x.dtype.type(plus), w, by))
            assert np.array_equal(sum_buf, kernels.pack(total, w - by))


@settings(max_examples=40, deadline=None)
@given(
    w=st.integers(1, 64), n=st.integers(0, 3000), step=st.integers(1, 2), seed=st.integers(0, 2**32)
)
def test_native_packing_equals_the_definition(w: int, n: int, step: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = lazy(rng, (n * step,), w)[::step], lazy(rng, (n * step,), w)[::step]
    buf = AVAILABLE["numpy"].pack(x, w)
    for name, kernels in AVAILABLE.items():
        assert np.array_equal(kernels.pack(x, w), buf), name
        assert np.array_equal(kernels.unpack(buf, n, w), reduce(x, w)), name
        assert np.array_equal(kernels.unpack_add(buf, y, w), reduce(x + y, w)), name


@settings(max_examples=60, deadline=None)
@given(
    w=st.integers(1, 64),
    n=st.one_of(st.integers(0, 300), st.integers(2040, 2060)),
    by=st.integers(0, 63),
    plus=st.integers(0, 2**64 - 1),
    offset=st.integers(0, 17),
    extreme=st.sampled_from(["uniform", "zeros", "ones", "wrap"]),
    seed=st.integers(0, 2**32),
)
def test_both_ends_of_an_opening_equal_the_definition(
    w: int, n: int, by: int, plus: int, offset: int, extreme: str, seed: int
) -> None:
    rng, by, plus = np.random.default_rng(seed), by % w, plus % (1 << w)
    x, m, theirs = lazy(rng, (n,), w), lazy(rng, (n,), w), lazy(rng, (n,), w - by)
    if extreme != "uniform":
        x[...] = 0 if extreme == "zeros" else x.dtype.type(~x.dtype.type(0))
        m[...] = x.dtype.type(extreme == "wrap")
        theirs[...] = x
    message = np.concatenate([np.zeros(offset, np.uint8), DEFINITION.pack(theirs, w - by)])
    want, want_buf = added(DEFINITION, x, m, w, by, plus)
    wire = reduce(want + theirs, w - by)
    for name, kernels in AVAILABLE.items():
        own, buf = added(kernels, x, m, w, by, plus, offset)
        assert np.array_equal(own, want), name
        assert np.array_equal(buf, want_buf), name
        assert np.array_equal(kernels.unpack_add(message[offset:], own, w - by), wire), name
        assert kernels.unpack_add(message[offset:], own, w - by, own) is own, name
        assert np.array_equal(own, wire), name


@pytest.mark.parametrize("w", [7, 32, 33, 64])
def test_a_share_may_be_a_view_of_any_strides(kernels: Kernels, w: int) -> None:
    rng = np.random.default_rng(w)
    whole = lazy(rng, (5, 6, 7), w)
    for x in (whole.transpose(2, 0, 1), whole[::2, ::-1, 1:], np.broadcast_to(whole[0], (3, 6, 7))):
        m = lazy(rng, x.shape, w)
        total, buf = added(kernels, x, m, w)
        assert np.array_equal(total, reduce(x + m, w))
        assert np.array_equal(buf, kernels.pack((x + m).reshape(-1), w))
        assert np.array_equal(kernels.pack(x, w), kernels.pack(x.reshape(-1), w))
        assert np.array_equal(kernels.unpack_add(buf, x, w), reduce(x + x + m, w))


def test_a_large_array_crosses_chunks(kernels: Kernels) -> None:
    rng = np.random.default_rng(3)
    x = lazy(rng, (140_001,), 23)
    assert np.array_equal(kernels.unpack(kernels.pack(x, 23), len(x), 23), reduce(x, 23))


def test_a_buffer_of_the_wrong_length_is_refused(kernels: Kernels) -> None:
    buf = np.zeros(5, np.uint8)
    for n, w in [(3, 10), (5, 10), (2, 21), (-1, 8), (1, 0), (1, 65)]:
        with pytest.raises(ValueError, match=r"must|bits|negative"):
            kernels.unpack(buf, n, w)
    with pytest.raises(ValueError, match="shape"):
        kernels.unpack_add(buf, np.zeros(3, np.uint32), 10)


def test_a_vector_of_the_wrong_kind_is_refused(kernels: Kernels) -> None:
    with pytest.raises(ValueError, match="must be an array of uint32"):
        kernels.pack(np.zeros(3, np.uint64), 32)
    with pytest.raises(ValueError, match="must be an array of uint64"):
        kernels.pack(np.zeros(3, np.uint32), 33)


def test_an_opening_of_the_wrong_size_or_kind_is_refused(kernels: Kernels) -> None:
    x, wide, buf = np.zeros(3, np.uint32), np.zeros(3, np.uint64), np.zeros(3, np.uint8)
    gaps, fixed = np.zeros(6, np.uint32)[::2], np.zeros(3, np.uint32)
    fixed.flags.writeable = False
    cases: list[tuple[Any, Any, Any]] = [
        (np.zeros(4, np.uint32), x, buf),
        (wide, x, buf),
        (x, np.zeros(4, np.uint32), buf),
        (x, wide, buf),
        (x, gaps, buf),
        (x, fixed, buf),
        (x, x.copy(), np.zeros(4, np.uint8)),
        (x, x.copy(), np.zeros(3, np.uint32)),
        (x, x.copy(), np.zeros(6, np.uint8)[::2]),
    ]
    for m, total, out in cases:
        with pytest.raises(ValueError, match=r"must"):
            kernels.add_pack(x, m, 8, total, out)
    for by, plus in [(-1, 0), (8, 0), (0, -1), (0, 256), (4, 0)]:
        with pytest.raises(ValueError, match=r"must|shift"):
            kernels.add_pack(x, x, 8, x.copy(), buf, by, plus)
    results: list[Any] = [wide, np.zeros(2, np.uint32), gaps]
    for result in results:
        with pytest.raises(ValueError, match=r"must"):
            kernels.unpack_add(buf, x, 8, result)
    with pytest.raises(ValueError, match="uint32"):
        kernels.add_pack(wide, wide, 40, wide.copy(), np.zeros(12, np.uint8), 8)
