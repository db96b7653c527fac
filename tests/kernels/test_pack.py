"""Packing writes element i to bits i·w onwards of a little-endian bit string, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcompile.runtime.kernels import Kernels

from .draw import lazy, reduce
from .implementations import AVAILABLE


@pytest.mark.parametrize("w", range(1, 65))
def test_every_width_packs_and_unpacks(kernels: Kernels, w: int) -> None:
    rng = np.random.default_rng(w)
    for n in (0, 1, 7, 8, 64, 203):
        x, y = lazy(rng, (n,), w), lazy(rng, (n,), w)
        buf = kernels.pack(x, w)
        value = sum(int(e) % (1 << w) << (i * w) for i, e in enumerate(x))
        assert buf.tobytes() == value.to_bytes((n * w + 7) // 8, "little")
        assert np.array_equal(kernels.unpack(buf, n, w), reduce(x, w))
        assert np.array_equal(kernels.add_pack(x, y, w), kernels.pack(x + y, w))
        assert np.array_equal(kernels.unpack_add(buf, y, w), reduce(x + y, w))


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
        assert np.array_equal(kernels.add_pack(x, y, w), AVAILABLE["numpy"].pack(x + y, w)), name
        assert np.array_equal(kernels.unpack_add(buf, y, w), reduce(x + y, w)), name


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
    with pytest.raises(ValueError, match="one-dimensional"):
        kernels.pack(np.zeros((3, 3), np.uint32), 8)
    with pytest.raises(ValueError, match="shape"):
        kernels.add_pack(np.zeros(3, np.uint32), np.zeros(4, np.uint32), 8)
