"""Matrix products and convolutions wrap exactly, for all shapes and strides."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcompile.runtime.kernels import Kernels
from srcompile.runtime.kernels.interface import Ring
from tests.fuzz.harness import limited_memory

from .draw import lazy
from .implementations import AVAILABLE

WIDTHS = (32, 64)


def _exact(a: Ring, b: Ring) -> Ring:
    bits = 8 * a.dtype.itemsize
    product: Ring = (np.matmul(a.astype(object), b.astype(object)) % (1 << bits)).astype(a.dtype)
    return product


@pytest.mark.parametrize("w", WIDTHS)
def test_matmul_is_the_integer_product_mod_2_to_the_w(kernels: Kernels, w: int) -> None:
    rng = np.random.default_rng(w)
    for m, k, n in [(1, 1, 1), (3, 5, 7), (7, 300, 19), (13, 17, 48), (1, 64, 32), (5, 0, 3)]:
        a, b = lazy(rng, (m, k), w), lazy(rng, (k, n), w)
        y = kernels.matmul(a, b)
        assert y.dtype == a.dtype
        assert np.array_equal(y, _exact(a, b)), (m, k, n)


@pytest.mark.parametrize("w", WIDTHS)
def test_matmul_of_the_largest_elements(kernels: Kernels, w: int) -> None:
    a = np.full((9, 33), (1 << w) - 1, dtype=np.uint32 if w == 32 else np.uint64)
    assert np.all(kernels.matmul(a, a.T) == 33)


@settings(max_examples=60, deadline=None)
@given(
    w=st.sampled_from(WIDTHS),
    m=st.integers(1, 20),
    k=st.integers(0, 40),
    n=st.integers(1, 70),
    batch=st.sampled_from(
        [((), ()), ((3,), ()), ((), (2,)), ((2, 1), (3,)), ((0,), ()), ((2,), (2,))]
    ),
    views=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    seed=st.integers(0, 2**32),
)
def test_native_matmul_equals_the_definition(
    w: int,
    m: int,
    k: int,
    n: int,
    batch: tuple[tuple[int, ...], tuple[int, ...]],
    views: tuple[int, int],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    a = _view(rng, (*batch[0], m, k), w, views[0])
    b = _view(rng, (*batch[1], k, n), w, views[1])
    want = AVAILABLE["numpy"].matmul(a, b)
    for name, kernels in AVAILABLE.items():
        y = kernels.matmul(a, b)
        assert y.shape == want.shape, name
        assert np.array_equal(y, want), name


def _view(rng: np.random.Generator, shape: tuple[int, ...], w: int, kind: int) -> Ring:
    """Return an array that is contiguous, transposed, reversed with gaps, or broadcast."""
    *rest, rows, columns = shape
    if kind == 1:
        return lazy(rng, (*rest, columns, rows), w).swapaxes(-1, -2)
    if kind == 2:
        return lazy(rng, (*rest, 2 * rows, 3 * columns), w)[..., ::-2, ::-3]
    if kind == 3:
        return np.broadcast_to(lazy(rng, (*rest, 1, columns), w), shape)
    return lazy(rng, shape, w)


@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (5, 6)), ((4,), (4, 2)), ((2, 3, 4), (3, 4, 5))], ids=str
)
def test_matmul_refuses_sizes_that_do_not_fit(
    kernels: Kernels, a: tuple[int, ...], b: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="matmul"):
        kernels.matmul(np.zeros(a, np.uint32), np.zeros(b, np.uint32))


def test_matmul_refuses_other_dtypes(kernels: Kernels) -> None:
    with pytest.raises(ValueError, match="one dtype"):
        kernels.matmul(np.zeros((2, 2), np.uint32), np.zeros((2, 2), np.uint64))
    with pytest.raises(ValueError, match="uint32 or uint64"):
        kernels.matmul(np.zeros((2, 2), np.int64), np.zeros((2, 2), np.int64))


@settings(max_examples=80, deadline=None)
@given(
    w=st.sampled_from(WIDTHS),
    m=st.one_of(st.integers(0, 70), st.sampled_from([128, 137, 260])),
    k=st.one_of(st.integers(0, 40), st.integers(120, 300), st.just(520)),
    n=st.one_of(st.integers(0, 40), st.integers(120, 300), st.just(513)),
    batch=st.sampled_from([(), (2,), (2, 1)]),
    views=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    rows=st.sampled_from([0, 1, 32, 128, 1000]),
    levels=st.none() | st.integers(0, 3),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_packed_matrices_threads_and_sums_change_no_bit(
    w: int,
    m: int,
    k: int,
    n: int,
    batch: tuple[int, ...],
    views: tuple[int, int],
    rows: int,
    levels: int | None,
    threads: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    a, b = _view(rng, (*batch, m, k), w, views[0]), _view(rng, (k, n), w, views[1])
    start = lazy(rng, (*batch, m, n), w)
    want = _product(a, b)
    for name, kernels in AVAILABLE.items():
        packed = kernels.pack_matrix(b, rows, levels)
        for right in (b, packed):
            assert np.array_equal(kernels.matmul(a, right, threads), want), name
            c = start.copy()
            kernels.matmul_add(c, a, right, threads)
            assert np.array_equal(c, start + want), name


def _product(a: Ring, b: Ring) -> Ring:
    """Return a @ b from limbs of 16 bits, whose products double-precision numbers hold exactly."""
    bits = 8 * a.dtype.itemsize
    total: Ring = np.zeros((*a.shape[:-1], b.shape[-1]), a.dtype)
    parts = [[(x >> i & 0xFFFF).astype(float) for i in range(0, bits, 16)] for x in (a, b)]
    for i, x in enumerate(parts[0]):
        for j, y in enumerate(parts[1][: bits // 16 - i]):
            total += (x @ y).astype(np.uint64).astype(a.dtype) << a.dtype.type(16 * (i + j))
    return total


@pytest.mark.parametrize("w", WIDTHS)
def test_a_large_product_of_the_largest_elements(native: Kernels, w: int) -> None:
    # given matrices that Strassen's method splits three times, filled with -1
    a = np.full((257, 520), (1 << w) - 1, dtype=np.uint32 if w == 32 else np.uint64)
    b = np.full((520, 777), (1 << w) - 1, dtype=a.dtype)
    # then every element is the number of terms
    assert np.all(native.matmul(a, b) == 520)
    assert np.all(native.matmul(a, native.pack_matrix(b, 257), threads=2) == 520)


def test_a_packed_matrix_fits_its_kernels_and_sizes_only(kernels: Kernels) -> None:
    b = kernels.pack_matrix(np.zeros((3, 4), np.uint32), 1)
    assert b.shape == (3, 4)
    assert b.dtype == np.uint32
    with pytest.raises(ValueError, match="inner sizes"):
        kernels.matmul(np.zeros((2, 4), np.uint32), b)
    with pytest.raises(ValueError, match="one dtype"):
        kernels.matmul(np.zeros((2, 3), np.uint64), b)
    for other in AVAILABLE.values():
        if other.name != kernels.name:
            with pytest.raises(ValueError, match="packed by"):
                other.matmul(np.zeros((2, 3), np.uint32), b)
    with pytest.raises(ValueError, match="matrix"):
        kernels.pack_matrix(np.zeros((2, 3, 4), np.uint32), 1)
    with pytest.raises(ValueError, match="rows"):
        kernels.pack_matrix(np.zeros((3, 4), np.uint32), -1)
    with pytest.raises(ValueError, match="levels"):
        kernels.pack_matrix(np.zeros((3, 4), np.uint32), 1, levels=4)


@pytest.mark.parametrize("levels", [0, 3])
def test_threads_that_rows_do_not_fill_evenly_all_have_work(kernels: Kernels, levels: int) -> None:
    # given four units of rows for three threads: two each, so that the third has none
    rows = 16 * 4 if levels == 0 else 64 * 4
    a, b = np.ones((rows, 768), np.uint64), np.ones((768, 768), np.uint64)
    # then the product is right
    packed = kernels.pack_matrix(b, rows, levels)
    assert np.all(kernels.matmul(a, packed, threads=3) == 768)


def test_a_matrix_packed_without_levels_takes_no_more_memory(kernels: Kernels) -> None:
    b = np.ones((768, 768), np.uint64)
    assert kernels.pack_matrix(b, 128, levels=0).words.nbytes == b.nbytes


def test_sums_and_threads_that_do_not_fit_are_refused(kernels: Kernels) -> None:
    a = np.ones((2, 2), np.uint64)
    read_only = np.zeros((2, 2), np.uint64)
    read_only.flags.writeable = False
    for c in (np.zeros((2, 3), np.uint64), np.zeros((2, 2), np.uint32)):
        with pytest.raises(ValueError, match="array to add to"):
            kernels.matmul_add(c, a, a)
    for c in (np.zeros((2, 4), np.uint64)[:, ::2], read_only):
        with pytest.raises(ValueError, match="contiguous"):
            kernels.matmul_add(c, a, a)
    with pytest.raises(ValueError, match="threads"):
        kernels.matmul(a, a, threads=0)


Pair = tuple[int, int]


def _exact_conv(x: Ring, w: Ring, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Ring:
    """Return the sum that defines a convolution, written out."""
    batch, _, height, width = x.shape
    outputs, per_group, kh, kw = w.shape
    rows = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((batch, outputs, rows, columns), dtype=x.dtype)
    for o, r, v, c, i, j in np.ndindex(outputs, rows, columns, per_group, kh, kw):
        row = r * stride[0] - padding[0] + i * dilation[0]
        column = v * stride[1] - padding[1] + j * dilation[1]
        if 0 <= row < height and 0 <= column < width:
            channel = o // (outputs // groups) * per_group + c
            y[:, o, r, v] += x[:, channel, row, column] * w[o, c, i, j]
    return y


@settings(max_examples=40, deadline=None)
@given(
    w=st.sampled_from(WIDTHS),
    batch=st.integers(1, 3),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    outputs=st.integers(1, 4),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    seed=st.integers(0, 2**32),
)
def test_conv2d_is_the_sum_that_defines_it_and_all_agree(
    w: int,
    batch: int,
    groups: int,
    per_group: int,
    outputs: int,
    size: Pair,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    seed: int,
) -> None:
    if any(
        s + 2 * p <= d * (k - 1) for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)
    ):
        return
    rng = np.random.default_rng(seed)
    x = lazy(rng, (batch, groups * per_group, *size), w)
    weights = lazy(rng, (groups * outputs, per_group, *kernel), w)
    want = AVAILABLE["numpy"].conv2d(x, weights, stride, padding, dilation, groups)
    if seed % 4 == 0:  # slow: one case in four
        assert np.array_equal(want, _exact_conv(x, weights, stride, padding, dilation, groups))
    for name, kernels in AVAILABLE.items():
        y = kernels.conv2d(x, weights, stride, padding, dilation, groups)
        assert y.shape == want.shape, name
        assert np.array_equal(y, want), name


def test_conv2d_of_a_view_and_of_wide_images(native: Kernels, definition: Kernels) -> None:
    rng = np.random.default_rng(5)
    for w in WIDTHS:
        x = lazy(rng, (2, 40, 44, 8), w).transpose(0, 3, 1, 2)[:, :, ::2]
        weights = lazy(rng, (5, 5, 8, 11), w).transpose(3, 2, 0, 1)
        args: tuple[Pair, Pair, Pair, Literal[1]] = ((1, 1), (2, 2), (1, 1), 1)
        assert np.array_equal(
            native.conv2d(x, weights, *args), definition.conv2d(x, weights, *args)
        )


def test_conv2d_of_an_empty_batch(kernels: Kernels) -> None:
    x, w = np.zeros((0, 2, 5, 5), np.uint32), np.zeros((3, 2, 3, 3), np.uint32)
    assert kernels.conv2d(x, w, (1, 1), (0, 0), (1, 1), 1).shape == (0, 3, 3, 3)


@pytest.mark.parametrize(
    ("x", "w", "stride", "padding", "groups"),
    [
        ((1, 3, 5, 5), (4, 2, 3, 3), (1, 1), (0, 0), 1),
        ((1, 4, 5, 5), (3, 2, 3, 3), (1, 1), (0, 0), 2),
        ((1, 3, 5, 5), (4, 3, 3, 3), (0, 1), (0, 0), 1),
        ((1, 3, 5, 5), (4, 3, 3, 3), (1, 1), (-1, 0), 1),
        ((1, 3, 2, 5), (4, 3, 3, 3), (1, 1), (0, 0), 1),
        ((1, 3, 5, 5), (4, 3, 3, 3), (1, 1), (0, 0), 0),
        ((3, 5, 5), (4, 3, 3, 3), (1, 1), (0, 0), 1),
        ((1, 3, 5, 5), (4, 3, 0, 3), (1, 1), (0, 0), 1),
        # results of few elements, of images with a padding that no size_t holds, or no memory
        ((1, 1, 1, 1), (1, 1, 1, 1), (1 << 61, 1), (1 << 61, 0), 1),
        ((1, 1, 1, 1), (1, 1, 1, 1), (1 << 40, 1), (1 << 40, 0), 1),
        ((1, 1, 1, 1), (1, 1, 1, 1), (1 << 70, 1), (0, 0), 1),
        ((1, 1, 1, 1), (1, 1, 1, 1), (1 << 16, 1 << 16), (1 << 16, 1 << 16), 1),
        ((0, 1, 1, 1), (1, 1, 1, 1), (1 << 16, 1 << 16), (1 << 16, 1 << 16), 1),
    ],
    ids=str,
)
def test_conv2d_refuses_sizes_that_do_not_fit(
    kernels: Kernels,
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: Pair,
    padding: Pair,
    groups: int,
) -> None:
    with pytest.raises(ValueError, match="conv2d"):
        kernels.conv2d(
            np.zeros(x, np.uint64), np.zeros(w, np.uint64), stride, padding, (1, 1), groups
        )


def test_conv2d_without_memory_for_its_padding_is_an_error(native: Kernels) -> None:
    # given a process that may take 256 MB more
    x, w = np.zeros((1, 1, 1, 1), np.uint32), np.zeros((1, 1, 1, 1), np.uint32)
    with limited_memory(1 << 28), pytest.raises(MemoryError):
        # when a small result needs 8 GB, then it is an error that Python knows
        native.conv2d(x, w, (1 << 15, 1 << 15), (1 << 15, 1 << 14), (1, 1), 1)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_product_without_memory_on_any_of_its_threads_is_an_error(
    native: Kernels, threads: int
) -> None:
    # given operands whose elements are one and the same, and panels of them of 4 GB
    one = np.ones((1, 1), np.uint64)
    a, b = np.broadcast_to(one, (1536, 1 << 20)), np.broadcast_to(one, (1 << 20, 257))
    # then the error leaves no thread, and the next product is as ever
    with limited_memory(1 << 28), pytest.raises(MemoryError):
        native.matmul(a, b, threads)
    assert native.matmul(a[:64, :64], b[:64], threads).tolist() == [[64] * 257] * 64
