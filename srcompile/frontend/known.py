"""What is known of a value before the program runs, beyond the operands of the IR.

Models compute masks and positions with integers and booleans. What depends on no input is `Known`
and computed by torch itself. What depends on a mask of the client's is a `Choice` between two
tensors that are known: an elementwise call on it is the call on both, so `1 - m`, `m == 0`,
`where(m, 0, -inf)` and what else models write need no rules of their own. `Ids` are token ids that
only move; `Masked` are attention scores of which some do not count.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srcompile.frontend.hints import base_name
from srcompile.frontend.layout import LAYOUT
from srcompile.ops.base import Emitter

HIDDEN = -1e3
"""What is added to a score that does not count is at most this: HF takes finfo.min, torch -inf."""


@dataclass(frozen=True)
class Known:
    """A tensor that depends on no input. A secret one is a weight, or made from one."""

    tensor: Tensor = field(compare=False)
    name: str
    secret: bool = False
    path: str = ""


@dataclass(frozen=True)
class Choice:
    """A tensor that is `zero` where the client's `bit` is 0 and `one` where it is 1.

    `bit` is an operand of the same shape that holds 0 and 1.
    """

    bit: str
    zero: Tensor = field(compare=False)
    one: Tensor = field(compare=False)


@dataclass(frozen=True)
class Ids:
    """Token ids: `places` says which element of the input stands where, counted flat."""

    operand: str
    places: Tensor = field(compare=False)


@dataclass(frozen=True)
class Masked:
    """Scores of which only those count where `keep`, a boolean that fits their shape, is true."""

    scores: str
    keep: Known | Choice


Abstract = Known | Choice | Ids | Masked

_MOVES = frozenset(
    [
        "expand",
        "index",
        "index_select",
        "gather",
        "flip",
        "roll",
        "tile",
        "repeat",
        "diagonal",
        "unfold",
        "contiguous",
        "clone",
        "alias",
        "detach",
        "lift_fresh",
        "lift_fresh_copy",
        "tril",
        "triu",
        "getitem",
    ]
) | {base_name(name) for name in LAYOUT}
_ELEMENTWISE = frozenset(
    [
        "add",
        "sub",
        "rsub",
        "mul",
        "div",
        "neg",
        "abs",
        "sign",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "logical_and",
        "logical_or",
        "logical_not",
        "logical_xor",
        "bitwise_and",
        "bitwise_or",
        "bitwise_not",
        "bitwise_xor",
        "and",
        "or",
        "xor",
        "__and__",
        "__or__",
        "__xor__",
        "and_",
        "or_",
        "invert",
        "where",
        "masked_fill",
        "clamp",
        "clamp_min",
        "clamp_max",
        "maximum",
        "minimum",
        "to",
        "_to_copy",
        "to_copy",
        "type",
        "type_as",
        "float",
        "double",
        "half",
        "bfloat16",
        "int",
        "long",
        "bool",
        "zeros_like",
        "ones_like",
        "full_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "isinf",
        "isnan",
        "floor_divide",
        "remainder",
        "pow",
        "positive",
        "pos",
        "truediv",
        "mod",
        "contiguous",
        "clone",
        "alias",
        "detach",
        "lift_fresh",
        "lift_fresh_copy",
    ]
)
MADE = frozenset(
    [
        "zeros_like",
        "ones_like",
        "full_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "arange",
        "full",
        "ones",
        "zeros",
        "eye",
        "linspace",
        "scalar_tensor",
        "empty_like",
        "new_tensor",
    ]
)
_SHAPES = frozenset({"size", "dim", "numel", "getattr", "sym_size"})


def moves(name: str) -> bool:
    """Return whether a torch call only moves the elements of its first argument."""
    return base_name(name) in _MOVES


def elementwise(name: str) -> bool:
    """Return whether each element of a torch call's result depends on that place alone."""
    return base_name(name) in _ELEMENTWISE


def reads_shape(name: str) -> bool:
    """Return whether a call asks for a size, type or rank, which are known of every value."""
    return base_name(name) in _SHAPES


def computed(name: str, args: Any, kwargs: Any) -> Any:
    """Return what torch gives for a call on tensors."""
    root, _, rest = name.partition(".")
    with torch.no_grad():
        if root == "method":
            return getattr(args[0], rest)(*args[1:], **kwargs)
        home: Any = {"aten": torch.ops.aten, "operator": operator, "torch": torch}.get(root)
        if name == "builtins.getattr":
            return getattr(*args)
        return operator.attrgetter(rest)(home)(*args, **kwargs)


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return arguments with `change` applied to every leaf."""
    if isinstance(value, slice):
        return slice(*(replaced(v, change) for v in (value.start, value.stop, value.step)))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replaced(v, change) for v in value))
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(replaced(v, change) for v in value)
    if isinstance(value, dict):
        return {key: replaced(item, change) for key, item in value.items()}
    return change(value)


# -- choices --------------------------------------------------------------------------------------


def chosen(bit: str, zero: Tensor, one: Tensor, name: str) -> Known | Choice:
    """Return a choice, or what is known if both sides are the same."""
    if zero.dtype == one.dtype and torch.equal(zero, one):
        return Known(zero, name)
    return Choice(bit, zero, one)


def bit_like(b: Emitter, bit: str, shape: Sequence[int]) -> str:
    """Return a bit broadcast to a shape."""
    if b.type(bit).shape == tuple(shape):
        return bit
    return b.emit("broadcast", [bit], {"shape": tuple(shape)})


def complement(b: Emitter, x: str) -> str:
    """Return 1 - x."""
    return b.emit("offset", [b.emit("neg", [x])], {"by": 1.0})


def moved(b: Emitter, x: str, places: Tensor) -> str:
    """Return the elements of x, counted flat, that stand at `places`, in the shape of `places`."""
    shape, size = tuple(places.shape), int(np.prod(b.type(x).shape))
    kept = places
    for axis, length in enumerate(shape):  # along these the result repeats itself
        if length > 1 and bool((places == places.narrow(axis, 0, 1)).all()):
            kept = kept.narrow(axis, 0, 1)
    flat = kept.reshape(-1)
    if not torch.equal(flat, torch.arange(size)):
        chooses = (torch.arange(size)[:, None] == flat).float().numpy()  # (size, kept)
        x = b.emit("matmul", [b.emit("reshape", [x], {"shape": (1, size)}), b.const(chooses)])
    if b.type(x).shape != tuple(kept.shape):
        x = b.emit("reshape", [x], {"shape": tuple(kept.shape)})
    return bit_like(b, x, shape)


def move_choice(b: Emitter, call: Callable[[Tensor], Any], choice: Choice) -> Choice:
    """Return a choice whose elements a call has moved."""
    places = torch.arange(choice.zero.numel()).reshape(choice.zero.shape)
    where = call(places)
    return Choice(moved(b, choice.bit, where), call(choice.zero), call(choice.one))


def joined(
    b: Emitter, first: str, second: str, corners: Sequence[Tensor], name: str
) -> Known | Choice | None:
    """Return the choice with these values for the bits 00, 01, 10, 11; None if there is none."""
    same = [torch.equal(corners[0], corner) for corner in corners]
    shape = corners[0].shape
    x, y = bit_like(b, first, shape), bit_like(b, second, shape)
    if torch.equal(corners[0], corners[1]) and torch.equal(corners[2], corners[3]):
        return chosen(x, corners[0], corners[3], name)
    if same[2] and torch.equal(corners[1], corners[3]):
        return chosen(y, corners[0], corners[3], name)
    if same[1] and same[2]:  # and
        return chosen(b.emit("mul", [x, y]), corners[0], corners[3], name)
    if torch.equal(corners[1], corners[2]) and torch.equal(corners[1], corners[3]):  # or
        neither = b.emit("mul", [complement(b, x), complement(b, y)])
        return chosen(neither, corners[3], corners[0], name)
    if same[1] and same[3]:
        return chosen(b.emit("mul", [x, complement(b, y)]), corners[0], corners[2], name)
    if same[2] and same[3]:
        return chosen(b.emit("mul", [complement(b, x), y]), corners[0], corners[1], name)
    return None


def _hides(values: Tensor) -> bool:
    return bool(((values == 0) | (values <= HIDDEN)).all()) and bool((values <= HIDDEN).any())


def hiding(value: Any) -> Known | Choice | None:
    """Return where a float mask lets scores count, None if it is no mask but a summand."""
    if isinstance(value, Known) and value.tensor.is_floating_point() and _hides(value.tensor):
        return replace(value, tensor=value.tensor == 0)
    if isinstance(value, Choice) and value.zero.is_floating_point():
        both = torch.cat([value.zero.reshape(-1), value.one.reshape(-1)])
        if _hides(both):
            return Choice(value.bit, value.zero == 0, value.one == 0)
    return None


def very_low(value: Any) -> bool:
    """Return whether a number, or all of a known tensor, hides what it replaces."""
    if isinstance(value, Known):
        return bool((value.tensor.to(torch.float64) <= HIDDEN).all())
    return isinstance(value, (int, float)) and value <= HIDDEN


def hides_by_itself(tensor: Tensor) -> bool:
    """Return whether a float tensor of the model is an additive mask, whose places are known."""
    return tensor.is_floating_point() and tensor.numel() > 0 and _hides(tensor)
