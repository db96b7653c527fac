"""Targets that read programs, run what was read, and take material and messages from peers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

import numpy as np

from srcompile.runtime import isa
from srcompile.runtime.channels import local
from srcompile.runtime.check import PHASES
from srcompile.runtime.client import Shares, share_weight
from srcompile.runtime.dealer import Dealer, Material, Messages
from srcompile.runtime.errors import InputError, ProgramError, RunError
from srcompile.runtime.isa import KINDS, RingType
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.kernels import ring_dtype
from srcompile.runtime.local import LocalSession
from srcompile.runtime.plain import PlainRunner
from srcompile.runtime.preparation import memory_of
from srcompile.runtime.program import Constant, Instruction, Program, dumps, loads
from tests.fuzz.harness import Parser, Target
from tests.fuzz.mutations import changed_array, changed_bytes, changed_zip, few, json_bytes
from tests.support.builds import BUILDS, compiled, seeded_sources

NAMES = ("mlp", "softmax", "gelu", "convolution", "pool", "public mask")
SMALL = 16 << 20  # bytes of values that a program may have to be run here
PRODUCTS = 1 << 26


def programs() -> tuple[Program, ...]:
    """Return valid programs of both targets, guarded and not."""
    found = [compiled(BUILDS[name]).program for name in NAMES]
    guarded = compiled(BUILDS["pool"], guard=4).program
    return (*found, guarded, compiled(BUILDS["pool"], "plain").program)


# -- files ----------------------------------------------------------------------------------------


def _changed_member(rng: random.Random, name: str, data: bytes) -> bytes:
    if not name.endswith(".json"):
        return changed_array(rng, name, data)
    try:
        return json_bytes(rng, json.loads(data))
    except (ValueError, RecursionError):  # changed before
        return changed_bytes(rng, [data])


def changed_file(rng: random.Random, content: bytes) -> bytes:
    """Return a changed `.srp` file."""
    return changed_zip(rng, content, _changed_member)


def _open_file(folder: Path, stack: ExitStack) -> Parser:
    samples = [dumps(program) for program in programs()]

    def parse(rng: random.Random) -> None:
        found = loads(changed_file(rng, rng.choice(samples)))
        again = loads(dumps(found))
        assert again.digest() == found.digest()
        run(found, rng)

    return parse


# -- programs that keep the rules, and are run ----------------------------------------------------


def _open_variant(folder: Path, stack: ExitStack) -> Parser:
    samples = programs()

    def parse(rng: random.Random) -> None:
        changed = variant(rng, rng.choice(samples))
        run(loads(dumps(changed)), rng)

    return parse


def variant(rng: random.Random, program: Program) -> Program:
    """Return a program with a few changes of shapes, widths and attributes, its types adapted."""
    for _ in range(few(rng)):
        change = rng.choice((_other_attribute, _other_slot, _other_constant, _other_operand,
                             _other_attribute, _other_op, _other_windows))  # fmt: skip
        program = change(rng, program)
    return _retyped(program)


def _with(program: Program, phase: str, at: tuple[int, int], new: Instruction) -> Program:
    bodies = [list(body) for body in program.functions[phase]]
    bodies[at[0]][at[1]] = new
    functions = {**program.functions, phase: tuple(map(tuple, bodies))}
    return replace(program, functions=MappingProxyType(functions))


def _pick(rng: random.Random, program: Program) -> tuple[str, tuple[int, int], Instruction] | None:
    phase = rng.choice(PHASES)
    places = [(s, k) for s, body in enumerate(program.functions[phase]) for k in range(len(body))]
    if not places:
        return None
    s, k = rng.choice(places)
    return phase, (s, k), program.functions[phase][s][k]


def _near(rng: random.Random, value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        large = 1 << rng.choice((16, 31, 32, 62, 63, 64, 100))
        near = (value + 1, value - 1, 2 * value, 0, 1, 31, 32, 33, 63, 64, -value, large)
        return rng.choice(near)
    if isinstance(value, tuple) and value:
        at = rng.randrange(len(value))
        changed = (*value[:at], _near(rng, value[at]), *value[at + 1 :])
        return rng.choice((changed, changed, value[::-1], value[1:], (*value, 1)))
    return value


def _other_attribute(rng: random.Random, program: Program) -> Program:
    """Change an attribute; it is the same in all instructions that have it for this slot."""
    found = _pick(rng, program)
    if found is None or not found[2].attrs:
        return program
    phase, at, i = found
    name = rng.choice([n for n in i.attrs if n != "slot"] or list(i.attrs))
    value = _near(rng, i.attrs[name])
    if "slot" in i.attrs and rng.random() < 0.9:
        return _every_slot(program, i.attrs["slot"], lambda j: _attr(j, name, value))
    return _with(program, phase, at, _attr(i, name, value))


def _attr(i: Instruction, name: str, value: Any) -> Instruction:
    return replace(i, attrs={**i.attrs, name: value}) if name in i.attrs else i


def _every_slot(program: Program, slot: Any, change: Any) -> Program:
    functions = {
        phase: tuple(
            tuple(change(i) if i.attrs.get("slot") == slot else i for i in body)
            for body in program.functions[phase]
        )
        for phase in PHASES
    }
    return replace(program, functions=MappingProxyType(functions))


def _other_slot(rng: random.Random, program: Program) -> Program:
    """Change width or shape of all that stands in one slot."""
    slots = [i.attrs["slot"] for _, i in program.instructions("prepare") if "slot" in i.attrs]
    if not slots:
        return program
    slot = rng.choice(slots)
    width, number, factor = rng.randint(1, 64), rng.randrange(4), rng.randint(0, 3)
    deep = rng.random() < 0.5

    def change(i: Instruction) -> Instruction:
        if i.type is None:
            return i
        shape = i.type.shape
        if deep and shape:
            at = number % len(shape)
            shape = (*shape[:at], shape[at] * factor, *shape[at + 1 :])
        elif not deep and i.type.kind != "key":
            return replace(i, type=replace(i.type, width=width))
        return replace(i, type=replace(i.type, shape=shape))

    return _every_slot(program, slot, change)


def _other_constant(rng: random.Random, program: Program) -> Program:
    """Change width, shape, kind or data of a constant."""
    if not program.constants:
        return program
    name = rng.choice(list(program.constants))
    old = program.constants[name].type
    width = rng.choice((old.width, rng.randint(1, 64)))
    shape = _near(rng, old.shape) if rng.random() < 0.5 else old.shape
    kind = old.kind if rng.random() < 0.9 else rng.choice(KINDS)
    type_ = RingType(kind, width, shape)
    data = None
    if all(isinstance(n, int) and n >= 0 for n in shape) and type_.size <= 1 << 16:
        bits = np.frombuffer(rng.randbytes(8 * type_.size), np.uint64)
        data = (bits >> np.uint64(64 - width)).astype(ring_dtype(width)).reshape(shape)
    constants = {**program.constants, name: Constant(type_, data)}
    return replace(program, constants=MappingProxyType(constants))


def _other_operand(rng: random.Random, program: Program) -> Program:
    found = _pick(rng, program)
    if found is None or not found[2].inputs:
        return program
    phase, at, i = found
    names = [j.out for _, j in program.instructions(phase) if j.out] or [i.inputs[0]]
    place = rng.randrange(len(i.inputs))
    other = rng.choice((*names, *program.constants))
    inputs = rng.choice(((*i.inputs[:place], other, *i.inputs[place + 1 :]), i.inputs[::-1],
                         i.inputs[:-1], (*i.inputs, other)))  # fmt: skip
    return _with(program, phase, at, replace(i, inputs=inputs))


def _other_op(rng: random.Random, program: Program) -> Program:
    """Change an instruction to another one with the same attributes."""
    found = _pick(rng, program)
    if found is None:
        return program
    phase, at, i = found
    specs = isa.INSTRUCTIONS.values()
    ops = [s.name for s in specs if set(s.attrs) == set(i.attrs) and phase in s.phases]
    return _with(program, phase, at, replace(i, op=rng.choice(ops)))


def _other_windows(rng: random.Random, program: Program) -> Program:
    """Change stride and padding of all convolutions together, so that results keep their shapes."""
    geometry: dict[str, tuple[int, ...]] = {}
    paddings = [rng.choice((0, 1, 7, 1 << rng.randrange(64), rng.randrange(1 << 14)))] * 2
    paddings[rng.randrange(2)] = rng.choice((0, paddings[0]))

    def change(i: Instruction, types: dict[str, RingType]) -> Instruction:
        shapes = [types[name].shape for name in i.inputs if name in types]
        made = i.type.shape if i.type is not None else ()
        if i.op != "conv2d" or [len(s) for s in (*shapes, made)] != [4, 4, 4]:
            return i
        dilation, out = i.attrs["dilation"], made[2:]
        assert isinstance(dilation, tuple)
        left = [
            shapes[0][2 + k] + 2 * paddings[k] - dilation[k] * (shapes[1][2 + k] - 1) - 1
            for k in range(min(2, len(dilation)))
        ]
        stride = tuple(max(1, n // max(1, out[k] - 1)) for k, n in enumerate(left))
        geometry.setdefault("stride", stride)
        return replace(i, attrs={**i.attrs, **geometry, "padding": tuple(paddings)})

    functions = {}
    for phase in PHASES:
        types = program.types(phase)
        bodies = program.functions[phase]
        functions[phase] = tuple(tuple(change(i, types) for i in body) for body in bodies)
    return replace(program, functions=MappingProxyType(functions))


def _retyped(program: Program) -> Program:
    """Return the program with the types that its rules give, as far as they give one."""
    known: dict[str, RingType] = {name: const.type for name, const in program.constants.items()}
    functions = {}
    for phase in PHASES:
        types = dict(known) if phase != "online" else known
        functions[phase] = tuple(
            tuple(_typed(i, phase, types) for i in body) for body in program.functions[phase]
        )
        if phase == "prepare":
            known = types
    changed = replace(program, functions=MappingProxyType(functions))
    made = {str(i.attrs["name"]): _type_of(i, known) for _, i in changed.instructions("online")
            if "name" in i.attrs}  # fmt: skip
    return replace(
        changed,
        inputs=tuple(_fitted(t, made) for t in program.inputs),
        outputs=tuple(_fitted(t, made) for t in program.outputs),
    )


def _type_of(i: Instruction, known: dict[str, RingType]) -> RingType | None:
    return i.type or (known.get(i.inputs[0]) if i.inputs else None)


def _fitted(tensor: Any, made: dict[str, RingType | None]) -> Any:
    type_ = made.get(tensor.name)
    return tensor if type_ is None else replace(tensor, width=type_.width, shape=type_.shape)


def _typed(i: Instruction, phase: str, types: dict[str, RingType]) -> Instruction:
    operands = [types[name] for name in i.inputs if name in types]
    try:
        type_ = isa.result_type(i.op, operands, i.attrs, i.type, phase)
    except Exception:
        type_ = i.type
    if type_ is not None and i.out:
        types[i.out] = type_
    return replace(i, type=type_)


# -- running --------------------------------------------------------------------------------------


def run(program: Program, rng: random.Random) -> None:
    """Run a program that passed the checks, if it is small. Raises RunError alone."""
    if not _small(program) or any(
        const.secret and const.data is None for const in program.constants.values()
    ):
        return
    inputs = {t.given: _values(rng, t) for t in program.inputs}
    with np.errstate(all="ignore"):
        if program.target == "plain":
            PlainRunner(program, load_kernels()).infer(inputs)
        else:
            session(program, rng).infer(inputs)


def session(program: Program, rng: random.Random, peers: Any = None) -> LocalSession:
    """Return a local session whose shares and masks follow from `rng`."""
    numbers = np.random.default_rng(rng.getrandbits(32))
    shares: Shares = ({}, {})
    for name in program.weights():
        type_ = program.constants[name].type
        first = numbers.integers(0, 1 << 32, type_.shape).astype(ring_dtype(type_.width))
        shares[0][name], shares[1][name] = share_weight(program, name, first)
    sources = seeded_sources(rng.getrandbits(63))
    return LocalSession(program, load_kernels(), shares, sources, peers)


def _small(program: Program) -> bool:
    size = sum(
        memory_of(i.type) for phase in PHASES for _, i in program.instructions(phase) if i.type
    )
    size += sum(memory_of(const.type) for const in program.constants.values())
    products = 0
    for phase in PHASES:
        types = program.types(phase)
        for _, i in program.instructions(phase):
            if i.op in ("matmul", "conv2d") and i.type is not None:
                products += i.type.size * max(types[i.inputs[1]].size, 1)
            if i.op == "conv2d":
                size += _padded_bytes(i, types[i.inputs[0]])
    return size <= SMALL and products <= PRODUCTS


def _padded_bytes(i: Instruction, image: RingType) -> int:
    """Return the bytes of a convolution's operand with its padding."""
    padding: Any = i.attrs["padding"]
    below, beside = (image.shape[2 + k] + 2 * padding[k] for k in range(2))
    return memory_of(replace(image, shape=(*image.shape[:2], below, beside)))


def _values(rng: random.Random, tensor: Any) -> Any:
    numbers = np.random.default_rng(rng.getrandbits(32))
    if tensor.encoding.ids:
        return numbers.integers(0, max(1, min(tensor.encoding.rows, 1 << 30)), tensor.given_shape)
    if tensor.encoding.kind == "bits":
        return numbers.integers(0, 2, tensor.given_shape)
    low, high = max(tensor.low, -1e3), min(tensor.high, 1e3)
    if not low <= high:
        raise InputError("the input takes no values")
    return numbers.uniform(low, high, tensor.given_shape)


# -- material and messages ------------------------------------------------------------------------


class _Changing:
    """A channel whose messages are changed when they come in; sizes stay as they were announced."""

    def __init__(self, inner: Any, rng: random.Random, chance: float) -> None:
        self._inner, self._rng, self._chance = inner, rng, chance
        self.traffic = inner.traffic

    def send(self, data: Any) -> None:
        self._inner.send(data)

    def receive(self, size: int) -> Any:
        return self._changed(self._inner.receive(size))

    def exchange(self, data: Sequence[memoryview], into: Sequence[memoryview]) -> None:
        self._inner.exchange(data, into)
        for part in into:
            part[:] = self._changed(bytes(part))

    def close(self) -> None:
        self._inner.close()

    def _changed(self, data: bytes) -> bytes:
        return fitted(self._rng, bytes(data)) if self._rng.random() < self._chance else data


def fitted(rng: random.Random, data: bytes) -> bytes:
    """Return changed data of the same size."""
    if rng.random() < 0.3:
        return rng.choice((bytes(len(data)), b"\xff" * len(data), rng.randbytes(len(data))))
    changed = changed_bytes(rng, [data])[: len(data)]
    return changed + bytes(len(data) - len(changed))


class _ChangedDealer:
    """A dealer whose messages are changed, but not their sizes."""

    def __init__(self, inner: Dealer, rng: random.Random) -> None:
        self._inner, self._rng = inner, rng

    def deal(self, segment: int) -> Material:
        made = self._inner.deal(segment)
        return Material(made.block, made.segment, self._messages(made.messages))

    def _messages(self, messages: Iterator[Messages]) -> Iterator[Messages]:
        for pair in messages:
            first, second = (self._changed(np.asarray(m)) for m in pair)
            yield first, second

    def _changed(self, message: Any) -> Any:
        if self._rng.random() < 0.6:
            return message
        return np.frombuffer(fitted(self._rng, message.tobytes()), np.uint8)


def _open_material(folder: Path, stack: ExitStack) -> Parser:
    samples = [p for p in programs() if p.target == "2pc"]
    # a changed route lets the parties run different branches, until one has waited for long enough
    stack.enter_context(mock.patch.object(local, "TIMEOUT_S", 1.0))

    def parse(rng: random.Random) -> None:
        program = rng.choice(samples)
        seed, chance = rng.getrandbits(64), rng.choice((0.0, 0.1, 0.9))
        ends = local.local_pair("party 0", "party 1")
        peers = tuple(_Changing(end, random.Random(seed + k), chance) for k, end in enumerate(ends))
        changed = session(program, rng, peers)
        changed.dealer = _ChangedDealer(changed.dealer, rng)  # type: ignore[assignment]
        with np.errstate(all="ignore"):
            changed.infer({t.given: _values(rng, t) for t in program.inputs})

    return parse


TARGETS: Sequence[Target] = (
    Target("program", (ProgramError, InputError, RunError), _open_file, 2 << 30),
    Target("variant", (RunError,), _open_variant, 2 << 30),
    Target("material", (RunError,), _open_material, 2 << 30, waits=True),
)
