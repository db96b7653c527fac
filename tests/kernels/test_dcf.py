"""Shares of a comparison add up to beta where x < alpha, and all implementations agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from srcompile.runtime.kernels import Kernels, dcf_key_bytes

from .draw import below, lazy, seeds
from .implementations import AVAILABLE


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 64),
    widths=st.lists(st.integers(1, 64), min_size=1, max_size=6),
    count=st.integers(0, 40),
    seed=st.integers(0, 2**32),
)
@example(n=15, widths=[27, 27, 11], count=37, seed=1)  # two words a value, one field in both
@example(n=15, widths=[27, 27, 10], count=33, seed=2)
@example(n=64, widths=[64] * 16, count=5, seed=3)
def test_comparisons_add_up_and_all_agree(n: int, widths: list[int], count: int, seed: int) -> None:
    # given: thresholds and inputs, a third of them equal or next to each other
    rng = np.random.default_rng(seed)
    alpha, x = below(rng, count, n), rng.permutation(below(rng, count, n))
    third = count // 3
    x[:third] = alpha[:third]
    x[third : 2 * third] = (alpha[third : 2 * third] - np.uint64(1)) & np.uint64((1 << n) - 1)
    beta, roots = lazy(rng, (count, len(widths)), 64), seeds(rng, count)
    ring = np.array([(1 << w) - 1 for w in widths], np.uint64)
    want = np.where((x < alpha)[:, None], beta & ring, np.uint64(0))

    keys = AVAILABLE["numpy"].dcf_keys(alpha, n, beta, widths, *roots)
    assert keys.shape == (count, dcf_key_bytes(n, widths))
    first = [AVAILABLE["numpy"].dcf_eval(p, x, n, widths, roots[p], keys) for p in (0, 1)]
    assert np.array_equal((first[0] + first[1]) & ring, want)
    for name, kernels in AVAILABLE.items():
        assert np.array_equal(kernels.dcf_keys(alpha, n, beta, widths, *roots), keys), name
        for party in (0, 1):
            y = kernels.dcf_eval(party, x, n, widths, roots[party], keys)
            assert np.array_equal(y, first[party]), name


def test_all_pairs_of_a_small_domain(kernels: Kernels) -> None:
    rng = np.random.default_rng(1)
    n, widths = 4, (1, 32)
    alpha, x = (a.ravel().astype(np.uint64) for a in np.meshgrid(np.arange(16), np.arange(16)))
    beta, roots = np.tile(np.array([[1, 2**32 - 1]], np.uint64), (256, 1)), seeds(rng, 256)
    keys = kernels.dcf_keys(alpha, n, beta, widths, *roots)
    y0, y1 = (kernels.dcf_eval(p, x, n, widths, roots[p], keys) for p in (0, 1))
    total = (y0 + y1) & np.array([1, 2**32 - 1], np.uint64)
    assert np.array_equal(total, np.where((x < alpha)[:, None], beta, np.uint64(0)))


def test_correction_words_of_many_keys_are_balanced_whatever_the_threshold(
    kernels: Kernels,
) -> None:
    """Given fixed alpha and beta and random roots, every bit of the keys is a fair coin."""
    rng = np.random.default_rng(12)
    count, n, widths = 4000, 5, (7, 9)
    for threshold in (0, 13, 31):
        alpha = np.full(count, threshold, np.uint64)
        beta = np.tile(np.array([[1, 300]], np.uint64), (count, 1))
        keys = kernels.dcf_keys(alpha, n, beta, widths, *seeds(rng, count))
        ones = np.unpackbits(keys, axis=1, bitorder="little").mean(axis=0)
        assert np.abs(ones - 0.5).max() < 6 * 0.5 / np.sqrt(count)


def test_key_sizes() -> None:
    assert dcf_key_bytes(24, (32,)) == 24 * 16 + 25 * 4
    assert dcf_key_bytes(8, (1, 20)) == 8 * 16 + (9 * 21 + 7) // 8


def test_bad_arguments_are_refused(kernels: Kernels) -> None:
    s, n, widths = np.zeros((2, 16), np.uint8), 3, (8, 20)
    x, beta = np.zeros(2, np.uint64), np.zeros((2, 2), np.uint64)
    keys = kernels.dcf_keys(x, n, beta, widths, s, s)
    message = r"must|needs|has|is 0 or 1"
    for args in [
        (x, 0, beta, widths, s, s),
        (x, 65, beta, widths, s, s),
        (x + np.uint64(8), n, beta, widths, s, s),
        (x, n, beta[:, :1], widths, s, s),
        (x, n, beta, (8, 65), s, s),
        (x, n, beta, (), s, s),
        (x, n, beta.astype(np.uint32), widths, s, s),
        (x, n, beta, widths, s[:1], s),
        (x[:1], n, beta, widths, s, s),
    ]:
        with pytest.raises(ValueError, match=message):
            kernels.dcf_keys(*args)  # type: ignore[arg-type]
    for more in [
        (2, x, n, widths, s, keys),
        (0, x + np.uint64(8), n, widths, s, keys),
        (0, x, n, widths, s[:1], keys),
        (0, x, n, widths, s, keys[:, 1:]),
        (0, x, n + 1, widths, s, keys),
        (0, x, n, (8, 28), s, keys),
    ]:
        with pytest.raises(ValueError, match=message):
            kernels.dcf_eval(*more)
