"""Machines: how long a party computes on each online instruction, from a measured profile.

A profile has grids of times (runtime/profiles.py); the rules here say at which point of which grid
an instruction lies. Time goes by what an instruction touches: elements and bits of their words for
what NumPy runs, shapes for products, and for gates the points of a function key that are expanded.
A value that is a view with gaps (transposed, sliced, broadcast) costs a copy where it is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.passes.tables import entries_met
from srcompile.runtime.isa import INSTRUCTIONS, RingType
from srcompile.runtime.kernels.layout import dpf_layout, relu_fields
from srcompile.runtime.profiles import Profile, built_in, read_profile, this_machines
from srcompile.runtime.program import Instruction, Program

TABLES_IN_ONE = 16
"""How many more tables a gate reads in the time that it takes to expand its key."""


@dataclass(frozen=True)
class Machine:
    """One party's machine: what was measured on it, and rough figures for choices.

    The figures weigh work against bytes and rounds while compiling, whoever compiles: a program
    must not depend on the machine that compiled it. Products and tables are given for elements of
    more than 32 bits; below they take half the time.
    """

    profile: Profile = field(default_factory=built_in)
    multiply_add_s: float = 4.5e-11
    table_entry_s: float = 1.5e-9

    @property
    def name(self) -> str:
        """What reports call it."""
        if self.profile.source == "built-in":
            return "built-in"
        return f"{self.profile.name} ({self.profile.source})"

    def product_s(self, multiply_adds: int, width: int) -> float:
        """Return about how long a product in a ring of `width` bits takes."""
        return multiply_adds * self.multiply_add_s * (0.5 if width <= 32 else 1.0)

    def table_s(self, gates: int, entries: int, tables: int, width: int) -> float:
        """Return about how long `gates` take that read so many tables each, into a ring, with so
        many entries other than zero."""
        read = gates * entries * (1 + (tables - 1) / TABLES_IN_ONE)
        return read * self.table_entry_s * (0.5 if width <= 32 else 1.0)


def machines(paths: Sequence[str | Path] = ()) -> tuple[Machine, Machine]:
    """Return both parties' machines: from one profile, from two, or from this machine's.

    Raises ProfileError if a profile is missing or damaged.
    """
    if not paths:
        machine = Machine(this_machines())
        return machine, machine
    found = [Machine(read_profile(Path(path))) for path in paths]
    return found[0], found[-1]


@dataclass(frozen=True)
class Call:
    """An instruction that a party computes: operand types, and which operands have gaps."""

    instruction: Instruction
    types: Sequence[RingType]
    gaps: Sequence[bool]
    weights: Sequence[bool]
    party: int

    @property
    def size(self) -> int:
        """Elements of the result, or of the operand if there is none."""
        type_ = self.instruction.type or self.types[0]
        return type_.size

    @property
    def bits(self) -> int:
        """Bits of the words in which the operand, or else the result, is kept."""
        type_ = self.types[0] if self.types else self.instruction.type
        assert type_ is not None
        return 32 if type_.width <= 32 else 64


class Timer:
    """Says how long each online instruction of a program takes a party on a machine."""

    def __init__(self, program: Program, machine: Machine, party: int) -> None:
        self._profile, self._grids = machine.profile, machine.profile.grids
        self._program, self._party = program, party
        self._types = program.types("online") if "online" in program.functions else {}
        self._gaps: set[str] = set()
        self._weights = {i.out for _, i in program.instructions("online") if i.op == "weight_share"}
        self._expanded: dict[tuple[str, ...], float] = {}
        self._step = self._grids["step"].at(_bytes_between_messages(program, self._types))
        self._warm = self._grids["step"].at(0)

    def seconds(self, i: Instruction) -> float:
        """Return the time of an instruction; call it once for each, in the program's order."""
        types = [self._types[name] for name in i.inputs]
        gaps = [name in self._gaps for name in i.inputs]
        weights = [name in self._weights for name in i.inputs]
        call = Call(i, types, gaps, weights, self._party)
        if _has_gaps(call):
            self._gaps.add(i.out)
        if i.op in STEPS:
            return STEPS[i.op] * self._step + _RULES[i.op](self._at, call)
        if i.op == "table":
            return self._step + self._table(call)
        return self._step + _RULES.get(i.op, _arithmetic)(self._at, call)

    def interval(self, part: Sequence[Instruction], rest_s: float) -> list[float]:
        """Return the times of the instructions up to a round's messages, or of the last ones.

        rest_s: how long the party waited for the message before.
        """
        seconds = [self.seconds(i) for i in part]
        if part and INSTRUCTIONS[part[-1].op].communicates:
            seconds[-1] += STEPS_OF_A_MESSAGE * (self._step - self._warm)
        computed = sum(seconds)
        longer = 1 + self._profile.rested_s(rest_s, computed) / computed if computed else 1.0
        return [
            s if i.op in INPUTS else WAITING * longer * s
            for i, s in zip(part, seconds, strict=True)
        ]

    def _at(self, name: str, *point: float) -> float:
        return self._grids[name].at(*point)

    def _table(self, call: Call) -> float:
        i, count = call.instruction, call.types[0].size
        index_bits: Any = i.attrs["index_bits"]
        assert i.type is not None
        entries, k = 1 << index_bits, len(i.inputs) - 2
        tables = i.type.size // max(count, 1)
        layout = dpf_layout(index_bits, k, i.type.width)
        part = self._part(i.inputs[2:], layout.points, 1 << layout.depth)
        each = self._at(f"table.{layout.lane}.{k}", entries, part)
        if tables > 1:
            several = self._at(f"tables.{layout.lane}", part * entries, tables)
            whole = self._at(f"table.{layout.lane}.1", part * entries, 1.0)
            each += k * max(several - whole, 0.0)
        spent = self._at("table", k * tables * entries) + count * each
        return spent + (self._at(f"gather.{call.bits}", count) if call.gaps[0] else 0.0)

    def _part(self, names: Sequence[str], points: int, leaves: int) -> float:
        """Return which part of the leaves of a table's keys is expanded, as runtime/native does."""
        key = tuple(names)
        if key not in self._expanded:
            self._expanded[key] = self._measured_part(names, points, leaves)
        return self._expanded[key]

    def _measured_part(self, names: Sequence[str], points: int, leaves: int) -> float:
        tables = [self._program.constants[name].data for name in names]
        used = entries_met([np.asarray(t) for t in tables if t is not None])
        met = -(-(used + points - 1) // points)
        part = min(64, -(-met // VECTOR_BLOCKS) * VECTOR_BLOCKS)
        expanded = -(-met // part) * part
        return expanded / leaves if 4 * expanded <= 3 * leaves else 1.0


def _bytes_between_messages(program: Program, types: Mapping[str, RingType]) -> float:
    """Return how much memory a party touches between two messages, on average."""
    total, messages = 0, 1
    for _, i in program.instructions("online"):
        messages += INSTRUCTIONS[i.op].communicates
        for type_ in (*(types[name] for name in i.inputs), i.type):
            if type_ is not None:
                word = type_.width if type_.kind == "key" else 4 if type_.width <= 32 else 8
                total += type_.size * word
    return total / messages


STEPS: Mapping[str, int] = {
    "open": 3, "output": 3, "route": 3, "guard": 3, "input": 0, "public_input": 0,
}  # fmt: skip
"""How many steps' overhead instructions have that are not one step."""
STEPS_OF_A_MESSAGE = 16
INPUTS = ("input", "public_input")
"""Instructions whose times were measured by the clock."""
WAITING = 1.1
"""What computing takes by the clock against what it takes one party: before each message both wait
for the one that happened to be slower this time. Measured with MiniLM: 1.05 to 1.17."""
VECTOR_BLOCKS = 4
"""Leaves that the native kernels expand at once, with AVX-512."""


# -- views and gaps --------------------------------------------------------------------------------


def _has_gaps(call: Call) -> bool:
    """Whether the result is a view whose elements do not lie one behind the other."""
    i, before = call.instruction, bool(call.gaps and call.gaps[0])
    if i.op == "transpose":
        perm: Any = i.attrs["perm"]
        moved = [p for p in perm if call.types[0].shape[p] != 1]
        return before or moved != sorted(moved)
    if i.op == "slice":
        assert i.type is not None
        cut = [a != b for a, b in zip(i.type.shape, call.types[0].shape, strict=True)]
        first = next((k for k, n in enumerate(i.type.shape) if n != 1), len(cut))
        return before or any(cut[first + 1 :])
    if i.op == "broadcast":
        return before or call.size != call.types[0].size
    if i.op == "reshape":
        return before and _squeezed(i.type) == _squeezed(call.types[0])
    return before and i.op in ("reduce", "offset", "add_common")


def _squeezed(type_: RingType | None) -> list[int]:
    assert type_ is not None
    return [n for n in type_.shape if n != 1]


# -- rules: where an instruction lies in which grid ------------------------------------------------

At = Callable[..., float]
Rule = Callable[[At, Call], float]


def _free(at: At, call: Call) -> float:
    return 0.0


def _arithmetic(at: At, call: Call) -> float:
    """Two operands; the other party's share of a common summand is not touched."""
    if call.instruction.op == "add_common" and call.party == 1:
        return 0.0
    return at(f"{'gather' if any(call.gaps) else 'add'}.{call.bits}", call.size)


def _one_operand(at: At, call: Call) -> float:
    untouched = call.instruction.op == "offset" and call.party == 1
    if untouched and call.types[0].kind in ("share", "mask"):
        return 0.0
    if call.instruction.op == "lift" and call.party == 0:
        return 0.0
    return at(f"{'gather' if any(call.gaps) else 'scale'}.{call.bits}", call.size)


def _sum(at: At, call: Call) -> float:
    axes: Any = call.instruction.attrs["axes"]
    (type_,) = call.types
    if call.gaps[0]:
        return at(f"gather.{call.bits}", type_.size)
    if not axes:
        return at(f"add.{call.bits}", type_.size)
    if len(type_.shape) - 1 in axes:
        return at(f"sum.{call.bits}", call.size, type_.size / max(call.size, 1))
    inner = math.prod(type_.shape[max(axes) + 1 :])  # so many are added at a time
    return at(f"sum.{call.bits}", type_.size / inner, inner)


def _copy(at: At, call: Call) -> float:
    return at(f"{'gather' if any(call.gaps) else 'copy'}.{call.bits}", call.size)


def _reshape(at: At, call: Call) -> float:
    if call.gaps[0] and _squeezed(call.instruction.type) != _squeezed(call.types[0]):
        return at(f"gather.{call.bits}", call.size)
    return 0.0


def _reduce(at: At, call: Call) -> float:
    assert call.instruction.type is not None
    narrower = call.bits == 64 and call.instruction.type.width <= 32
    return at("narrow", call.size) if narrower else 0.0


def _matmul(at: At, call: Call) -> float:
    """A weight on the right meets all rows at once; other products are made one by one."""
    left, right = call.types
    *batch, rows, _ = (call.instruction.type or left).shape
    depth, columns = right.shape[-2:]
    if call.weights[1] and len(right.shape) == 2:
        rows *= math.prod(batch)
        return at("product") + at(f"weight.{call.bits}", rows, depth, columns)
    if len(right.shape) == 2 and not call.gaps[0]:
        rows, batch = rows * math.prod(batch), []
    each = at(f"matmul.{call.bits}", rows, depth, columns)
    return at("product") + math.prod(batch) * each


def _conv2d(at: At, call: Call) -> float:
    a: Any = call.instruction.attrs
    assert call.instruction.type is not None
    images, outputs, height, width = call.instruction.type.shape
    groups, depth = a["groups"], math.prod(call.types[1].shape[1:])
    name = f"conv2d{' strided' if max(a['stride']) > 1 else ''}.{call.bits}"
    count: int = images * groups
    return at("convolution") + count * at(name, outputs / groups, depth, height * width)


def _sign(at: At, call: Call) -> float:
    wire, type_ = call.types[0], call.instruction.type
    assert type_ is not None
    levels = wire.width - 1
    if call.instruction.op == "nonneg":
        return at("sign") + wire.size * at("nonneg", levels)
    words = -(-sum(relu_fields(wire.width, type_.width)) // 64)
    return at("sign") + wire.size * at("relu", levels, words)


def _wide(at: At, call: Call) -> float:
    """Gates whose result is in another ring, in which their shares are too."""
    assert call.instruction.type is not None
    bits = 32 if call.instruction.type.width <= 32 else 64
    return at(f"{call.instruction.op}.{bits}", call.size)


def _in_the_clear(at: At, call: Call) -> float:
    """What both parties know: NumPy computes it element by element."""
    return at(f"gather.{call.bits}", call.size)


def _open(at: At, call: Call) -> float:
    """Both passes of an opening; its message is the round's."""
    (type_, *_) = call.types
    gathered = at(f"gather.{call.bits}", type_.size) if call.gaps[0] else 0.0
    dropped: Any = call.instruction.attrs.get("by", 0)
    return at(f"open.{call.bits}", type_.size, type_.width - dropped) + gathered


def _output(at: At, call: Call) -> float:
    (type_,) = call.types
    return at(f"open.{call.bits}", type_.size, type_.width) / 2


_RULES: Mapping[str, Rule] = {
    "weight_share": _free,
    "plain_weight": _free,
    "transpose": _free,
    "broadcast": _free,
    "slice": _free,
    "reshape": _reshape,
    "reduce": _reduce,
    "neg": _one_operand,
    "scale": _one_operand,
    "offset": _one_operand,
    "lift": _one_operand,
    "sum": _sum,
    "concat": _copy,
    "pad": _copy,
    "shift": lambda at, call: at(f"shift.{call.bits}", call.size),
    "extend": _wide,
    "square": _wide,
    "multiply": _wide,
    "plain_extend": lambda at, call: at(f"extend.{call.bits}", call.size),
    "matmul": _matmul,
    "conv2d": _conv2d,
    "relu": _sign,
    "nonneg": _sign,
    "input": lambda at, call: at("input", call.size),
    "public_input": lambda at, call: at("input", call.size),
    **dict.fromkeys(
        ("public_table", "public_relu", "public_nonneg", "public_extend"), _in_the_clear
    ),
    "open": _open,
    "route": lambda at, call: 0.0,
    "guard": lambda at, call: 0.0,
    "output": _output,
}
"""The grid and the point of each instruction. Whatever has none here is arithmetic."""
