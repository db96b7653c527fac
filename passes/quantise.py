"""Pass `quantise`: give every value a fixed-point format and make functions tables.

A value with f fraction bits stands for x / 2^f. A product has the fraction bits of both factors; a
`shift` takes them back where the next op would suffer from them, and nowhere else: sums, reshapes
and outputs work on products as they are. A shift costs ring width, not a round (see plan_rings).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np

from srcompile.errors import CompileError, Loc
from srcompile.ir.graph import (
    NO_ATTRS,
    Array,
    Attr,
    Const,
    Function,
    Module,
    Node,
    Segment,
    public_values,
)
from srcompile.ir.types import FixType, FloatType
from srcompile.ops import Registry
from srcompile.ops.functions import Equals
from srcompile.ops.functions import Function as FunctionOp
from srcompile.ops.rows import CELL_FRAC, thresholds
from srcompile.passes.tables import MAX_INDEX_BITS, fit_table
from srcompile.runtime.program import narrowed, smallest_dtype
from srcompile.runtime.source import Source

EXPONENT = 4.0
"""The size of exponents, at most: the error that they may have does not grow with them."""
LEVELS_ABOVE = 8.0
"""How far above the last threshold of a row's top a value counts."""
Range = tuple[float, float]
PRODUCTS = frozenset({"mul", "matmul", "conv2d"})


@dataclass(frozen=True)
class Formats:
    """Precision of the fixed-point formats.

    activation_bits: the most bits of a value that enters a gate, sign included.
    weight_bits: the most bits of a weight, sign included.
    table_bits: a table's error is at most the size of its values / 2^table_bits.
    margin: how much larger than in calibration a value may get.
    routing_bits: activation_bits of what decides a route, and its weights have 8 bits less.
        Utilities of two models may be close, and a router is small: precision costs little there.
    precision_bits: one in the last place of a value is at most its size / 2^precision_bits, a
        weight's size being its root mean square; 0 to give all values the most bits.
    headroom: leave the top 1/16 of what the bits of a value hold empty, so that a check of its
        range needs no finer cells (passes/guard.py).
    """

    activation_bits: int = 20
    weight_bits: int = 16
    table_bits: int = 6
    margin: float = 2.0
    routing_bits: int = 26
    precision_bits: int = 8
    headroom: bool = False

    def widened(self, range_: Range) -> Range:
        """Return a calibrated range with the margin around it; functions and inputs take it."""
        low, high = range_
        spread = max(high - low, 2.0**-8) * (self.margin - 1) / 2
        return (low - spread, high + spread)

    def for_routing(self) -> Formats:
        """Return the formats of a router."""
        return replace(
            self,
            precision_bits=0,
            table_bits=max(self.table_bits, 12),
            activation_bits=max(self.activation_bits, self.routing_bits),
            weight_bits=max(self.weight_bits, self.routing_bits - 8),
        )


@dataclass(frozen=True)
class Gate:
    """What a gate takes: the range its argument had in calibration, and the one that is supported.

    error: the bound of its own error inside the range seen, in units of its result; `wanted` is
        what was asked for. Where a function's error may grow with its value, this is at small ones.
    """

    op: str
    loc: Loc
    seen: Range
    supported: Range
    error: float
    wanted: float

    @property
    def note(self) -> str | None:
        """What the user should know, if the gate is much less precise than asked for."""
        if self.error <= 4 * self.wanted:
            return None
        low, high = self.seen
        return (
            f"{self.loc}: {self.op} over {low:.3g} to {high:.3g} is off by up to {self.error:.2g}, "
            f"where {self.wanted:.2g} was asked for; a narrower range of its argument would help"
        )


def quantise(
    module: Module,
    ops: Registry,
    formats: Formats = Formats(),
    gates: list[Gate] | None = None,
    ranges: dict[str, Range] | None = None,
) -> Module:
    """Return the fixed-level form of a calibrated graph-level module of primitives.

    What is known of its gates is added to `gates`, and to `ranges` what each value of the result
    may be, margin included. Raises CompileError at a value without a calibrated range.
    """
    quantiser = _Quantiser(module, ops, formats, [] if gates is None else gates)
    made = quantiser.run()
    if ranges is not None:
        ranges.update(quantiser.ranges)
    return made


class _Quantiser:
    def __init__(self, module: Module, ops: Registry, formats: Formats, gates: list[Gate]) -> None:
        self.module, self.ops, self.formats, self.gates = module, ops, formats, gates
        self.consts: dict[str, Const] = {}
        self.nodes: list[Node] = []
        self.types: dict[str, FixType] = {}
        self.calibrated = {
            n.out: n.type.range for n in module.main.nodes() if isinstance(n.type, FloatType)
        }
        self.new: dict[str, str] = {}  # value on the graph level -> value here
        self.ranges: dict[str, Range] = {}  # on this level, margin included
        self.sizes: dict[str, float] = {}  # on this level, where known
        self.sound: dict[str, Range] = {}  # ranges that hold whatever the input
        self.fitted: dict[tuple[str, int], str] = {}
        self.made: dict[tuple[str, int], str] = {}  # constants by name and fraction bits
        self.steep: set[str] = set()  # values that have the margin twice
        self.exponentials: set[str] = set()
        self.users: dict[str, list[Node]] = {}
        for node in module.main.nodes():
            for name in dict.fromkeys(node.inputs):
                self.users.setdefault(name, []).append(node)
        self.public = public_values(module)
        self.node: Node

    def run(self) -> Module:
        segments = []
        routed = len(self.module.main.segments) > 1
        chosen = self.formats
        for segment in self.module.main.segments:
            decides = routed and segment.route is None
            self.formats = chosen.for_routing() if decides else chosen
            self.nodes = []
            outer = dict(self.fitted)
            for self.node in segment.nodes:
                self.translate(self.node)
            if segment.route is not None:
                self.fitted = outer
            segments.append(Segment(segment.name, tuple(self.nodes), segment.route))
        segments = [self.with_equal_outputs(s, segments) for s in segments]
        function = Function("main", tuple(segments))
        return Module("fixed", (function,), MappingProxyType(self.consts))

    def with_equal_outputs(self, segment: Segment, segments: list[Segment]) -> Segment:
        """Bring outputs of one name to one format, so that the client need not know the route."""
        self.nodes = []
        for node in segment.nodes:
            if node.op != "output":
                self.nodes.append(node)
                continue
            same = [
                n.inputs[0]
                for s in segments
                for n in s.nodes
                if n.op == "output" and n.attrs["name"] == node.attrs["name"]
            ]
            frac = max(self.type(i).frac for i in same)
            range_ = max((self.ranges[i] for i in same), key=lambda r: max(map(abs, r)))
            (x,) = node.inputs
            if (self.type(x).frac, self.type(x).bits) != (frac, self.bits(range_, frac)):
                self.node = node
                x = self.emit("scale", [x], frac, range_, {"by": 1 << (frac - self.type(x).frac)})
            self.nodes.append(replace(node, inputs=(x,)))
        return Segment(segment.name, tuple(self.nodes), segment.route)

    # -- building

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        frac: int,
        range_: Range,
        attrs: Mapping[str, Attr] = NO_ATTRS,
        name: str = "",
    ) -> str:
        """Add a node whose values lie in `range_` (margin included); return its name."""
        shapes = [self.type(i).shape for i in inputs]
        type_ = FixType(tuple(self.ops[op].shape(shapes, attrs)), self.bits(range_, frac), frac)
        base = name or f"%{op}"
        out, count = base, 1
        while out in self.types or (not name and out in self.calibrated):  # graph names stay theirs
            count += 1
            out = f"{base}.{count}"
        self.types[out], self.ranges[out] = type_, range_
        self.nodes.append(
            Node(op, out, tuple(inputs), MappingProxyType(dict(attrs)), type_, self.node.loc)
        )
        return out

    def type(self, operand: str) -> FixType:
        type_ = self.consts[operand].type if operand.startswith("@") else self.types[operand]
        assert isinstance(type_, FixType)
        return type_

    def table(self, name: str, data: Array, frac: int) -> str:
        """Add the integers `data`, a public constant."""
        top = float(np.max(np.abs(data), initial=1.0)) / 2.0**frac
        type_ = FixType(tuple(data.shape), _bits((-top, top), frac), frac)
        return self.const(name, type_, False, narrowed(data))

    def rounded(self, name: str, frac: int) -> str:
        """Add the integers nearest to the constant `name` times 2^frac.

        Those of weights that a pass has made are not kept: they are made of the floats when they
        are read. The model's own may change meanwhile, if somebody trains it.
        """
        if (name, frac) in self.made:
            return self.made[name, frac]
        const = self.module.consts[name]
        floats = const.data
        assert floats is not None
        ends = np.abs(_integers(_ends(floats), frac))
        top = float(np.max(ends, initial=1.0)) / 2.0**frac
        type_ = FixType(tuple(floats.shape), _bits((-top, top), frac), frac)
        made = partial(_stored, floats, frac)
        lazily = const.secret and _is_ours(floats)
        out = self.const(name, type_, const.secret, made if lazily else made())
        self.made[name, frac] = out
        return out

    def const(self, name: str, type_: FixType, secret: bool, source: Source) -> str:
        """Add a constant; the same name with the same format and data is added once."""
        new = Const(type_, secret, source)
        out, count = name, 1
        while out in self.consts and not _equal(self.consts[out], new):
            count += 1
            out = f"{name}.{count}"
        self.consts.setdefault(out, new)
        return out

    # -- ranges

    def range_of(self, node: Node) -> Range:
        """Return the range to provide for: a sound one if known, else calibrated + margin."""
        if node.out in self.sound:
            return self.sound[node.out]
        type_ = node.type
        if not isinstance(type_, FloatType) or type_.range is None:
            raise CompileError(f"{node.op} has no calibrated range", node.loc)
        top = max(abs(type_.range[0]), abs(type_.range[1]), 2.0**-10) * self.margin_of(node.out)
        return (-top, top)

    def margin_of(self, name: str) -> float:
        """Return how much larger than in calibration a value may get.

        Squares grow with both factors, and sums of exponentials with the length of the text too:
        they have the margin twice.
        """
        return self.formats.margin ** (2 if name in self.steep else 1)

    def note_steep(self, node: Node) -> None:
        """Note what grows like a square: squares, sums of exponentials, linear maps of such."""
        squared = node.op == "mul" and node.inputs[0] == node.inputs[-1]
        linear = node.op in _STEADY or node.op == "matmul"
        if squared or (
            linear and any(i in self.steep or i in self.exponentials for i in node.inputs)
        ):
            self.steep.add(node.out)
        if node.op == "exp":
            self.exponentials.add(node.out)

    # -- formats

    def frac_for(self, range_: Range, bits: int) -> int:
        """Return the fraction bits with which values of `range_` take `bits` bits."""
        top = max(abs(range_[0]), abs(range_[1]), 2.0**-30)
        frac = bits - 1 - math.floor(math.log2(top))
        while self.bits(range_, frac) > bits:
            frac -= 1
        return frac

    def bits(self, range_: Range, frac: int) -> int:
        """Return the bits of values of `range_`, with headroom if that is asked for."""
        return _bits(range_, frac, self.formats.headroom)

    def precise(self, range_: Range, size: float | None) -> int:
        """Return the fraction bits that a value of this range and size has in front of a gate."""
        most = self.frac_for(range_, self.formats.activation_bits)
        if not size or not self.formats.precision_bits:
            return most
        return min(most, self.formats.precision_bits - math.floor(math.log2(size)))

    def fit(self, name: str, size: float | None = None, more: int = 0) -> str:
        """Return `name` with at most `more` bits above what `precise` says, shifted if need be."""
        type_, range_ = self.type(name), self.ranges[name]
        frac = self.precise(range_, size or self.sizes.get(name)) + more
        if type_.frac <= frac:
            return name
        by = type_.frac - frac
        if (name, by) not in self.fitted:
            out = self.emit("shift", [name], frac, range_, {"by": by}, f"{name}.fit")
            self.fitted[name, by] = out
        return self.fitted[name, by]

    def weight(self, name: str) -> str:
        """Return a constant factor as integers of weight_bits bits (whole numbers as they are)."""
        const = self.module.consts[name]
        data = np.asarray(const.data)
        whole = not const.secret and bool(np.all(data == np.rint(data)))
        top = max(2.0**-20, float(data.max(initial=0)), -float(data.min(initial=0)))
        size = float(np.sqrt(np.mean(np.square(data, dtype=np.float64)))) if data.size else 0.0
        frac = self.frac_for((-top, top), self.formats.weight_bits)
        if size and self.formats.precision_bits:
            frac = min(frac, self.formats.precision_bits - math.floor(math.log2(size)))
        frac = 0 if whole else frac
        return self.rounded(name, frac)

    def raised(self, name: str, frac: int) -> str:
        """Return `name` with more fraction bits: an exact public factor 2^k."""
        more = frac - self.type(name).frac
        if more == 0:
            return name
        return self.emit("scale", [name], frac, self.ranges[name], {"by": 1 << more})

    # -- translation, one method for each kind of op

    def translate(self, node: Node) -> None:
        inputs = [self.new.get(i, i) for i in node.inputs]
        op = self.ops[node.op]
        self.note_sound(node)
        self.note_steep(node)
        rule = _RULES.get(node.op)
        if rule is not None:
            out = rule(self, node, inputs)
        elif isinstance(op, FunctionOp):
            out = self.function(node, op, inputs[0])
        elif op.linear:
            out = self.aligned(node, inputs)
        else:
            raise CompileError(f"{node.op} cannot be quantised", node.loc)
        size = node.type.size if isinstance(node.type, FloatType) else None
        if size:
            self.sizes[out] = size
        if self.opened_for_several(node):
            scores = any(user.op == "levels" for user in self.users[node.out])
            out = self.fit(out, min(size, EXPONENT) if size and scores else size, more=1)
            if size:
                self.sizes[out] = size
        self.new[node.out] = out

    def opened_for_several(self, node: Node) -> bool:
        """Whether a gate opens the value, and sums or differences of it go on to other gates.

        These do with as few bits as the gate, and then one short wire serves all.
        """
        users = self.users.get(node.out, ())
        onward = [user.op in ("sum", "sub") for user in users]
        return (
            any(onward)
            and any(
                user.op == "levels" or (user.op in PRODUCTS and not self.is_public(user))
                for user in users
            )
            and all(
                on or user.op in (*PRODUCTS, "levels")
                for on, user in zip(onward, users, strict=True)
            )
        )

    def is_public(self, product: Node) -> bool:
        """Whether a product has a public factor."""
        return any(i.startswith("@") and not self.module.consts[i].secret for i in product.inputs)

    def input(self, node: Node, inputs: list[str]) -> str:
        if node.attrs.get("bits"):
            table = [self.rounded(i, 0) for i in inputs]
            return self.emit("input", table, 0, (0.0, 1.0), node.attrs, node.out)
        range_ = self.range_of(node)
        for name in inputs:  # the client's table: whatever row it takes lies in its range
            data = np.asarray(self.module.consts[name].data)
            range_ = (float(data.min(initial=0.0)), float(data.max(initial=0.0)))
        assert isinstance(node.type, FloatType)
        frac = self.precise(range_, node.type.size)
        table = [self.rounded(i, frac) for i in inputs]
        return self.emit("input", table, frac, range_, node.attrs, node.out)

    def result(self, node: Node, inputs: list[str]) -> str:
        if inputs[0].startswith("@"):
            name = node.attrs.get("name", "route")
            raise CompileError(f"the {node.op} '{name}' does not depend on any input", node.loc)
        out = Node(node.op, "", tuple(inputs), node.attrs, None, node.loc)
        self.nodes.append(out)
        return ""

    def aligned(self, node: Node, inputs: list[str]) -> str:
        """Linear ops: bring all operands to the most fraction bits among them."""
        values = [i for i in inputs if not i.startswith("@")]
        frac = max(self.type(v).frac for v in values)
        operands = [
            self.rounded(i, frac) if i.startswith("@") else self.raised(i, frac) for i in inputs
        ]
        return self.emit(node.op, operands, frac, self.range_of(node), node.attrs, node.out)

    def offset(self, node: Node, inputs: list[str]) -> str:
        frac = self.type(inputs[0]).frac
        by = round(float(node.attrs["by"]) * 2.0**frac)  # type: ignore[arg-type]
        return self.emit("offset", inputs, frac, self.range_of(node), {"by": by}, node.out)

    def scale(self, node: Node, inputs: list[str]) -> str:
        factor, more = _integer_factor(float(node.attrs["by"]), self.formats.weight_bits)  # type: ignore[arg-type]
        x = self.fit(inputs[0]) if abs(factor) > 1 else inputs[0]
        frac = self.type(x).frac + more
        return self.emit("scale", [x], frac, self.range_of(node), {"by": factor}, node.out)

    def product(self, node: Node, inputs: list[str]) -> str:
        chosen = node.op == "mul" and any(map(self.chooses, node.inputs, inputs))
        x, y = (
            self.weight(i) if i.startswith("@") else i if chosen else self.fit(i) for i in inputs
        )
        frac = self.type(x).frac + self.type(y).frac
        return self.emit(node.op, [x, y], frac, self.range_of(node), node.attrs, node.out)

    def chooses(self, name: str, new: str) -> bool:
        """Whether a factor is public and holds 0 and 1 only: it adds no bits to a product."""
        const = self.module.consts.get(name)
        if const is not None:
            return not const.secret and bool(np.isin(np.asarray(const.data), (0, 1)).all())
        low, high = self.ranges[new]
        return name in self.public and self.type(new).frac == 0 and 0 <= low <= high <= 1

    def note_gate(
        self, node: Node, type_: FixType, error: float, wanted: float, centre: float = 0.0
    ) -> None:
        """Note what is known of the gate of `node`, whose argument has `type_` around `centre`."""
        reach = 2.0 ** (type_.bits - 1 - type_.frac)
        seen = self.calibrated[node.inputs[0]] or (-reach, reach)
        supported = (centre - reach, centre + reach)
        self.gates.append(Gate(node.op, node.loc, seen, supported, error, wanted))

    def relu(self, node: Node, inputs: list[str]) -> str:
        x = self.fit(inputs[0])
        unit = 2.0 ** -self.type(x).frac
        self.note_gate(node, self.type(x), unit, unit)
        return self.emit("relu", [x], self.type(x).frac, self.range_of(node), name=node.out)

    def nonneg(self, node: Node, inputs: list[str]) -> str:
        return self.emit("nonneg", [self.fit(inputs[0])], 0, (0.0, 1.0), name=node.out)

    def function(self, node: Node, op: FunctionOp, x: str) -> str:
        """A table around the centre of the argument's range, so that no index bit is wasted."""
        whole = isinstance(op, Equals)
        window = self.sound[node.inputs[0]] if whole else self.window(node, op)
        size = self.sizes.get(x)
        if size and op.name == "exp":
            size = min(size, EXPONENT)
        unit = 2.0 ** -self.type(x).frac
        centre = round((window[0] + window[1]) / 2 / unit) * unit
        around = (window[0] - centre, window[1] - centre)
        if centre:
            x = self.emit("offset", [x], self.type(x).frac, around, {"by": -round(centre / unit)})
        x = self.fit(x, size)
        type_ = self.type(x)
        out_range = self.range_of(node)
        assert isinstance(node.type, FloatType)
        made = node.type.size or max(map(abs, out_range)) / self.formats.margin
        frac = 0 if whole else self.precise(out_range, node.type.size)
        tolerance = made / 2**self.formats.table_bits
        # few elements can afford a large table: 2^22 entries are read in all
        most = min(15, max(MAX_INDEX_BITS, 22 - math.prod(type_.shape).bit_length()))
        spec = fit_table(
            lambda u: op.at(u, node.attrs),
            type_.bits,
            type_.frac,
            centre,
            window,
            frac,
            tolerance,
            most,
            self.calibrated[node.inputs[0]] or window,
            made if op.relative else math.inf,
        )
        if not whole:
            self.note_gate(node, type_, spec.error, tolerance, centre)
        if spec.index_bits + spec.low_bits > type_.bits:
            wider = (-(2.0 ** (type_.bits - 1 - type_.frac)), 2.0 ** (type_.bits - 1 - type_.frac))
            x = self.emit("offset", [x], type_.frac, wider, {"by": 0})
            self.ranges[x] = around
        tables = [
            self.table(f"@{node.out[1:]}.t{m}", table, spec.frac - m * type_.frac)
            for m, table in enumerate(spec.tables)
        ]
        attrs: dict[str, Attr] = {"index_bits": spec.index_bits, "low_bits": spec.low_bits}
        return self.emit("table", [x, *tables], spec.frac, out_range, attrs, node.out)

    def levels(self, node: Node, inputs: list[str]) -> str:
        """Tables of 0 and 1 on cells of a half; what a shift rounds up may cross a level."""
        x = inputs[0]
        by = self.type(x).frac - CELL_FRAC
        if by > 0:
            name = f"{node.out}.cell"
            x = self.emit("shift", [x], CELL_FRAC, self.ranges[x], {"by": by}, name)
        type_ = self.type(x)
        cells = np.arange(1 << type_.bits)
        cells = np.where(cells < 1 << (type_.bits - 1), cells, cells - (1 << type_.bits))
        value, steps = cells / 2.0**type_.frac, thresholds(node.attrs)
        # far above the last threshold nothing is supported: those entries cost nothing
        reached = (value >= steps[:, None]) & (value < steps[-1] + LEVELS_ABOVE)
        table = self.table(f"@{node.out[1:]}.t0", reached.astype(np.int64), 0)
        attrs: dict[str, Attr] = {"index_bits": type_.bits, "low_bits": 0}
        return self.emit("table", [x, table], 0, (0.0, 1.0), attrs, node.out)

    def window(self, node: Node, op: FunctionOp) -> Range:
        """Return the argument's calibrated range, widened by the margin, within the domain.

        Where the function leaves its own range, margin included, nothing is supported.
        """
        argument = self.calibrated[node.inputs[0]]
        if argument is None:
            raise CompileError(f"the argument of {node.op} has no calibrated range", node.loc)
        low, lowest = argument[0], op.domain_of(node.attrs)[0]
        if low < lowest:
            raise CompileError(
                f"{node.op} of values down to {low:g}, but it is only supported from {lowest:g} on",
                node.loc,
                "Check the calibration inputs, or shift or clamp the argument.",
            )
        margin, top = self.margin_of(node.inputs[0]), max(map(abs, self.range_of(node)))
        below, above = replace(self.formats, margin=margin).widened(argument)
        if lowest > -math.inf:  # keep away from a pole: divide rather than subtract
            below = max(low / margin, lowest)
            if abs(float(op.at(np.array([below]), node.attrs)[0])) > top:
                below = max(low / self.formats.margin, lowest)
        u = np.linspace(argument[1], above, 257)
        fits = np.abs(op.at(u, node.attrs)) <= top
        return (below, float(u[max(0, int(np.argmin(fits)) - 1)]) if not fits.all() else above)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape of an operand on the graph level."""
        const = self.module.consts.get(name)
        return tuple(const.type.shape) if const else self.type(self.new[name]).shape

    # -- ranges that follow from counting, not from samples

    def note_sound(self, node: Node) -> None:
        """Note a sound range for counts: 0..1 from a comparison, and linear maps of such."""
        if node.op in ("nonneg", "equals", "levels") or node.attrs.get("bits"):
            self.sound[node.out] = (0.0, 1.0)
            return
        known = [self.sound.get(i) or self._const_range(i) for i in node.inputs]
        interval = _INTERVALS.get(node.op)
        if interval is not None and known and all(k is not None for k in known):
            self.sound[node.out] = interval([k for k in known if k is not None], node, self)

    def _const_range(self, name: str) -> Range | None:
        const = self.module.consts.get(name)
        if const is None or const.data is None or const.secret:
            return None
        return (float(const.data.min()), float(const.data.max()))


def whole_range(range_: Range, frac: int) -> tuple[int, int]:
    """Return the least and the largest integer of `range_`, and of an error in the last place."""
    slack = 1 if frac else 0
    low, high = (end * 2.0**frac for end in range_)
    return math.floor(low) - slack, math.ceil(high) + slack


def _bits(range_: Range, frac: int, headroom: bool = False) -> int:
    """Return the bits of a signed integer that holds `range_` and an error in the last place."""
    top = max(map(abs, whole_range(range_, frac)))
    return max(2, 1 + (top * 16 // 15 if headroom else top).bit_length())


def _equal(a: Const, b: Const) -> bool:
    return a.type == b.type and np.array_equal(np.asarray(a.data), np.asarray(b.data))


def _is_ours(data: Array) -> bool:
    """Return whether NumPy made the memory of an array: what the front end takes from torch is the
    model's, and that of nobody else."""
    while isinstance(data.base, np.ndarray):
        data = data.base
    return data.flags.owndata


def _stored(data: Array, frac: int) -> Array:
    """Return the integers nearest to data * 2^frac, in the smallest dtype that holds them.

    They are made in parts of about 2^20, for the sake of memory.
    """
    low, high = map(int, _integers(_ends(data), frac))
    rows = np.atleast_1d(data)
    made = np.empty(rows.shape, smallest_dtype(low, high))
    step = max(1, (len(rows) << 20) // max(rows.size, 1))
    for start in range(0, len(rows), step):
        made[start : start + step] = _integers(rows[start : start + step], frac)
    return made.reshape(data.shape)


def _ends(data: Array) -> Array:
    """Return the least and the largest element, or zero if that is less or larger."""
    return np.array([data.min(initial=0), data.max(initial=0)], data.dtype)


def _integers(data: Array, frac: int) -> Array:
    """Return data * 2^frac rounded, as floats: exact in single precision too."""
    scaled = np.ldexp(data if data.dtype.kind == "f" else data.astype(np.float64), frac)
    return np.asarray(np.rint(scaled, out=scaled))


def _integer_factor(by: float, bits: int) -> tuple[int, int]:
    """Return (k, m) with by = k / 2^m to `bits` bits, k odd unless by is zero."""
    if by == 0.0:
        return 0, 0
    more = bits - 1 - math.ceil(math.log2(abs(by)))
    factor = round(by * 2.0**more)
    while factor % 2 == 0:
        factor, more = factor // 2, more - 1
    return factor, more


def _union(known: list[Range], node: Node, q: _Quantiser) -> Range:
    return (min(0.0, *(k[0] for k in known)), max(0.0, *(k[1] for k in known)))


def _interval_offset(known: list[Range], node: Node, q: _Quantiser) -> Range:
    by = float(node.attrs["by"])  # type: ignore[arg-type]
    return (known[0][0] + by, known[0][1] + by)


def _interval_scale(known: list[Range], node: Node, q: _Quantiser) -> Range:
    by = float(node.attrs["by"])  # type: ignore[arg-type]
    return (min(known[0][0] * by, known[0][1] * by), max(known[0][0] * by, known[0][1] * by))


def _interval_matmul(known: list[Range], node: Node, q: _Quantiser) -> Range:
    depth = q.shape_of(node.inputs[0])[-1]
    low, high = _interval_mul(known, node, q)
    return (min(0.0, low) * depth, max(0.0, high) * depth)


def _interval_mul(known: list[Range], node: Node, q: _Quantiser) -> Range:
    ends = [a * b for a in known[0] for b in known[1]]
    return (min(ends), max(ends))


def _interval_sum(known: list[Range], node: Node, q: _Quantiser) -> Range:
    before = q.type(q.new.get(node.inputs[0], node.inputs[0])).shape
    assert isinstance(node.type, FloatType)
    count = math.prod(before) / max(math.prod(node.type.shape), 1)
    return (known[0][0] * count, known[0][1] * count)


_STEADY = frozenset({"sum", "scale", "offset", "reshape", "transpose", "slice", "broadcast"})
"""Linear ops of one operand, as far as they carry squares on."""

_INTERVALS: Mapping[str, Callable[[list[Range], Node, _Quantiser], Range]] = {
    "add": lambda k, n, q: (k[0][0] + k[1][0], k[0][1] + k[1][1]),
    "sub": lambda k, n, q: (k[0][0] - k[1][1], k[0][1] - k[1][0]),
    "neg": lambda k, n, q: (-k[0][1], -k[0][0]),
    "offset": _interval_offset,
    "mul": _interval_mul,
    "matmul": _interval_matmul,
    "scale": _interval_scale,
    "sum": _interval_sum,
    **dict.fromkeys(("pad", "concat", "reshape", "transpose", "slice", "broadcast"), _union),
}

_RULES: Mapping[str, Callable[[_Quantiser, Node, list[str]], str]] = {
    "input": _Quantiser.input,
    "output": _Quantiser.result,
    "route": _Quantiser.result,
    "offset": _Quantiser.offset,
    "scale": _Quantiser.scale,
    "relu": _Quantiser.relu,
    "nonneg": _Quantiser.nonneg,
    "levels": _Quantiser.levels,
    **dict.fromkeys(PRODUCTS, _Quantiser.product),
}
