"""A ReLU gate gives shares of max(x, 0), and every implementation gives the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcompile.runtime.gates import sign_keys, signed
from srcompile.runtime.kernels import Kernels, ring_dtype
from srcompile.runtime.kernels.interface import Bytes, Ring

from .draw import lazy, reduce, seeds
from .implementations import AVAILABLE, DEFINITION

Gates = tuple[Ring, tuple[Bytes, Bytes], Bytes, list[tuple[Ring, Ring, Ring]]]


def gates(rng: np.random.Generator, x: Ring, v: int, w: int) -> Gates:
    """Return x^, the roots, the keys, and both parties' shares of m, m·r and r."""
    r = reduce(lazy(rng, x.shape, v), v)
    m = r >> r.dtype.type(v - 1)
    values = [a.astype(np.uint64).astype(ring_dtype(w)) for a in (m, m * r, r)]
    first = tuple(lazy(rng, x.shape, w) for _ in values)
    second = tuple(a - b for a, b in zip(values, first, strict=True))
    roots = seeds(rng, x.size)
    keys = sign_keys(DEFINITION, r, v, w, True, roots)
    shares: Any = [first, second]
    return x + r, roots, keys, shares


@settings(max_examples=60, deadline=None)
@given(
    v=st.integers(2, 64),
    w=st.integers(1, 64),
    n=st.integers(0, 70),
    extreme=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_relu_equals_the_definition_and_is_relu(
    v: int, w: int, n: int, extreme: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = lazy(rng, (n,), v)
    if extreme:
        x[:] = rng.choice([0, 1, (1 << v - 1) - 1, (1 << v) - 1, (1 << v - 1) + 1], n)
    hat, roots, keys, shares = gates(rng, x, v, w)
    want = np.maximum(signed(x, v), 0).view(np.uint64).astype(ring_dtype(w))
    total = np.zeros(n, ring_dtype(w))
    for party in (0, 1):
        expected = DEFINITION.relu(party, hat, v, w, roots[party], keys, shares[party])
        for name, kernels in AVAILABLE.items():
            got = kernels.relu(party, hat, v, w, roots[party], keys, shares[party])
            assert got.dtype == expected.dtype, name
            assert np.array_equal(got, expected), name
        total += expected
    assert np.array_equal(reduce(total, w), reduce(want, w))


def test_many_gates_of_any_shape_and_strides(native: Kernels, definition: Kernels) -> None:
    rng = np.random.default_rng(5)
    hat, roots, keys, shares = gates(rng, lazy(rng, (61, 5, 17), 9), 9, 20)
    views = tuple(np.asfortranarray(share) for share in shares[1])
    want = definition.relu(1, hat, 9, 20, roots[1], keys, shares[1])
    got = native.relu(1, np.asfortranarray(hat), 9, 20, roots[1], keys, (*views,))  # type: ignore[arg-type]
    assert np.array_equal(got, want)


def test_relu_refuses_what_does_not_fit(kernels: Kernels) -> None:
    rng = np.random.default_rng(6)
    hat, roots, keys, shares = gates(rng, lazy(rng, (4,), 9), 9, 20)
    m, mr, r = shares[0]
    good: list[Any] = [0, hat, 9, 20, roots[0], keys, (m, mr, r)]
    for place, wrong in [
        (0, 2),
        (1, hat.astype(np.uint64)),
        (1, hat[:3]),
        (2, 1),
        (2, 8),
        (3, 65),
        (3, 40),
        (4, roots[0][:3]),
        (5, keys[:, 1:]),
        (6, (m, mr, r[:3])),
        (6, (m.astype(np.uint64), mr, r)),
    ]:
        with pytest.raises(ValueError, match=r"\."):
            kernels.relu(*[*good[:place], wrong, *good[place + 1 :]])
