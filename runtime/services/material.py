"""Where a session's material comes from: its link to the dealer.

A session asks for nothing but blocks by segment, and gives those back that it did not use. Both
parties of a session take and give back the same segments in the same order; party 0 asks the dealer
for both.
"""

from __future__ import annotations

from collections.abc import Callable

from srcompile.runtime.channels import Channel
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.material import material_bytes
from srcompile.runtime.node import BLOCK, DEALT, REQUEST, STOP, Offline
from srcompile.runtime.party import Party, Prepared
from srcompile.runtime.services.state import Journal

Tell = Callable[[str, int, int], None]
"""Is told of a phase, how much of it is done, and how much there is."""


class Material:
    """The blocks of one session, prepared by its `party`; `used` are the blocks that are marked."""

    def __init__(self, party: Party, dealer: Channel, used: Journal, tell: Tell) -> None:
        self._party, self._dealer, self._used, self._tell = party, dealer, used, tell
        self._held: dict[int, Prepared] = {}  # by segment
        self._taken: list[Prepared] = []  # by the inference that is running

    def begin(self, segments: list[int]) -> Offline:
        """Return the counts of one inference, which is going to take these segments' blocks."""
        self._taken.clear()
        return Offline(
            sum(self._size(segment) for segment in segments if segment not in self._held)
        )

    def take(self, segment: int, offline: Offline) -> Prepared:
        """Return a block of a segment, prepared, and count what came for it just now.

        Raises ProtocolError if the dealer does not send what it should.
        """
        prepared = self._held.pop(segment, None) or self._dealt(segment, offline)
        self._taken.append(prepared)
        return prepared

    def give_back(self, prepared: Prepared) -> None:
        """Keep a block of which nothing was used for the next one that takes its segment."""
        self._held[prepared.segment] = prepared

    def stop(self) -> None:
        """Let the dealer know that no more is needed."""
        if self._party.index == 0:
            self._dealer.send(REQUEST.pack(STOP))

    def close(self) -> None:
        """Forget what was not used."""
        for prepared in (*self._held.values(), *self._taken):
            prepared.shelf.close()
        self._held.clear()

    def _dealt(self, segment: int, offline: Offline) -> Prepared:
        """Get a block from the dealer and prepare it; count what comes."""
        if self._party.index == 0:
            self._dealer.send(REQUEST.pack(segment))
        block, dealt = BLOCK.unpack(self._dealer.receive(BLOCK.size))
        if dealt != segment:
            raise ProtocolError(f"the dealer sent material for segment {dealt}, not {segment}")
        if block in self._used:
            raise ProtocolError(f"the dealer sent block {block}, which is used already")
        before = offline.bytes

        def receive(size: int) -> bytes | bytearray:
            data = self._dealer.receive(size)
            offline.bytes += size
            self._tell("offline", offline.bytes, offline.total)
            return data

        prepared = self._party.prepare(block, segment, receive)
        offline.blocks.append((segment, offline.bytes - before))
        if self._party.index == 0:
            seconds, offline.dealer_memory = DEALT.unpack(self._dealer.receive(DEALT.size))
            offline.dealer_s += seconds
        return prepared

    def _size(self, segment: int) -> int:
        return material_bytes(self._party.program, segment)[self._party.index]
