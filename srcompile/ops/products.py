"""Bilinear primitives (mul, matmul, conv2d) and the layers made of them."""

from __future__ import annotations

import math
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
    broadcast,
    integer,
    ints,
    pair,
    real,
    require,
)
from srcompile.ops.reductions import Softmax
from srcompile.runtime import isa


class _Product(Op):
    primitive = True
    arity = (2, 2)

    def frac(self, fracs: Sequence[int], attrs: Attrs) -> int | None:
        return fracs[0] + fracs[1]


class Mul(_Product):
    """x * y, elementwise."""

    name = "mul"
    torch = ("aten.mul.Tensor", "aten.mul.Scalar", "operator.mul", "torch.mul")

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return broadcast(shapes)

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(inputs[0] * inputs[1])

    def from_torch(self, b: Emitter, x: Any, y: Any) -> str:
        for value, number in ((x, y), (y, x)):
            if isinstance(number, (int, float)):
                return b.emit("scale", [value], {"by": float(number)})
        return b.emit(self.name, [x, y])

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 3), (2, 3))),
            Case(((2, 3), (3,))),
            Case(((2, 3), (3,)), secret=(1,)),
            Case(((3,), (2, 3)), secret=(0,)),
            Case(((2, 3), (3,)), public=(1,)),
        )


class Square(Op):
    """x * x."""

    name = "square"
    torch = ("aten.square.default", "torch.square")

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.square(inputs[0])

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        return b.emit("mul", [inputs[0], inputs[0]])

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 3),)),)


_ROOTS = {0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}


class Pow(Op):
    """x ** n for a whole n from 1 to 8."""

    name = "pow"
    torch = ("aten.pow.Tensor_Scalar", "operator.pow", "torch.pow")
    attrs = ("exponent",)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(inputs[0] ** integer(attrs["exponent"]))

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        exponent = integer(attrs["exponent"])
        if exponent == 1:
            return inputs[0]
        half = b.emit("pow", inputs, {"exponent": exponent // 2}) if exponent > 3 else inputs[0]
        square = b.emit("mul", [half, half])
        return b.emit("mul", [square, inputs[0]]) if exponent % 2 else square

    def from_torch(self, b: Emitter, x: Any, exponent: Any) -> str:
        numbers = isinstance(x, str) and isinstance(exponent, (int, float))
        require(numbers, b, "a power of a number or with a tensor as its exponent is not supported")
        if exponent in _ROOTS:
            return b.emit(_ROOTS[exponent], [x])
        whole = float(exponent).is_integer() and 1 <= exponent <= 8
        require(whole, b, f"x ** {exponent} is not supported", "Use a whole power from 1 to 8.")
        return b.emit(self.name, [x], {"exponent": int(exponent)})

    def cases(self) -> tuple[Case, ...]:
        return (Case(((3,),), {"exponent": 3}), Case(((3,),), {"exponent": 4}))


class MatMul(_Product):
    """x @ y, both at least 2-D, with broadcast batches."""

    name = "matmul"
    torch = (
        "aten.matmul.default", "aten.mm.default", "aten.bmm.default", "operator.matmul",
        "torch.matmul", "torch.mm", "torch.bmm", "method.matmul",
    )  # fmt: skip

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return isa.matmul_shape(*shapes)

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(inputs[0] @ inputs[1])

    def from_torch(self, b: Emitter, x: str, y: str) -> str:
        left, right = b.type(x).shape, b.type(y).shape
        require(min(len(left), len(right)) >= 1, b, "a matrix product needs at least one axis")
        if len(left) == 1:
            x = b.emit("reshape", [x], {"shape": (1, *left)})
        if len(right) == 1:
            y = b.emit("reshape", [y], {"shape": (*right, 1)})
        out = b.emit(self.name, [x, y])
        shape = list(b.type(out).shape)
        if len(left) == 1:
            del shape[-2]
        if len(right) == 1:
            del shape[-1]
        return out if len(shape) >= 2 else b.emit("reshape", [out], {"shape": tuple(shape)})

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((3, 4), (4, 2))),
            Case(((2, 3, 4), (2, 4, 2))),
            Case(((2, 5), (5, 3)), secret=(1,)),
            Case(((3, 5), (2, 5, 1)), secret=(0,)),
            Case(((3, 5), (5, 2)), public=(1,)),
        )


class Linear(Op):
    """x @ w^T + bias."""

    name = "linear"
    torch = ("aten.linear.default", "torch.nn.functional.linear", "torch._C._nn.linear")
    arity = (2, 3)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        x, w = shapes[:2]
        if (
            len(w) != 2
            or not x
            or x[-1] != w[1]
            or shapes[2:] not in ((), ((w[0],),), [(w[0],)], [])
        ):
            raise ValueError(f"{list(shapes)} do not fit a linear layer")
        return (*x[:-1], w[0])

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        out = inputs[0] @ inputs[1].T
        return np.asarray(out + inputs[2] if len(inputs) == 3 else out)

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        x = inputs[0]
        shape = b.type(x).shape
        if len(shape) == 1:
            x = b.emit("reshape", [x], {"shape": (1, *shape)})
        out = b.emit("matmul", [x, b.emit("transpose", [inputs[1]], {"perm": (1, 0)})])
        if len(inputs) == 3:
            out = b.emit("add", [out, inputs[2]])
        if len(shape) > 1:
            return out
        return b.emit("reshape", [out], {"shape": b.type(out).shape[1:]})

    def from_torch(self, b: Emitter, x: str, w: str, bias: str | None = None) -> str:
        return b.emit(self.name, [x, w] if bias is None else [x, w, bias])

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 5), (3, 5), (3,)), secret=(1, 2)),
            Case(((2, 4, 5), (3, 5)), secret=(1,)),
            Case(((5,), (3, 5), (3,)), secret=(1, 2)),
            Case(((2, 3), (4, 3), (4,))),
        )


class AddMM(Op):
    """bias + x @ w."""

    name = "addmm"
    torch = ("aten.addmm.default", "torch.addmm")
    arity = (3, 3)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return broadcast([shapes[0], isa.matmul_shape(shapes[1], shapes[2])])

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(inputs[0] + inputs[1] @ inputs[2])

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        return b.emit("add", [b.emit("matmul", inputs[1:]), inputs[0]])

    def from_torch(
        self, b: Emitter, bias: str, x: str, w: str, *, beta: float = 1, alpha: float = 1
    ) -> str:
        if alpha != 1:
            x = b.emit("scale", [x], {"by": float(alpha)})
        if beta != 1:
            bias = b.emit("scale", [bias], {"by": float(beta)})
        return b.emit(self.name, [bias, x, w])

    def cases(self) -> tuple[Case, ...]:
        return (Case(((3,), (2, 5), (5, 3)), secret=(0, 2)),)


class Conv2d(_Product):
    """2-D convolution: x (N,C,H,W), w (O,C/groups,kh,kw). torch's bias becomes an `add`."""

    name = "conv2d"
    torch = ("aten.conv2d.default", "aten.conv2d.padding", "torch.conv2d")
    attrs = ("stride", "padding", "dilation", "groups")

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return isa.conv2d_shape(shapes[0], shapes[1], attrs)

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        x, w = inputs
        (sh, sw), (ph, pw), (dh, dw) = (
            ints(attrs[name]) for name in ("stride", "padding", "dilation")
        )
        groups = integer(attrs["groups"])
        x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
        out = np.zeros(isa.conv2d_shape(inputs[0].shape, w.shape, attrs), x.dtype)
        height, width = out.shape[2:]
        for g in range(groups):
            o = slice(g * w.shape[0] // groups, (g + 1) * w.shape[0] // groups)
            c = slice(g * w.shape[1], (g + 1) * w.shape[1])
            for i in range(w.shape[2]):
                for j in range(w.shape[3]):
                    rows = slice(i * dh, i * dh + (height - 1) * sh + 1, sh)
                    cols = slice(j * dw, j * dw + (width - 1) * sw + 1, sw)
                    window = x[:, c, rows, cols]
                    out[:, o] += np.einsum("nchw,oc->nohw", window, w[o, :, i, j])
        return out

    def from_torch(
        self,
        b: Emitter,
        x: str,
        w: str,
        bias: str | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> str:
        shape = b.type(x).shape
        if len(shape) == 3:
            x = b.emit("reshape", [x], {"shape": (1, *shape)})
        attrs: dict[str, Any] = {
            "stride": pair(stride),
            "dilation": pair(dilation),
            "groups": groups,
        }
        if padding == "same":
            x, padding = self._pad_same(b, x, w, attrs["dilation"], attrs["stride"])
        attrs["padding"] = pair(0 if padding == "valid" else padding)
        out = b.emit(self.name, [x, w], {name: attrs[name] for name in self.attrs})
        if bias is not None:
            channels = b.type(bias).shape[0]
            out = b.emit("add", [out, b.emit("reshape", [bias], {"shape": (1, channels, 1, 1)})])
        if len(shape) == 3:
            out = b.emit("reshape", [out], {"shape": b.type(out).shape[1:]})
        return out

    @staticmethod
    def _pad_same(b: Emitter, x: str, w: str, dilation: Any, stride: Any) -> tuple[str, int]:
        require(stride == (1, 1), b, 'padding="same" needs a stride of 1')
        total = [d * (k - 1) for d, k in zip(dilation, b.type(w).shape[2:], strict=True)]
        before = (0, 0, *(t // 2 for t in total))
        after = (0, 0, *(t - t // 2 for t in total))
        return b.emit("pad", [x], {"before": before, "after": after}), 0

    def cases(self) -> tuple[Case, ...]:
        def attrs(stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1) -> Attrs:
            return {
                "stride": (stride, stride),
                "padding": (padding, padding),
                "dilation": (dilation, dilation),
                "groups": groups,
            }

        return (
            Case(((1, 2, 5, 5), (3, 2, 3, 3)), attrs(padding=1), secret=(1,)),
            Case(((2, 4, 5, 6), (4, 2, 3, 2)), attrs(stride=2, groups=2), secret=(1,)),
            Case(((1, 2, 6, 6), (2, 1, 2, 2)), attrs(dilation=2, groups=2), secret=(1,)),
            Case(((1, 2, 4, 4), (2, 2, 3, 3)), attrs()),
        )


class BatchNorm(Op):
    """Batch normalisation in evaluation mode: x, weight, bias, running mean, running variance."""

    name = "batch_norm"
    torch = ("aten.batch_norm.default", "torch.batch_norm")
    attrs = ("eps",)
    arity = (5, 5)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        if len(shapes[0]) < 2 or any(s != (shapes[0][1],) for s in shapes[1:]):
            raise ValueError(f"{list(shapes)} do not fit a batch norm")
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        x, w, bias, mean, var = inputs
        axes = (1, -1, *[1] * (x.ndim - 2))
        scale = w / np.sqrt(var + real(attrs["eps"]))
        return np.asarray((x - mean.reshape(axes)) * scale.reshape(axes) + bias.reshape(axes))

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        # y = x * s + t  with  s = w / sqrt(var + eps),  t = bias - mean * s
        x, w, bias, mean, var = inputs
        inverse = b.emit("rsqrt", [b.emit("offset", [var], {"by": real(attrs["eps"])})])
        s = b.emit("mul", [w, inverse])
        t = b.emit("sub", [bias, b.emit("mul", [mean, s])])
        shape = b.type(x).shape
        axes = {"shape": (1, shape[1], *[1] * (len(shape) - 2))}
        s, t = b.emit("reshape", [s], axes), b.emit("reshape", [t], axes)
        return b.emit("add", [b.emit("mul", [x, s]), t])

    def from_torch(
        self,
        b: Emitter,
        x: str,
        weight: str | None,
        bias: str | None,
        mean: str,
        var: str,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
        cudnn_enabled: bool = True,
    ) -> str:
        require(not training, b, "batch norm is in training mode", "Call model.eval() first.")
        require(bool(mean and var), b, "batch norm keeps no running statistics")
        channels = b.type(x).shape[1]
        weight = weight or b.const(np.ones(channels, np.float32))
        bias = bias or b.const(np.zeros(channels, np.float32))
        return b.emit(self.name, [x, weight, bias, mean, var], {"eps": float(eps)})

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 3, 2, 2), (3,), (3,), (3,), (3,)), {"eps": 1e-5}, 0.5, 2.0, (1, 2, 3, 4)),
            Case(((2, 3), (3,), (3,), (3,), (3,)), {"eps": 1e-3}, 0.5, 2.0, (1, 2, 3, 4)),
        )


class ScaledDotProductAttention(Op):
    """softmax(q k^T * scale) v; a fourth operand, of 0 and 1, says which scores count."""

    name = "attention"
    torch = (
        "aten.scaled_dot_product_attention.default",
        "torch.nn.functional.scaled_dot_product_attention",
        "torch._C._nn.scaled_dot_product_attention",
    )
    attrs = ("scale",)
    arity = (3, 4)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        q, k, v = shapes[:3]
        return isa.matmul_shape(isa.matmul_shape(q, (*k[:-2], k[-1], k[-2])), v)

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        q, k, v = inputs[:3]
        scores = q @ np.swapaxes(k, -1, -2) * real(attrs["scale"])
        softmax = Softmax().reference([scores, *inputs[3:]], {"axis": scores.ndim - 1})
        return np.asarray(softmax @ v)

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        q, k, v = inputs[:3]
        rank = len(b.type(k).shape)
        swap = (*range(rank - 2), rank - 1, rank - 2)
        # the factor is q's, not that of the scores, which are more and would be opened for it
        q = b.emit("scale", [q], {"by": real(attrs["scale"])})
        scores = b.emit("matmul", [q, b.emit("transpose", [k], {"perm": swap})])
        axis = len(b.type(scores).shape) - 1
        return b.emit("matmul", [b.emit("softmax", [scores, *inputs[3:]], {"axis": axis}), v])

    def from_torch(
        self,
        b: Emitter,
        q: str,
        k: str,
        v: str,
        attn_mask: str | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> str:
        require(dropout_p == 0.0, b, "attention has dropout", "Call model.eval() first.")
        require(not enable_gqa, b, "grouped-query attention is not supported")
        require(not is_causal, b, "is_causal is not supported")  # the translator makes it a mask
        scale = 1.0 / math.sqrt(b.type(q).shape[-1]) if scale is None else scale
        if attn_mask is None:
            return b.emit(self.name, [q, k, v], {"scale": float(scale)})
        rank = len(b.type(k).shape)  # a float mask is added to the scores as it is
        swapped = b.emit("transpose", [k], {"perm": (*range(rank - 2), rank - 1, rank - 2)})
        scores = b.emit("scale", [b.emit("matmul", [q, swapped])], {"by": float(scale)})
        scores = b.emit("add", [scores, attn_mask])
        axis = len(b.type(scores).shape) - 1
        return b.emit("matmul", [b.emit("softmax", [scores], {"axis": axis}), v])

    def cases(self) -> tuple[Case, ...]:
        qkv = ((2, 3, 4), (2, 3, 4), (2, 3, 4))
        return (Case(qkv, {"scale": 0.5}), Case((*qkv, (2, 1, 3)), {"scale": 0.5}, bits=(3,)))


OPS: tuple[Op, ...] = (
    Mul(), Square(), Pow(), MatMul(), Linear(), AddMM(), Conv2d(), BatchNorm(),
    ScaledDotProductAttention(),
)  # fmt: skip
