"""Tables of functions of one variable: a value, a line or a parabola for each cell of an index.

Notation: x is an integer with f fraction bits around a centre c and stands for u = x / 2^f + c;
x = i * 2^s + d with cell i and 0 <= d < 2^s. A gate reads y = t0[i] + t1[i] * d + t2[i] * d^2;
under MPC it may take the cell above with d negative, so each curve is fitted to cells i-1 and i.

Entries are zero where nothing is wanted: outside of what is supported, unless the function is level
there, and where it is as good as zero. They are not expanded (`entries_met`), so a table costs what
is in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from srcompile.ir.graph import Array

SAMPLES = 32
MIN_INDEX_BITS, MAX_INDEX_BITS = 3, 12
LARGEST = 2.0**62
PARABOLA = 1.5
"""The time that an entry of a table of parabolas takes, against one of lines; and more bits."""
NOTHING = 1 / 64
"""What share of the tolerance counts as zero."""


@dataclass(frozen=True)
class TableSpec:
    """Tables by unsigned index, tables[m] for d^m, and what they promise.

    tables: each (2^index_bits,) int64; tables[m] has frac - m*f fraction bits.
    """

    index_bits: int
    low_bits: int
    tables: tuple[Array, ...]
    frac: int
    error: float

    @property
    def cost(self) -> float:
        """About how long a gate takes, against one entry of a table of lines."""
        return entries_met(self.tables) * (PARABOLA if len(self.tables) == 3 else 1.0)


def entries_met(tables: Sequence[Array]) -> int:
    """Return how many entries lie outside the longest run of zeros, counted around the end.

    tables: (2^n,) or (T, 2^n), all of one shape.
    """
    rows = np.concatenate([t.reshape(-1, t.shape[-1]) for t in tables])
    used = np.flatnonzero(np.any(rows != 0, axis=0))
    if not len(used):
        return 1
    size = rows.shape[-1]
    gaps = np.diff(used, append=used[0] + size)
    return int(size - gaps.max()) + 1


@dataclass(frozen=True)
class Wanted:
    """A function to be fitted: see `fit_table`."""

    function: Callable[[Array], Array]
    f: int
    centre: float
    window: tuple[float, float]
    core: tuple[float, float]
    frac: int
    tolerance: float
    growing: float


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
    """Return the cheapest table for `bits`-bit x whose error inside `core` is within `tolerance`.

    The function is followed inside `window`, which holds `core`, by default the window. Where its
    value is larger than `growing` the tolerance grows in proportion.

    `frac` is the least number of fraction bits of the result. If no table of `most` index bits is
    good enough the largest one is returned; its `error` says how good it is. The table may be for
    one bit more than `bits`: above the cell of the largest x there must be another, which is not
    that of the lowest.
    """
    wanted = Wanted(function, f, centre, window, core or window, frac, tolerance, growing)
    lines = _smallest(wanted, bits, most, degree=1)
    if not lines.low_bits:
        return lines
    parabolas = _smallest(wanted, bits, lines.index_bits, degree=2)
    good = lines.error > tolerance or parabolas.error <= tolerance
    return parabolas if good and parabolas.cost < lines.cost else lines


def _smallest(wanted: Wanted, bits: int, most: int, degree: int) -> TableSpec:
    top = math.ceil((wanted.window[1] - wanted.centre) * 2.0**wanted.f) + 1
    low = max(MIN_INDEX_BITS, bits - 48 // degree)
    sizes = range(min(low, bits), max(min(most, bits), min(low, bits)) + 1)
    for index_bits in sizes:
        cell = 1 << (bits - index_bits)
        more = 1 if cell > 1 and top >= (1 << (bits - 1)) - cell else 0
        spec = _fit(wanted, bits + more, index_bits + more, degree)
        if spec.error <= wanted.tolerance:
            return spec
    return spec


def _fit(w: Wanted, bits: int, n: int, degree: int) -> TableSpec:
    s = bits - n
    cells = np.arange(1 << n, dtype=np.int64)
    start = np.where(cells < 1 << (n - 1), cells, cells - (1 << n)) << s  # (2^n,) x at d = 0
    if s == 0:
        return _points(w, n, start)
    d = np.linspace(-1.0, 1.0, 2 * SAMPLES + 1)  # offsets, two cells, in cells
    u = (start[:, None] + d * 2.0**s) / 2.0**w.f + w.centre
    y = _straightened(w.function, u, w.window, 2.0**-w.f, 2.0 ** (s + 1 - w.f))  # (2^n, samples)
    powers = d[:, None] ** np.arange(degree + 1)
    curves = y @ np.linalg.pinv(powers).T  # (2^n, degree + 1): least squares
    # the rounding of the last coefficient may cost an eighth of the tolerance
    out = max(w.frac, int(np.ceil(np.log2(2.0 ** (degree * s + 2) / max(w.tolerance, 1e-12)))))
    wanted = _wanted(u, y, w, 2.0 ** (s - w.f))
    tables = tuple(
        _rounded(curves[:, m] * 2.0 ** (out - m * s)) * wanted for m in range(degree + 1)
    )
    got = sum(t[:, None] * (d * 2.0**s) ** m for m, t in enumerate(tables)) / 2.0**out
    inside = (u >= w.core[0]) & (u <= w.core[1])
    error = _error(got - y, y, w)[inside]
    return TableSpec(
        n, s, tuple(t.astype(np.int64) for t in tables), out, float(error.max(initial=0.0))
    )


def _points(w: Wanted, n: int, start: Array) -> TableSpec:
    """A value for each x. The argument itself is rounded, to the nearest whole x."""
    u, half = start / 2.0**w.f + w.centre, 0.5 / 2**w.f
    y = w.function(np.clip(u, *w.window))
    off = [np.abs(w.function(np.clip(u + h, *w.window)) - y) for h in (half, -half)]
    inside = (u >= w.core[0] - half) & (u <= w.core[1] + half)
    error = _error(np.maximum(*off) + 0.5 * 2.0**-w.frac, y, w)[inside]
    wanted = _wanted(u[:, None], y[:, None], w, 2.0**-w.f)
    t0 = (_rounded(y * 2.0**w.frac) * wanted).astype(np.int64)
    return TableSpec(n, 0, (t0,), w.frac, float(error.max(initial=0.0)))


def _wanted(u: Array, y: Array, w: Wanted, cell: float) -> Array:
    """Return which cells, with samples (cells, samples) of u and y, are wanted, as 0 and 1.

    Beyond an end of the window nothing is, unless the function is level there: then it saturates.
    """
    low, high = w.window
    first, second, third, last = w.function(np.array([low, low + cell, high - cell, high]))
    below = low - cell if abs(second - first) > w.tolerance else -math.inf
    above = high + cell if abs(last - third) > w.tolerance else math.inf
    supported = (u.max(axis=1) > below) & (u.min(axis=1) < above)
    return np.asarray(supported & (np.abs(y).max(axis=1) > w.tolerance * NOTHING), np.float64)


def _error(gap: Array, y: Array, w: Wanted) -> Array:
    return np.asarray(np.abs(gap) / np.maximum(1.0, np.abs(y) / w.growing))


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
