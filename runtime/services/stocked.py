"""A session's material from the stock: the parties agree on numbers, and each takes its own file.

Party 0 proposes the lowest free block that it has of each segment, and says if it has few; party 1
says for each whether it has it too, and lets the stock be filled. Both prepare what both have, tell
each other whether the files were good, and propose again what is still missing. So a damaged file
costs one block. The dealer is not needed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.channels.tcp import list_json
from srcompile.runtime.dealing import Offline
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.party import Party, Prepared
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.material import Tell
from srcompile.runtime.services.stockpile import Stockpile, Waiting
from srcompile.runtime.services.vault import DamagedError

READY, BUSY, LACKS, DAMAGED = "ready", "busy", "lacks", "damaged"
_LOOK_S = 0.5  # how often party 0, while it waits, looks whether that is of any use
_BUSY_S = 0.2  # how long party 1 waits for another session's end

Proposal = tuple[int, int, int]
"""A segment, the block proposed for it, and the lowest block of it that party 0 has."""


class StockedMaterial:
    """The blocks of one session, from the stock, prepared by its `party`."""

    def __init__(
        self,
        party: Party,
        peer: LinkChannel,
        stock: Stockpile,
        tell: Tell,
        log: Log,
        timeout_s: float,
    ) -> None:
        self._party, self._peer, self._stock, self._tell = party, peer, stock, tell
        self._log, self._timeout_s = log, timeout_s
        self._held: defaultdict[int, list[Prepared]] = defaultdict(list)  # by segment
        self._taken: list[Prepared] = []  # by the inference that is running
        self._open: dict[int, Prepared] = {}  # prepared here, and perhaps not there
        self._holding: set[int] = set()  # all blocks that this session has of the stock

    def begin(self, segments: Sequence[int]) -> Offline:
        """Get the blocks that one inference is going to take, with the other party.

        Returns their counts. Raises ProtocolError if the stock is empty and stays so.
        """
        self._give_up(self._taken)
        wanted = Counter(segments)
        for segment in wanted:
            wanted[segment] -= len(self._held[segment])
        missing = sorted(wanted.elements(), reverse=True)  # the first segment's are used first
        offline = Offline(sum(self._stock.sizes[segment] for segment in missing))
        skipped: set[int] = set()
        while missing:
            proposals = self._propose(missing, skipped)
            own = {p[1]: self._prepared(p, offline) for p in proposals}
            self._peer.send_json({"prepared": [[b, status] for b, status in own.items()]})
            theirs = self._statuses(self._peer.receive_json(list_json(len(own))), list(own))
            for segment, block, _ in proposals:
                if self._settle(block, own[block], theirs[block], skipped, offline):
                    missing.remove(segment)
        return offline

    def _settle(
        self, block: int, own: str, theirs: str, skipped: set[int], offline: Offline
    ) -> bool:
        """Keep a block that both have prepared and return True, or give it up."""
        prepared = self._open.pop(block, None)
        if prepared is not None and theirs == READY:
            self._held[prepared.segment].append(prepared)
            offline.blocks.append((prepared.segment, self._stock.sizes[prepared.segment]))
            return True
        if prepared is not None:
            prepared.shelf.close()
            offline.bytes -= self._stock.sizes[prepared.segment]
        if BUSY in (own, theirs):
            skipped.add(block)
        if own not in (READY, DAMAGED):
            return False  # this session does not hold it
        self._holding.discard(block)
        if theirs == BUSY:
            self._stock.release(block)
        else:
            self._stock.drop(block)
        return False

    def take(self, segment: int, offline: Offline) -> Prepared:
        """Return a block of a segment, prepared."""
        prepared = self._held[segment].pop(0)
        self._taken.append(prepared)
        return prepared

    def finish(self) -> None:
        """All that was taken is there."""

    def give_back(self, prepared: Prepared) -> None:
        """Keep a block of which nothing was used for the next one that takes its segment."""
        self._taken.remove(prepared)
        self._held[prepared.segment].append(prepared)

    def beat(self) -> None:
        """Nobody else waits for this session."""

    def stop(self) -> None:
        """Nobody else is to be told."""

    def close(self) -> None:
        """Give back to the stock what was not used."""
        for held in (*self._held.values(), self._taken, list(self._open.values())):
            self._give_up(held)
        for block in self._holding:
            self._stock.release(block)

    def _give_up(self, held: list[Prepared]) -> None:
        for prepared in held:
            prepared.shelf.close()
            self._holding.discard(prepared.block)
            self._stock.release(prepared.block)
        held.clear()

    # -- what is proposed

    def _propose(self, missing: list[int], skipped: set[int]) -> list[Proposal]:
        """Return what party 0 proposes; it holds these blocks."""
        if self._party.index == 1:
            return self._proposed(missing)
        found = list[Proposal]()
        for segment in missing:
            block = self._lowest(segment, skipped)
            self._holding.add(block)
            found.append((segment, block, self._stock.lowest(segment) or 0))
        self._peer.send_json({"take": found, "low": self._stock.is_low()})
        return found

    def _lowest(self, segment: int, skipped: set[int]) -> int:
        """Hold the lowest free block. While there is none, party 1 lets the stock be filled."""
        waiting = Waiting(self._stock, self._timeout_s)
        name, deployment = self._stock.names[segment], self._stock.deployment
        while (block := self._stock.hold(segment, skipped, _LOOK_S)) is None:
            skipped.clear()
            self._peer.send_json({"waiting": True})
            self._tell("offline", 0, self._stock.sizes[segment])
            waiting.check(
                f"the stock of material for segment '{name}' of deployment {deployment[:8]} is "
                "empty"
            )
        return block

    def _proposed(self, missing: list[int]) -> list[Proposal]:
        """Return what party 0 proposes to this party. Raises ProtocolError if it does not fit."""
        most = list_json(len(missing))
        while "waiting" in (said := self._peer.receive_json(most)):
            self._stock.call()
        if said.get("low") is True:
            self._stock.call()
        found: Any = said.get("take")
        whole = isinstance(found, list) and all(
            isinstance(p, list) and len(p) == 3 and all(type(n) is int and n >= 0 for n in p)
            for p in found
        )
        if not whole or [p[0] for p in found] != missing or len({p[1] for p in found}) < len(found):
            raise ProtocolError("party 0 proposed other blocks than this inference needs")
        return [(segment, block, floor) for segment, block, floor in found]

    # -- what comes of it

    def _prepared(self, proposal: Proposal, offline: Offline) -> str:
        """Prepare a block that is proposed, if this party has it; return whether that went well."""
        segment, block, floor = proposal
        if self._party.index == 1:
            self._stock.drop_below(segment, floor)
            status = self._stock.hold_block(segment, block, _BUSY_S)
            if status != READY:
                return status
            self._holding.add(block)
        before = offline.bytes

        def receive(size: int) -> bytearray:
            data = get(size)
            offline.bytes += size
            self._tell("offline", offline.bytes, offline.total)
            return data

        try:
            with self._stock.reading(block, segment) as get:
                self._open[block] = self._party.prepare(block, segment, receive)
        except DamagedError as error:
            offline.bytes = before
            self._log.warning(
                "a block of the stock is damaged and is not used",
                deployment=self._stock.deployment[:8],
                block=block,
                reason=error,
            )
            return DAMAGED
        return READY

    def _statuses(self, said: dict[str, Any], blocks: list[int]) -> dict[int, str]:
        """Return what the other party says of these blocks. Raises ProtocolError otherwise."""
        found = said.get("prepared")
        if isinstance(found, list) and [f[:1] for f in found if isinstance(f, list)] == [
            [b] for b in blocks
        ]:
            return {f[0]: f[-1] if isinstance(f[-1], str) else LACKS for f in found}
        raise ProtocolError("the other party did not say which blocks it has prepared")
