"""Tables of functions of one variable: a value, or a line, for each cell of a signed index.

Notation: x is an integer with f fraction bits around a centre c and stands for u = x / 2^f + c;
x = i * 2^s + d with cell i and 0 <= d < 2^s. A gate reads y = t0[i] + t1[i] * d; under MPC it may
take the cell above with d negative instead, so each line is fitted to cells i-1 and i.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from srcompile.ir.graph import Array

SAMPLES = 32
MIN_INDEX_BITS, MAX_INDEX_BITS = 3, 12
LARGEST = 2.0**62


@dataclass(frozen=True)
class TableSpec:
    """t0 and t1 (None without low bits) by unsigned index, and what they promise."""

    index_bits: int
    low_bits: int
    t0: Array  # (2^index_bits,) int64, `frac` fraction bits
    t1: Array | None  # (2^index_bits,) int64, frac - f fraction bits
    frac: int
    error: float


def fit_table(
    function: Callable[[Array], Array],
    bits: int,
    f: int,
    centre: float,
    window: tuple[float, float],
    frac: int,
    tolerance: float,
    most: int = MAX_INDEX_BITS,
    core: tuple[float, float] | None = None,
    growing: float = math.inf,
) -> TableSpec:
    """Return the smallest table for `bits`-bit x whose error inside `core` is within `tolerance`.

    The function is followed inside `window`, which holds `core`, by default the window. Where its
    value is larger than `growing` the tolerance grows in proportion.

    `frac` is the least number of fraction bits of the result. If no table of `most` index bits is
    good enough the largest one is returned; its `error` says how good it is. The table may be for
    one bit more than `bits`: above the cell of the largest x there must be another, which is not
    that of the lowest.
    """
    top = math.ceil((window[1] - centre) * 2.0**f) + 1
    low = max(MIN_INDEX_BITS, bits - 48)
    sizes = range(min(low, bits), min(most, bits) + 1)
    for index_bits in sizes:
        cell = 1 << (bits - index_bits)
        more = 1 if cell > 1 and top >= (1 << (bits - 1)) - cell else 0
        spec = _fit(function, bits + more, index_bits + more, f, centre, window, frac, tolerance,
                    core or window, growing)  # fmt: skip
        if spec.error <= tolerance:
            return spec
    return spec


def _fit(
    function: Callable[[Array], Array],
    bits: int,
    n: int,
    f: int,
    centre: float,
    window: tuple[float, float],
    frac: int,
    tolerance: float,
    core: tuple[float, float],
    growing: float,
) -> TableSpec:
    s = bits - n
    cells = np.arange(1 << n, dtype=np.int64)
    start = np.where(cells < 1 << (n - 1), cells, cells - (1 << n)) << s  # (2^n,) x at d = 0

    if s == 0:
        u = start / 2.0**f + centre
        y = function(np.clip(u, *window))
        # the argument itself is rounded, to the nearest whole x
        off = [np.abs(function(np.clip(u + h, *window)) - y) for h in (0.5 / 2**f, -0.5 / 2**f)]
        error = np.maximum(*off) + 0.5 * 2.0**-frac
        error = error / np.maximum(1.0, np.abs(y) / growing)
        inside = (u >= core[0] - 0.5 / 2**f) & (u <= core[1] + 0.5 / 2**f)
        t0 = _rounded(y * 2.0**frac).astype(np.int64)
        return TableSpec(n, 0, t0, None, frac, float(error[inside].max(initial=0.0)))
    d = np.linspace(-1.0, 1.0, 2 * SAMPLES + 1) * 2.0**s  # offsets, two cells
    x = start[:, None] + d
    u = x / 2.0**f + centre
    y = _straightened(function, u, window, 2.0**-f, 2.0 ** (s + 1 - f))  # (2^n, samples)
    slope = ((y - y.mean(1, keepdims=True)) * d).sum(1) / (d * d).sum()
    inside = (u >= core[0]) & (u <= core[1])
    # the slope's own rounding may cost an eighth of the tolerance
    slope_frac = max(0, int(np.ceil(np.log2(2.0 ** (s + 2) / max(tolerance, 1e-12)))) - f)
    out = max(frac, f + slope_frac)
    t1 = _rounded(slope * 2.0**out)
    t0 = _rounded(y.mean(1) * 2.0**out)
    got = (t0[:, None] + t1[:, None] * d) / 2.0**out
    allowed = np.maximum(1.0, np.abs(y) / growing)
    error = float((np.abs(got - y) / allowed)[inside].max(initial=0.0))
    return TableSpec(n, s, t0.astype(np.int64), t1.astype(np.int64), out, error)


def _rounded(x: Array) -> Array:
    """Return x as integers; what is too large for one lies far outside the window."""
    return np.asarray(np.rint(np.clip(x, -LARGEST, LARGEST)))


def _straightened(
    function: Callable[[Array], Array],
    u: Array,
    window: tuple[float, float],
    step: float,
    reach: float,
) -> Array:
    """Return function(u) inside the window, its tangents `reach` beyond, and constants from there.

    The cells at the ends of the window reach out of it: a kink there would cost index bits.
    """
    inner = np.clip(u, *window)
    ends = np.array([window[0], window[0] + step, window[1] - step, window[1]])
    first, second, third, last = function(ends)
    slope = np.where(u < window[0], second - first, last - third) / step
    return np.asarray(function(inner) + slope * np.clip(u - inner, -reach, reach))
