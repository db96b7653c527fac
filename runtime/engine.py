"""The engine: runs one segment of one function for one role.

A role brings a table of handlers for its own instructions (masks, keys, messages); local
instructions are the same for all. Values are dropped after their last use, and results go into the
buffers the compiler planned, so that a run allocates next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from srcompile.runtime import gates
from srcompile.runtime.isa import INSTRUCTIONS, RingType
from srcompile.runtime.kernels import Kernels, PackedMatrix, ring_dtype
from srcompile.runtime.program import Instruction, Program
from srcompile.runtime.ring import COMPUTED, VIEWS, Ring, canonical, number, shift, widened

Value = Any  # Ring, or gates.Key
Env = MutableMapping[str, Value]
Handler = Callable[[Instruction, Sequence[Value], Sequence[RingType]], Value]

_FEW_ROWS = 16  # products with fewer rows read each weight about as often as packing would


class Arena:
    """The buffers of one function: allocated once, used by every run after."""

    def __init__(self) -> None:
        self._buffers: dict[int, np.ndarray[Any, np.dtype[np.uint8]]] = {}

    def array(self, instruction: Instruction) -> Ring:
        """Return an uninitialised array for the result of `instruction`."""
        type_ = instruction.type
        assert type_ is not None
        dtype = ring_dtype(type_.width)
        size = type_.size * dtype.itemsize
        if instruction.buffer < 0:
            return np.empty(type_.shape, dtype)
        buffer = self._buffers.get(instruction.buffer)
        if buffer is None or buffer.nbytes < size:
            buffer = self._buffers[instruction.buffer] = np.empty(size, np.uint8)
        return buffer[:size].view(dtype).reshape(type_.shape)


class Engine:
    """Runs instructions of a program for party 0 or 1, or for the dealer (party None)."""

    def __init__(self, program: Program, kernels: Kernels, party: int | None = None) -> None:
        self.program, self.kernels, self.party = program, kernels, party
        self._types = {phase: program.types(phase) for phase in program.functions}
        self._arenas: dict[tuple[str, int], Arena] = {}
        self._packed: dict[str, PackedMatrix] = {}  # value -> the weight it is, packed
        self._public = {n: c.data for n, c in program.constants.items() if not c.secret}
        self._local: Mapping[str, Handler] = {
            "offset": self._offset,
            "add_common": self._add_common,
            "lift": self._lift,
            "shift": lambda i, a, t: shift(a[0], i.attrs, t[0], _type(i)),
            "widen": lambda i, a, t: widened(a[0], t[0].width, _type(i).width),
            "msb": self._msb,
            "matmul": self._matmul,
            "conv2d": self._conv2d,
            "table": self._table,
            "nonneg": self._nonneg,
            "relu": self._relu,
            "extend": self._extend,
            **_PLAIN,
        }

    def types(self, phase: str, names: Sequence[str]) -> list[RingType]:
        """Return the types of the operands of an instruction."""
        known = self._types[phase]
        return [known[name] for name in names]

    def arena(self, phase: str, segment: int) -> Arena:
        """Return the buffers of a segment of a function."""
        return self._arenas.setdefault((phase, segment), Arena())

    def pack_weights(self, op: str, weights: Mapping[str, Ring]) -> None:
        """Pack the weights that instructions `op` load and products multiply with, once.

        They are kept beside the weights, in up to 5.4 times their memory. A weight that meets few
        rows is read as it is: packing would not pay.
        """
        for phase in self.program.functions:
            body = [i for _, i in self.program.instructions(phase)]
            loaded = {i.out: i.inputs[0] for i in body if i.op == op}
            for i in body:
                if i.op != "matmul" or i.inputs[1] not in loaded or i.inputs[1] in self._packed:
                    continue
                rows = math.prod(self.types(phase, i.inputs)[0].shape[:-1])
                weight = weights[loaded[i.inputs[1]]]
                if weight.ndim == 2 and rows >= _FEW_ROWS:
                    self._packed[i.inputs[1]] = self.kernels.pack_matrix(weight, rows)

    def step(
        self,
        phase: str,
        instruction: Instruction,
        env: Env,
        handlers: Mapping[str, Handler],
        arena: Arena,
    ) -> None:
        """Run one instruction that is no message, and note its result in `env`."""
        args: list[Any] = [env[n] if n in env else self._public.get(n) for n in instruction.inputs]
        op = instruction.op
        if op in COMPUTED:
            value: Value = COMPUTED[op](args, instruction.attrs, arena.array(instruction))
        elif op in VIEWS:
            value = VIEWS[op](args[0], instruction.attrs, _type(instruction))
        else:
            handler = handlers.get(op) or self._local[op]
            value = handler(instruction, args, self.types(phase, instruction.inputs))
        if instruction.out:
            env[instruction.out] = value

    # -- local instructions that need the party or the kernels

    def _offset(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        x = args[0]
        if types[0].kind in ("share", "mask") and self.party != 0:
            return x
        return np.asarray(x + number(i.attrs["by"], x.dtype))

    def _add_common(
        self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]
    ) -> Value:
        if self.party == 0:
            return np.asarray(args[0] + args[1])
        return np.broadcast_to(args[0], _type(i).shape)

    def _lift(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        return args[0] if self.party == 0 else np.zeros_like(args[0])

    def _msb(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        width = types[0].width
        x = canonical(args[0], width)
        return (x >> x.dtype.type(width - 1)).astype(ring_dtype(_type(i).width))

    def _matmul(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        right: Ring | PackedMatrix = self._packed.get(i.inputs[1]) or args[1]
        return self.kernels.matmul(args[0], right)

    def _conv2d(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        a: Any = i.attrs
        return self.kernels.conv2d(
            args[0], args[1], a["stride"], a["padding"], a["dilation"], a["groups"]
        )

    def _table(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        a: Any = i.attrs
        return gates.table(
            self.kernels,
            self._index(),
            args[0],
            a["index_bits"],
            a["low_bits"],
            _type(i).width,
            args[1],
            list(args[2:]),
        )

    def _nonneg(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        x, key, m = args
        return gates.nonneg(self.kernels, self._index(), x, types[0].width, _type(i).width, key, m)

    def _relu(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        x, key, m, mr, r = args
        widths = (types[0].width, _type(i).width)
        return gates.relu(self.kernels, self._index(), x, *widths, key, (m, mr, r))

    def _extend(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        x, r, m = args
        return gates.extend(self._index(), x, types[0], _type(i).width, r, m)

    def _index(self) -> int:
        assert self.party is not None
        return self.party


def _type(i: Instruction) -> RingType:
    assert i.type is not None
    return i.type


def _plain_table(i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
    a: Any = i.attrs
    return gates.plain_table(args[0], a["index_bits"], a["low_bits"], list(args[1:]))


def _plain_sign(i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
    x = gates.signed(args[0], types[0].width)
    y = (x >= 0).astype(np.int64) if i.op == "plain_nonneg" else x
    y = np.maximum(y, 0) if i.op == "plain_relu" else y
    return y.view(np.uint64).astype(ring_dtype(_type(i).width))


_PLAIN: Mapping[str, Handler] = {
    "plain_table": _plain_table,
    "plain_relu": _plain_sign,
    "plain_nonneg": _plain_sign,
    "plain_extend": _plain_sign,
}


def last_uses(
    body: Sequence[Instruction], keep: frozenset[str] = frozenset()
) -> list[tuple[str, ...]]:
    """Return, for each instruction, the values no later one of the segment needs."""
    seen: set[str] = set(keep)
    drops: list[tuple[str, ...]] = []
    for instruction in reversed(body):
        names = dict.fromkeys((*instruction.inputs, instruction.out))
        drops.append(tuple(n for n in names if n.startswith("%") and n not in seen))
        seen.update(names)
    return drops[::-1]


def is_message(instruction: Instruction) -> bool:
    """Whether an instruction is part of an online message between the roles."""
    return INSTRUCTIONS[instruction.op].communicates
