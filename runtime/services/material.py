"""Where a session's material comes from: its link to the dealer.

A session asks for nothing but blocks by segment, and gives those back that it did not use. Both
parties of a session take and give back the same segments in the same order; party 0 asks the dealer
for both.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from srcompile.runtime.channels import Channel
from srcompile.runtime.dealing import BEAT, BEAT_S, BLOCK, DEALT, REQUEST, STOP, Offline
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.lockstep import Mark, unmarked
from srcompile.runtime.material import material_bytes
from srcompile.runtime.party import Party, Prepared

Tell = Callable[[str, int, int], None]
"""Is told of a phase, how much of it is done, and how much there is."""


class Source(Protocol):
    """Where a session's material comes from."""

    def begin(self, segments: Sequence[int]) -> Offline:
        """Return the counts of one inference, which is going to take these segments' blocks."""

    def take(self, segment: int, offline: Offline) -> Prepared:
        """Return a block of a segment, prepared or being so, and count what comes for it."""

    def finish(self) -> None:
        """Wait until all that was taken has come in full."""

    def give_back(self, prepared: Prepared) -> None:
        """Keep a block of which nothing was used for the next one that takes its segment."""

    def beat(self) -> None:
        """Let whoever it comes from know, now and then, that the session still runs."""

    def stop(self) -> None:
        """Say that no more is needed."""

    def close(self) -> None:
        """Forget what was not used."""


class Material:
    """The blocks of one session, prepared by its `party`.

    `is_used` says which blocks were used before, and `give_up` is told at the end which ones nobody
    will use, among others. While `running`, the block of the first segment is prepared on a thread,
    beside the inference that uses it.
    """

    def __init__(
        self,
        party: Party,
        dealer: Channel,
        is_used: Callable[[int], bool],
        tell: Tell,
        running: bool = False,
        give_up: Mark = unmarked,
    ) -> None:
        self._party, self._dealer, self._is_used, self._tell = party, dealer, is_used, tell
        self._running, self._give_up = running, give_up
        self._last_beat = time.monotonic()
        self._broke: ProtocolError | None = None  # what a beat found
        self._filling: _Filling | None = None
        self._held: dict[int, Prepared] = {}  # by segment
        self._taken: list[Prepared] = []  # by the inference that is running

    def begin(self, segments: Sequence[int]) -> Offline:
        """Return the counts of one inference, which is going to take these segments' blocks."""
        self._taken.clear()
        return Offline(
            sum(self._size(segment) for segment in segments if segment not in self._held)
        )

    def take(self, segment: int, offline: Offline) -> Prepared:
        """Return a block of a segment, prepared, and count what came for it just now.

        Raises ProtocolError if the dealer does not send what it should.
        """
        prepared = self._held.pop(segment, None)
        if prepared is None:
            prepared = self._dealt(segment, offline)
        self._taken.append(prepared)
        return prepared

    def finish(self) -> None:
        """Wait until all that was taken has come in full. Raises what ended it."""
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.finish()

    def give_back(self, prepared: Prepared) -> None:
        """Keep a block of which nothing was used for the next one that takes its segment."""
        self._held[prepared.segment] = prepared

    def beat(self) -> None:
        """Let the dealer know that the session still runs, if it is time to; for services.

        What an inference needs of the dealer is there, so that a broken link is an error only when
        more is taken.
        """
        now = time.monotonic()
        if self._party.index or self._broke is not None or now < self._last_beat + BEAT_S:
            return
        self._last_beat = now
        try:
            self._dealer.send(REQUEST.pack(BEAT))
        except ProtocolError as error:
            self._broke = error

    def stop(self) -> None:
        """Let the dealer know that no more is needed."""
        if self._party.index == 0:
            self._dealer.send(REQUEST.pack(STOP))

    def close(self) -> None:
        """Forget what was not used."""
        left = (*self._held.values(), *self._taken)
        for prepared in left:
            prepared.shelf.close()
        self._held.clear()
        self._give_up([prepared.block for prepared in left])

    def _dealt(self, segment: int, offline: Offline) -> Prepared:
        """Get a block from the dealer."""
        if self._broke is not None:
            raise self._broke
        if self._party.index == 0:
            self._dealer.send(REQUEST.pack(segment))
        block, dealt = BLOCK.unpack(self._dealer.receive(BLOCK.size))
        if dealt != segment:
            raise ProtocolError(f"the dealer sent material for segment {dealt}, not {segment}")
        if self._is_used(block):
            raise ProtocolError(f"the dealer sent block {block}, which is used already")
        beside = self._running and segment == 0
        prepared = self._party.begin(block, segment, waits=beside)
        if beside:
            self._filling = _Filling(lambda: self._fill(prepared, offline, lambda *_: None))
        else:
            self._fill(prepared, offline, self._tell)
        return prepared

    def _fill(self, prepared: Prepared, offline: Offline, tell: Tell) -> None:
        """Prepare a block, and count what comes."""
        before = offline.bytes

        def receive(size: int) -> bytes | bytearray:
            data = self._dealer.receive(size)
            offline.bytes += size
            tell("offline", offline.bytes, offline.total)
            return data

        self._party.fill(prepared, receive)
        offline.blocks.append((prepared.segment, offline.bytes - before))
        if self._party.index == 0:
            seconds, offline.dealer_memory = DEALT.unpack(self._dealer.receive(DEALT.size))
            offline.dealer_s += seconds

    def _size(self, segment: int) -> int:
        return material_bytes(self._party.program, segment)[self._party.index]


class _Filling:
    """Preparing a block on a thread, beside the inference that uses it."""

    def __init__(self, fill: Callable[[], None]) -> None:
        self._fill = fill
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for its end. Raises what ended it, if it was an error."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            self._fill()
        except BaseException as error:  # who waits for a chunk has it from the shelf
            self._error = error
