"""Linear primitives: they act alike on shares, on masked wires and on masks, and send nothing.

Also the elementwise torch calls that become them (a + 2, a / 4, a * weight).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from srcompile.ir.graph import Array
from srcompile.ir.types import Shape
from srcompile.ops.base import (
    Attrs,
    Case,
    Emitter,
    Op,
    axis_of,
    broadcast,
    integer,
    ints,
    real,
    require,
)
from srcompile.runtime import isa


class _Linear(Op):
    primitive = True
    linear = True

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        if len(set(fracs)) != 1:
            raise ValueError(f"operands have different fraction bits: {list(fracs)}")
        return fracs[0]


class _Sum(_Linear):
    """a + b and a - b, which torch scales by `alpha` and mixes with numbers."""

    arity = (2, 2)
    sign = 1

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return broadcast(shapes)

    def from_torch(self, b: Emitter, x: Any, y: Any, *, alpha: float = 1) -> str:
        if isinstance(y, (int, float)):
            return b.emit("offset", [x], {"by": float(self.sign * y * alpha)})
        if isinstance(x, (int, float)):
            scaled = b.emit("scale", [y], {"by": float(self.sign * alpha)})
            return b.emit("offset", [scaled], {"by": float(x)})
        if alpha != 1:
            y = b.emit("scale", [y], {"by": float(alpha)})
        return b.emit(self.name, [x, y])

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 3), (2, 3))),
            Case(((2, 3), (1, 3))),
            Case(((4,), (4,)), secret=(1,)),
            Case(((2, 3), (3,)), secret=(0,)),
            Case(((2, 3), (3,)), public=(1,)),
            Case(((2, 3), (3,)), public=(0,)),
        )


class Add(_Sum):
    """x + y."""

    name = "add"
    torch = ("aten.add.Tensor", "aten.add.Scalar", "aten.add_.Tensor", "operator.add", "torch.add")

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(inputs[0] + inputs[1])


class Sub(_Sum):
    """x - y."""

    name = "sub"
    torch = ("aten.sub.Tensor", "aten.sub.Scalar", "aten.sub_.Tensor", "operator.sub", "torch.sub")
    sign = -1

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(inputs[0] - inputs[1])


class RSub(Op):
    """y - x (torch.rsub)."""

    name = "rsub"
    torch = ("aten.rsub.Scalar", "aten.rsub.Tensor", "torch.rsub")
    arity = (2, 2)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return broadcast(shapes)

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(inputs[1] - inputs[0])

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        return b.emit("sub", [inputs[1], inputs[0]])

    def from_torch(self, b: Emitter, x: Any, y: Any, *, alpha: float = 1) -> str:
        if alpha != 1:
            x = b.emit("scale", [x], {"by": float(alpha)})
        if isinstance(y, (int, float)):
            return b.emit("offset", [b.emit("neg", [x])], {"by": float(y)})
        return b.emit(self.name, [x, y])

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 3), (3,))),)


class Neg(_Linear):
    """-x."""

    name = "neg"
    torch = ("aten.neg.default", "operator.neg", "torch.neg")

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(-inputs[0])

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 3),)),)


class Scale(_Linear):
    """x * by, `by` public. On the fixed level by is an integer, and x * by * 2^-frac is meant."""

    name = "scale"
    attrs = ("by",)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        real(attrs["by"])
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(inputs[0] * inputs[0].dtype.type(attrs["by"]))

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        return None

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 3),), {"by": 0.37}),
            Case(((2, 3),), {"by": 0.25}),
            Case(((3,),), {"by": -3.0}),
            Case(((3,),), {"by": 0.0}),
        )


class Offset(_Linear):
    """x + by, `by` public. On the fixed level by is an integer of x's fraction bits."""

    name = "offset"
    attrs = ("by",)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        real(attrs["by"])
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(inputs[0] + inputs[0].dtype.type(attrs["by"]))

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 3),), {"by": 1.5}), Case(((2, 3),), {"by": -0.001}))


class Div(Op):
    """x / c, c a public number."""

    name = "div"
    torch = ("aten.div.Tensor", "aten.div.Scalar", "operator.truediv", "torch.div")
    attrs = ("by",)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        real(attrs["by"])
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(inputs[0] / real(attrs["by"]))

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        return b.emit("scale", inputs, {"by": 1.0 / real(attrs["by"])})

    def from_torch(self, b: Emitter, x: Any, y: Any) -> str:
        if isinstance(x, (int, float)):
            return b.emit("scale", [b.emit("reciprocal", [y])], {"by": float(x)})
        if isinstance(y, str):
            return b.emit("mul", [x, b.emit("reciprocal", [y])])
        require(y != 0, b, "this divides by zero")
        return b.emit("div", [x], {"by": float(y)})

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 3),), {"by": 3.0}), Case(((4,),), {"by": 8.0}))


class _OverAxes(Op):
    """What sum and mean have in common."""

    attrs = ("axes", "keepdims")

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return isa.sum_shape(shapes[0], attrs)

    def from_torch(
        self, b: Emitter, x: str, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
    ) -> str:
        rank = len(b.type(x).shape)
        dims = range(rank) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
        axes = tuple(sorted(axis_of(d, rank) for d in dims)) if rank else ()
        return b.emit(self.name, [x], {"axes": axes, "keepdims": keepdim})


class Sum(_OverAxes, _Linear):
    """Sum over axes."""

    name = "sum"
    torch = ("aten.sum.dim_IntList", "aten.sum.default", "torch.sum")

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        axes = ints(attrs["axes"])
        return np.asarray(np.sum(inputs[0], axis=axes, keepdims=bool(attrs["keepdims"])))

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 3, 4),), {"axes": (1,), "keepdims": False}),
            Case(((2, 3, 4),), {"axes": (0, 2), "keepdims": True}),
        )


class Mean(_OverAxes):
    """Mean over axes: a sum and a public factor."""

    name = "mean"
    torch = ("aten.mean.dim", "aten.mean.default", "torch.mean")

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        axes = ints(attrs["axes"])
        return np.asarray(np.mean(inputs[0], axis=axes, keepdims=bool(attrs["keepdims"])))

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        shape = b.type(inputs[0]).shape
        count = int(np.prod([shape[a] for a in ints(attrs["axes"])]))
        return b.emit("scale", [b.emit("sum", inputs, attrs)], {"by": 1.0 / count})

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 3, 4),), {"axes": (1,), "keepdims": False}),
            Case(((2, 4, 4),), {"axes": (1, 2), "keepdims": True}),
        )


class Reshape(_Linear):
    """The same elements in another shape."""

    name = "reshape"
    attrs = ("shape",)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        shape = ints(attrs["shape"])
        if int(np.prod(shapes[0])) != int(np.prod(shape)) or min(shape, default=1) < 0:
            raise ValueError(f"{shapes[0]} cannot be reshaped to {shape}")
        return shape

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return inputs[0].reshape(ints(attrs["shape"]))

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 6),), {"shape": (3, 4)}), Case(((4,),), {"shape": (1, 4, 1)}))


class Broadcast(_Linear):
    """x repeated along axes of size 1 (torch.expand)."""

    name = "broadcast"
    torch = ("aten.expand.default", "method.expand")
    attrs = ("shape",)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        shape = ints(attrs["shape"])
        if broadcast([shapes[0], shape]) != shape:
            raise ValueError(f"{shapes[0]} does not expand to {shape}")
        return shape

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.broadcast_to(inputs[0], ints(attrs["shape"]))

    def from_torch(self, b: Emitter, x: str, *sizes: Any, implicit: bool = False) -> str:
        size = sizes[0] if isinstance(sizes[0], (list, tuple)) else sizes
        old = b.type(x).shape
        old = (1,) * (len(size) - len(old)) + old
        shape = tuple(o if s == -1 else s for s, o in zip(size, old, strict=True))
        return b.emit(self.name, [x], {"shape": shape})

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 1, 3),), {"shape": (2, 4, 3)}),)


class Transpose(_Linear):
    """Axes in another order."""

    name = "transpose"
    attrs = ("perm",)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        perm = ints(attrs["perm"])
        if sorted(perm) != list(range(len(shapes[0]))):
            raise ValueError(f"{perm} is not an order of the axes of {shapes[0]}")
        return tuple(shapes[0][p] for p in perm)

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return inputs[0].transpose(ints(attrs["perm"]))

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 3, 4),), {"perm": (2, 0, 1)}),)


class Slice(_Linear):
    """x[start:stop:step, ...], one triple for each axis."""

    name = "slice"
    attrs = ("starts", "stops", "steps")

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return isa.slice_shape(shapes[0], attrs)

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        triples = zip(*(ints(attrs[n]) for n in ("starts", "stops", "steps")), strict=True)
        return inputs[0][tuple(slice(*t) for t in triples)]

    def cases(self) -> tuple[Case, ...]:
        return (Case(((4, 5),), {"starts": (1, 0), "stops": (3, 5), "steps": (1, 2)}),)


def slice_axis(b: Emitter, x: str, axis: int, start: int, stop: int, step: int = 1) -> str:
    """Return x[..., start:stop:step, ...] along one axis."""
    shape = b.type(x).shape
    starts = tuple(start if i == axis else 0 for i in range(len(shape)))
    stops = tuple(stop if i == axis else s for i, s in enumerate(shape))
    steps = tuple(step if i == axis else 1 for i in range(len(shape)))
    return b.emit("slice", [x], {"starts": starts, "stops": stops, "steps": steps})


class Concat(_Linear):
    """Tensors joined along an axis."""

    name = "concat"
    torch = ("aten.cat.default", "torch.cat", "torch.concat")
    attrs = ("axis",)
    arity = (1, 1 << 16)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return isa.concat_shape(shapes, integer(attrs["axis"]))

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.concatenate(inputs, axis=integer(attrs["axis"]))

    def from_torch(self, b: Emitter, xs: Sequence[str], dim: int = 0) -> str:
        return b.emit(self.name, xs, {"axis": axis_of(dim, len(b.type(xs[0]).shape))})

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 3), (2, 1)), {"axis": 1}),
            Case(((1, 2), (3, 2), (1, 2)), {"axis": 0}, secret=(2,)),
            Case(((1, 2), (3, 2)), {"axis": 0}, public=(1,)),
        )


class Pad(_Linear):
    """x with zeros around it."""

    name = "pad"
    torch = ("aten.pad.default", "aten.constant_pad_nd.default", "torch.nn.functional.pad")
    attrs = ("before", "after")

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return isa.pad_shape(shapes[0], attrs)

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        widths = tuple(zip(ints(attrs["before"]), ints(attrs["after"]), strict=True))
        return np.pad(inputs[0], widths)

    def from_torch(
        self,
        b: Emitter,
        x: str,
        pad: Sequence[int],
        mode: str | float = "constant",
        value: float | None = None,
    ) -> str:
        # aten.constant_pad_nd has the value in the place of the mode
        zeros = mode == "constant" and not value if isinstance(mode, str) else mode == 0
        require(zeros, b, "padding with anything but zeros is not supported")
        require(min(pad, default=0) >= 0, b, "negative padding is not supported", "Use a slice.")
        # torch lists (before, after) of the last axis first
        rank, count = len(b.type(x).shape), len(pad) // 2
        lead = (0,) * (rank - count)
        attrs = {"before": (*lead, *pad[-2::-2]), "after": (*lead, *pad[::-2])}
        return b.emit(self.name, [x], attrs)

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 3),), {"before": (0, 1), "after": (2, 1)}),)


OPS: tuple[Op, ...] = (
    Add(), Sub(), RSub(), Neg(), Scale(), Offset(), Div(), Sum(), Mean(), Reshape(), Broadcast(),
    Transpose(), Slice(), Concat(), Pad(),
)  # fmt: skip
