"""The top of a row, up to a step: what softmax needs of its maximum, by counting.

For every element and each threshold t_j a table tells [x >= t_j]; summed over the row these are
counts; the thresholds with a count of at least one reach up to the maximum. That is one table, two
openings of a few values per row and comparisons of the counts, whatever the length of the row,
where a tree of maxima takes a comparison of each element and log2(n) rounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from srcompile.ir.graph import Array
from srcompile.ir.types import Shape
from srcompile.ops.base import Attrs, Case, Emitter, Op, integer, real

BAND = 4.0
"""Rows whose maxima span less than this need no maximum: the exponential copes with it."""
CELL_FRAC = 1
"""Fraction bits of what is compared with thresholds: by less than a half it may count as more."""
STEPS = 64
"""At most so many thresholds; they are 1 apart, or 2, 4, ... where the maxima spread widely."""


class RowTop(Op):
    """The maximum along an axis, kept as a 1; under MPC up to a step more. For softmax.

    Its own calibrated range tells where the maxima lie. Where they lie together no maximum is
    computed: the upper end of their range stands for all of them.
    """

    name = "row_top"
    attrs = ("axis",)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        axis = integer(attrs["axis"])
        return (*shapes[0][:axis], 1, *shapes[0][axis + 1 :])

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(np.max(inputs[0], axis=integer(attrs["axis"]), keepdims=True))

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        # top = first + step * sum_j [count_j >= 1],  count_j = sum_i [x_i >= first + j * step]
        x, axis = inputs[0], integer(attrs["axis"])
        known = b.result.range if b.result else None
        if known is None:
            return b.emit("amax", [x], {"axis": axis, "keepdims": True})
        low, high = known
        if high - low < BAND:
            return b.const(np.full((1,) * len(b.type(x).shape), high, np.float32), "row_top")
        spread = max(2.0, (high - low) / 4)  # for inputs not seen in calibration
        step = 1.0
        while (high - low + 2 * spread) / step > STEPS - 1:
            step *= 2
        first = math.floor((low - spread) / step) * step
        count = math.ceil((high + spread - first) / step)
        reached = b.emit("levels", [x], {"first": first, "step": step, "count": count})
        counts = b.emit("sum", [reached], {"axes": (axis,), "keepdims": True})
        some = b.emit("nonneg", [b.emit("offset", [counts], {"by": -1.0})])
        last = len(b.type(some).shape) - 1
        steps = b.emit("sum", [some], {"axes": (last,), "keepdims": False})
        return b.emit("offset", [b.emit("scale", [steps], {"by": step})], {"by": first})

    def cases(self) -> tuple[Case, ...]:
        return ()  # tested with softmax: as good as the maximum only there


class Levels(Op):
    """1 where x >= first + j * step, else 0, for each j < count, as a last axis.

    Under MPC an x less than a half below a threshold may count as above it.
    """

    name = "levels"
    attrs = ("first", "step", "count")
    primitive = True

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        if integer(attrs["count"]) < 1 or real(attrs["step"]) <= 0:
            raise ValueError("needs at least one threshold, and a positive step")
        return (*shapes[0], integer(attrs["count"]))

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(inputs[0][..., None] >= thresholds(attrs)).astype(inputs[0].dtype)

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        return 0

    def cases(self) -> tuple[Case, ...]:
        return ()  # tested with softmax: exact only up to a half


def thresholds(attrs: Attrs) -> Array:
    """Return first + j * step for all j: (count,) float64."""
    steps = np.arange(integer(attrs["count"]), dtype=np.float64)
    return np.asarray(real(attrs["first"]) + real(attrs["step"]) * steps)


OPS: tuple[Op, ...] = (RowTop(), Levels())
