"""The dealer: makes the correlated randomness of a block, for one segment of a program.

It shares a PRG seed with each party and never sees an input, a weight or an opened value. A block
is one segment's material for one inference; its number goes into every PRG call, and no number is
dealt twice by one Dealer.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from srcompile.runtime import gates
from srcompile.runtime.engine import Bind, Engine, Env, Value
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.isa import RingType
from srcompile.runtime.kernels import Kernels
from srcompile.runtime.program import Instruction, Program
from srcompile.runtime.randomness import SETUP_BLOCK, Randomness, Seeded
from srcompile.runtime.ring import Compute, Ring

Messages = tuple[gates.Bytes, gates.Bytes]
"""What an instruction gives each party; empty for the one that gets nothing."""


@dataclass(frozen=True)
class Material:
    """One block: its number, its segment, and what each party gets, made while it is read."""

    block: int
    segment: int
    messages: Iterator[Messages]


class Dealer:
    """Deals blocks. `seeds` are fresh from the operating system unless `sources` are given.

    `masks_of` is a dealer of the same program and sources whose masks of weights this one uses.
    """

    def __init__(
        self,
        program: Program,
        kernels: Kernels,
        sources: tuple[Randomness, Randomness] | None = None,
        masks_of: Dealer | None = None,
    ) -> None:
        self.seeds = (secrets.token_bytes(16), secrets.token_bytes(16))
        self.sources: tuple[Randomness, Randomness] = sources or (
            Seeded(self.seeds[0], kernels),
            Seeded(self.seeds[1], kernels),
        )
        self._engine = Engine(program, kernels)
        self._program, self._kernels = program, kernels
        self._next_block = 0
        self._weight_masks: Mapping[str, Value] = (
            masks_of._weight_masks
            if masks_of
            else {
                name: self._weight_mask(name, number, program.constants[name].type)
                for number, name in enumerate(program.weights())
            }
        )

        own: Mapping[str, Bind] = {
            "mask": self._mask,
            "weight_mask": lambda i, t: lambda run: self._weight_masks[i.inputs[0]],
            "correlate": self._correlate,
            "table_keys": self._table_keys,
            "sign_keys": self._sign_keys,
        }
        self._plans = [
            self._engine.plan("dealer", segment, own) for segment in range(len(program.segments))
        ]

    def deal(self, segment: int, number: int | None = None) -> Material:
        """Begin a block for `segment`; its messages are made one by one, as they are read.

        It is the next block, or the one with a `number` that the caller gives once. One block is
        made at a time: the one before must have been read to its end, or be given up. Raises
        ProtocolError if the number is not above all before it.
        """
        block = self._next_block if number is None else number
        if block < self._next_block:
            raise ProtocolError(f"block {block} is dealt already, or another after it")
        self._next_block = block + 1
        return Material(block, segment, self._messages(block, segment))

    def _messages(self, block: int, segment: int) -> Iterator[Messages]:
        run = _Block(dict(self._engine.public), block)
        for step in self._plans[segment]:
            with np.errstate(over="ignore"):
                self._engine.run((step,), run)
            if run.made is not None:
                made, run.made = run.made, None
                yield made

    def _weight_mask(self, name: str, number: int, type_: RingType) -> Value:
        """Return B, which masks a weight."""
        return self._engine.laid_out("weight_mask", name, self._both(SETUP_BLOCK, number, type_))

    def _both(self, block: int, slot: int, type_: RingType) -> Value:
        """Return r = PRG_0 + PRG_1."""
        return sum(source.ring(block, slot, type_) for source in self.sources)

    # -- the dealer's own instructions, bound to functions of the block

    def _mask(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        slot, type_ = _slot(i), i.type
        assert type_ is not None
        return lambda run: self._both(run.block, slot, type_)

    def _correlate(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        slot, type_ = _slot(i), types[0]

        def correlate(run: _Block, c: Ring) -> None:
            # P0 takes PRG_0, P1 gets c - PRG_0
            rest = c - self.sources[0].ring(run.block, slot, type_)
            run.made = (_NOTHING, self._kernels.pack(rest, type_.width))

        return correlate

    def _table_keys(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        a: Any = i.attrs
        shape = (a["index_bits"], a["low_bits"], a["degree"], a["width"])
        return self._keys(gates.table_keys, i, types[0].size, shape)

    def _sign_keys(self, i: Instruction, types: Sequence[RingType]) -> Compute:
        a: Any = i.attrs
        shape = (a["in_width"], a["width"], a["select"])
        return self._keys(gates.sign_keys, i, types[0].size, shape)

    def _keys(
        self, make: Callable[..., gates.Bytes], i: Instruction, count: int, shape: Sequence[int]
    ) -> Compute:
        slot = _slot(i)
        first, second = self.sources

        def keys(run: _Block, r: Ring) -> None:
            roots = (first.roots(run.block, slot, count), second.roots(run.block, slot, count))
            words = make(self._kernels, r, *shape, roots).reshape(-1)
            run.made = (words, words)

        return keys


_NOTHING: gates.Bytes = np.empty(0, np.uint8)


@dataclass
class _Block:
    """A run of the dealer's function: one block in the making."""

    env: Env
    block: int
    made: Messages | None = None  # by the instruction that ran last


def _slot(i: Instruction) -> int:
    slot = i.attrs["slot"]
    assert isinstance(slot, int)
    return slot
