"""Blocks of one deployment that were made ahead: a party's sealed files, and who holds which.

A block lies in one file, `BLOCK.SEGMENT`: the dealer's messages as they came. It is free, or held
by one session, and it leaves for good when the journal says that it is used. What a session held
and did not use is free again. A file that the journal knows, or that is not whole, is removed when
the party starts.
"""

from __future__ import annotations

import bisect
import contextlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srcompile.runtime.channels import Sendable
from srcompile.runtime.errors import ProtocolError, RunError
from srcompile.runtime.preparation import material_of
from srcompile.runtime.program import Program
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.state import GONE, Journal
from srcompile.runtime.services.vault import DamagedError, Get, Vault, sealed_size

SEED_BYTES = 16
_FILE = re.compile(r"(\d{1,20})\.(\d{1,6})")
_RUN_S = 60.0  # how long a run waits for the one before it to end

Number = tuple[int, int]
"""A block's number and its segment."""


@dataclass(frozen=True)
class Levels:
    """How many blocks of each segment there should be: below `low` it is filled up to `high`."""

    low: int
    high: int


@dataclass
class Runs:
    """How filling went: the runs so far, and the last one that failed, with the reason."""

    begun: int = 0
    failed: int = 0
    reason: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class Filling:
    """What the stocks of a party share: `wanted` is called when blocks should be fetched, `runs`
    says for how many of them some are being fetched, and `ended` when the last run ended."""

    wanted: Callable[[], None]
    runs: int = 0
    ended: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """Count a run while it lasts."""
        with self.lock:
            self.runs += 1
        try:
            yield
        finally:
            with self.lock:
                self.runs, self.ended = self.runs - 1, time.monotonic()


class Stockpile:
    """The blocks made ahead of one deployment at party `index`; `folder` is made if need be."""

    def __init__(
        self,
        folder: Path,
        vault: Vault,
        program: Program,
        index: int,
        used: Journal,
        levels: Levels,
        log: Log,
        filling: Filling,
    ) -> None:
        self.deployment, self.levels, self.runs = folder.parent.name, levels, Runs()
        self.names = [segment.name for segment in program.segments]
        self.messages = [
            [size for i in body if (size := material_of(i, index))]
            for body in program.functions["prepare"]
        ]
        self.sizes = [sum(sizes) for sizes in self.messages]
        self._folder, self._vault, self._used, self._log = folder, vault, used, log
        self.filling, self._changed = filling, threading.Condition()
        self._free: list[list[int]] = [[] for _ in self.sizes]  # by segment, in order
        self._held: dict[int, int] = {}  # block -> segment
        self._seed: bytes | None = None
        self._urgent = True  # after a start the parties compare what they have
        self._find()

    def _find(self) -> None:
        """Look what lies in the folder, and remove what is of no use."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        for path in self._folder.iterdir():
            match = _FILE.fullmatch(path.name)
            block, segment = (int(match[1]), int(match[2])) if match else (-1, -1)
            good = path.name == "seed" or (
                match is not None
                and segment < len(self.sizes)
                and block not in self._used
                and path.stat().st_size == sealed_size(self.sizes[segment])
            )
            if not good:
                path.unlink()
            elif match:
                bisect.insort(self._free[segment], block)
        seed = self._folder / "seed", self._name("seed"), SEED_BYTES
        with contextlib.suppress(DamagedError), self._vault.reading(*seed) as get:
            self._seed = bytes(get(SEED_BYTES))

    # -- how much there is

    def counts(self) -> list[int]:
        """Return how many blocks of each segment are free."""
        with self._changed:
            return [len(free) for free in self._free]

    def size(self) -> int:
        """Return the bytes on disk."""
        with self._changed:
            held = [sealed_size(self.sizes[segment]) for segment in self._held.values()]
            free = zip(self.sizes, self._free, strict=True)
            return sum(held) + sum(sealed_size(size) * len(blocks) for size, blocks in free)

    def bytes_of_each(self) -> int:
        """Return the bytes on disk of one block of each segment."""
        return sum(sealed_size(size) for size in self.sizes)

    def missing(self, count: int) -> int:
        """Return the bytes on disk that blocks would take until there are `count` of each segment,
        free or held."""
        there = Counter(segment for _, segment in self.blocks())
        return sum(
            max(0, count - there[segment]) * sealed_size(size)
            for segment, size in enumerate(self.sizes)
        )

    def state(self) -> dict[str, Any]:
        """Return what `/health` shows: blocks by segment, bytes, and why filling failed, if so."""
        blocks = dict(zip(self.names, self.counts(), strict=True))
        return {"blocks": blocks, "bytes": self.size(), "problem": self.runs.reason}

    def is_low(self) -> bool:
        """Whether blocks should be fetched: there are few of a segment, or somebody waits."""
        with self._changed:
            few = any(len(free) < self.levels.low for free in self._free)
            return few or self._urgent or self._seed is None

    def need(self) -> tuple[bool, int]:
        """Return what sorts stocks by which is filled first: one that is empty and asked for, and
        then the one with the fewest blocks of a segment."""
        with self._changed:
            fewest = min(len(free) for free in self._free)
            return not (self._urgent and not fewest), fewest

    def is_asked_for(self) -> bool:
        """Whether a run was asked for since the last one that went well."""
        with self._changed:
            return self._urgent

    def call(self) -> None:
        """Let blocks be fetched soon, even if the last runs failed or could fetch nothing."""
        with self._changed:
            self._urgent = True
        self.filling.wanted()

    def blocks(self) -> list[Number]:
        """Return all blocks that are here, also those that are held."""
        with self._changed:
            free = [(block, s) for s, blocks in enumerate(self._free) for block in blocks]
            return sorted([*free, *self._held.items()])

    def keep_only(self, blocks: Sequence[Number]) -> None:
        """Remove free blocks that are not among these: the other party lacks them."""
        kept = set(blocks)
        with self._changed:
            gone = [
                (block, s)
                for s, free in enumerate(self._free)
                for block in free
                if (block, s) not in kept
            ]
            for block, segment in gone:
                self._free[segment].remove(block)
        self._remove(gone)

    def give_up(self, size: int, kept: int) -> int:
        """Remove free blocks, the newest of the segment with the most, until they had `size` bytes.

        `kept` blocks of each segment stay. Returns the bytes removed, fewer if there are no others.
        """
        gone, removed = list[Number](), 0
        with self._changed:
            while removed < size:
                most = max(range(len(self._free)), key=lambda s: len(self._free[s]))
                if len(self._free[most]) <= kept:
                    break
                gone.append((self._free[most].pop(), most))
                removed += sealed_size(self.sizes[most])
        self._remove(gone)
        return removed

    def lowest(self, segment: int) -> int | None:
        """Return the lowest number that is here of a segment, free or held."""
        with self._changed:
            held = [block for block, s in self._held.items() if s == segment]
            return min([*self._free[segment][:1], *held], default=None)

    def drop_below(self, segment: int, block: int) -> None:
        """Remove free blocks of a segment below a number: the other party lacks them."""
        with self._changed:
            place = bisect.bisect_left(self._free[segment], block)
            gone = [(number, segment) for number in self._free[segment][:place]]
            del self._free[segment][:place]
        self._remove(gone)

    # -- holding and using

    def hold(self, segment: int, without: Container[int], wait_s: float) -> int | None:
        """Hold the lowest free block of a segment that is not among `without`, and return it.

        Return None if there is none within `wait_s`.
        """
        end = time.monotonic() + wait_s
        with self._changed:
            while True:
                found = next((b for b in self._free[segment] if b not in without), None)
                if found is not None:
                    self._free[segment].remove(found)
                    self._held[found] = segment
                    break
                left = end - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
            few = len(self._free[segment]) < self.levels.low
        if few:
            self.filling.wanted()
        return found

    def hold_block(self, segment: int, block: int, wait_s: float) -> str:
        """Hold a block that the other party names: "ready", "busy" if a session has it, or "lacks".

        One that is held is waited for.
        """
        end = time.monotonic() + wait_s
        with self._changed:
            while self._held.get(block) == segment and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            if self._held.get(block) == segment:
                return "busy"
            if block not in self._free[segment]:
                return "lacks"
            self._free[segment].remove(block)
            self._held[block] = segment
            few = len(self._free[segment]) < self.levels.low
        if few:
            self.filling.wanted()
        return "ready"

    def release(self, block: int) -> None:
        """Take back a block that was held: it is free again, or gone if it is used."""
        if block in self._used:
            return self.drop(block)
        with self._changed:
            segment = self._held.pop(block, None)
            if segment is not None:
                bisect.insort(self._free[segment], block)
                self._changed.notify_all()

    def drop(self, block: int) -> None:
        """Remove a block that was held."""
        with self._changed:
            segment = self._held.pop(block, None)
            self._changed.notify_all()
        if segment is not None:
            self._remove([(block, segment)])

    @contextlib.contextmanager
    def reading(self, block: int, segment: int) -> Iterator[Get]:
        """Give a function that returns the next message of a block, by its size.

        Raises DamagedError if the file is not as it was written, and ProtocolError if the program
        was deployed again meanwhile.
        """
        file, name = self._folder / f"{block}.{segment}", self._name(f"{block}.{segment}")
        if not self._folder.exists():
            raise ProtocolError(GONE)
        with self._vault.reading(file, name, self.sizes[segment]) as get:
            yield get

    # -- filling

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """Note, and log, how a run of filling went: while it lasts, no other begins.

        Raises ProtocolError if the one before does not end.
        """
        if not self.runs.lock.acquire(timeout=_RUN_S):
            raise ProtocolError("the stock is being filled already")
        try:
            with self._changed:
                self.runs.begun += 1
            with self.filling.run():
                yield
            with self._changed:
                self._urgent, self.runs.reason = False, ""
        except (RunError, OSError) as error:
            with self._changed:
                before, self.runs.reason = self.runs.reason, str(error)
                self.runs.failed = self.runs.begun
            if before != str(error):  # it is tried again and again
                deployment = self.deployment[:8]
                self._log.warning("the stock is not filled", deployment=deployment, reason=error)
            raise
        finally:
            with self._changed:
                self._changed.notify_all()
            self.runs.lock.release()

    def write(self, block: int, segment: int, receive: Callable[[int], Sendable]) -> None:
        """Write a block from the dealer's messages; it is free when it is `published`.

        Raises ProtocolError if the block was here before, and SpoolError if the disk fails.
        """
        with self._changed:
            known = block in self._held or any(block in free for free in self._free)
        if known or block in self._used:
            raise ProtocolError(
                f"the dealer sent block {block}, which it has sent before; deploy the program again"
            )
        file, name = self._folder / f"{block}.{segment}", self._name(f"{block}.{segment}")
        with self._vault.writing(file, name, self.sizes[segment]) as put:
            for size in self.messages[segment]:
                put(receive(size))

    def publish(self, block: int, segment: int) -> None:
        """Let sessions have a block that was written, and that the other party has as well."""
        with self._changed:
            bisect.insort(self._free[segment], block)
            self._changed.notify_all()

    def forget(self, block: int, segment: int) -> None:
        """Remove a block that was written and not published."""
        self._remove([(block, segment)])

    # -- the seed

    @property
    def seed(self) -> bytes | None:
        """The seed that this party shares with the dealer, if it is known yet."""
        with self._changed:
            return self._seed

    def store_seed(self, seed: bytes) -> None:
        """Keep the seed, sealed, so that sessions need no dealer. Raises SpoolError."""
        if seed == self.seed:
            return
        name = self._name("seed")
        with self._vault.writing(self._folder / "seed", name, SEED_BYTES) as put:
            put(seed)
        with self._changed:
            self._seed = seed
            self._changed.notify_all()

    def wait_for_seed(self, timeout_s: float, tell: Callable[[], None]) -> bytes:
        """Return the seed as soon as it is there; `tell` is called while it is waited for.

        Raises ProtocolError if it does not come.
        """
        waiting = Waiting(self, timeout_s)
        while (seed := self.seed) is None:
            self.call()
            with self._changed:
                self._changed.wait(0.2)
            tell()
            waiting.check("the stock of offline material is empty")
        return seed

    def _name(self, what: str) -> str:
        return f"{self.deployment}/{what}"

    def _remove(self, blocks: Sequence[Number]) -> None:
        for block, segment in blocks:
            with contextlib.suppress(OSError):
                (self._folder / f"{block}.{segment}").unlink()


class Waiting:
    """Waiting for what a run of filling brings: it ends when one that began later has failed.

    While any stock is being filled its time does not run, and then it begins anew: the turn of this
    one is to come.
    """

    def __init__(self, stock: Stockpile, timeout_s: float) -> None:
        self._runs, self._began, self._filling = stock.runs, stock.runs.begun, stock.filling
        self._since, self._timeout_s = time.monotonic(), timeout_s

    def check(self, what: str) -> None:
        """Raise ProtocolError, saying `what` is missing and why, if waiting longer is of no use."""
        reason = self._runs.reason
        if reason and self._runs.failed > self._began:
            raise ProtocolError(f"{what} and cannot be filled: {reason}")
        idle_s = time.monotonic() - max(self._since, self._filling.ended)
        if idle_s > self._timeout_s and not self._filling.runs:
            raise ProtocolError(
                f"{what} and was not filled within {self._timeout_s:g} s; look at the logs of both "
                "parties and the dealer, or raise 'stock_low' and 'stock_high'"
            )
