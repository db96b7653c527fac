"""What real runs sent and were dealt, by layer: counters and messages, not predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srcompile.runtime.dealer import Dealer
from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import load
from srcompile.runtime.local import Result
from srcompile.runtime.program import Instruction, Program
from srcompile.runtime.ring import Compute

Key = tuple[str, str, str]


def _key(program: Program, instruction: Instruction) -> Key:
    layer = program.layers[instruction.layer]
    return (layer.name, layer.op, layer.source)


def rounds_by_layer(program: Program, result: Result, party: int) -> dict[tuple[int, *Key], int]:
    """Return how many of the rounds a party took count for each layer, by segment and layer.

    A round counts for the layer that sent most in it, the first one of equals.
    """
    found: dict[tuple[int, *Key], int] = {}
    assert len(result.counters[party].by_round) == result.counters[party].rounds
    for messages in result.counters[party].by_round:
        sent: dict[tuple[int, *Key], int] = {}
        for (segment, index), size in messages.items():
            key = (segment, *_key(program, program.functions["online"][segment][index]))
            sent[key] = sent.get(key, 0) + size
        most = max(sent, key=sent.__getitem__)
        found[most] = found.get(most, 0) + 1
    return found


class _NamingDealer(Dealer):
    """A dealer that notes which instructions made its messages, in their order."""

    def __init__(self, program: Program) -> None:
        self.made: list[Instruction] = []
        super().__init__(program, load())

    def _correlate(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        return self._named(i, super()._correlate(i, types))

    def _table_keys(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        return self._named(i, super()._table_keys(i, types))

    def _sign_keys(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        return self._named(i, super()._sign_keys(i, types))

    def _named(self, i: Instruction, compute: Compute) -> Compute:
        def named(run: Any, *operands: Any) -> Any:
            self.made.append(i)
            return compute(run, *operands)

        return named


def dealt_by_layer(program: Program) -> list[dict[Key, tuple[int, int]]]:
    """Deal a block for each segment; return the bytes for both parties, by layer."""
    dealer = _NamingDealer(program)
    found = []
    for segment in range(len(program.segments)):
        dealer.made.clear()
        sums: dict[Key, tuple[int, int]] = {}
        for count, messages in enumerate(dealer.deal(segment).messages, 1):
            assert len(dealer.made) == count
            key = _key(program, dealer.made[-1])
            before = sums.get(key, (0, 0))
            sums[key] = (before[0] + messages[0].nbytes, before[1] + messages[1].nbytes)
        found.append(sums)
    return found
