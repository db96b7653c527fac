"""The dealer: makes the correlated randomness of a block, for one segment of a program.

It shares a PRG seed with each party and never sees an input, a weight or an opened value. A block
is one segment's material for one inference; its number goes into every PRG call, and no number is
dealt twice by one Dealer.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from srcompile.runtime import gates
from srcompile.runtime.engine import Engine, Env, Handler, Value, last_uses
from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.program import Instruction, Program
from srcompile.runtime.randomness import SETUP_BLOCK, Randomness, Seeded


@dataclass(frozen=True)
class Material:
    """One block: its number, its segment, and what each party gets."""

    block: int
    segment: int
    to_party: tuple[bytes, bytes]


class Dealer:
    """Deals blocks. `seeds` are fresh from the operating system unless given (tests)."""

    def __init__(
        self,
        program: Program,
        kernels: Kernels,
        sources: tuple[Randomness, Randomness] | None = None,
    ) -> None:
        self.seeds = (secrets.token_bytes(16), secrets.token_bytes(16))
        self.sources: tuple[Randomness, Randomness] = sources or (
            Seeded(self.seeds[0], kernels),
            Seeded(self.seeds[1], kernels),
        )
        self._engine = Engine(program, kernels)
        self._program, self._kernels = program, kernels
        self._next_block = 0
        self._drops = [last_uses(body) for body in program.functions["dealer"]]
        self._weight_masks = {
            name: self._both(SETUP_BLOCK, number, program.constants[name].type)
            for number, name in enumerate(program.weights())
        }
        self._engine.pack_weights("weight_mask", self._weight_masks)

    def deal(self, segment: int) -> Material:
        """Make the next block, for `segment`."""
        block, self._next_block = self._next_block, self._next_block + 1
        out: tuple[list[bytes], list[bytes]] = ([], [])
        handlers = _Handlers(self, block, out).table()
        env: Env = {}
        arena = self._engine.arena("dealer", segment)
        body = self._program.functions["dealer"][segment]
        with np.errstate(over="ignore"):
            for instruction, drops in zip(body, self._drops[segment], strict=True):
                self._engine.step("dealer", instruction, env, handlers, arena)
                for name in drops:
                    env.pop(name, None)
        return Material(block, segment, (b"".join(out[0]), b"".join(out[1])))

    def _both(self, block: int, slot: int, type_: RingType) -> Value:
        """Return r = PRG_0 + PRG_1."""
        return sum(source.ring(block, slot, type_) for source in self.sources)


class _Handlers:
    """The dealer's own instructions, for one block."""

    def __init__(self, dealer: Dealer, block: int, out: tuple[list[bytes], list[bytes]]) -> None:
        self.dealer, self.block, self.out = dealer, block, out

    def table(self) -> dict[str, Handler]:
        return {
            "mask": self.mask,
            "weight_mask": lambda i, a, t: self.dealer._weight_masks[i.inputs[0]],
            "correlate": self.correlate,
            "table_keys": self.table_keys,
            "sign_keys": self.sign_keys,
        }

    def mask(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> Value:
        assert i.type is not None
        return self.dealer._both(self.block, _slot(i), i.type)

    def correlate(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> None:
        # P0 takes PRG_0, P1 gets c - PRG_0
        own = self.dealer.sources[0].ring(self.block, _slot(i), types[0])
        rest = np.ascontiguousarray(args[0] - own).reshape(-1)
        self.out[1].append(self.dealer._kernels.pack(rest, types[0].width).tobytes())

    def _roots(self, i: Instruction, count: int) -> tuple[gates.Bytes, gates.Bytes]:
        first, second = self.dealer.sources
        return (
            first.roots(self.block, _slot(i), count),
            second.roots(self.block, _slot(i), count),
        )

    def _send_both(self, words: gates.Bytes) -> None:
        for out in self.out:
            out.append(words.tobytes())

    def table_keys(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> None:
        a: Any = i.attrs
        roots = self._roots(i, types[0].size)
        shape = (a["index_bits"], a["low_bits"], a["degree"], a["width"])
        self._send_both(gates.table_keys(self.dealer._kernels, args[0], *shape, roots))

    def sign_keys(self, i: Instruction, args: Sequence[Value], types: Sequence[RingType]) -> None:
        a: Any = i.attrs
        roots = self._roots(i, types[0].size)
        shape = (a["in_width"], a["width"], a["select"])
        self._send_both(gates.sign_keys(self.dealer._kernels, args[0], *shape, roots))


def _slot(i: Instruction) -> int:
    slot = i.attrs["slot"]
    assert isinstance(slot, int)
    return slot
