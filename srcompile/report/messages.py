"""The rounds of a program: what is sent in each, by which layer, in rings of which width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srcompile.runtime.isa import INSTRUCTIONS, sends
from srcompile.runtime.program import Program


@dataclass(frozen=True)
class Message:
    """What each party sends for one value.

    kind: `open` and `route` go to the other party, `output` to the client.
    width: bits of the ring that is sent, without low bits that nobody looks at; an element takes as
        many on the wire.
    """

    name: str
    op: str
    source: str
    kind: str
    elements: int
    width: int
    bytes: int


@dataclass(frozen=True)
class Round:
    """All messages that are sent at once. `number` counts from 1, on each route for itself."""

    part: str
    number: int
    messages: tuple[Message, ...]

    @property
    def bytes(self) -> int:
        """Bytes that each party sends."""
        return sum(message.bytes for message in self.messages)

    @property
    def largest(self) -> Message:
        """The message that the round counts for: that of the layer that sends most in it."""
        sums: dict[tuple[str, str, str], int] = {}
        for m in self.messages:
            key = (m.name, m.op, m.source)
            sums[key] = sums.get(key, 0) + m.bytes
        most = max(sums, key=sums.__getitem__)
        return next(m for m in self.messages if (m.name, m.op, m.source) == most)


def rounds_of(program: Program) -> tuple[Round, ...]:
    """Return the rounds of each segment of a program, in order."""
    types = program.types("online")
    found: dict[tuple[int, int], list[Message]] = {}
    for segment, instruction in program.instructions("online"):
        if not INSTRUCTIONS[instruction.op].communicates:
            continue
        layer = program.layers[instruction.layer]
        operands = [types[name] for name in instruction.inputs]
        sent = sends(instruction.op, operands, instruction.attrs)
        number: Any = instruction.attrs["round"]
        message = Message(
            layer.name,
            layer.op,
            layer.source,
            instruction.op,
            operands[0].size,
            (instruction.type or operands[0]).width,
            max(sent.p0_online, sent.p1_online),
        )
        found.setdefault((segment, number), []).append(message)
    return tuple(
        Round(program.segments[segment].name, number, tuple(messages))
        for (segment, number), messages in found.items()
    )
