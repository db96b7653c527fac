"""Ops that tie a program to the outside, and those that only exist on the fixed level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from srcompile.ir.graph import Array
from srcompile.ir.types import Shape
from srcompile.ops.base import Attrs, Case, Op, integer, ints


class _Program(Op):
    primitive = True

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return inputs[0]

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        return fracs[0]

    def cases(self) -> tuple[Case, ...]:
        return ()


class Input(_Program):
    """A tensor the client gives; `low..high` is what it may hold, `shape` how it looks."""

    name = "input"
    attrs = ("name", "shape")
    arity = (0, 0)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return ints(attrs["shape"])

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        return None


class Output(_Program):
    """A tensor revealed to the client."""

    name = "output"
    attrs = ("name",)
    result = False


class Route(_Program):
    """The index of the model to run, revealed to both parties."""

    name = "route"
    result = False


class Shift(_Program):
    """x / 2^by, rounded to the nearest integer; under MPC off by less than one, unbiased."""

    name = "shift"
    attrs = ("by",)

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        by = integer(attrs["by"])
        return np.asarray((inputs[0] + np.int64(1 << (by - 1))) >> np.int64(by))

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        return fracs[0] - integer(attrs["by"])


class Table(_Program):
    """t0[i] + t1[i]·d + t2[i]·d^2 for x = i·2^low_bits + d, i signed; without low bits t0[x].

    There are one to three tables t0, t1, t2. If they have a first axis of several, so many results
    stand in a last axis.
    """

    name = "table"
    attrs = ("index_bits", "low_bits")
    arity = (2, 4)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return (*shapes[0], *shapes[1][:-1])

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        x, low = inputs[0], integer(attrs["low_bits"])
        index = (x >> np.int64(low)) & np.int64((1 << integer(attrs["index_bits"])) - 1)
        d = x & np.int64((1 << low) - 1)
        first, *rest = inputs[1:]
        y = first[..., index]
        for m, table in enumerate(rest, 1):
            y = y + table[..., index] * d**m
        return np.asarray(np.moveaxis(y, 0, -1) if first.ndim > 1 else y)

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        return fracs[1]


class Open(_Program):
    """x, opened under a fresh mask from here on."""

    name = "open"


class Extend(_Program):
    """x, as a share in a larger ring from here on."""

    name = "extend"


OPS: tuple[Op, ...] = (Input(), Output(), Route(), Shift(), Table(), Open(), Extend())
FIXED_ONLY = frozenset({"shift", "table", "open", "extend"})
