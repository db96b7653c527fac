"""The engine: binds the instructions of a segment once, into a plan, and runs the plan often.

A role brings binders for its own instructions (masks, keys, messages); local instructions are the
same for all. Attributes, types and buffers are looked up while binding, so that a run is a plain
loop. Values are dropped after their last use, and results go into the buffers the compiler
planned, so that a run allocates next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any, Protocol

import numpy as np

from srcompile.runtime import gates
from srcompile.runtime.isa import INSTRUCTIONS, RingType
from srcompile.runtime.kernels import Kernels, PackedMatrix, ring_dtype
from srcompile.runtime.program import Instruction, Program
from srcompile.runtime.ring import COMPUTED, VIEWS, Compute, Ring, canonical, number, shift, widened

Value = Any  # Ring, or gates.Key
Env = dict[str, Value]
Bind = Callable[[Instruction, Sequence[RingType]], Compute]


class Run(Protocol):
    """One run of a plan: its values by name, and whatever else the role's instructions need."""

    env: Env


@dataclass(frozen=True)
class Step:
    """A bound instruction, or a part of a round: its action, and the values it touches.

    waits: behind it a run may wait for the peer.
    """

    action: Callable[[Any], None]  # of the Run
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    drops: tuple[str, ...] = ()  # no later step needs them
    waits: bool = False


Plan = Sequence[Step]

_FEW_ROWS = 16  # products with fewer rows read each weight about as often as packing would


class Arena:
    """The buffers of one segment of one function: allocated once, used by every run after."""

    def __init__(self, body: Sequence[Instruction]) -> None:
        sizes = _buffer_sizes(body)
        self._buffers = {number: np.empty(size, np.uint8) for number, size in sizes.items()}

    def place(self, i: Instruction) -> Callable[[], Ring]:
        """Return what gives an uninitialised array for the result of `i`: planned, or a new one."""
        type_ = _type(i)
        dtype = ring_dtype(type_.width)
        if i.buffer < 0:
            return partial(np.empty, type_.shape, dtype)
        array = self._buffers[i.buffer][: _bytes(type_)].view(dtype).reshape(type_.shape)
        return lambda: array


def arena_bytes(body: Sequence[Instruction]) -> int:
    """Return the bytes of a segment's buffers."""
    return sum(_buffer_sizes(body).values())


def _buffer_sizes(body: Sequence[Instruction]) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for i in body:
        if i.type is not None and i.buffer >= 0:
            sizes[i.buffer] = max(sizes.get(i.buffer, 0), _bytes(i.type))
    return sizes


class Engine:
    """Binds and runs instructions of a program for party 0 or 1, or for the dealer (party None)."""

    def __init__(self, program: Program, kernels: Kernels, party: int | None = None) -> None:
        self.program, self.kernels, self.party = program, kernels, party
        self.public: Env = {n: c.data for n, c in program.constants.items() if not c.secret}
        self._types = {phase: program.types(phase) for phase in program.functions}
        self._rows = _rows_met(program, ("dealer",) if party is None else ("prepare", "online"))
        self._local: Mapping[str, Bind] = {
            "offset": self._offset,
            "add_common": self._add_common,
            "lift": self._lift,
            "shift": lambda i, t: shift(i.attrs, t[0], _type(i)),
            "widen": lambda i, t: lambda x: widened(x, t[0].width, _type(i).width),
            "msb": self._msb,
            "matmul": lambda i, t: self.kernels.matmul,  # the right operand may be packed
            "conv2d": self._conv2d,
            "table": self._table,
            "nonneg": self._nonneg,
            "relu": self._relu,
            "extend": self._extend,
            "square": self._square,
            "multiply": self._multiply,
            **_KNOWN,
        }

    def types(self, phase: str, names: Sequence[str]) -> list[RingType]:
        """Return the types of the operands of an instruction."""
        known = self._types[phase]
        return [known[name] for name in names]

    def plan(
        self, phase: str, segment: int, own: Mapping[str, Bind], keep: frozenset[str] = frozenset()
    ) -> Plan:
        """Return a segment of a function that sends no messages, bound; `keep` outlives it."""
        body = self.program.functions[phase][segment]
        arena = Arena(body)
        return with_drops([self.step(phase, i, own, arena) for i in body], keep)

    def laid_out(self, op: str, name: str, weight: Ring) -> Ring | PackedMatrix:
        """Return a weight as the readers of the instruction `op` that loads it want it.

        It is packed, which takes no more memory, if all readers multiply with it from the right and
        one of them has many rows; otherwise it is the array itself.
        """
        return lay_out(self.kernels, weight, self._rows.get((op, name), 0))

    def step(self, phase: str, i: Instruction, own: Mapping[str, Bind], arena: Arena) -> Step:
        """Return one instruction, bound. `own` binds a role's own: to functions of run and values.

        Weights are no values: the instructions that take one find it where their role keeps it.
        """
        types = self.types(phase, i.inputs)
        reads = tuple(n for n in i.inputs if n.startswith("%") or n in self.public)
        if i.op in own:
            action = _with_run(own[i.op](i, types), reads, i.out)
        elif i.op in COMPUTED:
            action = into(COMPUTED[i.op](i.attrs, types[0]), reads, i.out, arena.place(i))
        elif i.op in VIEWS:
            action = _alone(VIEWS[i.op](i.attrs, types[0], _type(i)), reads, i.out)
        else:
            action = _alone(self._local[i.op](i, types), reads, i.out)
        return Step(action, reads, (i.out,) if i.out else ())

    def run(self, plan: Plan, run: Run) -> None:
        """Run a plan: this is the loop that everything else is prepared for."""
        env = run.env
        for step in plan:
            step.action(run)
            for name in step.drops:
                del env[name]

    # -- local instructions that need the party or the kernels

    def _offset(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        if types[0].kind in ("share", "mask") and self.party != 0:
            return _same
        by = number(i.attrs["by"], ring_dtype(types[0].width))
        return lambda x: np.asarray(x + by)

    def _add_common(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        if self.party == 0:
            return lambda x, common: np.asarray(x + common)
        shape = _type(i).shape
        return lambda x, common: x if x.shape == shape else np.broadcast_to(x, shape)

    def _lift(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        return _same if self.party == 0 else np.zeros_like

    def _msb(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        width, dtype = types[0].width, ring_dtype(_type(i).width)
        return lambda x: (canonical(x, width) >> x.dtype.type(width - 1)).astype(dtype)

    def _conv2d(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        a: Any = i.attrs
        geometry = (a["stride"], a["padding"], a["dilation"], a["groups"])
        return lambda x, w: self.kernels.conv2d(x, w, *geometry)

    def _table(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        a: Any = i.attrs
        shape = (a["index_bits"], a["low_bits"], _type(i).width)
        party = self._index()
        return lambda x, key, *tables: gates.table(
            self.kernels, party, x, *shape, key, list(tables)
        )

    def _nonneg(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        return partial(gates.nonneg, self.kernels, self._index(), types[0].width, _type(i).width)

    def _relu(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        return partial(gates.relu, self.kernels, self._index(), types[0].width, _type(i).width)

    def _extend(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        return partial(gates.extend, self._index(), types[0], _type(i).width)

    def _square(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        return partial(gates.square, self._index(), types[0], _type(i).width)

    def _multiply(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        party, wires, width = self._index(), (types[0], types[1]), _type(i).width

        def multiply(x: Ring, y: Ring, r: Ring, m: Ring, s: Ring, n: Ring, *products: Ring) -> Ring:
            rs, rn, ms, mn = products
            return gates.multiply(party, wires, width, (x, y), (r, m), (s, n), (rs, rn, ms, mn))

        return multiply

    def _index(self) -> int:
        assert self.party is not None
        return self.party


def lay_out(kernels: Kernels, weight: Ring, rows: int) -> Ring | PackedMatrix:
    """Return a weight for products from the right with so many rows; 0 if it has other readers."""
    return kernels.pack_matrix(weight, rows, levels=0) if rows >= _FEW_ROWS else weight


# -- actions: from the values of a run to a value of it ------------------------------------------


def _operands(reads: Sequence[str]) -> Callable[[Env], Sequence[Value]]:
    """Return what looks up values by name, in order."""
    if len(reads) > 1:
        return itemgetter(*reads)
    return lambda env: [env[name] for name in reads]


def _alone(compute: Compute, reads: Sequence[str], out: str) -> Callable[[Run], None]:
    operands = _operands(reads)

    def action(run: Run) -> None:
        env = run.env
        env[out] = compute(*operands(env))

    def of_one(run: Run) -> None:
        env = run.env
        env[out] = compute(env[only])

    only = reads[0] if len(reads) == 1 else ""
    return of_one if only else action


def into(
    compute: Compute, reads: Sequence[str], out: str, place: Callable[[], Ring]
) -> Callable[[Run], None]:
    """Return an action that puts compute(values it reads, a place) into `out`."""
    operands = _operands(reads)

    def action(run: Run) -> None:
        env = run.env
        env[out] = compute(*operands(env), place())

    return action


def _with_run(compute: Compute, reads: Sequence[str], out: str) -> Callable[[Run], None]:
    operands = _operands(reads)

    def action(run: Run) -> None:
        env = run.env
        value = compute(run, *operands(env))
        if out:
            env[out] = value

    return action


def with_drops(steps: Sequence[Step], keep: frozenset[str] = frozenset()) -> Plan:
    """Return the steps of a segment, each with the values that no later one and not `keep` need."""
    seen: set[str] = set(keep)
    plan: list[Step] = []
    for step in reversed(steps):
        names = dict.fromkeys((*step.reads, *step.makes))
        drops = tuple(n for n in names if n.startswith("%") and n not in seen)
        plan.append(replace(step, drops=drops))
        seen.update(names)
    return plan[::-1]


def _same(x: Value) -> Value:
    return x


def _bytes(type_: RingType) -> int:
    return type_.size * ring_dtype(type_.width).itemsize


def _rows_met(program: Program, phases: Sequence[str]) -> dict[tuple[str, str], int]:
    """Return the most rows that a product with a weight has: (op that loads it, weight) -> rows.

    A weight with any other reader is left out: that one needs the array itself.
    """
    weights = set(program.weights())
    loaded: dict[str, tuple[str, str]] = {}
    rows: dict[tuple[str, str], int] = {}
    others: set[tuple[str, str]] = set()
    for phase in (p for p in phases if p in program.functions):
        types = program.types(phase)
        for _, i in program.instructions(phase):
            if i.inputs and i.inputs[0] in weights:
                loaded[i.out] = i.op, i.inputs[0]
            for place, name in enumerate(i.inputs):
                if name not in loaded:
                    continue
                weight = loaded[name]
                if i.op == "matmul" and place == 1 and len(types[name].shape) == 2:
                    met = math.prod(types[i.inputs[0]].shape[:-1])
                    rows[weight] = max(rows.get(weight, 0), met)
                else:
                    others.add(weight)
    return {weight: count for weight, count in rows.items() if weight not in others}


def _type(i: Instruction) -> RingType:
    assert i.type is not None
    return i.type


def _known_table(i: Instruction, types: Sequence[RingType]) -> Compute:
    a: Any = i.attrs
    return lambda x, *tables: gates.plain_table(x, a["index_bits"], a["low_bits"], list(tables))


def _known_sign(i: Instruction, types: Sequence[RingType]) -> Compute:
    def sign(operand: Ring) -> Ring:
        x = gates.signed(operand, types[0].width)
        y = (x >= 0).astype(np.int64) if i.op.endswith("nonneg") else x
        y = np.maximum(y, 0) if i.op.endswith("relu") else y
        return y.view(np.uint64).astype(ring_dtype(_type(i).width))

    return sign


_KNOWN: Mapping[str, Bind] = {
    "plain_table": _known_table,
    "plain_relu": _known_sign,
    "plain_nonneg": _known_sign,
    "plain_extend": _known_sign,
    "public_table": _known_table,
    "public_relu": _known_sign,
    "public_nonneg": _known_sign,
    "public_extend": _known_sign,
}


def is_message(instruction: Instruction) -> bool:
    """Whether an instruction is part of an online message between the roles."""
    return INSTRUCTIONS[instruction.op].communicates
