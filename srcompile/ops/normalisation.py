"""Normalisation by statistics of the input itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from srcompile.ir.graph import Array
from srcompile.ir.types import Shape
from srcompile.ops.base import Attrs, Case, Emitter, Op, real, require


class LayerNorm(Op):
    """(x - mean) / sqrt(variance + eps) over the last axis, then weight and bias, if given.

    With n elements, q = n / 2^k in (1/2, 1] and the centring matrix C = 1 - 1/n:
        c = x·C                     = x - mean
        s = sum(c·c) / 2^k          = q·variance
        y = c·rsqrt(s + eps·q)·(sqrt(q)·weight) + bias
    A linear layer before takes C into its weights, and three openings remain: s, its inverse root,
    the product.
    """

    name = "layer_norm"
    torch = ("aten.layer_norm.default", "torch.nn.functional.layer_norm", "torch.layer_norm")
    attrs = ("eps",)
    arity = (1, 3)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        x = shapes[0]
        if not x or any(s != (x[-1],) for s in shapes[1:]):
            raise ValueError(f"{list(shapes)} do not fit a layer norm over the last axis")
        return x

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        x = inputs[0]
        centred = x - x.mean(-1, keepdims=True)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        y = centred / np.sqrt(variance + x.dtype.type(real(attrs["eps"])))
        for operand, combine in zip(inputs[1:], (np.multiply, np.add), strict=False):
            y = combine(y, operand)
        return np.asarray(y)

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        x, shape = inputs[0], b.type(inputs[0]).shape
        k = math.ceil(math.log2(shape[-1]))
        q = shape[-1] / 2**k
        row: Attrs = {"axes": (len(shape) - 1,), "keepdims": True}
        c = b.emit("matmul", [x, b.const(_centring(shape[-1]).view(), "centring")])
        s = b.emit("scale", [b.emit("sum", [b.emit("mul", [c, c])], row)], {"by": 2.0**-k})
        root = b.emit("rsqrt", [b.emit("offset", [s], {"by": real(attrs["eps"]) * q})])
        y = b.emit("mul", [c, root])
        if len(inputs) == 1:
            return b.emit("scale", [y], {"by": math.sqrt(q)})
        y = b.emit("mul", [y, b.emit("scale", [inputs[1]], {"by": math.sqrt(q)})])
        return b.emit("add", [y, inputs[2]]) if len(inputs) == 3 else y

    def from_torch(
        self,
        b: Emitter,
        x: str,
        normalized_shape: Sequence[int],
        weight: str | None = None,
        bias: str | None = None,
        eps: float = 1e-5,
        cudnn_enable: bool = True,
    ) -> str:
        one_axis = len(normalized_shape) == 1
        require(one_axis, b, "layer_norm over several axes is not supported", "Flatten them first.")
        given = [operand for operand in (weight, bias) if operand is not None]
        plain = weight is None and bias is not None
        out = b.emit(self.name, [x] if plain else [x, *given], {"eps": float(eps)})
        return b.emit("add", [out, given[0]]) if plain else out

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 3, 8), (8,), (8,)), {"eps": 1e-5}, secret=(1, 2)),
            Case(((4, 6),), {"eps": 1e-12}),
            Case(((3, 5), (5,)), {"eps": 1e-3}, secret=(1,)),
        )


@cache
def _centring(n: int) -> Array:
    """Return C = 1 - 1/n; all layers of a model look at one array."""
    made = (np.eye(n) - 1.0 / n).astype(np.float32)
    made.flags.writeable = False
    return made


OPS: tuple[Op, ...] = (LayerNorm(),)
