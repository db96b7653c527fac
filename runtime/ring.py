"""Local linear instructions on arrays of ring elements: functions, from attributes and types.

Arrays hold Z_(2^w) in uint32 (w <= 32) or uint64. Bits above w may be garbage; what looks at bits
(`shift`, packing, gates) reduces first, with `canonical`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
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


def _scale(attrs: Attrs, old: RingType) -> Compute:
    return partial(np.multiply, number(attrs["by"], ring_dtype(old.width)))


def _sum(attrs: Attrs, old: RingType) -> Compute:
    axes: Any = attrs["axes"]
    keep, dtype = bool(attrs["keepdims"]), ring_dtype(old.width)
    return lambda x, out: np.add.reduce(x, axis=axes, dtype=dtype, out=out, keepdims=keep)


def _concat(attrs: Attrs, old: RingType) -> Compute:
    axis: Any = attrs["axis"]
    return lambda *arrays: np.concatenate(arrays[:-1], axis, arrays[-1])


def _pad(attrs: Attrs, old: RingType) -> Compute:
    before: Any = attrs["before"]
    inside = tuple(slice(b, b + size) for b, size in zip(before, old.shape, strict=True))

    def pad(x: Ring, out: Ring) -> Ring:
        out[...] = 0
        out[inside] = x
        return out

    return pad


Compute = Callable[..., Any]  # of the operands' values

COMPUTED: Mapping[str, Callable[[Attrs, RingType], Compute]] = {
    "add": lambda attrs, old: np.add,
    "sub": lambda attrs, old: np.subtract,
    "neg": lambda attrs, old: np.negative,
    "mul": lambda attrs, old: np.multiply,
    "scale": _scale,
    "sum": _sum,
    "concat": _concat,
    "pad": _pad,
}
"""Instructions that write their result into an array, their last argument, and return it."""


def _broadcast(attrs: Attrs, old: RingType, new: RingType) -> Compute:
    return lambda x: np.broadcast_to(x, new.shape)


def _transpose(attrs: Attrs, old: RingType, new: RingType) -> Compute:
    perm: Any = attrs["perm"]
    return lambda x: x.transpose(perm)


VIEWS: Mapping[str, Callable[[Attrs, RingType, RingType], Compute]] = {
    "reshape": lambda attrs, old, new: lambda x: x.reshape(new.shape),
    "broadcast": _broadcast,
    "transpose": _transpose,
    "slice": lambda attrs, old, new: itemgetter(_slices(attrs)),
    "reduce": lambda attrs, old, new: lambda x: as_width(x, new.width),
}
"""Instructions whose result may share memory with their operand."""


def shift(attrs: Attrs, old: RingType, new: RingType) -> Compute:
    """Return x -> x >> by, an element of the ring that is `by` bits smaller."""
    by: Any = attrs["by"]
    dtype, count = ring_dtype(new.width), ring_dtype(old.width).type(by)
    return lambda x: (canonical(x, old.width) >> count).astype(dtype, copy=False)
