"""One computing party: loads weight shares, prepares blocks of material, runs inferences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from srcompile.runtime import gates
from srcompile.runtime.channels import Channel, Sendable
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
from srcompile.runtime.kernels import Kernels, PackedMatrix, ring_dtype
from srcompile.runtime.lockstep import Mark, Stop, Use, run_together, unmarked
from srcompile.runtime.openings import (
    Counters,
    Round,
    Waiting,
    largest_message,
    rounds,
)
from srcompile.runtime.preparation import MATERIAL, Chunk, chunks, material_of
from srcompile.runtime.program import Instruction, Program
from srcompile.runtime.randomness import SETUP_BLOCK, Randomness
from srcompile.runtime.ring import Compute, Ring
from srcompile.runtime.stock import Shelf, Stock

PEERS = ("party 1", "party 0")


@dataclass
class Prepared:
    """A block that a party is preparing or ready to use, once.

    `masks` are the values of the chunks that hold the masks of inputs, once they are asked for, and
    `inputs` what the client sent.
    """

    block: int
    segment: int
    shelf: Shelf
    masks: Env | None = None
    inputs: Env | None = None


@dataclass(frozen=True)
class Inference:
    """What a party knows after an inference; `outputs` are its packed shares for the client.

    Without `in_range` the client gets no output.
    """

    route: int | None
    counters: Counters
    outputs: Mapping[str, gates.Bytes]
    in_range: bool = True


class Party:
    """Party 0 or 1. `peer` is the channel to the other party, `client` the one to the client.

    `stock` is the memory, and the disk beyond it, for prepared blocks: memory alone by default.
    Blocks come `in_order`, so that one which comes twice is found out; otherwise who marks them has
    to know which were used.
    """

    def __init__(
        self,
        program: Program,
        index: int,
        kernels: Kernels,
        source: Randomness,
        peer: Channel,
        client: Channel,
        stock: Stock | None = None,
        in_order: bool = True,
    ) -> None:
        self.program, self.index, self.kernels = program, index, kernels
        self.setup_bytes = 0
        self._guarded = program.guarded
        self._source, self._peer, self._client = source, peer, client
        self._engine = Engine(program, kernels, index)
        self._shares: dict[str, Ring | PackedMatrix] = {}
        self._opened: dict[str, Ring | PackedMatrix] = {}
        self._loaded = False
        self._stock, self._in_order = stock or Stock(), in_order
        self._last_block = -1
        self._last_used: dict[int, int] = {}  # segment -> block
        types = program.types("online")
        size = largest_message(program.functions["online"], types)
        self._messages = (np.empty(size, np.uint8), np.empty(size, np.uint8))  # ours, theirs
        needed = frozenset(n for _, i in program.instructions("online") for n in i.inputs)
        bodies = program.functions["prepare"]
        self._chunks = [chunks(body, needed, self._stock.chunk_bytes) for body in bodies]
        self._home = {
            name: (segment, number)
            for segment, parts in enumerate(self._chunks)
            for number, chunk in enumerate(parts)
            for name in chunk.values
        }
        self._own_prepare: Mapping[str, Bind] = {
            "mask": self._mask,
            "correlation": self._correlation,
            "table_key": self._key,
            "sign_key": self._key,
            "weight_opened": lambda i, t: lambda run: self._opened[i.inputs[0]],
        }
        self._arriving = [self._plan_arriving(parts) for parts in self._chunks]
        self._late = [[self._plan_late(chunk) for chunk in parts] for parts in self._chunks]
        self._given = [
            i for i in program.functions["online"][0] if i.op in ("input", "public_input")
        ]
        self._masked = [i for i in self._given if i.op == "input"]
        self._routes = frozenset(s.route for s in program.segments)
        self._input_chunks = sorted(
            {self._home[i.inputs[0]][1] for i in self._masked if i.inputs[0] in self._home}
        )
        self._taken: list[list[tuple[int, int]]] = []  # by segment, (segment, chunk), in order
        self._stretches = [
            _stretches(self._plan_online(k, types)) for k in range(len(program.segments))
        ]

    def _plan_arriving(self, parts: Sequence[Chunk]) -> Plan:
        """Return the plan that takes a segment's material as it comes, chunk after chunk."""
        steps: list[Step] = []
        for number, chunk in enumerate(parts):
            late = {i.out for i in chunk.late if i.op in MATERIAL}
            for i in chunk.arriving:
                if i.out not in late:
                    steps.append(self._prepare_step(i))
                elif size := material_of(i, self.index):
                    steps.append(Step(partial(_put_aside, size), (), ()))
            kept = tuple(name for name, _ in chunk.kept)
            put = partial(_put_on_shelf, number, kept) if chunk.values else _put_nowhere
            steps.append(Step(put, kept, ()))
        return with_drops(steps)

    def _plan_late(self, chunk: Chunk) -> Plan:
        """Return the plan that makes the values of a chunk from its record."""
        return with_drops([self._prepare_step(i) for i in chunk.late], frozenset(chunk.values))

    def _prepare_step(self, i: Instruction) -> Step:
        """Return an instruction of `prepare`, bound; results get arrays of their own."""
        return self._engine.step("prepare", replace(i, buffer=-1), self._own_prepare, Arena(()))

    def _plan_online(self, segment: int, types: Mapping[str, RingType]) -> Plan:
        bodies = self.program.functions["online"]
        later = frozenset(n for body in bodies[1:] for i in body for n in i.inputs)
        own: Mapping[str, Bind] = {
            "input": self._input,
            "public_input": self._input,
            "weight_share": lambda i, t: lambda run: self.operand(i.inputs[0]),
        }
        taken = dict.fromkeys((0, k) for k in self._input_chunks)
        if segment:
            taken |= dict.fromkeys(self._taken[0])
        body, arena = bodies[segment], Arena(bodies[segment])
        stops = rounds(body)
        steps: list[Step] = []
        index = 0
        while index < len(body):
            stop = stops.get(index, index + 1)
            if index in stops:
                group = body[index:stop]
                messages = Round(segment, index, group, types, self.index, arena, self._messages)
                steps += self._exchange(messages)
            else:
                steps.append(self._engine.step("online", body[index], own, arena))
            index = stop
        found = self._with_chunks(steps, taken)
        self._taken.append(list(taken))
        return with_drops(found, later if segment == 0 else frozenset())

    def _with_chunks(
        self, steps: Sequence[Step], taken: dict[tuple[int, int], None]
    ) -> Sequence[Step]:
        """Return the steps, each behind one that takes the chunks it reads, and fill `taken`."""
        found: list[Step] = []
        for step in steps:
            for name in step.reads:
                place = self._home.get(name)
                if place is not None and place not in taken:
                    taken[place] = None
                    values = self._chunks[place[0]][place[1]].values
                    found.append(Step(partial(_take_chunk, *place), (), values))
            found.append(step)
        return found

    # -- weights

    def load_weights(
        self,
        shares: Iterable[Ring],
        opened: Mapping[str, Ring] | None = None,
        keep: Callable[[str, Ring], None] | None = None,
    ) -> None:
        """Take this party's weight shares and open F = W - B of those that enter products.

        The shares come in the order of `Program.weights`. Both are kept as products read them
        (`Engine.laid_out`), and only so: a party holds two arrays of each weight. If the same
        weights were opened before under the same B, `opened` is what came of it; otherwise `keep`
        is given what comes of it, weight by weight.
        Raises ProtocolError the second time: B masks one set of weights, and no other.
        """
        if self._loaded:
            raise ProtocolError("the weights are loaded already; other weights need a new session")
        self._loaded = True
        names = self.program.opened_weights()
        for number, (name, share) in enumerate(zip(self.program.weights(), shares, strict=True)):
            self._shares[name] = self._engine.laid_out("weight_share", name, share)
            if name not in names:
                continue
            if opened is not None:
                f = opened[name]
            else:
                f = self._opened_weight(share, number, self.program.constants[name].type)
                if keep is not None:
                    keep(name, f)
            self._opened[name] = self._engine.laid_out("weight_opened", name, f)

    def attach(self, peer: Channel, client: Channel) -> None:
        """Work for another session, with these channels."""
        self._peer, self._client = peer, client

    def share_weights_of(self, other: Party) -> None:
        """Use the weights that another party object of this process has loaded, in its memory."""
        self._loaded, self._shares, self._opened = True, other._shares, other._opened

    def _opened_weight(self, share: Ring, number: int, type_: RingType) -> Ring:
        """Open F = W - B of a weight."""
        own = share - self._source.ring(SETUP_BLOCK, number, type_)
        message = self.kernels.pack(own, type_.width)
        theirs = np.empty_like(message)
        self._peer.exchange([message.data], [theirs.data])
        self.setup_bytes += message.size
        return self.kernels.unpack_add(theirs, own, type_.width)

    # -- before the input is there

    def begin(self, block: int, segment: int, waits: bool = False) -> Prepared:
        """Return a block of which nothing is prepared yet; `fill` does that.

        If it `waits`, `fill` waits for `infer` where memory is short, instead of using the disk.
        Raises ProtocolError if the block is not newer than all before it, and should be.
        """
        if self._in_order and block <= self._last_block:
            raise ProtocolError(f"the dealer sent block {block} after block {self._last_block}")
        self._last_block = block
        parts = self._chunks[segment]
        order = [k for s, k in self._taken[segment] if s == segment]
        order += sorted(set(range(len(parts))) - set(order))
        finish = partial(self._finish, block, segment)
        sizes = [chunk.size for chunk in parts]
        return Prepared(block, segment, Shelf(self._stock, finish, sizes, order, waits))

    def fill(self, prepared: Prepared, receive: Callable[[int], Sendable]) -> None:
        """Prepare a block from the dealer's messages, which `receive` returns by size, in order.

        Raises what `receive` raises, and SpoolError if the disk fails.
        """
        run = _Arriving(dict(self._engine.public), prepared.block, prepared.shelf, receive)
        try:
            with np.errstate(over="ignore"):
                self._engine.run(self._arriving[prepared.segment], run)
        except BaseException as error:
            prepared.shelf.fail(error)
            raise

    def prepare(self, block: int, segment: int, receive: Callable[[int], Sendable]) -> Prepared:
        """Turn a block of material into what the online function needs, ahead of it: see `fill`.

        A block that cannot be prepared leaves nothing in memory or on disk.
        """
        prepared = self.begin(block, segment)
        try:
            self.fill(prepared, receive)
        except BaseException:
            prepared.shelf.close()
            raise
        return prepared

    def _finish(self, block: int, segment: int, number: int, parts: Sequence[gates.Bytes]) -> Env:
        """Return the values of a chunk, from the parts of its record: kept values come first."""
        chunk = self._chunks[segment][number]
        env = dict(self._engine.public)
        for (name, type_), part in zip(chunk.kept, parts, strict=False):
            env[name] = part.view(ring_dtype(type_.width)).reshape(type_.shape)
        run = _Late(env, block, iter(parts[len(chunk.kept) :]))
        with np.errstate(over="ignore"):
            self._engine.run(self._late[segment][number], run)
        return {name: run.env[name] for name in chunk.values}

    def send_input_masks(self, prepared: Prepared) -> None:
        """Give the client this party's share of the masks of its inputs."""
        env = self._with_masks(prepared)
        for instruction in self._masked:
            mask = env[instruction.inputs[0]]
            assert instruction.type is not None
            self._client.send(self.kernels.pack(mask, instruction.type.width).data)

    def receive_inputs(self, prepared: Prepared) -> None:
        """Take the client's inputs, masked with this block.

        Raises ProtocolError if the block is used already.
        """
        self._use(prepared)
        found: Env = {}
        for instruction in self._given:
            type_ = _type(instruction)
            data = np.frombuffer(self._client.receive(type_.packed_bytes), np.uint8)
            values = self.kernels.unpack(data, type_.size, type_.width)
            found[instruction.out] = values.reshape(type_.shape)
        prepared.inputs = found

    def _with_masks(self, prepared: Prepared) -> Env:
        """Return the values of the chunks that hold the masks of inputs."""
        if prepared.masks is None:
            taken = [prepared.shelf.take(k) for k in self._input_chunks]
            prepared.masks = {name: value for env in taken for name, value in env.items()}
        return prepared.masks

    # -- online

    def start(
        self,
        shared: Prepared,
        branches: Sequence[Prepared] = (),
        observe: Callable[[int], None] | None = None,
    ) -> Running:
        """Return a run of one inference on `shared`, which has its inputs, for `run_together`.

        If it is routed, it goes on with the block of the branch taken: `branches` holds one block
        for each route, in order. After each round `observe` is called with the number of rounds so
        far. Values are freed as soon as nothing needs them.
        """
        assert shared.inputs is not None
        env = self._engine.public | self._with_masks(shared)
        run = Running(env, self._routes, {0: shared.shelf}, shared.inputs, self._guarded, observe)
        shared.masks = shared.inputs = None
        run.stops = self._stops(run, branches)
        return run

    def _stops(self, run: Running, branches: Sequence[Prepared]) -> Iterator[Stop]:
        """Run an inference, yielding where it waits for a mark or for the peer."""
        try:
            yield from self._rounds(0, run)
            if run.route is not None:
                branch = branches[run.route]
                yield Use(branch.block)
                self._use(branch)
                run.segment = branch.segment
                run.shelves[branch.segment] = branch.shelf
                yield from self._rounds(branch.segment, run)
        finally:
            for shelf in run.shelves.values():
                shelf.close()

    def _rounds(self, segment: int, run: Running) -> Iterator[Round]:
        """Run a segment, yielding each round whose message is to be exchanged."""
        env = run.env
        for stretch in self._stretches[segment]:
            for action, drops in stretch:
                action(run)
                for name in drops:
                    del env[name]
            if run.waiting is not None:
                yield run.waiting.messages

    def infer(
        self,
        shared: Prepared,
        branches: Sequence[Prepared] = (),
        observe: Callable[[int], None] | None = None,
        mark: Mark = unmarked,
    ) -> Inference:
        """Take the client's inputs and run one inference by itself: see `start`.

        `mark` is called with a branch's block before anything that depends on it is sent. Raises
        ProtocolError if a block is used already.
        """
        self.receive_inputs(shared)
        run = self.start(shared, branches, observe)
        run_together([run], self._peer, PEERS[self.index], mark)
        return run.inference()

    def send_outputs(self, inference: Inference) -> None:
        """Give the client this party's shares of the outputs.

        If a guarded program found a value out of its range, the client is told so and gets none.
        """
        if self._guarded:
            self._client.send(IN_RANGE if inference.in_range else OUT_OF_RANGE)
        for tensor in self.program.outputs if inference.in_range else ():
            self._client.send(inference.outputs[tensor.name].data)

    def _use(self, prepared: Prepared) -> None:
        last = self._last_used.get(prepared.segment, -1)
        if self._in_order and prepared.block <= last:
            raise ProtocolError(f"block {prepared.block} is used already, or older than {last}")
        self._last_used[prepared.segment] = prepared.block

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

        def key(run: _Block) -> gates.Key:
            words = run.take(count * size).reshape(count, size)
            return gates.Key(self._source.roots(run.block, slot, count), words)

        return key

    def _input(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        return lambda run, *masks: run.inputs.pop(i.out)

    def _exchange(self, messages: Round) -> tuple[Step, Step]:
        """Return the steps before and after a round's message is exchanged."""

        def begin(run: Running) -> None:
            messages.begin(run, self.kernels)

        def end(run: Running) -> None:
            messages.end(run, self.kernels)
            if run.observe is not None:
                run.observe(run.counters.rounds)

        return Step(begin, messages.reads, (), waits=True), Step(end, (), messages.makes)


class _Block(Protocol):
    """A run of a part of `prepare`, on one block."""

    env: Env
    block: int

    def take(self, size: int) -> gates.Bytes:
        """Return the next part of the material."""


@dataclass
class _Arriving:
    """A run of the parts that arrive, and what is put aside for the record of a chunk."""

    env: Env
    block: int
    shelf: Shelf
    receive: Callable[[int], Sendable]
    aside: list[gates.Bytes] = field(default_factory=list)

    def take(self, size: int) -> gates.Bytes:
        """Return the dealer's next message; nothing is sent where there is nothing to say."""
        return np.frombuffer(self.receive(size) if size else b"", np.uint8)


def _put_aside(size: int, run: _Arriving) -> None:
    run.aside.append(run.take(size))


def _put_on_shelf(number: int, kept: Sequence[str], run: _Arriving) -> None:
    values = [np.ascontiguousarray(run.env[name]).reshape(-1).view(np.uint8) for name in kept]
    aside, run.aside = run.aside, []
    run.shelf.put(number, [*values, *aside])


def _put_nowhere(run: _Arriving) -> None:
    run.aside = []


@dataclass
class _Late:
    """A run of the late part of a chunk, on the material that was put aside."""

    env: Env
    block: int
    parts: Iterator[gates.Bytes]

    def take(self, size: int) -> gates.Bytes:
        """Return the next part."""
        return next(self.parts) if size else np.empty(0, np.uint8)


@dataclass
class Running:
    """A run of `online`: the first segment, and the branch it leads to."""

    env: Env
    routes: frozenset[int | None]
    shelves: dict[int, Shelf]  # by segment
    inputs: Env
    guarded: bool
    observe: Callable[[int], None] | None
    stops: Iterator[Stop] = field(default_factory=lambda: iter(()))
    segment: int = 0
    waiting: Waiting | None = None
    counters: Counters = field(default_factory=Counters)
    route: int | None = None
    in_range: bool = True
    outputs: dict[str, gates.Bytes] = field(default_factory=dict)

    def inference(self) -> Inference:
        """Return what is known after the end."""
        return Inference(self.route, self.counters, self.outputs, self.in_range)

    def reveal(self, route: int) -> None:
        """Take the branch of a revealed route.

        If there is none, a value of the router left its range; without a guard to say so that is a
        ProtocolError.
        """
        if route not in self.routes and self.guarded:
            self.in_range = False
            return
        if route not in self.routes:
            raise ProtocolError("the route that was opened is none of this program's")
        self.route = route


Stretch = Sequence[tuple[Callable[[Any], None], tuple[str, ...]]]
"""Actions up to where a run waits, each with the values that no later one needs."""


def _stretches(plan: Plan) -> Sequence[Stretch]:
    """Return a plan, cut where a run waits."""
    found: list[list[tuple[Callable[[Any], None], tuple[str, ...]]]] = [[]]
    for step in plan:
        found[-1].append((step.action, step.drops))
        if step.waits:
            found.append([])
    return found


def _take_chunk(segment: int, number: int, run: Running) -> None:
    run.env.update(run.shelves[segment].take(number))


def _slot(i: Instruction) -> int:
    slot: Any = i.attrs["slot"]
    assert isinstance(slot, int)
    return slot


def _type(i: Instruction) -> RingType:
    assert i.type is not None
    return i.type
