"""Maxima, arg maxima, softmax and pooling, expanded into comparisons and linear ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    pair,
    require,
)
from srcompile.ops.linear import slice_axis

ALL_PAIRS = 16
"""Up to so many candidates are compared all with all (one comparison round), above in groups."""


class Maximum(Op):
    """max(x, y), elementwise."""

    name = "maximum"
    torch = ("aten.maximum.default", "aten.max.other", "torch.maximum")
    arity = (2, 2)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return broadcast(shapes)

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return np.asarray(np.maximum(inputs[0], inputs[1]))

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        x, y = inputs
        return b.emit("add", [y, b.emit("relu", [b.emit("sub", [x, y])])])

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 4), (2, 4))),)


def maximum_of(b: Emitter, values: Sequence[str]) -> str:
    """Return the elementwise maximum of several tensors: a tree, so log2(n) comparison rounds."""
    level = list(values)
    while len(level) > 1:
        pairs = [b.emit("maximum", level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def _drop_axis(shape: Shape, axis: int, keepdims: bool) -> Shape:
    return (*shape[:axis], *((1,) if keepdims else ()), *shape[axis + 1 :])


class AMax(Op):
    """Maximum along an axis."""

    name = "amax"
    torch = ("aten.amax.default", "torch.amax")
    attrs = ("axis", "keepdims")

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return _drop_axis(shapes[0], integer(attrs["axis"]), bool(attrs["keepdims"]))

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        axis, keepdims = integer(attrs["axis"]), bool(attrs["keepdims"])
        return np.asarray(np.max(inputs[0], axis=axis, keepdims=keepdims))

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        axis, x = integer(attrs["axis"]), inputs[0]
        size = b.type(x).shape[axis]
        while size > 1:  # halve the row: max of its two halves, an odd element carried along
            half = size // 2
            top = b.emit(
                "maximum",
                [slice_axis(b, x, axis, 0, half), slice_axis(b, x, axis, half, 2 * half)],
            )
            if size % 2:
                rest = slice_axis(b, x, axis, 2 * half, size)
                top = b.emit("concat", [top, rest], {"axis": axis})
            x, size = top, size - half
        if attrs["keepdims"]:
            return x
        return b.emit("reshape", [x], {"shape": _drop_axis(b.type(x).shape, axis, False)})

    def from_torch(self, b: Emitter, x: str, dim: Any = (), keepdim: bool = False) -> str:
        dims = [dim] if isinstance(dim, int) else list(dim)
        require(len(dims) == 1, b, "amax over several axes is not supported", "Chain two of them.")
        axis = axis_of(dims[0], len(b.type(x).shape))
        return b.emit(self.name, [x], {"axis": axis, "keepdims": keepdim})

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 5),), {"axis": 1, "keepdims": False}),
            Case(((4, 3),), {"axis": 0, "keepdims": True}),
        )


class OneHotMax(Op):
    """1 at the first maximum along the last axis, 0 elsewhere."""

    name = "one_hot_max"

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        if not shapes[0]:
            raise ValueError("needs at least one axis")
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        best = np.argmax(inputs[0], axis=-1)[..., None]
        return np.asarray(np.arange(inputs[0].shape[-1]) == best).astype(inputs[0].dtype)

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        x, size = inputs[0], b.type(inputs[0]).shape[-1]
        return _all_pairs(b, x) if size <= ALL_PAIRS else _grouped(b, x)

    def cases(self) -> tuple[Case, ...]:
        return (Case(((2, 5),)), Case(((1, 20),)), Case(((3, 1),)))


def _all_pairs(b: Emitter, x: str) -> str:
    """Count each candidate's wins against all others; the winner has all of them.

    wins_j = sum_(i>j) [x_j >= x_i] + sum_(i<j) (1 - [x_i >= x_j]), so of equal ones the first wins.
    """
    shape = b.type(x).shape
    axis, size = len(shape) - 1, shape[-1]
    if size == 1:
        return b.emit("offset", [b.emit("scale", [x], {"by": 0.0})], {"by": 1.0})
    gaps = [  # x_j - x_(j+o) for each distance o
        b.emit("sub", [slice_axis(b, x, axis, 0, size - o), slice_axis(b, x, axis, o, size)])
        for o in range(1, size)
    ]
    won = b.emit("nonneg", [b.emit("concat", gaps, {"axis": axis})])
    wins, start = "", 0
    for o in range(1, size):
        first = slice_axis(b, won, axis, start, start + size - o)
        start += size - o
        second = b.emit("offset", [b.emit("neg", [first])], {"by": 1.0})
        none = (0,) * axis
        for part, before, after in ((first, 0, o), (second, o, 0)):
            padded = b.emit("pad", [part], {"before": (*none, before), "after": (*none, after)})
            wins = b.emit("add", [wins, padded]) if wins else padded
    return b.emit("equals", [wins], {"to": size - 1})


def _grouped(b: Emitter, x: str) -> str:
    """One-hot by groups: the winner of each group, then the winning group."""
    shape = b.type(x).shape
    axis, size = len(shape) - 1, shape[-1]
    inside, best = [], []
    for start in range(0, size, ALL_PAIRS):
        group = slice_axis(b, x, axis, start, min(start + ALL_PAIRS, size))
        hot = b.emit("one_hot_max", [group])
        inside.append(hot)
        value = b.emit("mul", [hot, group])
        best.append(b.emit("sum", [value], {"axes": (axis,), "keepdims": True}))
    winner = b.emit("one_hot_max", [b.emit("concat", best, {"axis": axis})])
    parts = [
        b.emit("mul", [hot, slice_axis(b, winner, axis, i, i + 1)]) for i, hot in enumerate(inside)
    ]
    return b.emit("concat", parts, {"axis": axis})


class ArgMax(Op):
    """Index of the first maximum along an axis."""

    name = "argmax"
    torch = ("aten.argmax.default", "torch.argmax")
    attrs = ("axis", "keepdims")
    dtype = "i64"

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return _drop_axis(shapes[0], integer(attrs["axis"]), bool(attrs["keepdims"]))

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        axis = integer(attrs["axis"])
        found = np.argmax(inputs[0], axis=axis)
        return np.expand_dims(found, axis) if attrs["keepdims"] else np.asarray(found)

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        axis, x = integer(attrs["axis"]), inputs[0]
        rank = len(b.type(x).shape)
        perm = (*(i for i in range(rank) if i != axis), axis)
        hot = b.emit("one_hot_max", [b.emit("transpose", [x], {"perm": perm})])
        index = b.const(np.arange(b.type(hot).shape[-1], dtype=np.float32))
        # index = sum_i i * hot_i
        picked = b.emit("mul", [hot, index])
        out = b.emit("sum", [picked], {"axes": (rank - 1,), "keepdims": False})
        shape = self.shape([b.type(x).shape], attrs)
        return b.emit("reshape", [out], {"shape": shape})

    def from_torch(self, b: Emitter, x: str, dim: int | None = None, keepdim: bool = False) -> str:
        if dim is None:
            size = int(np.prod(b.type(x).shape))
            x, dim = b.emit("reshape", [x], {"shape": (size,)}), 0
        axis = axis_of(dim, len(b.type(x).shape))
        return b.emit(self.name, [x], {"axis": axis, "keepdims": keepdim})

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 5),), {"axis": 1, "keepdims": False}),
            Case(((3, 2),), {"axis": 0, "keepdims": True}),
        )


MASKED = 12.0
"""How far below the lowest score of all a masked one is put: exp(-12) is nothing beside 1."""


class Softmax(Op):
    """exp(x) / sum exp(x) along an axis; a second operand, of 0 and 1, says which x count.

    What does not count gets 0, and so does a row in which nothing counts.
    """

    name = "softmax"
    torch = (
        "aten.softmax.int",
        "aten._softmax.default",
        "torch.softmax",
        "torch.nn.functional.softmax",
    )
    attrs = ("axis",)
    arity = (1, 2)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        if broadcast(shapes) != shapes[0]:
            raise ValueError(f"a mask of shape {shapes[1]} does not fit scores of {shapes[0]}")
        return shapes[0]

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        axis = integer(attrs["axis"])
        if len(inputs) == 1:
            powers = np.exp(inputs[0] - inputs[0].max(axis, keepdims=True))
            return np.asarray(powers / powers.sum(axis, keepdims=True))
        counts = np.broadcast_to(inputs[1] > 0.5, inputs[0].shape)
        x = np.where(counts, inputs[0], inputs[0].min())
        powers = np.where(counts, np.exp(x - x.max(axis, keepdims=True)), 0)
        total = powers.sum(axis, keepdims=True)
        return np.asarray(powers / np.where(total > 0, total, 1)).astype(inputs[0].dtype)

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        # softmax(x) = exp(x - c) / sum exp(x - c), with any c near the row's maximum
        x, axis = inputs[0], integer(attrs["axis"])
        if len(inputs) == 2 and b.is_public(inputs[1]):
            return _with_public_mask(b, x, inputs[1], axis)
        if len(inputs) == 2:  # x' = x + (mask - 1)·C puts what does not count below all that does
            low, high = b.type(x).range or (-MASKED, MASKED)
            far = MASKED + float(high - low)
            hidden = b.emit("scale", [b.emit("offset", [inputs[1]], {"by": -1.0})], {"by": far})
            x = b.emit("add", [x, hidden])
        top = b.emit("row_top", [x], {"axis": axis})
        powers = b.emit("exp", [b.emit("sub", [x, top])])
        total = b.emit("sum", [powers], {"axes": (axis,), "keepdims": True})
        return b.emit("mul", [powers, b.emit("reciprocal", [total])])

    def from_torch(self, b: Emitter, x: str, dim: int | None = None, *_: Any, **__: Any) -> str:
        require(dim is not None, b, "softmax needs the axis it runs along", "Pass dim=-1.")
        assert dim is not None
        return b.emit(self.name, [x], {"axis": axis_of(dim, len(b.type(x).shape))})

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 5),), {"axis": 1}),
            Case(((3, 4),), {"axis": 0}, low=-8.0, high=8.0),
            Case(((2, 6, 5),), {"axis": 2}, low=-20.0, high=20.0),
            Case(((2, 3, 4), (1, 4)), {"axis": 2}, bits=(1,)),
            Case(((3, 4), (3, 4)), {"axis": 1}, low=-8.0, high=8.0, public=(1,), bits=(1,)),
        )


def _with_public_mask(b: Emitter, x: str, mask: str, axis: int) -> str:
    """Return softmax under a mask that is known: products with it cost nothing.

    What does not count is put at the lowest score before the exponential, and taken out behind it,
    so the exponential's range is that of the scores. `none` is 1 for rows in which nothing counts.
    """
    rank, shape = len(b.type(x).shape), b.type(mask).shape
    if len(shape) != rank:
        mask = b.emit("reshape", [mask], {"shape": (1,) * (rank - len(shape)) + shape})
    low = float((b.type(x).range or (-MASKED, MASKED))[0])
    kept = b.emit("mul", [b.emit("offset", [x], {"by": -low}), mask])
    x = b.emit("offset", [kept], {"by": low})
    top = b.emit("row_top", [x], {"axis": axis})
    powers = b.emit("mul", [b.emit("exp", [b.emit("sub", [x, top])]), mask])
    row: Attrs = {"axes": (axis,), "keepdims": True}
    none = b.emit("equals", [b.emit("sum", [mask], row)], {"to": 0})
    total = b.emit("add", [b.emit("sum", [powers], row), none])
    return b.emit("mul", [powers, b.emit("reciprocal", [total])])


Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def _windows(b: Emitter, x: str, kernel: Any, stride: Any, padding: Any) -> list[str]:
    """Return the kh*kw strided slices of padded x whose elements share a pooling window."""
    shape = b.type(x).shape
    (kh, kw), (sh, sw), (ph, pw) = kernel, stride, padding
    lead = (0,) * (len(shape) - 2)
    if ph or pw:
        x = b.emit("pad", [x], {"before": (*lead, ph, pw), "after": (*lead, ph, pw)})
    height, width = _pooled(shape, kernel, stride, padding)[-2:]
    slices = []
    for i in range(kh):
        for j in range(kw):
            row = slice_axis(b, x, len(shape) - 2, i, i + (height - 1) * sh + 1, sh)
            slices.append(slice_axis(b, row, len(shape) - 1, j, j + (width - 1) * sw + 1, sw))
    return slices


def _pooled(shape: Shape, kernel: Any, stride: Any, padding: Any) -> Shape:
    if len(shape) < 3:
        raise ValueError(f"pooling takes (N,C,H,W) or (C,H,W), not {shape}")
    out = tuple((shape[-2 + i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2))
    if min(out) < 1:
        raise ValueError(f"a window of {kernel} is larger than {shape}")
    return (*shape[:-2], *out)


def _pool_reference(
    x: Array, attrs: Attrs, fill: float, combine: Callable[[Array], Array]
) -> Array:
    kernel, stride, padding = (ints(attrs[n]) for n in ("kernel", "stride", "padding"))
    lead = [(0, 0)] * (x.ndim - 2)
    padded = np.pad(x, [*lead, *((p, p) for p in padding)], constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(-2, -1))
    return combine(views[..., :: stride[0], :: stride[1], :, :])


class _Pool(Op):
    attrs: tuple[str, ...] = ("kernel", "stride", "padding")  # type: ignore[misc]

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        return _pooled(shapes[0], *(ints(attrs[n]) for n in ("kernel", "stride", "padding")))


class MaxPool2d(_Pool):
    """Maximum over windows; padding counts as minus infinity."""

    name = "max_pool2d"
    torch = (
        "aten.max_pool2d.default",
        "torch.nn.functional.max_pool2d",
        "torch.max_pool2d",
    )

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return _pool_reference(inputs[0], attrs, -np.inf, lambda v: v.max((-2, -1)))

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        x = inputs[0]
        kernel, stride, padding = (ints(attrs[n]) for n in ("kernel", "stride", "padding"))
        if not any(padding):
            return maximum_of(b, _windows(b, x, kernel, stride, padding))
        # zeros are padded: shift x so that they are the lowest value it takes
        low = float((b.type(x).range or (0.0, 0.0))[0])
        raised = b.emit("offset", [x], {"by": -low})
        top = maximum_of(b, _windows(b, raised, kernel, stride, padding))
        return b.emit("offset", [top], {"by": low})

    def from_torch(
        self,
        b: Emitter,
        x: str,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> str:
        require(pair(dilation) == (1, 1), b, "max_pool2d with dilation is not supported")
        require(not ceil_mode, b, "max_pool2d with ceil_mode is not supported", "Pad the input.")
        require(not return_indices, b, "max_pool2d with return_indices is not supported")
        kernel = pair(kernel_size)
        attrs = {"kernel": kernel, "stride": pair(stride) if stride else kernel}
        return b.emit(self.name, [x], {**attrs, "padding": pair(padding)})

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((1, 2, 4, 4),), {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}),
            Case(((1, 1, 5, 5),), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}),
        )


class AvgPool2d(_Pool):
    """Mean over windows; padding counts as zeros."""

    name = "avg_pool2d"
    torch = ("aten.avg_pool2d.default", "torch.nn.functional.avg_pool2d", "torch._C._nn.avg_pool2d")

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        return _pool_reference(inputs[0], attrs, 0.0, lambda v: v.mean((-2, -1)))

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        kernel, stride, padding = (ints(attrs[n]) for n in ("kernel", "stride", "padding"))
        slices = _windows(b, inputs[0], kernel, stride, padding)
        total = slices[0]
        for part in slices[1:]:
            total = b.emit("add", [total, part])
        return b.emit("scale", [total], {"by": 1.0 / (kernel[0] * kernel[1])})

    def from_torch(
        self,
        b: Emitter,
        x: str,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> str:
        require(not ceil_mode, b, "avg_pool2d with ceil_mode is not supported", "Pad the input.")
        require(
            count_include_pad or pair(padding) == (0, 0),
            b,
            "avg_pool2d with padding and count_include_pad=False is not supported",
        )
        require(divisor_override is None, b, "avg_pool2d with divisor_override is not supported")
        kernel = pair(kernel_size)
        attrs = {"kernel": kernel, "stride": pair(stride) if stride else kernel}
        return b.emit(self.name, [x], {**attrs, "padding": pair(padding)})

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((1, 2, 4, 4),), {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}),
            Case(((2, 5, 5),), {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1)}),
        )


class AdaptiveAvgPool2d(Op):
    """Mean over a grid of windows of the given output size, which may overlap by one."""

    name = "adaptive_avg_pool2d"
    torch = ("aten.adaptive_avg_pool2d.default", "torch.nn.functional.adaptive_avg_pool2d")
    attrs = ("size",)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        if len(shapes[0]) < 3:
            raise ValueError(f"pooling takes (N,C,H,W) or (C,H,W), not {shapes[0]}")
        return (*shapes[0][:-2], *ints(attrs["size"]))

    @staticmethod
    def _matrix(size: int, out: int) -> Array:
        """Return (size, out): column i averages rows i*size//out .. ceil((i+1)*size/out)."""
        matrix = np.zeros((size, out), np.float32)
        for i in range(out):
            start, stop = i * size // out, -(-(i + 1) * size // out)
            matrix[start:stop, i] = 1.0 / (stop - start)
        return matrix

    def reference(self, inputs: Sequence[Array], attrs: Attrs) -> Array:
        height, width = inputs[0].shape[-2:]
        rows, cols = ints(attrs["size"])
        return np.asarray(
            self._matrix(height, rows).T @ inputs[0] @ self._matrix(width, cols)
        ).astype(inputs[0].dtype)

    def expand(self, b: Emitter, inputs: Sequence[str], attrs: Attrs) -> str:
        x, (rows, cols) = inputs[0], ints(attrs["size"])
        height, width = b.type(x).shape[-2:]
        if height % rows == 0 and width % cols == 0:
            kernel = (height // rows, width // cols)
            return b.emit(
                "avg_pool2d", [x], {"kernel": kernel, "stride": kernel, "padding": (0, 0)}
            )
        left, right = self._matrix(height, rows).T, self._matrix(width, cols)
        return b.emit(
            "matmul", [b.const(np.ascontiguousarray(left)), b.emit("matmul", [x, b.const(right)])]
        )

    def from_torch(self, b: Emitter, x: str, output_size: Any) -> str:
        height, width = b.type(x).shape[-2:]
        sizes = [output_size] * 2 if isinstance(output_size, int) else list(output_size)
        size = tuple(
            full if s is None else int(s) for s, full in zip(sizes, (height, width), strict=True)
        )
        return b.emit(self.name, [x], {"size": size})

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((1, 2, 4, 4),), {"size": (2, 2)}),
            Case(((1, 2, 5, 7),), {"size": (3, 2)}),
        )


OPS: tuple[Op, ...] = (
    Maximum(), AMax(), OneHotMax(), ArgMax(), Softmax(), MaxPool2d(), AvgPool2d(),
    AdaptiveAvgPool2d(),
)  # fmt: skip
