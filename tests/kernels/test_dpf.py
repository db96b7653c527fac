"""Shares of a table gate add up to the table's value; all implementations make the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcompile.runtime.kernels import Kernels, dpf_key_bytes, ring_dtype
from srcompile.runtime.kernels.dpf import dpf_shares
from srcompile.runtime.kernels.layout import dpf_layout

from .draw import below, lazy, reduce, seeds
from .implementations import AVAILABLE


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 9), k=st.integers(1, 8), w=st.integers(1, 64), seed=st.integers(0, 2**32))
def test_shares_of_a_point_function_add_up(n: int, k: int, w: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 5
    alpha, beta = below(rng, count, n), lazy(rng, (count, k), w)
    seeds0, seeds1 = seeds(rng, count)
    keys = AVAILABLE["numpy"].dpf_keys(alpha, n, beta, w, seeds0, seeds1)
    assert keys.shape == (count, dpf_key_bytes(n, k, w))

    layout = dpf_layout(n, k, w)
    total = dpf_shares(layout, 0, seeds0, keys) + dpf_shares(layout, 1, seeds1, keys)

    want = np.zeros_like(total)
    for gate in range(count):
        want[gate, :, int(alpha[gate])] = reduce(beta[gate], w)
    assert np.array_equal(reduce(total, w), want)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 11),
    k=st.integers(1, 8),
    w=st.integers(1, 64),
    count=st.integers(0, 40),
    seed=st.integers(0, 2**32),
)
def test_native_keys_equal_the_definition(n: int, k: int, w: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    args = (below(rng, count, n), n, lazy(rng, (count, k), w), w, *seeds(rng, count))
    want = AVAILABLE["numpy"].dpf_keys(*args)
    for name, kernels in AVAILABLE.items():
        assert np.array_equal(kernels.dpf_keys(*args), want), name


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 11),
    degree=st.integers(0, 2),
    w=st.integers(1, 64),
    tables=st.integers(0, 3),
    count=st.integers(0, 40),
    seed=st.integers(0, 2**32),
)
def test_table_gates_read_the_table(
    n: int, degree: int, w: int, tables: int, count: int, seed: int
) -> None:
    # given: gates at index - alpha, and for a spline the masked offset low and its mask b
    rng = np.random.default_rng(seed)
    dtype = ring_dtype(w)
    alpha, index = below(rng, count, n), below(rng, count, n)[::-1].astype(np.uint32)
    curves = [lazy(rng, (tables, 1 << n), w) for _ in range(degree + 1)]
    low, b = lazy(rng, (count,), w), lazy(rng, (count,), w)
    beta = np.stack([b ** dtype.type(c) for c in range(degree + 1)], axis=1)
    roots = seeds(rng, count)
    keys = AVAILABLE["numpy"].dpf_keys(alpha, n, beta, w, *roots)

    # when: every implementation evaluates both parties
    shares = {
        name: [kernels.dpf_table(p, index, low, n, w, roots[p], keys, curves) for p in (0, 1)]
        for name, kernels in AVAILABLE.items()
    }

    # then: the shares are the same everywhere and add up to sum_m tables[m][u]·(low - b)^m
    u = (index.astype(np.int64) - alpha.astype(np.int64)) % (1 << n)
    want = np.zeros((tables, count), dtype)
    for m, t in enumerate(curves):
        want += t[:, u] * (low - b) ** dtype.type(m)
    for name, (y0, y1) in shares.items():
        assert y0.dtype == dtype, name
        assert np.array_equal(y0, shares["numpy"][0]), name
        assert np.array_equal(y1, shares["numpy"][1]), name
        assert np.array_equal(reduce(y0 + y1, w), reduce(want, w)), name


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("w", [8, 24, 64])
def test_a_fine_table(native: Kernels, definition: Kernels, w: int, degree: int) -> None:
    rng = np.random.default_rng(w)
    n, count = 15, 3
    alpha, index = below(rng, count, n), below(rng, count, n).astype(np.uint32)
    curves = [lazy(rng, (2, 1 << n), w) for _ in range(degree + 1)]
    roots = seeds(rng, count)
    low = lazy(rng, (count,), w)
    keys = native.dpf_keys(alpha, n, lazy(rng, (count, degree + 1), w), w, *roots)
    for party in (0, 1):
        args = (party, index, low, n, w, roots[party], keys, curves)
        assert np.array_equal(native.dpf_table(*args), definition.dpf_table(*args))


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 11),
    first=st.integers(0, 2047),
    window=st.integers(0, 2047),
    degree=st.integers(0, 2),
    w=st.sampled_from([4, 8, 16, 31, 64]),
    tables=st.integers(1, 3),
    count=st.integers(0, 40),
    seed=st.integers(0, 2**32),
)
def test_tables_that_are_zero_outside_a_window(
    n: int, first: int, window: int, degree: int, w: int, tables: int, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    alpha, index = below(rng, count, n), below(rng, count, n)[::-1].astype(np.uint32)
    inside = (np.arange(1 << n) - first) % (1 << n) < window % (1 << n)
    curves = [lazy(rng, (tables, 1 << n), w) * inside for _ in range(degree + 1)]
    curves = [curve.astype(ring_dtype(w)) for curve in curves]
    low, roots = lazy(rng, (count,), w), seeds(rng, count)
    keys = AVAILABLE["numpy"].dpf_keys(alpha, n, lazy(rng, (count, degree + 1), w), w, *roots)
    for party in (0, 1):
        args = (party, index, low, n, w, roots[party], keys, curves)
        want = AVAILABLE["numpy"].dpf_table(*args)
        for name, kernels in AVAILABLE.items():
            assert np.array_equal(kernels.dpf_table(*args), want), name


@pytest.mark.parametrize(("n", "window"), [(15, 1000), (15, 3), (13, 5000), (10, 300)])
@pytest.mark.parametrize(("w", "degree"), [(8, 0), (20, 1), (33, 2)])
def test_a_window_of_a_fine_table(
    native: Kernels, definition: Kernels, n: int, window: int, w: int, degree: int
) -> None:
    rng = np.random.default_rng(w)
    count = 37
    alpha, index = below(rng, count, n), below(rng, count, n).astype(np.uint32)
    curves = [np.zeros((2, 1 << n), ring_dtype(w)) for _ in range(degree + 1)]
    for curve in curves:
        curve[:, np.arange(window) - window // 3] = lazy(rng, (2, window), w)
    roots, low = seeds(rng, count), lazy(rng, (count,), w)
    keys = native.dpf_keys(alpha, n, lazy(rng, (count, degree + 1), w), w, *roots)
    for party in (0, 1):
        args = (party, index, low, n, w, roots[party], keys, curves)
        assert np.array_equal(native.dpf_table(*args), definition.dpf_table(*args))


def test_low_may_be_given_in_64_bits_for_a_32_bit_ring(kernels: Kernels) -> None:
    rng = np.random.default_rng(0)
    n, w, count = 4, 20, 9
    roots = seeds(rng, count)
    keys = kernels.dpf_keys(below(rng, count, n), n, lazy(rng, (count, 2), w), w, *roots)
    index, low = below(rng, count, n).astype(np.uint32), lazy(rng, (count,), 64)
    curves = [lazy(rng, (1, 16), w) for _ in range(2)]
    wide = kernels.dpf_table(0, index, low, n, w, roots[0], keys, curves)
    narrow = kernels.dpf_table(0, index, low.astype(np.uint32), n, w, roots[0], keys, curves)
    assert np.array_equal(wide, narrow)


def test_correction_words_of_many_keys_are_balanced_whatever_the_point(kernels: Kernels) -> None:
    """Given fixed alpha and beta and random roots, every bit of the keys is a fair coin."""
    rng = np.random.default_rng(11)
    count, n, w = 4000, 4, 16
    for point in (0, 9, 15):
        alpha = np.full(count, point, np.uint64)
        beta = np.tile(np.array([[1, 77]], np.uint32), (count, 1))
        keys = kernels.dpf_keys(alpha, n, beta, w, *seeds(rng, count))
        ones = np.unpackbits(keys, axis=1, bitorder="little").mean(axis=0)
        assert np.abs(ones - 0.5).max() < 6 * 0.5 / np.sqrt(count)


def test_key_sizes() -> None:
    assert dpf_key_bytes(8, 2, 32) == 6 * 16 + 4 * 2 * 4  # 64 leaves of 4 points
    assert dpf_key_bytes(8, 1, 20) == 5 * 16 + 20  # 32 leaves of 8 points of 20 bits
    assert dpf_key_bytes(3, 1, 20) == 20  # one leaf: no tree
    assert dpf_key_bytes(20, 2, 64) == 19 * 16 + 2 * 2 * 8


def test_bad_arguments_of_keys_are_refused(kernels: Kernels) -> None:
    s = np.zeros((2, 16), np.uint8)
    alpha, beta = np.zeros(2, np.uint64), np.zeros((2, 1), np.uint32)
    for args in [
        (alpha, 0, beta, 8, s, s),
        (alpha, 21, beta, 8, s, s),
        (alpha + np.uint64(4), 2, beta, 8, s, s),
        (alpha, 2, beta, 33, s, s),
        (alpha, 2, beta, 0, s, s),
        (alpha, 2, beta[:1], 8, s, s),
        (alpha, 2, beta, 8, s[:1], s),
        (alpha, 2, beta, 8, s, s[:, :15]),
        (alpha.astype(np.int64), 2, beta, 8, s, s),
        (alpha, 2, np.zeros((2, 9), np.uint32), 8, s, s),
    ]:
        with pytest.raises(ValueError, match=r"must|needs|has"):
            kernels.dpf_keys(*args)  # type: ignore[arg-type]


def test_bad_arguments_of_table_gates_are_refused(kernels: Kernels) -> None:
    s, n, w = np.zeros((2, 16), np.uint8), 3, 8
    index, low = np.zeros(2, np.uint32), np.zeros(2, np.uint32)
    keys = np.zeros((2, dpf_key_bytes(n, 2, w)), np.uint8)
    t = np.zeros((1, 8), np.uint32)
    kernels.dpf_table(0, index, low, n, w, s, keys, [t, t])
    for args in [
        (2, index, low, n, w, s, keys, [t, t]),
        (0, index + np.uint32(8), low, n, w, s, keys, [t, t]),
        (0, index, low[:1], n, w, s, keys, [t, t]),
        (0, index, None, n, w, s, keys, [t, t]),
        (0, index, low, n, w, s, keys[:, 1:], [t, t]),
        (0, index, low, n, w, s, keys, [t]),
        (0, index, low, n, w, s, keys, []),
        (0, index, low, n, w, s, keys, [t] * 4),
        (0, index, low, n, w, s, keys, [t[:, 1:], t]),
        (0, index, low, n, w, s, keys, [t, t[:0]]),
        (0, index, low, n, 40, s, keys, [t, t]),
        (0, index, low, n, w, s[:1], keys, [t, t]),
    ]:
        with pytest.raises(ValueError, match=r"must|needs|is 0 or 1|reads 1 to 3"):
            kernels.dpf_table(*args)
