"""One computing party: loads weight shares, prepares blocks of material, runs inferences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from srcompile.runtime import gates
from srcompile.runtime.channels import Channel
from srcompile.runtime.client import IN_RANGE, OUT_OF_RANGE
from srcompile.runtime.engine import (
    Arena,
    Bind,
    Engine,
    Env,
    Plan,
    Step,
    with_drops,
)
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import Kernels, PackedMatrix
from srcompile.runtime.openings import (
    Counters,
    Round,
    largest_message,
    rounds,
)
from srcompile.runtime.program import Instruction, Program
from srcompile.runtime.randomness import SETUP_BLOCK, Randomness
from srcompile.runtime.ring import Compute, Ring

PEERS = ("party 1", "party 0")


@dataclass(frozen=True)
class Prepared:
    """A block a party is ready to use, once."""

    block: int
    segment: int
    env: Env


@dataclass(frozen=True)
class Inference:
    """What a party knows after an inference. Without `in_range` the client got no output."""

    route: int | None
    counters: Counters
    in_range: bool = True


class Party:
    """Party 0 or 1. `peer` is the channel to the other party, `client` the one to the client."""

    def __init__(
        self,
        program: Program,
        index: int,
        kernels: Kernels,
        source: Randomness,
        peer: Channel,
        client: Channel,
    ) -> None:
        self.program, self.index, self.kernels = program, index, kernels
        self.setup_bytes = 0
        self._guarded = program.guarded
        self._source, self._peer, self._client = source, peer, client
        self._engine = Engine(program, kernels, index)
        self._shares: dict[str, Ring | PackedMatrix] = {}
        self._opened: dict[str, Ring | PackedMatrix] = {}
        self._loaded = False
        self._last_block = -1
        self._last_used: dict[int, int] = {}  # segment -> block
        types = program.types("online")
        size = largest_message(program.functions["online"], types)
        self._messages = (np.empty(size, np.uint8), np.empty(size, np.uint8))  # ours, theirs
        self._prepare_plans = self._plan_prepare()
        self._online_plans = [self._plan_online(k, types) for k in range(len(program.segments))]

    def _plan_prepare(self) -> list[Plan]:
        needed = frozenset(n for _, i in self.program.instructions("online") for n in i.inputs)
        own: Mapping[str, Bind] = {
            "mask": self._mask,
            "correlation": self._correlation,
            "table_key": self._key,
            "sign_key": self._key,
            "weight_opened": lambda i, t: lambda run: self._opened[i.inputs[0]],
        }
        segments = range(len(self.program.segments))
        return [self._engine.plan("prepare", k, own, needed) for k in segments]

    def _plan_online(self, segment: int, types: Mapping[str, RingType]) -> Plan:
        bodies = self.program.functions["online"]
        later = frozenset(n for body in bodies[1:] for i in body for n in i.inputs)
        own: Mapping[str, Bind] = {
            "input": self._input,
            "weight_share": lambda i, t: lambda run: self.operand(i.inputs[0]),
        }
        body, arena = bodies[segment], Arena(bodies[segment])
        stops = rounds(body)
        steps: list[Step] = []
        index = 0
        while index < len(body):
            stop = stops.get(index, index + 1)
            if index in stops:
                group = body[index:stop]
                messages = Round(segment, index, group, types, self.index, arena, self._messages)
                steps.append(self._exchange(messages))
            else:
                steps.append(self._engine.step("online", body[index], own, arena))
            index = stop
        return with_drops(steps, later if segment == 0 else frozenset())

    # -- weights

    def load_weights(self, shares: Mapping[str, Ring]) -> None:
        """Take this party's weight shares and open F = W - B of those that enter products.

        Both are kept as products read them (`Engine.laid_out`), and only so: a party holds two
        arrays of each weight.
        Raises ProtocolError the second time: B masks one set of weights, and no other.
        """
        if self._loaded:
            raise ProtocolError("the weights are loaded already; other weights need a new session")
        self._loaded = True
        opened = {
            i.inputs[0] for _, i in self.program.instructions("prepare") if i.op == "weight_opened"
        }
        for number, name in enumerate(self.program.weights()):
            share = shares[name]
            self._shares[name] = self._engine.laid_out("weight_share", name, share)
            if name in opened:
                f = self._opened_weight(share, number, self.program.constants[name].type)
                self._opened[name] = self._engine.laid_out("weight_opened", name, f)

    def _opened_weight(self, share: Ring, number: int, type_: RingType) -> Ring:
        """Open F = W - B of a weight."""
        own = share - self._source.ring(SETUP_BLOCK, number, type_)
        message = self.kernels.pack(own, type_.width)
        theirs = np.empty_like(message)
        self._peer.exchange(message.data, theirs.data)
        self.setup_bytes += message.size
        return self.kernels.unpack_add(theirs, own, type_.width)

    # -- before the input is there

    def prepare(self, block: int, segment: int, material: bytes | bytearray) -> Prepared:
        """Turn a block of material into what the online function needs. Local.

        Raises ProtocolError if the material is not as long as the program says, or if the block is
        not newer than all before it.
        """
        if block <= self._last_block:
            raise ProtocolError(f"the dealer sent block {block} after block {self._last_block}")
        self._last_block = block
        reader = _Material(dict(self._engine.public), block, memoryview(material))
        with np.errstate(over="ignore"):
            self._engine.run(self._prepare_plans[segment], reader)
        reader.finish()
        return Prepared(block, segment, reader.env)

    def send_input_masks(self, prepared: Prepared) -> None:
        """Give the client this party's share of the masks of its inputs."""
        for instruction in self._inputs():
            mask = prepared.env[instruction.inputs[0]]
            assert instruction.type is not None
            self._client.send(self.kernels.pack(mask, instruction.type.width).data)

    # -- online

    def infer(self, shared: Prepared, branches: Sequence[Prepared] = ()) -> Inference:
        """Run one inference on `shared` and, if it is routed, on the block of the branch taken.

        `branches` holds one block for each route, in order. If a guarded program finds a value out
        of its range, the client is told so and gets no output. Raises ProtocolError, before
        anything that depends on it is sent, if a block is used already.
        """
        self._use(shared)
        routes = frozenset(s.route for s in self.program.segments)
        run = _Online(dict(shared.env), routes, self._guarded)
        with np.errstate(over="ignore"):
            self._engine.run(self._online_plans[0], run)
            if run.route is not None:
                self._use(branches[run.route])
                run.env.update(branches[run.route].env)
                self._engine.run(self._online_plans[self._segment_of(run.route)], run)
        if self._guarded:
            self._client.send(IN_RANGE if run.in_range else OUT_OF_RANGE)
        for tensor in self.program.outputs if run.in_range else ():
            self._client.send(run.outputs[tensor.name].data)
        return Inference(run.route, run.counters, run.in_range)

    def _use(self, prepared: Prepared) -> None:
        last = self._last_used.get(prepared.segment, -1)
        if prepared.block <= last:
            raise ProtocolError(f"block {prepared.block} is used already, or older than {last}")
        self._last_used[prepared.segment] = prepared.block

    def _segment_of(self, route: int) -> int:
        return next(k for k, s in enumerate(self.program.segments) if s.route == route)

    def _inputs(self) -> list[Instruction]:
        return [i for i in self.program.functions["online"][0] if i.op == "input"]

    def operand(self, name: str) -> Ring | PackedMatrix:
        """Return this party's share of a weight."""
        return self._shares[name]

    # -- this role's own instructions, bound to functions of the run

    def _mask(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        slot, type_ = _slot(i), _type(i)
        return lambda run: self._source.ring(run.block, slot, type_)

    def _correlation(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        if self.index == 0:
            return self._mask(i, types)
        type_ = _type(i)
        shape, size, width, length = type_.shape, type_.size, type_.width, type_.packed_bytes
        return lambda run: self.kernels.unpack(run.take(length), size, width).reshape(shape)

    def _key(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        slot, count, size = _slot(i), _type(i).size, _type(i).width

        def key(run: _Material) -> gates.Key:
            words = run.take(count * size).reshape(count, size)
            return gates.Key(self._source.roots(run.block, slot, count), words)

        return key

    def _input(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        shape, size, width, length = (
            types[0].shape, types[0].size, types[0].width, types[0].packed_bytes
        )  # fmt: skip

        def read(run: _Online, mask: Ring) -> Ring:
            data = np.frombuffer(self._client.receive(length), np.uint8)
            return self.kernels.unpack(data, size, width).reshape(shape)

        return read

    def _exchange(self, messages: Round) -> Step:
        peer_name = PEERS[self.index]

        def action(run: _Online) -> None:
            messages.run(run, self.kernels, self._peer, peer_name)

        return Step(action, messages.reads, messages.makes)


@dataclass
class _Material:
    """A run of `prepare` on one block, and the reader of the dealer's bytes for it."""

    env: Env
    block: int
    data: memoryview
    position: int = 0

    def take(self, size: int) -> gates.Bytes:
        """Return the next bytes. Raises ProtocolError if there are fewer."""
        if size > len(self.data) - self.position:
            raise ProtocolError("the dealer's material is shorter than the program says")
        self.position += size
        return np.frombuffer(self.data[self.position - size : self.position], np.uint8)

    def finish(self) -> None:
        """Raise ProtocolError if bytes are left."""
        if self.position != len(self.data):
            raise ProtocolError("the dealer's material is longer than the program says")


@dataclass
class _Online:
    """A run of `online`: the first segment, and the branch it leads to."""

    env: Env
    routes: frozenset[int | None]
    guarded: bool
    counters: Counters = field(default_factory=Counters)
    route: int | None = None
    in_range: bool = True
    outputs: dict[str, gates.Bytes] = field(default_factory=dict)

    def reveal(self, route: int) -> None:
        """Take the branch of a revealed route.

        If there is none, a value of the router left its range; without a guard to say so that is a
        ProtocolError.
        """
        if route not in self.routes and self.guarded:
            self.in_range = False
            return
        if route not in self.routes:
            raise ProtocolError(f"the route is {route}, which is none of this program's")
        self.route = route


def _slot(i: Instruction) -> int:
    slot: Any = i.attrs["slot"]
    assert isinstance(slot, int)
    return slot


def _type(i: Instruction) -> RingType:
    assert i.type is not None
    return i.type
