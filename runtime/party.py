"""One computing party: loads weight shares, prepares blocks of material, runs inferences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from srcompile.runtime import gates
from srcompile.runtime.channels import Channel
from srcompile.runtime.engine import Engine, Env, Handler, Value, is_message, last_uses
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.isa import RingType, packed_bytes
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.program import Instruction, Program
from srcompile.runtime.randomness import SETUP_BLOCK, Randomness
from srcompile.runtime.ring import Ring

PEERS = ("party 1", "party 0")


@dataclass
class Counters:
    """What one party sent: bytes for each instruction, by (segment, index), and rounds."""

    online: dict[tuple[int, int], int] = field(default_factory=dict)
    rounds: int = 0

    @property
    def bytes(self) -> int:
        """Bytes sent online, to the peer and to the client."""
        return sum(self.online.values())


@dataclass(frozen=True)
class Prepared:
    """A block a party is ready to use, once."""

    block: int
    segment: int
    env: Env


@dataclass(frozen=True)
class Inference:
    """What a party knows after an inference."""

    route: int | None
    counters: Counters


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
        self._source, self._peer, self._client = source, peer, client
        self._engine = Engine(program, kernels, index)
        self._shares: dict[str, Ring] = {}
        self._opened: dict[str, Ring] = {}
        self._loaded = False
        self._last_block = -1
        self._last_used: dict[int, int] = {}  # segment -> block
        needed = frozenset(n for _, i in program.instructions("online") for n in i.inputs)
        self._prepare_drops = [last_uses(b, needed) for b in program.functions["prepare"]]
        later = frozenset(
            n for body in program.functions["online"][1:] for i in body for n in i.inputs
        )
        self._online_drops = [
            last_uses(body, later if segment == 0 else frozenset())
            for segment, body in enumerate(program.functions["online"])
        ]
        self._messages = [_messages(body) for body in program.functions["online"]]

    # -- weights

    def load_weights(self, shares: Mapping[str, Ring]) -> None:
        """Take this party's weight shares and open F = W - B of those that enter products.

        Both are packed for the kernels where matrices are multiplied with them, once for all
        inferences; see `Engine.pack_weights` for the memory that takes.
        Raises ProtocolError the second time: B masks one set of weights, and no other.
        """
        if self._loaded:
            raise ProtocolError("the weights are loaded already; other weights need a new session")
        self._loaded = True
        self._shares = dict(shares)
        numbers = {name: k for k, name in enumerate(self.program.weights())}
        names = dict.fromkeys(
            i.inputs[0] for _, i in self.program.instructions("prepare") if i.op == "weight_opened"
        )
        for name in names:
            type_ = self.program.constants[name].type
            b = self._source.ring(SETUP_BLOCK, numbers[name], type_)
            own = np.ascontiguousarray(self._shares[name] - b).reshape(-1)
            data = self.kernels.pack(own, type_.width).tobytes()
            theirs = self._peer.exchange(data, len(data))
            self.setup_bytes += len(data)
            f = self.kernels.unpack_add(np.frombuffer(theirs, np.uint8), own, type_.width)
            self._opened[name] = f.reshape(type_.shape)
        self._engine.pack_weights("weight_share", self._shares)
        self._engine.pack_weights("weight_opened", self._opened)

    # -- before the input is there

    def prepare(self, block: int, segment: int, material: bytes) -> Prepared:
        """Turn a block of material into what the online function needs. Local.

        Raises ProtocolError if the material is not as long as the program says, or if the block is
        not newer than all before it.
        """
        if block <= self._last_block:
            raise ProtocolError(f"the dealer sent block {block} after block {self._last_block}")
        self._last_block = block
        reader = _Material(self, block, material)
        env: Env = {}
        arena = self._engine.arena("prepare", segment)
        body = self.program.functions["prepare"][segment]
        with np.errstate(over="ignore"):
            for instruction, drops in zip(body, self._prepare_drops[segment], strict=True):
                self._engine.step("prepare", instruction, env, reader.handlers, arena)
                for name in drops:
                    env.pop(name, None)
        reader.finish()
        return Prepared(block, segment, env)

    def send_input_masks(self, prepared: Prepared) -> None:
        """Give the client this party's share of the masks of its inputs."""
        for instruction in self._inputs():
            mask = prepared.env[instruction.inputs[0]].reshape(-1)
            assert instruction.type is not None
            self._client.send(self.kernels.pack(mask, instruction.type.width).tobytes())

    # -- online

    def infer(self, shared: Prepared, branches: Sequence[Prepared] = ()) -> Inference:
        """Run one inference on `shared` and, if it is routed, on the block of the branch taken.

        `branches` holds one block for each route, in order. Raises ProtocolError, before anything
        that depends on it is sent, if a block is used already.
        """
        self._use(shared)
        counters = Counters()
        env: Env = dict(shared.env)
        run = _Online(self, env, counters)
        with np.errstate(over="ignore"):
            run.segment(0)
            if run.route is not None:
                self._use(branches[run.route])
                env.update(branches[run.route].env)
                run.segment(self._segment_of(run.route))
        for tensor in self.program.outputs:
            self._client.send(run.outputs[tensor.name])
        return Inference(run.route, counters)

    def _use(self, prepared: Prepared) -> None:
        last = self._last_used.get(prepared.segment, -1)
        if prepared.block <= last:
            raise ProtocolError(f"block {prepared.block} is used already, or older than {last}")
        self._last_used[prepared.segment] = prepared.block

    def _segment_of(self, route: int) -> int:
        return next(k for k, s in enumerate(self.program.segments) if s.route == route)

    def _inputs(self) -> list[Instruction]:
        return [i for i in self.program.functions["online"][0] if i.op == "input"]

    def operand(self, name: str) -> Ring:
        """Return this party's share of a weight."""
        return self._shares[name]


class _Material:
    """Reads one block: `prepare`'s instructions that take correlated randomness."""

    def __init__(self, party: Party, block: int, data: bytes) -> None:
        self.party, self.block = party, block
        self.data, self.position = memoryview(data), 0
        self.handlers: Mapping[str, Handler] = {
            "mask": self.mask,
            "correlation": self.correlation,
            "table_key": self.key,
            "sign_key": self.key,
            "weight_opened": lambda i, a, t: party._opened[i.inputs[0]],
        }

    def take(self, size: int) -> gates.Bytes:
        if size > len(self.data) - self.position:
            raise ProtocolError("the dealer's material is shorter than the program says")
        self.position += size
        return np.frombuffer(self.data[self.position - size : self.position], np.uint8)

    def finish(self) -> None:
        if self.position != len(self.data):
            raise ProtocolError("the dealer's material is longer than the program says")

    def mask(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        assert i.type is not None
        return self.party._source.ring(self.block, _slot(i), i.type)

    def correlation(
        self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]
    ) -> Value:
        type_ = i.type
        assert type_ is not None
        if self.party.index == 0:
            return self.party._source.ring(self.block, _slot(i), type_)
        data = self.take(type_.packed_bytes)
        return self.party.kernels.unpack(data, type_.size, type_.width).reshape(type_.shape)

    def key(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        type_ = i.type
        assert type_ is not None
        words = self.take(type_.size * type_.width).reshape(type_.size, type_.width)
        return gates.Key(self.party._source.roots(self.block, _slot(i), type_.size), words)


class _Online:
    """Runs online segments: local instructions one by one, messages a round at a time."""

    def __init__(self, party: Party, env: Env, counters: Counters) -> None:
        self.party, self.env, self.counters = party, env, counters
        self.route: int | None = None
        self.outputs: dict[str, bytes] = {}
        self.handlers: Mapping[str, Handler] = {
            "input": self.input,
            "weight_share": lambda i, a, t: party.operand(i.inputs[0]),
        }

    def segment(self, number: int) -> None:
        party = self.party
        body = party.program.functions["online"][number]
        drops, messages = party._online_drops[number], party._messages[number]
        arena = party._engine.arena("online", number)
        index = 0
        while index < len(body):
            stop = messages.get(index, index + 1)
            if index in messages:
                self.message(number, index, body[index:stop])
            else:
                party._engine.step("online", body[index], self.env, self.handlers, arena)
            for dropped in drops[index:stop]:
                for name in dropped:
                    self.env.pop(name, None)
            index = stop

    def input(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        type_ = types[0]
        data = self.party._client.receive(type_.packed_bytes)
        hat = self.party.kernels.unpack(np.frombuffer(data, np.uint8), type_.size, type_.width)
        return hat.reshape(type_.shape)

    def message(self, segment: int, first: int, group: Sequence[Instruction]) -> None:
        """Send and receive everything of one round."""
        kernels, party = self.party.kernels, self.party
        to_peer: list[tuple[Instruction, Ring]] = []
        for offset, i in enumerate(group):
            args = [self.env[name] for name in i.inputs]
            type_ = party._engine.types("online", i.inputs)[0]
            flat = np.ascontiguousarray(args[0]).reshape(-1)
            if i.op == "open":
                flat = flat + args[1].reshape(-1)
            self.counters.online[segment, first + offset] = type_.packed_bytes
            if i.op == "output":
                self.outputs[str(i.attrs["name"])] = kernels.pack(flat, type_.width).tobytes()
            else:
                to_peer.append((i, flat))
        self.counters.rounds += 1
        if to_peer:
            self.exchange(to_peer)

    def exchange(self, mine: Sequence[tuple[Instruction, Ring]]) -> None:
        kernels, party = self.party.kernels, self.party
        widths = [party._engine.types("online", i.inputs)[0].width for i, _ in mine]
        data = b"".join(
            kernels.pack(x, w).tobytes() for (_, x), w in zip(mine, widths, strict=True)
        )
        try:
            theirs = memoryview(party._peer.exchange(data, len(data)))
        except ProtocolError as error:
            i = mine[0][0]
            place = f"round {i.attrs['round']}, {i.op} {i.inputs[0]}"
            raise ProtocolError(f"{PEERS[party.index]} in {place}: {error}") from None
        position = 0
        for (i, x), w in zip(mine, widths, strict=True):
            size = packed_bytes(x.size, w)
            part = np.frombuffer(theirs[position : position + size], np.uint8)
            position += size
            value = kernels.unpack_add(part, x, w)
            if i.op == "route":
                self.route = self.checked_route(value)
            else:
                assert i.type is not None
                self.env[i.out] = value.reshape(i.type.shape)

    def checked_route(self, value: Ring) -> int:
        route = int(value[0])
        if all(s.route != route for s in self.party.program.segments):
            raise ProtocolError(f"the route is {route}, which is none of this program's")
        return route


def _slot(i: Instruction) -> int:
    slot: Any = i.attrs["slot"]
    assert isinstance(slot, int)
    return slot


def _messages(body: Sequence[Instruction]) -> dict[int, int]:
    """Return, for each index at which a round's messages begin, the index behind the last one."""
    found: dict[int, int] = {}
    index = 0
    while index < len(body):
        stop = index
        while (
            stop < len(body)
            and is_message(body[stop])
            and body[stop].attrs["round"] == body[index].attrs.get("round")
        ):
            stop += 1
        if stop > index:
            found[index] = stop
        index = max(stop, index + 1)
    return found
