"""Pass `cost`: what a program sends, exactly, and how long it should take.

Bytes and rounds are read off the instructions, so they equal the counters of a run. Time is

    compute + bytes sent by the busier party / bandwidth + rounds * (RTT / 2 + message)

since in a round both parties send at once and wait for one message. What they compute between two
messages counts for the slower of them. `message` is what a machine takes for a message besides the
network: system calls, and waking up, which takes longer after a longer wait.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from srcompile.errors import UserError
from srcompile.passes.machine import Machine as Machine
from srcompile.passes.machine import Timer
from srcompile.runtime.isa import VERDICT_BYTES, RingType, sends
from srcompile.runtime.openings import rounds as rounds_of
from srcompile.runtime.program import Instruction, Program

Key = tuple[str, str, str]  # name, op and source of a layer


@dataclass(frozen=True)
class Network:
    """A link between the parties: bandwidth each way and round-trip time."""

    name: str
    rate_mbit: float
    rtt_ms: float

    def seconds(self, sent: int, rounds: int) -> float:
        """Return the time to send `sent` bytes each way in `rounds` rounds."""
        return sent * 8 / (self.rate_mbit * 1e6) + rounds * self.rtt_ms / 2e3


NETWORKS: Mapping[str, Network] = {
    n.name: n
    for n in (Network("lan", 3000, 1), Network("wan", 400, 40), Network("mobile", 100, 80))
}


def network(text: str) -> Network:
    """Return the network called `text`, or RATE_MBIT:RTT_MS. Raises UserError for anything else."""
    if text in NETWORKS:
        return NETWORKS[text]
    rate, colon, rtt = text.partition(":")
    try:
        found = Network(text, float(rate), float(rtt))
    except ValueError:
        found = Network(text, 0, 0)
    if not colon or not 0 < found.rate_mbit < math.inf or not 0 <= found.rtt_ms < math.inf:
        names = ", ".join(NETWORKS)
        raise UserError(f"there is no network '{text}': choose {names}, or RATE_MBIT:RTT_MS")
    return found


@dataclass(frozen=True)
class LayerCost:
    """What one op of one layer costs, online and offline, and how long a party computes."""

    name: str
    op: str
    source: str
    online_bytes: tuple[int, int] = (0, 0)
    rounds: int = 0
    offline_bytes: tuple[int, int] = (0, 0)
    compute_s: float = 0.0

    def plus(self, other: LayerCost) -> LayerCost:
        """Return the sum of two costs, under this one's name."""
        return LayerCost(
            self.name,
            self.op,
            self.source,
            _sum(self.online_bytes, other.online_bytes),
            self.rounds + other.rounds,
            _sum(self.offline_bytes, other.offline_bytes),
            self.compute_s + other.compute_s,
        )


@dataclass(frozen=True)
class SegmentCost:
    """What one segment costs: the whole of a single model, or a router, or a model of a pool."""

    name: str
    route: int | None
    layers: tuple[LayerCost, ...]

    @property
    def total(self) -> LayerCost:
        """The sum over its layers."""
        total = LayerCost(self.name, "", "")
        for layer in self.layers:
            total = total.plus(layer)
        return total


@dataclass(frozen=True)
class Cost:
    """What a program costs on a network. `setup_bytes` are sent once, when weights are loaded."""

    target: str
    network: Network
    machines: tuple[Machine, Machine]
    segments: tuple[SegmentCost, ...]
    setup_bytes: tuple[int, int]
    client_upload: int
    client_download: int

    def total(self, route: int | None = None) -> LayerCost:
        """Return the cost of one inference: of the first segment and of the routed one."""
        total = self.segments[0].total
        for segment in self.segments[1:]:
            if segment.route == route:
                total = total.plus(segment.total)
        return total

    @property
    def machine(self) -> Machine:
        """Party 0's machine."""
        return self.machines[0]

    @property
    def machine_name(self) -> str:
        """What reports call the machine, or the two machines."""
        return " and ".join(dict.fromkeys(machine.name for machine in self.machines))

    @property
    def message_s(self) -> float:
        """What the slower machine takes for a round's message, besides the network, in seconds."""
        wait_s = self.network.rtt_ms / 2e3
        return max(m.profile.message_s + m.profile.waking_s(wait_s) for m in self.machines)

    def seconds(self, cost: LayerCost) -> float:
        """Return the projected online time of `cost`."""
        local = cost.compute_s + cost.rounds * self.message_s
        return local + self.network.seconds(max(cost.online_bytes), cost.rounds)


def estimate_cost(
    program: Program, network: Network, machines: tuple[Machine, Machine] | None = None
) -> Cost:
    """Return the exact bytes and rounds of `program`, by layer, and its projected time.

    machines: party 0's and party 1's; without them, the built-in one twice.
    """
    machines = machines or (Machine(), Machine())
    types = {phase: program.types(phase) for phase in program.functions}
    timers = [Timer(program, machine, party) for party, machine in enumerate(machines)]
    segments = tuple(
        SegmentCost(
            info.name,
            info.route,
            _segment_layers(program, number, types, timers, network.rtt_ms / 2e3),
        )
        for number, info in enumerate(program.segments)
    )
    setup = sum(
        program.constants[name].type.packed_bytes
        for name in {
            i.inputs[0] for _, i in program.instructions("prepare") if i.op == "weight_opened"
        }
    )
    client = [
        sends(i.op, _operands(types["online"], i), i.attrs)
        for _, i in program.instructions("online")
    ]
    outputs = [
        _operands(types["online"], i)[0].packed_bytes
        for segment, i in program.instructions("online")
        if i.op == "output" and segment == len(program.segments) - 1
    ]
    if program.guarded:
        outputs.append(VERDICT_BYTES)
    return Cost(
        program.target,
        network,
        machines,
        segments,
        (setup, setup),
        2 * sum(s.client_to_party for s in client),
        2 * sum(outputs),
    )


def _operands(types: Mapping[str, RingType], instruction: Instruction) -> list[RingType]:
    return [types[name] for name in instruction.inputs]


def _segment_layers(
    program: Program,
    segment: int,
    known: Mapping[str, Mapping[str, RingType]],
    timers: Sequence[Timer],
    rest_s: float,
) -> tuple[LayerCost, ...]:
    found: dict[Key, LayerCost] = {}

    def add(key: Key, cost: LayerCost) -> None:
        found[key] = found.get(key, LayerCost(*key)).plus(cost)

    for phase in ("online", "dealer"):
        for i in program.functions[phase][segment]:
            key = _key(program, i)
            sent = sends(i.op, _operands(known[phase], i), i.attrs)
            online, offline = (
                (sent.p0_online, sent.p1_online),
                (sent.dealer_to_p0, sent.dealer_to_p1),
            )
            add(key, LayerCost(*key, online_bytes=online, offline_bytes=offline))
    body = program.functions["online"][segment]
    for key in _rounds(program, body, known["online"]):
        add(key, LayerCost(*key, rounds=1))
    for key, seconds in _compute(program, body, timers, rest_s):
        add(key, LayerCost(*key, compute_s=seconds))
    order = {(layer.name, layer.op, layer.source): k for k, layer in enumerate(program.layers)}
    return tuple(found[key] for key in sorted(found, key=order.__getitem__))


def _rounds(
    program: Program, body: Sequence[Instruction], types: Mapping[str, RingType]
) -> list[Key]:
    """Return, for each round, the layer it counts for: the one that sends most in it."""
    chosen = []
    for first, stop in rounds_of(body).items():
        sent: dict[Key, int] = {}
        for i in body[first:stop]:
            key = _key(program, i)
            sent[key] = sent.get(key, 0) + sends(i.op, _operands(types, i), i.attrs).p0_online
        chosen.append(max(sent, key=sent.__getitem__))
    return chosen


def _compute(
    program: Program, body: Sequence[Instruction], timers: Sequence[Timer], rest_s: float
) -> list[tuple[Key, float]]:
    """Return each instruction's layer and time, those of the slower party between two messages.

    rest_s: how long parties wait for a message.
    """
    taken: list[tuple[Key, float]] = []
    ends = {*rounds_of(body).values(), len(body)}
    since = 0
    for end in sorted(ends):
        part = body[since:end]
        both = [timer.interval(part, rest_s if since else 0.0) for timer in timers]
        taken += zip([_key(program, i) for i in part], max(both, key=sum), strict=True)
        since = end
    return taken


def _key(program: Program, i: Instruction) -> Key:
    layer = program.layers[i.layer]
    return layer.name, layer.op, layer.source


def _sum(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return (a[0] + b[0], a[1] + b[1])
