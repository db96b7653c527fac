"""The instructions of a party's machine: operands, types, and what each sends. Compiler and engine
share this file; a program that breaks a rule here is neither written nor run.

Notation: `x` is a value, `r` its mask, `x^ = x + r mod 2^w` the masked wire, `[x]` a share.
A value in Z_(2^w) has one of these kinds:

    share    [x]: each party holds one addend
    mask     [r] of a fresh uniform r, which exactly one opening may use
    masked   x^: both parties know it, and it tells them nothing
    public   both parties know it, and it may be known (constants, a public input)
    clear    the dealer knows it (masks and functions of masks), or, in a `plain` program, everybody
    key      a function key per element; the `width` of its type is its size in bytes

A program has three functions. `dealer` makes the correlated randomness, `prepare` is what a party
does with it before the input is there, `online` is the rest. `online` sees the values of `prepare`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from srcompile.runtime.kernels.layout import dcf_key_bytes, dpf_key_bytes, relu_fields
from srcompile.runtime.kernels.windows import window_counts

KINDS = ("share", "mask", "masked", "public", "clear", "key")
COMMON = ("masked", "public")
MAX_WIDTH = 64
MAX_INDEX_BITS = 16
MAX_ELEMENTS = 1 << 32
MAX_AXES = 32
VERDICT_BYTES = 1
"""What each party sends the client of a guarded program before the outputs, or instead of them."""

Shape = tuple[int, ...]
Attr = int | float | bool | str | tuple[int, ...]
Attrs = Mapping[str, Attr]


@dataclass(frozen=True)
class RingType:
    """Elements of Z_(2^width): kind, ring width in bits, shape."""

    kind: str
    width: int
    shape: Shape

    def __str__(self) -> str:
        return f"{self.kind}<{self.width}>[{','.join(map(str, self.shape))}]"

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def packed_bytes(self) -> int:
        """Bytes of all elements packed to `width` bits each."""
        return packed_bytes(self.size, self.width)


def has_room(type_: RingType) -> bool:
    """Whether an array can have this shape. One without elements has other axes all the same."""
    elements = math.prod(size or 1 for size in type_.shape)
    return len(type_.shape) <= MAX_AXES and elements < MAX_ELEMENTS


class IsaError(ValueError):
    """An instruction that breaks a rule of the instruction set."""


def packed_bytes(count: int, width: int) -> int:
    """Return the bytes that `count` elements of `width` bits take on the wire."""
    return (count * width + 7) // 8


class Sends(NamedTuple):
    """Bytes an instruction sends, by sender and receiver. All are known when compiling."""

    p0_online: int = 0
    p1_online: int = 0
    dealer_to_p0: int = 0
    dealer_to_p1: int = 0
    client_to_party: int = 0
    party_to_client_offline: int = 0


Types = Sequence[RingType]
Rule = Callable[[Types, Attrs, RingType | None], RingType | None]


@dataclass(frozen=True)
class Spec:
    """One instruction: in which functions it may stand, its attributes, and its type rule."""

    name: str
    phases: tuple[str, ...]
    attrs: tuple[str, ...]
    rule: Rule
    sends: Callable[[Types, Attrs], Sends] = lambda types, attrs: Sends()
    view: bool = False  # the result shares memory with its operand
    communicates: bool = False  # one message of an online round


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise IsaError(message)


def _ints(attrs: Attrs, name: str) -> tuple[int, ...]:
    value = attrs[name]
    _need(isinstance(value, tuple), f"attribute '{name}' must be a list of integers")
    assert isinstance(value, tuple)
    return value


def int_attr(attrs: Attrs, name: str, low: int, high: int) -> int:
    """Return an integer attribute, checked to lie in low..high."""
    value = attrs[name]
    _need(
        isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
        f"attribute '{name}' must be an integer in {low}..{high}, not {value!r}",
    )
    assert isinstance(value, int)
    return value


def _arity(types: Types, count: int) -> None:
    _need(len(types) == count, f"takes {count} operands, not {len(types)}")


def _kinds(types: Types, *allowed: Sequence[str]) -> None:
    _arity(types, len(allowed))
    for position, (found, want) in enumerate(zip(types, allowed, strict=True)):
        _need(
            found.kind in want,
            f"operand {position} has kind {found.kind}; allowed: {', '.join(want)}",
        )


def _same_width(types: Types) -> int:
    widths = {t.width for t in types}
    _need(len(widths) == 1, f"operands have different ring widths: {sorted(widths)}")
    return widths.pop()


def broadcast_shapes(a: Shape, b: Shape) -> Shape:
    """Return the NumPy broadcast of two shapes. Raises IsaError if they do not match."""
    longer = max(len(a), len(b))
    a, b = (1,) * (longer - len(a)) + a, (1,) * (longer - len(b)) + b
    _need(
        all(p == q or 1 in (p, q) for p, q in zip(a, b, strict=True)), f"{a} and {b} do not match"
    )
    return tuple(q if p == 1 else p for p, q in zip(a, b, strict=True))


# ---- kinds of results -------------------------------------------------------------------------

_LOCAL = ("share", "mask", "masked", "public", "clear")


def _unary_kind(kind: str) -> str:
    """A linear image of a mask is a share like any other: only a `mask` may be opened under."""
    _need(kind in _LOCAL, f"a {kind} cannot be computed with")
    return "share" if kind == "mask" else kind


def _sum_kind(types: Types) -> str:
    kinds = {_unary_kind(t.kind) for t in types}
    if len(kinds) == 1:
        return kinds.pop()
    _need(
        kinds <= {"masked", "public"} or kinds <= {"clear", "public"}, f"cannot mix {sorted(kinds)}"
    )
    return "masked" if "masked" in kinds else "clear"


def _product_kind(a: RingType, b: RingType) -> str:
    kinds = {_unary_kind(a.kind), _unary_kind(b.kind)}
    if "public" in kinds:
        return (kinds - {"public"} or {"public"}).pop()
    if kinds == {"clear"}:
        return "clear"
    _need(kinds == {"share", "masked"}, f"a product of {a.kind} and {b.kind} is not local")
    return "share"


# ---- rules of local instructions --------------------------------------------------------------


def _elementwise(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 2)
    shape = broadcast_shapes(types[0].shape, types[1].shape)
    return RingType(_sum_kind(types), _same_width(types), shape)


def _unary(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 1)
    if "by" in attrs:
        int_attr(attrs, "by", -(1 << 63), (1 << 63) - 1)
    return replace(types[0], kind=_unary_kind(types[0].kind))


def _mul(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 2)
    shape = broadcast_shapes(types[0].shape, types[1].shape)
    return RingType(_product_kind(*types), _same_width(types), shape)


def matmul_shape(a: Shape, b: Shape) -> Shape:
    """Return the shape of a @ b, both at least 2-D. Raises IsaError if they do not match."""
    _need(len(a) >= 2 and len(b) >= 2, f"matmul takes matrices, not {a} and {b}")
    _need(a[-1] == b[-2], f"inner sizes differ: {a} @ {b}")
    return (*broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])


def _matmul(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 2)
    return RingType(
        _product_kind(*types), _same_width(types), matmul_shape(types[0].shape, types[1].shape)
    )


def conv2d_shape(x: Shape, w: Shape, attrs: Attrs) -> Shape:
    """Return the shape of a 2-D convolution. Raises IsaError if its operands do not fit."""
    stride, padding, dilation = (_ints(attrs, n) for n in ("stride", "padding", "dilation"))
    groups = int_attr(attrs, "groups", 1, 1 << 20)
    _need(len(x) == 4 and len(w) == 4, f"conv2d takes (N,C,H,W) and (O,C/g,kh,kw), not {x}, {w}")
    _need(
        all(len(v) == 2 for v in (stride, padding, dilation)),
        "stride, padding and dilation are pairs",
    )
    _need(x[1] == w[1] * groups and w[0] % groups == 0, f"channels do not fit: {x}, {w}, {groups}")
    try:
        return (x[0], w[0], *window_counts(x, w, stride, padding, dilation))
    except ValueError as error:
        raise IsaError(str(error)) from None


def _conv2d(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 2)
    shape = conv2d_shape(types[0].shape, types[1].shape, attrs)
    return RingType(_product_kind(*types), _same_width(types), shape)


def _reshape(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 1)
    shape = _ints(attrs, "shape")
    _need(min(shape, default=1) >= 0, f"{shape} is not a shape")
    _need(math.prod(shape) == types[0].size, f"{types[0].shape} cannot be reshaped to {shape}")
    return RingType(_unary_kind(types[0].kind), types[0].width, shape)


def _broadcast(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 1)
    shape = _ints(attrs, "shape")
    _need(
        broadcast_shapes(types[0].shape, shape) == shape,
        f"{types[0].shape} does not broadcast to {shape}",
    )
    return RingType(_unary_kind(types[0].kind), types[0].width, shape)


def _transpose(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 1)
    perm = _ints(attrs, "perm")
    shape = types[0].shape
    _need(sorted(perm) == list(range(len(shape))), f"{perm} is not a permutation of {shape}'s axes")
    return RingType(_unary_kind(types[0].kind), types[0].width, tuple(shape[p] for p in perm))


def slice_shape(shape: Shape, attrs: Attrs) -> Shape:
    """Return the shape of x[start:stop:step, ...]. Raises IsaError for a slice out of bounds."""
    starts, stops, steps = (_ints(attrs, n) for n in ("starts", "stops", "steps"))
    _need(
        len(starts) == len(stops) == len(steps) == len(shape), f"a slice of {shape} needs all axes"
    )
    for size, start, stop, step in zip(shape, starts, stops, steps, strict=True):
        inside = 0 <= start <= stop <= size and 1 <= step < MAX_ELEMENTS
        _need(inside, f"{start}:{stop}:{step} is outside {size}")
    return tuple((b - a + s - 1) // s for a, b, s in zip(starts, stops, steps, strict=True))


def _slice(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 1)
    shape = slice_shape(types[0].shape, attrs)
    return RingType(_unary_kind(types[0].kind), types[0].width, shape)


def concat_shape(shapes: Sequence[Shape], axis: int) -> Shape:
    """Return the shape of tensors joined along `axis`. Raises IsaError if they do not match."""
    first = shapes[0]
    _need(0 <= axis < len(first), f"axis {axis} is outside {first}")
    rest = {(*s[:axis], *s[axis + 1 :]) for s in shapes if len(s) == len(first)}
    _need(len(rest) == 1 and len({len(s) for s in shapes}) == 1, f"cannot join {list(shapes)}")
    return (*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])


def _concat(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _need(len(types) >= 1, "needs at least one operand")
    shape = concat_shape([t.shape for t in types], int_attr(attrs, "axis", 0, 31))
    return RingType(_sum_kind(types), _same_width(types), shape)


def pad_shape(shape: Shape, attrs: Attrs) -> Shape:
    """Return the shape after padding each axis. Raises IsaError for a padding that does not fit."""
    before, after = _ints(attrs, "before"), _ints(attrs, "after")
    _need(len(before) == len(after) == len(shape), f"padding of {shape} needs all axes")
    _need(min((*before, *after), default=0) >= 0, "padding is not negative")
    return tuple(s + b + a for s, b, a in zip(shape, before, after, strict=True))


def _pad(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 1)
    return RingType(_unary_kind(types[0].kind), types[0].width, pad_shape(types[0].shape, attrs))


def sum_shape(shape: Shape, attrs: Attrs) -> Shape:
    """Return the shape after summing over axes. Raises IsaError for an axis out of bounds."""
    axes = _ints(attrs, "axes")
    _need(
        len(set(axes)) == len(axes) and all(0 <= a < len(shape) for a in axes), f"bad axes {axes}"
    )
    if attrs["keepdims"]:
        return tuple(1 if i in axes else s for i, s in enumerate(shape))
    return tuple(s for i, s in enumerate(shape) if i not in axes)


def _sum(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 1)
    return RingType(_unary_kind(types[0].kind), types[0].width, sum_shape(types[0].shape, attrs))


def _reduce(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 1)
    width = int_attr(attrs, "width", 1, types[0].width)
    return RingType(_unary_kind(types[0].kind), width, types[0].shape)


def _shift(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _kinds(types, ("masked", "public", "clear"))
    by = int_attr(attrs, "by", 1, types[0].width - 1)
    return replace(types[0], width=types[0].width - by)


def _add_common(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _kinds(types, ("share", "mask"), COMMON)
    shape = broadcast_shapes(types[0].shape, types[1].shape)
    return RingType("share", _same_width(types), shape)


def _lift(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _kinds(types, COMMON)
    return replace(types[0], kind="share")


# ---- rules of the dealer's instructions -------------------------------------------------------


def _declared(types: Types, declared: RingType | None, kinds: Sequence[str]) -> RingType:
    _arity(types, 0)
    _need(declared is not None, "needs a declared type")
    assert declared is not None
    _need(declared.kind in kinds, f"declares kind {declared.kind}; allowed: {', '.join(kinds)}")
    return declared


def _mask(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    return _declared(types, declared, ("mask", "clear"))


def _correlation(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    return _declared(types, declared, ("share",))


def _correlate(types: Types, attrs: Attrs, declared: RingType | None) -> None:
    _kinds(types, ("clear",))


def _widen(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _kinds(types, ("clear",))
    return RingType("clear", int_attr(attrs, "width", 1, MAX_WIDTH), types[0].shape)


def table_key_type(shape: Shape, attrs: Attrs) -> RingType:
    """Return the type of a table gate's keys; the payload is powers of r mod 2^s, to `degree`."""
    index_bits = int_attr(attrs, "index_bits", 1, MAX_INDEX_BITS)
    low_bits = int_attr(attrs, "low_bits", 0, 48)
    words = 1 + int_attr(attrs, "degree", 0, 2)
    _need((words > 1) == (low_bits > 0), "a table has a degree if and only if it has low bits")
    width = int_attr(attrs, "width", 1, MAX_WIDTH)
    return RingType("key", dpf_key_bytes(index_bits, words, width), shape)


def sign_fields(in_width: int, attrs: Attrs) -> tuple[int, ...]:
    """Return the payload widths of a comparison key: T; with `select` also R and, if needed, U."""
    width = int_attr(attrs, "width", 1, MAX_WIDTH)
    if not attrs["select"]:
        return (width,)
    return relu_fields(in_width, width)


def sign_key_type(shape: Shape, attrs: Attrs) -> RingType:
    """Return the type of the keys of a comparison with zero of values in Z_(2^in_width)."""
    in_width = int_attr(attrs, "in_width", 2, MAX_WIDTH)
    return RingType("key", dcf_key_bytes(in_width - 1, sign_fields(in_width, attrs)), shape)


def _table_keys(types: Types, attrs: Attrs, declared: RingType | None) -> None:
    _kinds(types, ("clear",))
    table_key_type(types[0].shape, attrs)
    bits = int_attr(attrs, "index_bits", 1, MAX_INDEX_BITS) + int_attr(attrs, "low_bits", 0, 48)
    _need(types[0].width == bits, f"the mask has {types[0].width} bits, the table {bits}")


def _sign_keys(types: Types, attrs: Attrs, declared: RingType | None) -> None:
    _kinds(types, ("clear",))
    sign_key_type(types[0].shape, attrs)
    _need(types[0].width == attrs["in_width"], "in_width is not the width of the mask")


def _key(make: Callable[[Shape, Attrs], RingType]) -> Rule:
    def rule(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
        shape = _declared(types, declared, ("key",)).shape
        return make(shape, attrs)

    return rule


# ---- rules of the gates -----------------------------------------------------------------------


def _table_shape(wire: RingType, tables: Types, attrs: Attrs) -> tuple[int, Shape]:
    """Check the tables of a table gate; return the result's width and shape."""
    _need(bool(tables), "a gate has one to three tables")
    index_bits = int_attr(attrs, "index_bits", 1, MAX_INDEX_BITS)
    low_bits = int_attr(attrs, "low_bits", 0, 48)
    for table in tables:
        _need(table.kind == "public", "a table is a public constant")
        _need(table.shape[-1:] == (1 << index_bits,), f"a table has {1 << index_bits} entries")
        _need(table.shape == tables[0].shape and len(table.shape) <= 2, "the tables do not match")
    bits = index_bits + low_bits
    _need(wire.width == bits, f"the wire has {wire.width} bits, the table covers {bits}")
    _need(1 <= len(tables) <= 3, "a gate has one to three tables")
    _need((len(tables) > 1) == (low_bits > 0), "a gate has several tables if it has low bits")
    return _same_width(tables), (*wire.shape, *tables[0].shape[:-1])


def _table(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _kinds(types, ("masked",), ("key",), *[("public",)] * max(1, len(types) - 2))
    width, shape = _table_shape(types[0], types[2:], attrs)
    key = table_key_type(types[0].shape, {**attrs, "width": width, "degree": len(types) - 3})
    _need(types[1] == key, f"the key is {types[1]}, the gate needs {key}")
    return RingType("share", width, shape)


def _sign_gate(select: bool) -> Rule:
    def rule(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
        shares = 3 if select else 1
        _kinds(types, ("masked",), ("key",), *[("share",)] * shares)
        width = int_attr(attrs, "width", 1, MAX_WIDTH)
        shape = types[0].shape
        for share in types[2:]:
            _need(share == RingType("share", width, shape), f"{share} is not share<{width}>{shape}")
        fields = {"in_width": types[0].width, "width": width, "select": select}
        key = sign_key_type(shape, fields)
        _need(types[1] == key, f"the key is {types[1]}, the gate needs {key}")
        return RingType("share", width, shape)

    return rule


def _extend(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _kinds(types, ("masked",), ("share",), ("share",))
    width = int_attr(attrs, "width", types[0].width + 1, MAX_WIDTH)
    _need(types[0].width >= 3, "extend needs a wire of at least 3 bits")
    for share in types[1:]:
        _need(share == RingType("share", width, types[0].shape), f"{share} has the wrong type")
    return RingType("share", width, types[0].shape)


def _wide_product(wires: int, products: int) -> Rule:
    """Products of masked wires, with shares of r and msb r for each and of products of those."""

    def rule(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
        shares = 2 * wires + products
        _kinds(types, *[("masked",)] * wires, *[("share",)] * shares)
        width = int_attr(attrs, "width", 1, MAX_WIDTH)
        shapes = [t.shape for t in types[:wires]]
        shape = broadcast_shapes(shapes[0], shapes[-1])
        wanted = [s for s in shapes for _ in range(2)] + [shape] * products
        for wire in types[:wires]:
            _need(wire.width >= 3, "a wide product needs wires of at least 3 bits")
        for share, want in zip(types[wires:], wanted, strict=True):
            _need(share == RingType("share", width, want), f"{share} has the wrong type")
        return RingType("share", width, shape)

    return rule


def _known_table(kind: str) -> Rule:
    """Rule of a table of values that are known: `clear` in a plain program, or `public`."""

    def rule(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
        _need(bool(types) and types[0].kind == kind, f"the operand is not {kind}")
        width, shape = _table_shape(types[0], types[1:], attrs)
        return RingType(kind, width, shape)

    return rule


def _known_into(kind: str) -> Rule:
    """Rule of a sign gate or extension, into `width`, of values that are known."""

    def rule(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
        _kinds(types, (kind,))
        return RingType(kind, int_attr(attrs, "width", 1, MAX_WIDTH), types[0].shape)

    return rule


# ---- weights and messages ---------------------------------------------------------------------


def _weight(kind: str) -> Rule:
    def rule(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
        _kinds(types, ("share",))
        return replace(types[0], kind=kind)

    return rule


def _input(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _kinds(types, ("mask",))
    return replace(types[0], kind="masked")


def _plain_input(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    return _declared(types, declared, ("clear",))


def _public_input(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _arity(types, 0)
    shape = _ints(attrs, "shape")
    _need(min(shape, default=1) >= 0, f"{shape} is not a shape")
    return RingType("public", int_attr(attrs, "width", 1, MAX_WIDTH), shape)


def _open(types: Types, attrs: Attrs, declared: RingType | None) -> RingType:
    _kinds(types, ("share",), ("mask",))
    _need(
        types[0].width == types[1].width and types[0].shape == types[1].shape,
        f"the mask {types[1]} does not fit the share {types[0]}",
    )
    by = int_attr(attrs, "by", 0, types[0].width - 1)
    return replace(types[0], kind="masked", width=types[0].width - by)


def _result(*kinds: str) -> Rule:
    def rule(types: Types, attrs: Attrs, declared: RingType | None) -> None:
        _kinds(types, kinds)

    return rule


def _route(*kinds: str) -> Rule:
    def rule(types: Types, attrs: Attrs, declared: RingType | None) -> None:
        _kinds(types, kinds)
        _need(types[0].size == 1, "a route is one index")

    return rule


def _bit(kind: str) -> Rule:
    def rule(types: Types, attrs: Attrs, declared: RingType | None) -> None:
        _kinds(types, (kind,))
        _need(types[0].width == types[0].size == 1, "a guard is one bit")

    return rule


def _exchanged(types: Types, attrs: Attrs) -> Sends:
    size = types[0].packed_bytes
    return Sends(p0_online=size, p1_online=size)


def _opened(types: Types, attrs: Attrs) -> Sends:
    by = int_attr(attrs, "by", 0, types[0].width - 1)
    size = packed_bytes(types[0].size, types[0].width - by)
    return Sends(p0_online=size, p1_online=size)


def _guard_sent(types: Types, attrs: Attrs) -> Sends:
    size = types[0].packed_bytes + VERDICT_BYTES
    return Sends(p0_online=size, p1_online=size)


def _to_p1(types: Types, attrs: Attrs) -> Sends:
    return Sends(dealer_to_p1=types[0].packed_bytes)


def _keys_sent(make: Callable[[Shape, Attrs], RingType]) -> Callable[[Types, Attrs], Sends]:
    def sends(types: Types, attrs: Attrs) -> Sends:
        size = make(types[0].shape, attrs).width * types[0].size
        return Sends(dealer_to_p0=size, dealer_to_p1=size)

    return sends


def _input_sent(types: Types, attrs: Attrs) -> Sends:
    size = types[0].packed_bytes
    return Sends(client_to_party=size, party_to_client_offline=size)


def _public_sent(types: Types, attrs: Attrs) -> Sends:
    made = _public_input(types, attrs, None)
    return Sends(client_to_party=made.packed_bytes)


_ALL = ("dealer", "prepare", "online")
_TABLE = ("slot", "index_bits", "low_bits", "degree", "width")
_SIGN = ("slot", "in_width", "width", "select")

_SPECS = (
    # local, linear
    Spec("add", _ALL, (), _elementwise),
    Spec("sub", _ALL, (), _elementwise),
    Spec("neg", _ALL, (), _unary),
    Spec("scale", _ALL, ("by",), _unary),
    Spec("offset", _ALL, ("by",), _unary),
    Spec("sum", _ALL, ("axes", "keepdims"), _sum),
    Spec("reshape", _ALL, ("shape",), _reshape, view=True),
    Spec("broadcast", _ALL, ("shape",), _broadcast, view=True),
    Spec("transpose", _ALL, ("perm",), _transpose, view=True),
    Spec("slice", _ALL, ("starts", "stops", "steps"), _slice, view=True),
    Spec("concat", _ALL, ("axis",), _concat),
    Spec("pad", _ALL, ("before", "after"), _pad),
    Spec("reduce", _ALL, ("width",), _reduce, view=True),
    Spec("add_common", ("prepare", "online"), (), _add_common),
    Spec("lift", ("prepare", "online"), (), _lift),
    # local, products
    Spec("mul", _ALL, (), _mul),
    Spec("matmul", _ALL, (), _matmul),
    Spec("conv2d", _ALL, ("stride", "padding", "dilation", "groups"), _conv2d),
    # masked wires
    Spec("shift", ("dealer", "online"), ("by",), _shift),
    # correlated randomness
    Spec("mask", ("dealer", "prepare"), ("slot",), _mask),
    Spec("widen", ("dealer",), ("width",), _widen),
    Spec("msb", ("dealer",), ("width",), _widen),
    Spec("correlate", ("dealer",), ("slot",), _correlate, _to_p1),
    Spec("correlation", ("prepare",), ("slot",), _correlation),
    Spec("table_keys", ("dealer",), _TABLE, _table_keys, _keys_sent(table_key_type)),
    Spec("table_key", ("prepare",), _TABLE, _key(table_key_type)),
    Spec("sign_keys", ("dealer",), _SIGN, _sign_keys, _keys_sent(sign_key_type)),
    Spec("sign_key", ("prepare",), _SIGN, _key(sign_key_type)),
    # gates
    Spec("table", ("online",), ("index_bits", "low_bits"), _table),
    Spec("relu", ("online",), ("width",), _sign_gate(select=True)),
    Spec("nonneg", ("online",), ("width",), _sign_gate(select=False)),
    Spec("extend", ("online",), ("width",), _extend),
    Spec("square", ("online",), ("width",), _wide_product(wires=1, products=2)),
    Spec("multiply", ("online",), ("width",), _wide_product(wires=2, products=4)),
    # values that both parties know
    Spec("public_table", ("online",), ("index_bits", "low_bits"), _known_table("public")),
    Spec("public_relu", ("online",), ("width",), _known_into("public")),
    Spec("public_nonneg", ("online",), ("width",), _known_into("public")),
    Spec("public_extend", ("online",), ("width",), _known_into("public")),
    # weights
    Spec("weight_mask", ("dealer",), (), _weight("clear")),
    Spec("weight_opened", ("prepare",), (), _weight("public")),
    Spec("weight_share", ("online",), (), _weight("share")),
    # messages
    Spec("input", ("online",), ("name",), _input, _input_sent),
    Spec("public_input", ("online",), ("name", "width", "shape"), _public_input, _public_sent),
    Spec("open", ("online",), ("round", "by"), _open, _opened, communicates=True),
    Spec("route", ("online",), ("round",), _route("share"), _exchanged, communicates=True),
    Spec("guard", ("online",), ("round",), _bit("share"), _guard_sent, communicates=True),
    Spec("output", ("online",), ("name", "round"), _result("share"), _exchanged, communicates=True),
    # the plain target: one party, nothing hidden
    Spec("plain_weight", ("online",), (), _weight("clear")),
    Spec("plain_input", ("online",), ("name",), _plain_input),
    Spec("plain_table", ("online",), ("index_bits", "low_bits"), _known_table("clear")),
    Spec("plain_relu", ("online",), ("width",), _known_into("clear")),
    Spec("plain_nonneg", ("online",), ("width",), _known_into("clear")),
    Spec("plain_extend", ("online",), ("width",), _known_into("clear")),
    Spec("plain_route", ("online",), (), _route("clear")),
    Spec("plain_guard", ("online",), (), _bit("clear")),
    Spec("plain_output", ("online",), ("name",), _result("clear")),
)

INSTRUCTIONS: Mapping[str, Spec] = {spec.name: spec for spec in _SPECS}


def result_type(
    op: str, types: Types, attrs: Attrs, declared: RingType | None, phase: str
) -> RingType | None:
    """Return the type of an instruction's result, None if it has none.

    Raises IsaError, in a full sentence, if the instruction does not exist or breaks a rule.
    """
    spec = INSTRUCTIONS.get(op)
    _need(spec is not None, f"there is no instruction '{op}'")
    assert spec is not None
    _need(phase in spec.phases, f"'{op}' does not belong in the {phase} function")
    _need(set(attrs) == set(spec.attrs), f"'{op}' has attributes {spec.attrs}, not {tuple(attrs)}")
    try:
        result = spec.rule(types, attrs, declared)
    except IsaError as error:
        raise IsaError(f"'{op}': {error}") from None
    if result is not None:
        _need(result.width >= 1 and result.kind in KINDS, f"'{op}': {result} is not a type")
        _need(result.kind == "key" or result.width <= MAX_WIDTH, f"'{op}': {result} is too wide")
        _need(has_room(result), f"'{op}': {result} is too large")
    return result


def sends(op: str, types: Types, attrs: Attrs) -> Sends:
    """Return the bytes that an instruction with these operand types sends."""
    return INSTRUCTIONS[op].sends(types, attrs)
