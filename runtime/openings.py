"""Openings: the messages of a round, bound once and sent in every run.

A wire is handled in two passes over its memory. Before the exchange (`Round.begin`) its addend,
the upper w - by bits of `[x]_p + [r]_p`, is computed, kept where the wire will be, and packed into
its part of the round's message. After it (`Round.end`) the other party's addend is unpacked and
added. A share that is a view with gaps (transposed, sliced, broadcast) is copied by the kernel
first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from srcompile.runtime.engine import Arena, Env, is_message
from srcompile.runtime.gates import Bytes
from srcompile.runtime.isa import VERDICT_BYTES, RingType, sends
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.program import Instruction
from srcompile.runtime.ring import Ring


@dataclass
class Counters:
    """What one party sent: bytes for each instruction, by (segment, index), and rounds.

    by_round: the same bytes, for each round by itself.
    """

    online: dict[tuple[int, int], int] = field(default_factory=dict)
    rounds: int = 0
    by_round: list[Mapping[tuple[int, int], int]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes sent online, to the peer and to the client."""
        return sum(self.online.values())


class Sink(Protocol):
    """What a round changes in a run."""

    env: Env
    counters: Counters
    outputs: dict[str, Bytes]
    in_range: bool
    waiting: Waiting | None

    def reveal(self, route: int) -> None:
        """Take the branch of a revealed route. Raises ProtocolError if there is none."""


@dataclass(frozen=True)
class Opening:
    """One `open`: the names of its operands and result, and its parts of the round's messages."""

    share: str
    mask: str
    out: str
    width: int  # of the share
    by: int  # how many low bits are not sent
    half: int  # what this party adds, so that dropping them is unbiased
    place: Callable[[], Ring]
    ours: Bytes
    theirs: Bytes

    def send(self, kernels: Kernels, env: Env) -> Ring:
        """Write the packed addend into the message; return the addend."""
        own, x, r = self.place(), env[self.share], env[self.mask]
        kernels.add_pack(x, r, self.width, own, self.ours, self.by, self.half)
        return own

    def receive(self, kernels: Kernels, env: Env, own: Ring) -> None:
        """Put the wire where the addend was."""
        env[self.out] = kernels.unpack_add(self.theirs, own, self.width - self.by, own)


@dataclass(frozen=True)
class Revealed:
    """One `route` or `guard`: it is opened without a mask."""

    op: str
    share: str
    width: int
    ours: Bytes
    theirs: Bytes

    def send(self, kernels: Kernels, env: Env) -> Ring:
        """Write the packed share into the message; return the share."""
        share: Ring = env[self.share]
        self.ours[...] = kernels.pack(share, self.width)
        return share

    def receive(self, kernels: Kernels, run: Sink, share: Ring) -> None:
        """Reveal the route, or whether every value stayed in its range."""
        value = int(kernels.unpack_add(self.theirs, share, self.width).reshape(()))
        if self.op == "route":
            run.reveal(value)
        else:
            run.in_range = bool(value)


@dataclass(frozen=True)
class Output:
    """One `output`: what the client gets of it."""

    share: str
    name: str
    width: int


class Round:
    """The messages of one round of a segment, `group`, which starts at instruction `first`.

    `ours` is what this party sends and `theirs` the place for what it receives.
    """

    def __init__(
        self,
        segment: int,
        first: int,
        group: Sequence[Instruction],
        types: Mapping[str, RingType],
        party: int,
        arena: Arena,
        messages: tuple[Bytes, Bytes],
    ) -> None:
        self._openings: list[Opening] = []
        self._revealed: list[Revealed] = []
        self._outputs: list[Output] = []
        self._sent: dict[tuple[int, int], int] = {}
        self._sent_out: dict[tuple[int, int], int] = {}  # of outputs
        size = 0
        for index, i in enumerate(group, first):
            type_ = types[i.inputs[0]]
            length = message_bytes(i, types)
            sent = self._sent_out if i.op == "output" else self._sent
            sent[segment, index] = length + (VERDICT_BYTES if i.op == "guard" else 0)
            if i.op == "output":
                self._outputs.append(Output(i.inputs[0], str(i.attrs["name"]), type_.width))
                continue
            ours, theirs = (m[size : size + length] for m in messages)
            size += length
            if i.op in ("route", "guard"):
                self._revealed.append(Revealed(i.op, i.inputs[0], type_.width, ours, theirs))
                continue
            share, mask = i.inputs
            by: Any = i.attrs["by"]
            half = 1 << (by - 1) if by and party == 0 else 0
            self._openings.append(
                Opening(share, mask, i.out, type_.width, by, half, arena.place(i), ours, theirs)
            )
        self.ours, self.theirs = (m[:size].data for m in messages)
        self.where = f"round {group[0].attrs['round']}, {group[0].op} {group[0].inputs[0]}"
        self.reads = tuple(name for i in group for name in i.inputs)
        self.makes = tuple(o.out for o in self._openings)

    def begin(self, run: Sink, kernels: Kernels) -> None:
        """Write this party's message, and make the run wait for the other's.

        No outputs are made if a value is known to be out of its range, and where the parties have
        nothing to say to each other nobody waits.
        """
        env = run.env
        sent_out = self._sent_out if run.in_range else {}
        if sent_out:
            run.counters.online |= sent_out
            for output in self._outputs:
                run.outputs[output.name] = kernels.pack(env[output.share], output.width)
        if self.ours or run.in_range:
            run.counters.rounds += 1
            run.counters.by_round.append(self._sent | sent_out)
        if not self.ours:
            return
        run.counters.online |= self._sent
        addends = [o.send(kernels, env) for o in self._openings]
        run.waiting = Waiting(self, addends, [r.send(kernels, env) for r in self._revealed])

    def end(self, run: Sink, kernels: Kernels) -> None:
        """Open what the other party's message is for."""
        waiting, run.waiting = run.waiting, None
        if waiting is None:
            return
        for opening, own in zip(self._openings, waiting.addends, strict=True):
            opening.receive(kernels, run.env, own)
        for revealed, share in zip(self._revealed, waiting.shares, strict=True):
            revealed.receive(kernels, run, share)


class Waiting(NamedTuple):
    """A round whose message is written and not yet exchanged, and what `end` needs."""

    messages: Round
    addends: list[Ring]
    shares: list[Ring]


def rounds(body: Sequence[Instruction]) -> dict[int, int]:
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


def largest_message(bodies: Sequence[Sequence[Instruction]], types: Mapping[str, RingType]) -> int:
    """Return the bytes of the largest message that the parties exchange in a round."""
    return max(
        (
            sum(message_bytes(i, types) for i in body[first:stop] if i.op != "output")
            for body in bodies
            for first, stop in rounds(body).items()
        ),
        default=0,
    )


def message_bytes(i: Instruction, types: Mapping[str, RingType]) -> int:
    """Return how long the message of an `open`, `route`, `guard` or `output` is."""
    size = sends(i.op, [types[name] for name in i.inputs], i.attrs).p0_online
    return size - VERDICT_BYTES if i.op == "guard" else size
