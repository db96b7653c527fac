"""Pass `guard`: let a program find out, under MPC, whether a value left its range.

A wire of b bits holds |x| < 2^(b-1). What is beyond wraps around in whatever takes it, without a
trace. So a checked wire is opened with g bits more, and a DPF table over the top bits of it gives a
share of [x lies in its range]. The table reads *cells* of 2^low_bits values: k bits of the index
divide the range of the wire into 2^k cells, and the other g tell the ranges beside it. Under MPC
x may be read in the cell above its own, so with J the cells that are marked

    marked:      every cell that a required x may be read in     (an x in its range never fires)
    not marked:  every cell that an unsupported x may be read in (an x beyond 2^(b-1) always does)

k is the least number for which both can be had; `quantise` leaves 1/16 of the bits' range empty, so
that 5 are enough. A table follows its function in the range of its argument only, so all 5 are
spent there, and no more cells are marked than must be. All marks are added up in one ring element,
which cannot wrap around since its ring holds the number of all elements; one comparison makes one
bit of the sum.

Checked is what a wrap would harm: arguments of tables, ReLUs and comparisons, and what is extended
into a larger ring, in elementwise products of two values too. Other products are right mod 2^w
whatever their operands are, so all that counts is that their result can be checked; where two
values are multiplied that would be out of range by a square, so they are checked as well. Not
checked is what cannot leave its range if nothing else did: inputs (the client checks them),
comparisons, ReLUs of checked values, and so on, by interval arithmetic on what the parties know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from srcompile.errors import CompileError, Loc
from srcompile.ir.graph import NO_ATTRS, Array, Attr, Const, Module, Node, Segment
from srcompile.ir.types import FixType, Type
from srcompile.ops import Registry
from srcompile.ops.base import integer
from srcompile.passes.quantise import PRODUCTS, Range, whole_range

MORE_BITS, MOST_BITS = 4, 8
"""g, if it is not chosen, and the largest: values of up to 2^g times their range are found."""
CELL_BITS = 5
"""Bits of the index that are spent on cells inside the range of a wire, at most."""

Whole = tuple[int, int]
"""The least and the largest integer that a value may be."""


@dataclass(frozen=True)
class Cells:
    """How a wire is checked: the index of a table, and the cells first..last that are marked."""

    index_bits: int
    low_bits: int
    first: int
    last: int

    @property
    def holds(self) -> Whole:
        """What a value that is read in a marked cell may be."""
        if self.low_bits == 0:
            return self.first, self.last
        size = 1 << self.low_bits
        return (self.first - 1) * size + 1, (self.last + 1) * size - 1

    @property
    def table(self) -> Array:
        """The marks, by unsigned index."""
        cells = np.arange(1 << self.index_bits)
        signed = np.where(cells < 1 << (self.index_bits - 1), cells, cells - (1 << self.index_bits))
        return ((signed >= self.first) & (signed <= self.last)).astype(np.int64)


def cells_for(bits: int, required: Whole, more: int, tight: bool) -> Cells:
    """Return how to check a wire of `bits` bits whose values in range are `required`.

    Marked are all cells that `bits` bits hold or, if `tight`, no more of the finest than must be,
    which is up to 2^bits / 16 more than required on a side. Raises ValueError if `required` comes
    too close to what the bits hold (see the module's docstring).
    """
    most = min(CELL_BITS, bits)
    for cell_bits in range(most if tight else 2, most + 1):
        low_bits = bits - cell_bits
        # x is read in the cell above its own only if it is not the first value of its own
        first, last = required[0] >> low_bits, -(-required[1] >> low_bits)
        top = (1 << (cell_bits - 1)) - 1
        if -top <= first and last <= top:
            marked = (first, last) if tight else (-top, top)
            return Cells(more + cell_bits, low_bits, *marked)
    raise ValueError(f"{required} leaves no room in {bits} bits for a check")


def guard(
    module: Module,
    ops: Registry,
    ranges: Mapping[str, Range],
    more: int = MORE_BITS,
    extended: Collection[str] = (),
) -> Module:
    """Return a fixed-level module, whose rings are not planned yet, that checks its ranges.

    `ranges` are the values' ranges, margin included; `more` is g above; `extended` are the shifts
    that `plan_rings` extends. If nothing in it can leave its range the module is returned without a
    `guard`. Raises CompileError for an output in front of a route.
    """
    return _Guard(module, ops, ranges, more, extended).run()


class _Guard:
    def __init__(
        self,
        module: Module,
        ops: Registry,
        ranges: Mapping[str, Range],
        more: int,
        extended: Collection[str],
    ) -> None:
        self.module, self.ops, self.ranges, self.more = module, ops, ranges, more
        self.extended = extended
        self.types: dict[str, Type] = module.main.types()
        self.routed = len(module.main.segments) > 1
        self.consts = dict(module.consts)
        self.in_tables = {n.inputs[0] for n in module.main.nodes() if n.op == "table"}
        self.known: dict[str, Whole] = {}  # what a value may be unless a check before it fires
        self.checked: set[str] = set()
        self.loose: set[Attr] = set()  # names of outputs that may leave their range
        self.nodes: list[Node] = []
        self.counts: list[str] = []  # marks added up, of one check each
        self.elements = 0

    def run(self) -> Module:
        bodies = [self.body(segment) for segment in self.module.main.segments]
        segments = []
        for segment, nodes in zip(self.module.main.segments, bodies, strict=True):
            self.nodes = nodes
            for node in segment.nodes:
                if node.op == "output":
                    self.output(node)
            segments.append(replace(segment, nodes=tuple(self.nodes)))
        return replace(self.module.with_main(tuple(segments)), consts=MappingProxyType(self.consts))

    def body(self, segment: Segment) -> list[Node]:
        """Return the nodes of a segment but for its outputs, with checks, and with a `guard`."""
        before = dict(self.known), set(self.checked), list(self.counts), self.elements
        router = self.routed and segment.route is None
        self.nodes = []
        for node in segment.nodes:
            if node.op == "output":
                if router:
                    raise CompileError("a guarded output stands behind the route", node.loc)
                if not _within(self.known[node.inputs[0]], self.most(node.inputs[0])):
                    self.loose.add(node.attrs["name"])
            else:
                self.take(node, router)
        if self.counts and not router:
            self.reveal(Loc(module=segment.name if self.routed else "", op="guard"))
        if segment.route is not None:
            self.known, self.checked, self.counts, self.elements = before
        return self.nodes

    # -- building

    def type(self, name: str) -> FixType:
        type_ = self.consts[name].type if name.startswith("@") else self.types[name]
        assert isinstance(type_, FixType)
        return type_

    def most(self, name: str) -> Whole:
        """Return what the bits of a value hold."""
        top = (1 << (self.type(name).bits - 1)) - 1
        return -top, top

    def required(self, name: str) -> Whole:
        """Return what a value may be in its range."""
        return whole_range(self.ranges[name], self.type(name).frac)

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        bits: int,
        loc: Loc,
        name: str,
        attrs: Mapping[str, Attr] = NO_ATTRS,
        frac: int = 0,
    ) -> str:
        """Add a node of the guard; return its name."""
        out, count = name, 1
        while out in self.types:
            count += 1
            out = f"{name}.{count}"
        shape = self.ops[op].shape([self.type(i).shape for i in inputs], attrs)
        type_ = FixType(tuple(shape), bits, frac)
        self.types[out] = type_
        loc = replace(loc, op="guard")
        self.nodes.append(Node(op, out, tuple(inputs), MappingProxyType(dict(attrs)), type_, loc))
        return out

    # -- checks

    def take(self, node: Node, router: bool) -> None:
        """Add a node, with checks of what it takes before it, and behind it if it is extended.

        A router checks whatever its gates take: there is little of it, and so every route of a
        program has a bit to reveal.
        """
        values = [i for i in node.inputs if not i.startswith("@")]
        if node.op in _GATES or (node.op in PRODUCTS and len(values) == 2):
            for name in dict.fromkeys(values):
                self.check(name, node, router)
        self.nodes.append(node)
        if node.out:
            self.known[node.out] = self.bounds(node)
        if node.out in self.extended:
            self.check(node.out, node, always=False)

    def check(self, name: str, node: Node, always: bool) -> None:
        """Check a value unless that is done, or it cannot be out of range."""
        type_, tight = self.type(name), name in self.in_tables
        known, required = self.known[name], self.required(name)
        proven = _within(known, required if tight else self.most(name))
        if name in self.checked or (proven and not always):
            return
        cells = cells_for(type_.bits, required, self.more, tight)
        self.checked.add(name)
        self.known[name] = max(known[0], cells.holds[0]), min(known[1], cells.holds[1])
        attrs: dict[str, Attr] = {"index_bits": cells.index_bits, "low_bits": cells.low_bits}
        marks = [name, self.marks(cells)]
        inside = self.emit("check", marks, 2, node.loc, f"{name}.inside", attrs)
        size = math.prod(type_.shape)
        if len(type_.shape) != 1:
            flat: dict[str, Attr] = {"shape": (size,)}
            inside = self.emit("reshape", [inside], 2, node.loc, f"{name}.flat", flat)
        if size > 1:
            axes: dict[str, Attr] = {"axes": (0,), "keepdims": True}
            bits = 1 + size.bit_length()
            inside = self.emit("sum", [inside], bits, node.loc, f"{name}.count", axes)
        self.counts.append(inside)
        self.elements += size

    def marks(self, cells: Cells) -> str:
        """Return the table of a check, which is a public constant; equal ones are one."""
        name = f"@inside.{cells.index_bits}.{cells.first}.{cells.last}"
        self.consts[name] = Const(FixType((1 << cells.index_bits,), 2, 0), False, cells.table)
        return name

    def reveal(self, loc: Loc) -> None:
        """Reveal whether all elements are marked: [sum of marks - number of elements >= 0]."""
        bits = 1 + self.elements.bit_length()
        total = self.counts[0]
        for count in self.counts[1:]:
            total = self.emit("add", [total, count], bits, loc, "%inside")
        by: dict[str, Attr] = {"by": -self.elements}
        missing = self.emit("offset", [total], bits, loc, "%missing", by)
        inside = self.emit("nonneg", [missing], 2, loc, "%guard")
        self.nodes.append(Node("guard", "", (inside,), NO_ATTRS, None, loc))

    def output(self, node: Node) -> None:
        """Add an output; if it may leave its range with g bits more, for the client to see it."""
        (name,) = node.inputs
        if node.attrs["name"] in self.loose:
            type_ = self.type(name)
            bits, by = type_.bits + self.more, MappingProxyType({"by": 1})
            wide = self.emit("scale", [name], bits, node.loc, f"{name}.wide", by, type_.frac)
            attrs = MappingProxyType({**node.attrs, "within": type_.bits})
            node = replace(node, inputs=(wide,), attrs=attrs)
        self.nodes.append(node)

    # -- what a value may be

    def bounds(self, node: Node) -> Whole:
        """Return what the result of a node may be, if its operands are what is known of them."""
        if node.op == "input":
            return self.required(node.out)
        return _BOUNDS[node.op](node, [self.whole(i) for i in node.inputs], self)

    def whole(self, name: str) -> Whole:
        """Return what an operand may be. Of a weight nothing is known but its bits."""
        if not name.startswith("@"):
            return self.known[name]
        const = self.consts[name]
        if const.secret or const.data is None:
            return self.most(name)
        return int(const.data.min(initial=0)), int(const.data.max(initial=0))

    def times(self, operands: Sequence[Whole], count: int) -> Whole:
        """Return what the sum of so many products may be, of some of them too."""
        (a, b), (c, d) = operands
        ends = (0, a * c, a * d, b * c, b * d)
        return count * min(ends), count * max(ends)

    def depth(self, name: str) -> int:
        """Return how many products a matmul with this left operand adds up."""
        return self.type(name).shape[-1]

    def window(self, name: str) -> int:
        """Return how many products a convolution with these weights adds up."""
        return math.prod(self.type(name).shape[1:])

    def share(self, node: Node) -> int:
        """Return how many elements of its operand each element of a sum adds up."""
        return math.prod(self.type(node.inputs[0]).shape) // max(1, math.prod(_shape(node)))


def _shape(node: Node) -> tuple[int, ...]:
    assert isinstance(node.type, FixType)
    return node.type.shape


def _within(inner: Whole, outer: Whole) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _by(node: Node) -> int:
    return integer(node.attrs["by"])


def _scaled(node: Node, x: Sequence[Whole], g: _Guard) -> Whole:
    ends = [end * _by(node) for end in x[0]]
    return min(ends), max(ends)


def _shifted(node: Node, x: Sequence[Whole], g: _Guard) -> Whole:
    """Return what x / 2^by may be: an opening that drops bits is off by less than 1.5."""
    return (x[0][0] >> _by(node)) - 1, (x[0][1] >> _by(node)) + 2


def _union(node: Node, x: Sequence[Whole], g: _Guard) -> Whole:
    return min(0, *(low for low, _ in x)), max(0, *(high for _, high in x))


def _table(node: Node, x: Sequence[Whole], g: _Guard) -> Whole:
    """Return what the table gives in the cells of its argument, and in the one above.

    t0 + t1·d + t2·d^2 with |d| < 2^low_bits; in floats, rounded outwards.
    """
    index_bits, low_bits = (integer(node.attrs[k]) for k in ("index_bits", "low_bits"))
    low, high = (end >> low_bits for end in x[0])
    last = min(high + 1, low + (1 << index_bits) - 1)
    cells = np.arange(low, last + 1) & ((1 << index_bits) - 1)
    least = most = np.zeros(1)
    for m, name in enumerate(node.inputs[1:]):
        data = g.consts[name].data
        if data is None:
            return g.most(node.out)
        part = data[..., cells].astype(np.float64) * 2.0 ** (m * low_bits)
        least = least + (part if m == 0 else -np.abs(part))
        most = most + (part if m == 0 else np.abs(part))
    return _outwards(float(least.min())), -_outwards(-float(most.max()))


def _outwards(low: float) -> int:
    return math.floor(low - abs(low) * 2.0**-40)


_GATES = frozenset({"table", "relu", "nonneg"})

_BOUNDS: Mapping[str, Callable[[Node, Sequence[Whole], _Guard], Whole]] = {
    "add": lambda n, x, g: (x[0][0] + x[1][0], x[0][1] + x[1][1]),
    "sub": lambda n, x, g: (x[0][0] - x[1][1], x[0][1] - x[1][0]),
    "neg": lambda n, x, g: (-x[0][1], -x[0][0]),
    "offset": lambda n, x, g: (x[0][0] + _by(n), x[0][1] + _by(n)),
    "scale": _scaled,
    "sum": lambda n, x, g: (x[0][0] * g.share(n), x[0][1] * g.share(n)),
    **dict.fromkeys(("pad", "concat", "reshape", "transpose", "slice", "broadcast"), _union),
    "mul": lambda n, x, g: g.times(x, 1),
    "matmul": lambda n, x, g: g.times(x, g.depth(n.inputs[0])),
    "conv2d": lambda n, x, g: g.times(x, g.window(n.inputs[1])),
    "shift": _shifted,
    "relu": lambda n, x, g: (max(x[0][0], 0), max(x[0][1], 0)),
    "nonneg": lambda n, x, g: (0, 1),
    "table": _table,
}
