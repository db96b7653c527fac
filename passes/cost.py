"""Pass `cost`: what a program sends, exactly, and how long it should take.

Bytes and rounds are read off the instructions, so they equal the counters of a run. Time is

    compute + bytes sent by the busier party / bandwidth + rounds * RTT / 2

since in a round both parties send at once and wait for one message.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from srcompile.errors import UserError
from srcompile.runtime.isa import INSTRUCTIONS, VERDICT_BYTES, RingType, sends
from srcompile.runtime.program import Instruction, Program


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
class Machine:
    """How fast one party computes: seconds for each instruction, element, and so on.

    Products and tables are given for elements of more than 32 bits; below they take half the time.
    The built-in figures are rounded from one core of a Zen 4 server with AVX-512: `make bench` for
    a 64-bit multiply-add, a table's entry (n = 8, lines) and a level of a comparison with several
    fields; a profile of the digits example for the overhead of an instruction.
    """

    name: str = "built-in"
    instruction_s: float = 8e-6
    element_s: float = 1e-9
    multiply_add_s: float = 4.5e-11
    table_entry_s: float = 1.5e-9
    sign_level_s: float = 4.6e-9

    def product_s(self, multiply_adds: int, width: int) -> float:
        """Return the time of a product in a ring of `width` bits."""
        return multiply_adds * self.multiply_add_s * _words(width)

    def table_s(self, gates: int, entries: int, tables: int, width: int) -> float:
        """Return the time of `gates` that read so many tables, of so many entries other than zero
        each, into a ring of `width` bits."""
        read = gates * entries * (1 + (tables - 1) / TABLES_IN_ONE)
        return read * self.table_entry_s * _words(width)


TABLES_IN_ONE = 16
"""How many more tables a gate reads in the time that it takes to expand its key."""


def _words(width: int) -> float:
    """Return the time that elements of a ring take, against those of 64 bits."""
    return 0.5 if width <= 32 else 1.0


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
    machine: Machine
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

    def seconds(self, cost: LayerCost) -> float:
        """Return the projected online time of `cost`."""
        return cost.compute_s + self.network.seconds(max(cost.online_bytes), cost.rounds)


def estimate_cost(program: Program, network: Network, machine: Machine = Machine()) -> Cost:
    """Return the exact bytes and rounds of `program`, by layer, and its projected time."""
    types = {phase: program.types(phase) for phase in program.functions}
    segments = tuple(
        SegmentCost(info.name, info.route, _segment_layers(program, number, types, machine))
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
        machine,
        segments,
        (setup, setup),
        2 * sum(s.client_to_party for s in client),
        2 * sum(outputs),
    )


def _operands(types: Mapping[str, RingType], instruction: Instruction) -> list[RingType]:
    return [types[name] for name in instruction.inputs]


def _segment_layers(
    program: Program, segment: int, known: Mapping[str, Mapping[str, RingType]], machine: Machine
) -> tuple[LayerCost, ...]:
    found: dict[tuple[str, str, str], LayerCost] = {}
    rounds: dict[int, dict[tuple[str, str, str], int]] = {}
    for phase in ("online", "dealer"):
        for instruction in program.functions[phase][segment]:
            layer = program.layers[instruction.layer]
            key = (layer.name, layer.op, layer.source)
            types = _operands(known[phase], instruction)
            sent = sends(instruction.op, types, instruction.attrs)
            seconds = compute_seconds(instruction, types, machine) if phase == "online" else 0.0
            cost = LayerCost(
                *key,
                online_bytes=(sent.p0_online, sent.p1_online),
                offline_bytes=(sent.dealer_to_p0, sent.dealer_to_p1),
                compute_s=seconds,
            )
            found[key] = found.get(key, LayerCost(*key)).plus(cost)
            if INSTRUCTIONS[instruction.op].communicates:
                number: Any = instruction.attrs["round"]
                by_layer = rounds.setdefault(number, {})
                by_layer[key] = by_layer.get(key, 0) + sent.p0_online
    for by_layer in rounds.values():  # a round counts for the layer that sends most in it
        key = max(by_layer, key=by_layer.__getitem__)
        found[key] = found[key].plus(LayerCost(*key, rounds=1))
    order = {(layer.name, layer.op, layer.source): k for k, layer in enumerate(program.layers)}
    return tuple(found[key] for key in sorted(found, key=order.__getitem__))


def _sum(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return (a[0] + b[0], a[1] + b[1])


def compute_seconds(instruction: Instruction, types: list[RingType], machine: Machine) -> float:
    """Return how long a party computes on one online instruction."""
    type_, attrs = instruction.type, instruction.attrs
    seconds = machine.instruction_s
    size = type_.size if type_ is not None else types[0].size if types else 0
    if instruction.op == "matmul":
        seconds += machine.product_s(size * types[0].shape[-1], types[0].width)
    elif instruction.op == "conv2d":
        seconds += machine.product_s(size * math.prod(types[1].shape[1:]), types[0].width)
    elif instruction.op == "table":
        index_bits: Any = attrs["index_bits"]
        entries = 1 << index_bits
        tables = size // max(types[0].size, 1)
        assert type_ is not None
        seconds += machine.table_s(types[0].size, entries, tables, type_.width)
    elif instruction.op in ("relu", "nonneg"):
        seconds += size * (types[0].width - 1) * machine.sign_level_s
    else:
        seconds += size * machine.element_s
    return seconds
