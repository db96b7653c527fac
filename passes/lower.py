"""Pass `lower`: from the fixed level to instructions, through a protocol.

A protocol gives one function for each kind of node (see `Protocol`); they emit into the three
functions of a program (`dealer`, `prepare`, `online`) side by side, so a gate's three parts stand
next to each other in its source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol as TypingProtocol

import numpy as np

from srcompile.errors import CompileError, Loc
from srcompile.ir.graph import NO_ATTRS, Array, Attr, Const, Function, Module, Node, Segment
from srcompile.ir.types import FixType
from srcompile.runtime import isa
from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import ring_dtype
from srcompile.runtime.source import Source, array_of

PHASES = ("dealer", "prepare", "online")


class LoweringProtocol(TypingProtocol):
    """How one target lowers fixed-level nodes. `name` is its name on the command line."""

    name: str

    def lower(self, node: Node, b: ProgramBuilder) -> None:
        """Emit the instructions of `node`."""


def lower(module: Module, protocol: LoweringProtocol) -> Module:
    """Return the lowered module of a fixed-level module whose rings are planned."""
    builder = ProgramBuilder(module)
    for segment in module.main.segments:
        builder.start_segment(segment)
        for node in segment.nodes:
            builder.loc = node.loc
            protocol.lower(node, builder)
    builder.wires.clear()  # its entries refer to the builder: the weights would outlive their use
    return builder.module()


def input_width(node: Node, type_: FixType) -> int:
    """Return the ring in which an input is given: a public one has no more than its own bits."""
    ring = node.attrs["ring"]
    assert isinstance(ring, int)
    return min(ring, type_.bits) if node.attrs.get("public") else ring


@dataclass(frozen=True)
class _Emitted:
    """Where a value of a phase was made."""

    type: RingType
    segment: int


class ProgramBuilder:
    """Collects the instructions of the three functions, segment by segment.

    An instruction of `dealer` or `prepare` that works on values of the first segment only goes
    there, even if a branch needs it: so the material of a branch does not depend on other blocks.
    """

    def __init__(self, module: Module) -> None:
        self.fixed = module
        self.types = module.main.types()
        self.loc = Loc()
        self.wires: dict[str, object] = {}  # what the protocol knows of each fixed-level value
        self._segments: list[Segment] = []
        self._nodes: dict[str, list[list[Node]]] = {phase: [] for phase in PHASES}
        self._made: dict[str, dict[str, _Emitted]] = {phase: {} for phase in PHASES}
        self._consts: dict[str, Const] = {}
        self._slot = 0

    # -- segments and results

    def start_segment(self, segment: Segment) -> None:
        """Begin a segment; what is emitted from now on belongs to it."""
        self._segments.append(segment)
        for nodes in self._nodes.values():
            nodes.append([])

    @property
    def current(self) -> int:
        """Index of the current segment."""
        return len(self._segments) - 1

    def module(self) -> Module:
        """Return the lowered module."""
        functions = tuple(
            Function(
                phase,
                tuple(
                    Segment(s.name, tuple(nodes), s.route)
                    for s, nodes in zip(self._segments, self._nodes[phase], strict=True)
                ),
                "prepare" if phase == "online" else "",
            )
            for phase in PHASES
        )
        return Module("lowered", functions, MappingProxyType(self._consts))

    # -- looking at the fixed level

    def fix_type(self, operand: str) -> FixType:
        """Return the fixed-level type of an operand."""
        type_ = self.fixed.type_of(operand, self.types)
        assert isinstance(type_, FixType)
        return type_

    def is_secret(self, operand: str) -> bool:
        """Whether an operand is a secret constant, a weight."""
        return operand.startswith("@") and self.fixed.consts[operand].secret

    # -- emitting

    def ring_type(self, phase: str, name: str) -> RingType:
        """Return the type of a value of a phase, or of a constant."""
        if name.startswith("@"):
            type_ = self._consts[name].type
            assert isinstance(type_, RingType)
            return type_
        scopes = ("prepare", "online") if phase == "online" else (phase,)
        return next(self._made[s][name].type for s in scopes if name in self._made[s])

    def emit(
        self,
        phase: str,
        op: str,
        inputs: Sequence[str],
        attrs: Mapping[str, Attr] = NO_ATTRS,
        name: str = "",
        declared: RingType | None = None,
        segment: int | None = None,
    ) -> str:
        """Add an instruction; return the name of its value, "" if it makes none."""
        types = [self.ring_type(phase, i) for i in inputs]
        try:
            type_ = isa.result_type(op, types, attrs, declared, phase)
        except isa.IsaError as error:
            raise CompileError(f"this cannot be lowered: {error}", self.loc) from None
        where = self._place(phase, inputs) if segment is None else segment
        out = ""
        if type_ is not None:
            out = self._fresh(phase, name or (inputs[0] if inputs else f"%{op}"))
            self._made[phase][out] = _Emitted(type_, where)
        self._nodes[phase][where].append(
            Node(op, out, tuple(inputs), MappingProxyType(dict(attrs)), type_, self.loc)
        )
        return out

    def segment_of(self, phase: str, name: str) -> int:
        """Return the segment in which a value was made."""
        return self._made[phase][name].segment

    def _place(self, phase: str, inputs: Sequence[str]) -> int:
        if phase == "online":
            return self.current
        made = [self.segment_of(phase, i) for i in inputs if not i.startswith("@")]
        return max(made) if made else self.current

    def _fresh(self, phase: str, hint: str) -> str:
        base = hint.replace("@", "%").replace("/", ".")
        scopes = ("prepare", "online") if phase != "dealer" else ("dealer",)
        out, count = base, 1
        while any(out in self._made[s] for s in scopes):
            count += 1
            out = f"{base}.{count}"
        return out

    def slot(self) -> int:
        """Return a number for a piece of correlated randomness, never given before."""
        self._slot += 1
        return self._slot - 1

    def const(self, operand: str, width: int) -> str:
        """Return a constant of the fixed level as elements of Z_(2^width)."""
        source = self.fixed.consts[operand]
        kind = "share" if source.secret else "public"
        shape = tuple(source.type.shape)
        name = operand
        while name in self._consts and self._consts[name].type != RingType(kind, width, shape):
            name = f"{operand}.w{width}"
        elements: Source = None
        if source.source is not None:
            elements = partial(_elements, source.source, width)
        if not source.secret:  # these are small, and read often
            elements = array_of(elements)
        self._consts[name] = Const(RingType(kind, width, shape), source.secret, elements)
        return name

    def zero(self, operand: str, width: int) -> str:
        """Return a public constant of zeros, in the shape of an operand of the fixed level."""
        shape = self.fix_type(operand).shape
        base = f"@{operand[1:]}.zero"
        name = base
        while name in self._consts and self._consts[name].type != RingType("public", width, shape):
            name = f"{base}.w{width}"
        data = np.zeros(shape, ring_dtype(width))
        self._consts[name] = Const(RingType("public", width, shape), False, data)
        return name


def _elements(source: Source, width: int) -> Array:
    """Return integers as elements of Z_(2^width), in the dtype that the runtime has for them."""
    integers, dtype = array_of(source), ring_dtype(width)
    assert integers is not None
    assert integers.dtype.kind in "iu", integers.dtype
    words = integers.astype(dtype)  # modulo 2^32 or 2^64
    words &= dtype.type((1 << width) - 1)
    return words
