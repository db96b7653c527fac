"""Ops that tie a program to the outside, and those that only exist on the fixed level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from srcompile.ir.graph import Array, Node
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
    """A tensor the client gives: reals, or with `bits` 0 and 1.

    With `ids` it is made from the token ids of that name. If it has an operand, a table that the
    client holds, it is the table's rows at these ids, else their one-hot encoding, or that of
    their `digit`, high or low, for a table of so many `rows` (runtime/program.py). The client gives
    a `public` one to both parties as it is.
    """

    name = "input"
    attrs = ("name", "shape")
    optional = ("bits", "ids", "public", "digit", "rows")
    arity = (0, 1)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        shape = ints(attrs["shape"])
        if shapes and ("ids" not in attrs or len(shapes[0]) != 2 or shapes[0][1:] != shape[-1:]):
            raise ValueError(f"a table of shape {shapes[0]} does not give rows of {shape}")
        return shape

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        return None


class Ids(_Program):
    """Token ids that the client gives; only an embedding may look at them."""

    name = "ids"
    attrs = ("name", "shape")
    arity = (0, 0)
    dtype = "i64"

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return ints(attrs["shape"])


class Embedding(Op):
    """Rows of a table at token ids; `place_embeddings` decides who looks them up."""

    name = "embedding"
    arity = (2, 2)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        ids, table = shapes
        if len(table) != 2:
            raise ValueError(f"a table has rows and columns, not the shape {table}")
        return (*ids, table[1])

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return inputs[1][inputs[0].astype(np.int64)]

    def cases(self) -> tuple[Case, ...]:
        return ()


class Output(_Program):
    """A tensor revealed to the client; with `within`, only if it fits so many bits."""

    name = "output"
    attrs = ("name",)
    optional = ("within",)
    result = False


class Route(_Program):
    """The index of the model to run, revealed to both parties."""

    name = "route"
    result = False


class Guard(_Program):
    """A bit revealed to both parties and the client: 1 if every value stayed in its range."""

    name = "guard"
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


class Check(Table):
    """t0[i] for x = i·2^low_bits + d: 1 if x lies in its range; under MPC i may be one more."""

    name = "check"
    arity = (2, 2)

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        cell = inputs[0] >> np.int64(integer(attrs["low_bits"]))
        return super().reference([cell, inputs[1]], {**attrs, "low_bits": 0})


class Open(_Program):
    """x / 2^by, opened under a fresh mask from here on; under MPC off by less than 1.5."""

    name = "open"
    attrs = ("by",)

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return Shift().reference(inputs, attrs) if integer(attrs["by"]) else inputs[0]

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        return fracs[0] - integer(attrs["by"])


class Extend(_Program):
    """x, as a share in a larger ring from here on."""

    name = "extend"


def rows_of(node: Node) -> int:
    """Return how many rows a table has whose ids this input encodes."""
    assert node.type is not None
    return integer(node.attrs.get("rows", node.type.shape[-1]))


OPS: tuple[Op, ...] = (
    Input(), Ids(), Embedding(), Output(), Route(), Guard(), Shift(), Table(), Check(), Open(),
    Extend(),
)  # fmt: skip
INPUTS = ("input", "ids")
FIXED_ONLY = frozenset({"shift", "table", "check", "guard", "open", "extend"})
