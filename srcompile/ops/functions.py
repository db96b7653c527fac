"""Functions of one variable. Each is a table gate under MPC: one opening, whatever the function."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from scipy.special import erf

from srcompile.ir.graph import Array
from srcompile.ir.types import Shape
from srcompile.ops.base import Attrs, Case, Emitter, Op, integer, real, require


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


class Function(Op):
    """y = f(x), elementwise; `domain` is where f is defined.

    relative: whether an error of f counts in proportion to its value, as for a factor of a row,
        rather than to the size of its values.
    """

    primitive = True
    domain: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    relative: ClassVar[bool] = False
    f: ClassVar[Callable[..., Any]]
    low: ClassVar[float] = -6.0
    high: ClassVar[float] = 6.0

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return shapes[0]

    def domain_of(self, attrs: Attrs) -> tuple[float, float]:
        """Return where f is defined."""
        return self.domain

    def at(self, x: Array, attrs: Attrs) -> Array:
        """Return f(x) as float64, the argument clipped to the domain."""
        return np.asarray(self.f(np.clip(x.astype(np.float64), *self.domain)))

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return self.at(inputs[0], attrs).astype(inputs[0].dtype)

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 7),), low=self.low, high=self.high),)


class Sigmoid(Function):
    """1 / (1 + exp(-x))."""

    name = "sigmoid"
    torch = ("aten.sigmoid.default", "torch.sigmoid", "torch.nn.functional.sigmoid")
    f = staticmethod(_sigmoid)


class Tanh(Function):
    """tanh x."""

    name = "tanh"
    torch = ("aten.tanh.default", "torch.tanh", "torch.nn.functional.tanh")
    f = staticmethod(np.tanh)


class Gelu(Function):
    """x * Phi(x), exact (erf)."""

    name = "gelu"
    torch = ("aten.gelu.default", "torch.nn.functional.gelu", "torch._C._nn.gelu")
    f = staticmethod(lambda x: 0.5 * x * (1.0 + erf(x / math.sqrt(2.0))))

    def from_torch(self, b: Emitter, x: str, *, approximate: str = "none") -> str:
        return b.emit("gelu_tanh" if approximate == "tanh" else "gelu", [x])


class GeluTanh(Function):
    """GELU in its tanh form, as GPT-2 has it."""

    name = "gelu_tanh"
    f = staticmethod(
        lambda x: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    )


class Silu(Function):
    """x * sigmoid(x)."""

    name = "silu"
    torch = ("aten.silu.default", "torch.nn.functional.silu")
    f = staticmethod(lambda x: x * _sigmoid(x))

    def from_torch(self, b: Emitter, x: str, inplace: bool = False) -> str:
        return b.emit(self.name, [x])


class Erf(Function):
    """erf x."""

    name = "erf"
    torch = ("aten.erf.default", "torch.erf")
    f = staticmethod(erf)


class Exp(Function):
    """exp x."""

    name = "exp"
    torch = ("aten.exp.default", "torch.exp")
    f = staticmethod(np.exp)
    relative = True
    low, high = -6.0, 1.0


class Reciprocal(Function):
    """1 / x for positive x."""

    name = "reciprocal"
    torch = ("aten.reciprocal.default", "torch.reciprocal")
    relative = True
    domain = (2.0**-20, math.inf)
    f = staticmethod(lambda x: 1.0 / x)
    low, high = 1.0, 8.0


class Sqrt(Function):
    """sqrt x for x >= 0."""

    name = "sqrt"
    torch = ("aten.sqrt.default", "torch.sqrt")
    domain = (0.0, math.inf)
    f = staticmethod(np.sqrt)
    low, high = 0.5, 8.0


class RSqrt(Function):
    """1 / sqrt x for positive x."""

    name = "rsqrt"
    torch = ("aten.rsqrt.default", "torch.rsqrt")
    relative = True
    domain = (2.0**-30, math.inf)
    f = staticmethod(lambda x: 1.0 / np.sqrt(x))
    low, high = 0.5, 8.0


class Equals(Function):
    """1 where x equals a whole number, else 0; x must hold whole numbers."""

    name = "equals"
    attrs = ("to",)

    def at(self, x: Array, attrs: Attrs) -> Array:
        return np.asarray(np.rint(x) == integer(attrs["to"])).astype(np.float64)

    def cases(self) -> tuple[Case, ...]:
        return ()  # exact on whole numbers only: tested through argmax


class Relu(Op):
    """max(x, 0)."""

    name = "relu"
    torch = ("aten.relu.default", "aten.relu_.default", "torch.relu", "torch.nn.functional.relu")
    primitive = True

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(np.maximum(inputs[0], inputs[0].dtype.type(0)))

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        return fracs[0]

    def from_torch(self, b: Emitter, x: str, inplace: bool = False) -> str:
        return b.emit(self.name, [x])

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 9),)), Case(((1,),), low=0.0, high=5.0))


class NonNeg(Op):
    """1 where x >= 0, else 0."""

    name = "nonneg"
    primitive = True

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return (inputs[0] >= 0).astype(inputs[0].dtype)

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        return 0

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 9),)),)


class LeakyRelu(Op):
    """max(x, 0) + slope * min(x, 0)."""

    name = "leaky_relu"
    torch = ("aten.leaky_relu.default", "torch.nn.functional.leaky_relu")
    attrs = ("slope",)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        x = inputs[0]
        return np.where(x >= 0, x, x * x.dtype.type(attrs["slope"]))

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        # leaky(x) = slope * x + (1 - slope) * relu(x)
        slope = real(attrs["slope"])
        line = b.emit("scale", inputs, {"by": slope})
        bend = b.emit("scale", [b.emit("relu", inputs)], {"by": 1.0 - slope})
        return b.emit("add", [line, bend])

    def from_torch(
        self, b: Emitter, x: str, negative_slope: float = 0.01, inplace: bool = False
    ) -> str:
        return b.emit(self.name, [x], {"slope": float(negative_slope)})

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 9),), {"slope": 0.125}),)


class Clamp(Op):
    """x limited to low..high by two ReLUs, or one if a side is open."""

    name = "clamp"
    torch = ("aten.clamp.default", "torch.clamp")
    attrs = ("low", "high")

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.clip(inputs[0], real(attrs["low"]), real(attrs["high"]))

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        # clamp(x) = low + relu(x - low) - relu(x - high)
        low, high = real(attrs["low"]), real(attrs["high"])
        x, out = inputs[0], inputs[0]
        if low > -math.inf:
            above = b.emit("relu", [b.emit("offset", [x], {"by": -low})])
            out = b.emit("offset", [above], {"by": low})
        if high < math.inf:
            excess = b.emit("relu", [b.emit("offset", [x], {"by": -high})])
            out = b.emit("sub", [out, excess])
        return out

    def from_torch(
        self, b: Emitter, x: str, min: float | None = None, max: float | None = None
    ) -> str:
        numbers = all(v is None or isinstance(v, (int, float)) for v in (min, max))
        require(numbers, b, "clamp limits must be numbers")
        low = -math.inf if min is None else float(min)
        high = math.inf if max is None else float(max)
        return b.emit(self.name, [x], {"low": low, "high": high})

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 9),), {"low": -1.0, "high": 0.5}),
            Case(((9,),), {"low": -math.inf, "high": 1.0}),
        )


OPS: tuple[Op, ...] = (
    Sigmoid(), Tanh(), Gelu(), GeluTanh(), Silu(), Erf(), Exp(), Reciprocal(), Sqrt(), RSqrt(),
    Equals(), Relu(), NonNeg(), LeakyRelu(), Clamp(),
)  # fmt: skip
