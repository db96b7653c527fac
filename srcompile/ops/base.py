"""What an op is: one class with its torch names, shape rule, NumPy reference and expansion.

An op without an expansion is a primitive: protocols lower it. The rest is expanded into primitives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from srcompile.errors import CompileError, Loc
from srcompile.ir.graph import NO_ATTRS, Array, Attr
from srcompile.ir.types import FloatType, Shape

Attrs = Mapping[str, Attr]


class Emitter(Protocol):
    """Where an expansion, or a front end, puts nodes."""

    def emit(self, op: str, inputs: Sequence[str], attrs: Attrs = NO_ATTRS) -> str:
        """Add a node and return the name of its value."""

    def const(self, data: Array, name: str = "") -> str:
        """Add a public constant and return its name."""

    def type(self, operand: str) -> FloatType:
        """Return the type of a value or constant."""

    def is_public(self, operand: str) -> bool:
        """Return whether both parties may know an operand."""

    @property
    def loc(self) -> Loc:
        """The user's source line that is being translated."""

    @property
    def result(self) -> FloatType | None:
        """What is known of the value that is being expanded, None if nothing is."""


@dataclass(frozen=True)
class Case:
    """A test case of an op: the shapes of its operands, attributes, and the range of values.

    Operands named in `secret` and `public` (by position) are weights and public constants; those in
    `bits` hold 0 and 1, the first of each row 1.
    """

    shapes: tuple[Shape, ...]
    attrs: Attrs = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0
    secret: tuple[int, ...] = ()
    public: tuple[int, ...] = ()
    bits: tuple[int, ...] = ()


class Op:
    """One operation. `attrs` names its attributes, always given; `optional` those that may be."""

    name: ClassVar[str]
    torch: ClassVar[tuple[str, ...]] = ()
    attrs: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    arity: ClassVar[tuple[int, int]] = (1, 1)
    dtype: ClassVar[str] = "f32"
    result: ClassVar[bool] = True
    primitive: ClassVar[bool] = False
    linear: ClassVar[bool] = False  # acts alike on a share, a masked wire and its mask

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        """Return the shape of the result. Raises ValueError if the operands do not fit."""
        raise NotImplementedError

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        """Return the result on plain arrays: floats, or int64 on the fixed level."""
        raise NotImplementedError

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        """Return the result, built from simpler ops. Only for ops that are no primitives."""
        raise NotImplementedError

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        """Return the fraction bits of the result on the fixed level, None if they are free."""
        return None

    def from_torch(self, b: Emitter, *args: Any, **kwargs: Any) -> str:
        """Return the result of the torch call with these arguments (operand names and literals)."""
        return b.emit(self.name, args)

    def cases(self) -> tuple[Case, ...]:
        """Return the cases that every test of the registry runs."""
        raise NotImplementedError


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """Return the NumPy broadcast of shapes. Raises ValueError if they do not match."""
    return tuple(np.broadcast_shapes(*shapes))


def axis_of(dim: int, rank: int) -> int:
    """Return `dim` counted from 0. Raises ValueError if there is no such axis."""
    if not -max(rank, 1) <= dim < max(rank, 1):
        raise ValueError(f"axis {dim} does not exist in a tensor of {rank} dimensions")
    return dim % max(rank, 1)


def ints(value: object) -> tuple[int, ...]:
    """Return an attribute that is a list of integers. Raises ValueError if it is not."""
    if not isinstance(value, tuple):
        raise ValueError(f"{value!r} is not a list of integers")
    return value


def integer(value: object) -> int:
    """Return an attribute that is an integer. Raises ValueError if it is not."""
    if not isinstance(value, int):
        raise ValueError(f"{value!r} is not an integer")
    return value


def real(value: object) -> float:
    """Return an attribute that is a number. Raises ValueError if it is not."""
    if not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is not a number")
    return value


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return a stride, padding or kernel size as a pair, as torch reads it."""
    if isinstance(value, int):
        return (value, value)
    values = tuple(int(v) for v in value)
    return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])


def require(condition: bool, b: Emitter, message: str, hint: str = "") -> None:
    """Raise a CompileError at the user's line unless `condition` holds."""
    if not condition:
        raise CompileError(message, b.loc, hint)
