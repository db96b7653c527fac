"""Torch calls that only move elements: each becomes a reshape, transpose, slice or concat.

A rule takes the emitter, then operand names and literals as the torch call has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from srcompile.ops.base import Emitter, axis_of, require
from srcompile.ops.linear import slice_axis

Rule = Callable[..., Any]


def _sizes(size: Sequence[Any]) -> tuple[int, ...]:
    """Return view(2, 3) and view((2, 3)) alike."""
    inner = size[0] if len(size) == 1 and isinstance(size[0], (list, tuple)) else size
    return tuple(int(s) for s in inner)


def _to(b: Emitter, x: str, shape: tuple[int, ...]) -> str:
    return x if b.type(x).shape == shape else b.emit("reshape", [x], {"shape": shape})


def _reshape(b: Emitter, x: str, *size: Any) -> str:
    sizes = _sizes(size)
    known = math.prod(s for s in sizes if s != -1)
    free = math.prod(b.type(x).shape) // max(known, 1)
    return _to(b, x, tuple(free if s == -1 else s for s in sizes))


def _reshape_as(b: Emitter, x: str, other: str) -> str:
    return _to(b, x, b.type(other).shape)


def _flatten(b: Emitter, x: str, start_dim: int = 0, end_dim: int = -1) -> str:
    shape = b.type(x).shape
    start, end = axis_of(start_dim, len(shape)), axis_of(end_dim, len(shape))
    return _to(b, x, (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :]))


def _unflatten(b: Emitter, x: str, dim: int, sizes: Sequence[int]) -> str:
    shape = b.type(x).shape
    axis = axis_of(dim, len(shape))
    free = shape[axis] // max(math.prod(s for s in sizes if s != -1), 1)
    parts = tuple(free if s == -1 else s for s in sizes)
    return _to(b, x, (*shape[:axis], *parts, *shape[axis + 1 :]))


def _unsqueeze(b: Emitter, x: str, dim: int) -> str:
    shape = b.type(x).shape
    axis = axis_of(dim, len(shape) + 1)
    return _to(b, x, (*shape[:axis], 1, *shape[axis:]))


def _squeeze(b: Emitter, x: str, dim: int | Sequence[int] | None = None) -> str:
    shape = b.type(x).shape
    dims = range(len(shape)) if dim is None else [dim] if isinstance(dim, int) else dim
    axes = {axis_of(d, len(shape)) for d in dims}
    return _to(b, x, tuple(s for i, s in enumerate(shape) if i not in axes or s != 1))


def _permute(b: Emitter, x: str, *dims: Any) -> str:
    rank = len(b.type(x).shape)
    perm = tuple(axis_of(d, rank) for d in _sizes(dims))
    return x if perm == tuple(range(rank)) else b.emit("transpose", [x], {"perm": perm})


def _transpose(b: Emitter, x: str, dim0: int, dim1: int) -> str:
    order = list(range(len(b.type(x).shape)))
    i, j = axis_of(dim0, len(order)), axis_of(dim1, len(order))
    order[i], order[j] = order[j], order[i]
    return _permute(b, x, order)


def _t(b: Emitter, x: str) -> str:
    rank = len(b.type(x).shape)
    require(rank <= 2, b, f"t() of a tensor with {rank} axes", "Use transpose or permute.")
    return x if rank < 2 else _transpose(b, x, 0, 1)


def _slice(
    b: Emitter, x: str, dim: int = 0, start: int | None = None, stop: int | None = None,
    step: int = 1,
) -> str:  # fmt: skip
    shape = b.type(x).shape
    axis = axis_of(dim, len(shape))
    first, last, _ = slice(start, stop, step).indices(shape[axis])
    if (first, last, step) == (0, shape[axis], 1):
        return x
    return slice_axis(b, x, axis, first, max(first, last), step)


def _narrow(b: Emitter, x: str, dim: int, start: int, length: int) -> str:
    first = start % b.type(x).shape[axis_of(dim, len(b.type(x).shape))]
    return _slice(b, x, dim, first, first + length)


def _select(b: Emitter, x: str, dim: int, index: int) -> str:
    shape = b.type(x).shape
    axis = axis_of(dim, len(shape))
    if not -shape[axis] <= index < shape[axis]:
        raise ValueError(f"index {index} is outside an axis of size {shape[axis]}")
    part = slice_axis(b, x, axis, index % shape[axis], index % shape[axis] + 1)
    return _to(b, part, (*shape[:axis], *shape[axis + 1 :]))


def _getitem(b: Emitter, x: Any, index: Any) -> Any:
    """Return x[index]: of a tuple or shape an element, of a tensor a slice."""
    if not isinstance(x, str):
        return x[index]
    items = list(index) if isinstance(index, tuple) else [index]
    fits = all(i is None or i is ... or isinstance(i, (int, slice)) for i in items)
    require(
        fits and not any(isinstance(i, bool) for i in items),
        b,
        "an index that is a tensor or a list is not supported",
        "Use slices and whole numbers, and torch.cat to join what they pick.",
    )
    rank = len(b.type(x).shape)
    if ... in items:
        at = items.index(...)
        missing = rank - sum(i is not None for i in items) + 1
        items[at : at + 1] = [slice(None)] * missing
    axis = 0
    for item in items:
        if item is None:
            x = _unsqueeze(b, x, axis)
        elif isinstance(item, int):
            x, axis = _select(b, x, axis, item), axis - 1
        else:
            x = _slice(b, x, axis, item.start, item.stop, 1 if item.step is None else item.step)
        axis += 1
    return x


def _split(b: Emitter, x: str, sizes: int | Sequence[int], dim: int = 0) -> tuple[str, ...]:
    size = b.type(x).shape[axis_of(dim, len(b.type(x).shape))]
    if isinstance(sizes, int):
        sizes = [min(sizes, size - start) for start in range(0, size, sizes)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(_slice(b, x, dim, s, s + n) for s, n in zip(starts, sizes, strict=True))


def _chunk(b: Emitter, x: str, chunks: int, dim: int = 0) -> tuple[str, ...]:
    size = b.type(x).shape[axis_of(dim, len(b.type(x).shape))]
    return _split(b, x, -(-size // chunks), dim)


def _unbind(b: Emitter, x: str, dim: int = 0) -> tuple[str, ...]:
    size = b.type(x).shape[axis_of(dim, len(b.type(x).shape))]
    return tuple(_select(b, x, dim, i) for i in range(size))


def _stack(b: Emitter, xs: Sequence[str], dim: int = 0) -> str:
    axis = axis_of(dim, len(b.type(xs[0]).shape) + 1)
    return b.emit("concat", [_unsqueeze(b, x, axis) for x in xs], {"axis": axis})


def _expand_as(b: Emitter, x: str, other: str) -> str:
    return b.emit("broadcast", [x], {"shape": b.type(other).shape})


_RULES: Mapping[Rule, str] = {
    _reshape: "aten.view.default aten.reshape.default aten._unsafe_view.default torch.reshape "
    "method.view method.reshape",
    _reshape_as: "aten.view_as.default aten.reshape_as.default method.view_as method.reshape_as",
    _flatten: "aten.flatten.using_ints torch.flatten",
    _unflatten: "aten.unflatten.int torch.unflatten method.unflatten",
    _unsqueeze: "aten.unsqueeze.default torch.unsqueeze",
    _squeeze: "aten.squeeze.default aten.squeeze.dim aten.squeeze.dims torch.squeeze",
    _permute: "aten.permute.default torch.permute",
    _transpose: "aten.transpose.int torch.transpose torch.swapaxes",
    _t: "aten.t.default aten.numpy_T.default torch.t",
    _slice: "aten.slice.Tensor",
    _narrow: "aten.narrow.default torch.narrow",
    _select: "aten.select.int torch.select",
    _getitem: "operator.getitem",
    _split: "aten.split.Tensor aten.split.sizes aten.split_with_sizes.default torch.split",
    _chunk: "aten.chunk.default torch.chunk",
    _unbind: "aten.unbind.int torch.unbind",
    _stack: "aten.stack.default torch.stack",
    _expand_as: "aten.expand_as.default method.expand_as",
}

LAYOUT: Mapping[str, Rule] = MappingProxyType(
    {name: rule for rule, names in _RULES.items() for name in names.split()}
)
"""The rule for each torch name."""
