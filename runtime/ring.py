"""Local linear instructions on arrays of ring elements.

Arrays hold Z_(2^w) in uint32 (w <= 32) or uint64. Bits above w may be garbage; what looks at bits
(`shift`, packing, gates) reduces first, with `canonical`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srcompile.runtime.isa import Attr, RingType
from srcompile.runtime.kernels import ring_dtype

Ring = NDArray[Any]  # uint32 or uint64
Attrs = Mapping[str, Attr]


def canonical(x: Ring, width: int) -> Ring:
    """Return x mod 2^width with the bits above zero."""
    if width == 8 * x.dtype.itemsize:
        return x
    return np.asarray(np.bitwise_and(x, x.dtype.type((1 << width) - 1)))


def as_width(x: Ring, width: int) -> Ring:
    """Return x in the dtype of Z_(2^width), which must not be larger than x's ring."""
    return x.astype(ring_dtype(width), copy=False)


def widened(x: Ring, old: int, new: int) -> Ring:
    """Return the integers 0..2^old - 1 that x stands for, in Z_(2^new)."""
    return canonical(canonical(x, old).astype(ring_dtype(new)), new)


def number(value: Attr, dtype: np.dtype[Any]) -> Any:
    """Return a public integer as a ring element."""
    assert isinstance(value, int)
    return dtype.type(value & ((1 << 8 * dtype.itemsize) - 1))


def _slices(attrs: Attrs) -> tuple[slice, ...]:
    triples = zip(attrs["starts"], attrs["stops"], attrs["steps"], strict=True)  # type: ignore[arg-type]
    return tuple(slice(*t) for t in triples)


def _pad(x: Ring, attrs: Attrs, out: Ring) -> Ring:
    out[...] = 0
    inside = tuple(
        slice(before, before + size)
        for before, size in zip(attrs["before"], x.shape, strict=True)  # type: ignore[arg-type]
    )
    out[inside] = x
    return out


def _axis(attrs: Attrs) -> int:
    axis = attrs["axis"]
    assert isinstance(axis, int)
    return axis


def _sum(x: Ring, attrs: Attrs, out: Ring) -> Ring:
    axes, keep = attrs["axes"], bool(attrs["keepdims"])
    assert isinstance(axes, tuple)
    return np.asarray(np.sum(x, axis=axes, keepdims=keep, dtype=x.dtype, out=out))


Local = Callable[[Sequence[Ring], Attrs, Ring], Ring]

COMPUTED: Mapping[str, Local] = {
    "add": lambda a, attrs, out: np.add(a[0], a[1], out=out),
    "sub": lambda a, attrs, out: np.subtract(a[0], a[1], out=out),
    "neg": lambda a, attrs, out: np.negative(a[0], out=out),
    "mul": lambda a, attrs, out: np.multiply(a[0], a[1], out=out),
    "scale": lambda a, attrs, out: np.multiply(a[0], number(attrs["by"], a[0].dtype), out=out),
    "sum": lambda a, attrs, out: _sum(a[0], attrs, out),
    "concat": lambda a, attrs, out: np.concatenate(a, axis=_axis(attrs), out=out),
    "pad": lambda a, attrs, out: _pad(a[0], attrs, out),
}
"""Instructions that write their result into an array they are given."""

VIEWS: Mapping[str, Callable[[Ring, Attrs, RingType], Ring]] = {
    "reshape": lambda x, attrs, new: x.reshape(new.shape),
    "broadcast": lambda x, attrs, new: np.broadcast_to(x, new.shape),
    "transpose": lambda x, attrs, new: x.transpose(attrs["perm"]),  # type: ignore[arg-type]
    "slice": lambda x, attrs, new: x[_slices(attrs)],
    "reduce": lambda x, attrs, new: as_width(x, new.width),
}
"""Instructions whose result may share memory with their operand."""


def shift(x: Ring, attrs: Attrs, old: RingType, new: RingType) -> Ring:
    """Return x >> by as an element of the ring that is `by` bits smaller."""
    by = attrs["by"]
    assert isinstance(by, int)
    return as_width(canonical(x, old.width) >> x.dtype.type(by), new.width)
