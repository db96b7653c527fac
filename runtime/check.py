"""The rules a whole program keeps, beyond those of single instructions. The compiler checks what it
makes with them, and a runtime checks what it loads.

- Every value is made before it is used, in a place that is sure to have run.
- Every mask is used by exactly one opening (`open` or `input`), so no two openings share a mask.
- A constant is public or a weight, so that none stands for a mask, and weights are read by the
  instructions that load them alone.
- What the parties know of an input is masked, or a `public_input` that says so.
- Nothing leaves a party but by `open`, `input`, `route`, `guard` and `output`, whose operands are
  typed.
- A guarded program reveals one `guard` on every route, in front of all outputs.
- Every correlation and key a party takes is made by the dealer, in the same segment, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from srcompile.runtime import isa
from srcompile.runtime.isa import Attrs, IsaError, RingType

PHASES = ("dealer", "prepare", "online")
OPENINGS = frozenset({"open", "input"})
_MADE_BY = {"correlation": "correlate", "table_key": "table_keys", "sign_key": "sign_keys"}
WEIGHTS = frozenset({"weight_mask", "weight_opened", "weight_share", "plain_weight"})
_OF_PROTOCOLS = frozenset({"input", "public_input", "open", "route", "guard", "output"})


class InstructionLike(Protocol):
    """What a rule looks at; the compiler's nodes and the runtime's instructions both have it."""

    @property
    def op(self) -> str: ...  # noqa: D102
    @property
    def out(self) -> str: ...  # noqa: D102
    @property
    def inputs(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def attrs(self) -> Attrs: ...  # noqa: D102


class CheckError(IsaError):
    """A broken rule, and where: function, index of the segment, index of the instruction."""

    def __init__(self, message: str, phase: str, segment: int, index: int) -> None:
        super().__init__(message)
        self.phase, self.segment, self.index = phase, segment, index


Functions = Mapping[str, Sequence[Sequence[InstructionLike]]]
Declared = Mapping[tuple[str, str], RingType | None]


def check(
    functions: Functions,
    declared: Declared,
    consts: Mapping[str, RingType],
    routes: Sequence[int | None],
) -> None:
    """Check the three functions. `declared` is each value's type, by phase and name.

    Raises CheckError at the first instruction that breaks a rule.
    """
    if not routes or routes[0] is not None or None in routes[1:]:
        raise CheckError("the first segment always runs, the others if the route says so", "", 0, 0)
    if sorted(r for r in routes[1:] if r is not None) != list(range(len(routes) - 1)):
        raise CheckError("the routes are numbered from 0, each once", "", 0, 0)
    for name, type_ in consts.items():
        if type_.kind not in ("public", "share"):
            message = (
                f"the constant {name} is {type_}; a constant is public, or a share of a weight"
            )
            raise CheckError(message, "", 0, 0)
        if type_.width > isa.MAX_WIDTH or not isa.has_room(type_):
            raise CheckError(f"the constant {name} is {type_}, which is too large", "", 0, 0)
    checker = _Checker(declared, consts)
    for phase in PHASES:
        checker.phase = phase
        for segment, instructions in enumerate(functions[phase]):
            checker.segment = segment
            for index, instruction in enumerate(instructions):
                checker.index = index
                checker.instruction(instruction)
    checker.finish(len(routes))


class _Checker:
    def __init__(self, declared: Declared, consts: Mapping[str, RingType]) -> None:
        self.declared, self.consts = declared, consts
        self.phase, self.segment, self.index = "", 0, 0
        self.types: dict[tuple[str, str], tuple[int, RingType]] = {}
        self.opened_under: dict[str, str] = {}
        self.slots: dict[tuple[str, int], tuple[str, int, RingType]] = {}
        self.dealt_at: dict[int, tuple[int, int]] = {}  # slot -> segment and index
        self.routes = 0
        self.guards: dict[int, int] = {}  # segment -> index
        self.unguarded: list[tuple[int, int]] = []  # segment and index of outputs
        self.clear: set[bool] = set()

    def fail(self, message: str) -> None:
        raise CheckError(message, self.phase, self.segment, self.index)

    def instruction(self, ins: InstructionLike) -> None:
        types = [self.operand(name) for name in ins.inputs]
        for name in ins.inputs:
            weight = name in self.consts and self.consts[name].kind == "share"
            if weight != (ins.op in WEIGHTS):
                self.fail(f"'{ins.op}' reads {'the weight' if weight else 'no weight but'} {name}")
        declared = self.declared.get((self.phase, ins.out)) if ins.out else None
        try:
            type_ = isa.result_type(ins.op, types, ins.attrs, declared, self.phase)
        except IsaError as error:
            self.fail(str(error))
        if (type_ is None) != (not ins.out):
            self.fail(f"'{ins.op}' makes {'no' if type_ is None else 'a'} value")
        if type_ is not None:
            self.define(ins.out, type_, declared)
        if ins.op in OPENINGS:
            self.one_opening(ins.inputs[-1], ins.out)
        if "slot" in ins.attrs:
            self.take_slot(ins, types, type_)
        if ins.op in ("input", "public_input", "plain_input") and self.segment != 0:
            self.fail("inputs belong in the first segment")
        if ins.op in ("route", "plain_route"):
            self.routes += 1
            if self.segment != 0 or self.routes > 1:
                self.fail("a program reveals one route, in its first segment")
        if ins.op in ("guard", "plain_guard"):
            if self.segment in self.guards:
                self.fail("a route reveals one guard")
            self.guards[self.segment] = self.index
        if ins.op in ("output", "plain_output") and self.segment not in self.guards:
            self.unguarded.append((self.segment, self.index))
        if ins.op.startswith("plain_"):
            self.clear.add(True)
        elif ins.op in _OF_PROTOCOLS:
            self.clear.add(False)
        if len(self.clear) > 1:
            self.fail("instructions of the plain target do not mix with those of a protocol")

    def operand(self, name: str) -> RingType:
        if name.startswith("@"):
            if name not in self.consts:
                self.fail(f"there is no constant {name}")
            return self.consts[name]
        # a branch's material is dealt apart: only `online` sees values of the first segment
        phases = ("online", "prepare") if self.phase == "online" else ()
        for phase in phases or (self.phase,):
            segment, type_ = self.types.get((phase, name), (-1, None))
            if type_ is not None and segment in (self.segment, 0 if phases else self.segment):
                return type_
        self.fail(f"{name} is not defined here")
        raise AssertionError

    def define(self, name: str, type_: RingType, declared: RingType | None) -> None:
        if declared != type_:
            self.fail(f"{name} is declared {declared}, but is {type_}")
        if (self.phase, name) in self.types or (
            self.phase == "online" and ("prepare", name) in self.types
        ):
            self.fail(f"{name} is defined twice")
        self.types[self.phase, name] = (self.segment, type_)

    def one_opening(self, mask: str, out: str) -> None:
        if mask in self.opened_under:
            first = self.opened_under[mask]
            self.fail(f"the mask {mask} is used already, to open {first}; two openings under one "
                      "mask disclose the difference of what they open")  # fmt: skip
        self.opened_under[mask] = out

    def take_slot(self, ins: InstructionLike, types: list[RingType], out: RingType | None) -> None:
        try:
            slot = isa.int_attr(ins.attrs, "slot", 0, (1 << 32) - 1)
        except IsaError as error:
            self.fail(str(error))
        if (self.phase, slot) in self.slots:
            self.fail(f"slot {slot} is used already")
        type_ = types[0] if out is None else out
        self.slots[self.phase, slot] = (ins.op, self.segment, type_)
        dealt = self.slots.get(("dealer", slot))
        if self.phase == "dealer":
            self.dealt_at[slot] = (self.segment, self.index)
            return
        if ins.op == "mask" and type_.kind != "mask":
            self.fail(f"a party's part of a mask has kind mask, not {type_.kind}")
        if ins.op == "mask" and dealt is None:
            return  # a mask that no correlation depends on
        want = _MADE_BY.get(ins.op, ins.op)
        if dealt is None or dealt[:2] != (want, self.segment):
            self.fail(f"slot {slot} is not filled by a '{want}' of the dealer in this segment")
        assert dealt is not None
        same_width = dealt[2].width == type_.width or type_.kind == "key"
        if not same_width or dealt[2].shape != type_.shape:
            self.fail(f"slot {slot} holds {dealt[2]}, not {type_}")

    def finish(self, segments: int) -> None:
        routed = segments > 1
        if routed != (self.routes == 1):
            self.phase, self.segment, self.index = "online", 0, 0
            self.fail("a program with branches reveals a route, and one without reveals none")
        if self.guards and set(self.guards) != set(range(1 if routed else 0, segments)):
            self.phase, (self.segment, self.index) = "online", min(self.guards.items())
            self.fail("a guarded program reveals a guard on every route, behind it")
        if self.guards and self.unguarded:
            self.phase, (self.segment, self.index) = "online", self.unguarded[0]
            self.fail("an output stands in front of the guard")
        taken = {slot for phase, slot in self.slots if phase == "prepare"}
        for slot, place in self.dealt_at.items():
            if self.slots["dealer", slot][0] != "mask" and slot not in taken:
                self.phase, (self.segment, self.index) = "dealer", place
                self.fail(f"slot {slot} is dealt, but no party takes it")
