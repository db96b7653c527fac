"""What a party holds of prepared material: chunks in memory up to a budget, beyond it on disk.

Chunks of a block are put on its `Shelf` in the order in which they are dealt, and taken in the
order in which the online function comes to them, each once. What did not fit into memory lies in
the spool as a record; a thread reads it back ahead of need, as far as the budget allows, and
finishes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from srcompile.runtime.engine import Env
from srcompile.runtime.errors import RunError
from srcompile.runtime.gates import Bytes
from srcompile.runtime.preparation import memory_of
from srcompile.runtime.program import Program
from srcompile.runtime.spool import Record, Spool

Finish = Callable[[int, Sequence[Bytes]], Env]
"""From a chunk's number and the parts of its record to its values."""

MEMORY = (256 << 20, 640 << 20)
"""The least and the largest default budget, in bytes."""
PARTY = 2 << 30
"""What a party should need for its weights and its material together. What else it needs, and what
the allocator keeps after many inferences, takes another 500 MB for BERT-base."""


CHUNK_BYTES = 16 << 20
LEAST_CHUNK_BYTES = 1 << 12


def default_memory(program: Program) -> int:
    """Return the budget that a party has for a program if nobody says another.

    It is what the two arrays that a party has of each weight leave of `PARTY`, within `MEMORY`.
    """
    weights = sum(memory_of(program.constants[name].type) for name in program.weights())
    return max(MEMORY[0], min(MEMORY[1], PARTY - 2 * weights))


class Stock:
    """The memory budget, in bytes, and the spool of all blocks that a party holds.

    Without a spool everything stays in memory. Chunks are a small part of the budget.
    """

    def __init__(self, memory: int = MEMORY[1], spool: Spool | None = None) -> None:
        self.memory, self.spool = memory, spool
        self.chunk_bytes = min(CHUNK_BYTES, max(memory // 16, LEAST_CHUNK_BYTES))
        self.used = 0
        self.changed = threading.Condition()

    def fits(self, size: int) -> bool:
        """Whether so many bytes more stay within the budget."""
        return self.used + size <= self.memory


class Shelf:
    """The chunks of one block.

    `sizes` are the bytes of their values, `order` says in which order they are taken. If it
    `waits`, no chunk goes to disk: whoever puts one waits until there is room for it, or until
    somebody waits for it or a later one.
    """

    def __init__(
        self,
        stock: Stock,
        finish: Finish,
        sizes: Sequence[int],
        order: Sequence[int],
        waits: bool = False,
    ) -> None:
        self._stock, self._finish, self._waits = stock, finish, waits
        self._sizes, self._order = sizes, order
        self._ready: dict[int, Env] = {}
        self._records: dict[int, Record] = {}
        self._wanted = -1  # the chunk that somebody waits for
        self._closed = False
        self._error: BaseException | None = None
        self._reader: threading.Thread | None = None

    def put(self, number: int, parts: Sequence[Bytes]) -> None:
        """Put a chunk on the shelf: its values, or its record into the spool.

        Raises SpoolError if it cannot be written.
        """
        spool = self._stock.spool
        with self._stock.changed:
            if self._waits:
                self._stock.changed.wait_for(lambda: self._has_room(number))
            kept = self._waits or spool is None or self._stock.fits(self._sizes[number])
            self._stock.used += self._sizes[number] if kept else 0
        if kept or spool is None:
            self._add(number, self._finish(number, parts))
        else:
            self._records[number] = spool.write(parts)

    def take(self, number: int) -> Env:
        """Return the values of a chunk, as soon as they are there, and forget them.

        Raises what ended the thread that should have brought them.
        """
        if self._records and self._reader is None:
            self._reader = threading.Thread(target=self._read_ahead, daemon=True)
            self._reader.start()
        with self._stock.changed:
            self._wanted = number
            self._stock.changed.notify_all()
            self._stock.changed.wait_for(lambda: number in self._ready or self._error is not None)
            self._wanted = -1
            if number not in self._ready:
                assert self._error is not None
                raise self._error
            self._release(number)
            return self._ready.pop(number)

    def fail(self, error: BaseException) -> None:
        """Let everybody who waits for a chunk know that none will come."""
        with self._stock.changed:
            self._error = self._error or error
            self._stock.changed.notify_all()

    def close(self) -> None:
        """Forget what has not been taken, and remove it from the spool."""
        with self._stock.changed:
            self._closed = True
            self._stock.changed.notify_all()
        if self._reader is not None:
            self._reader.join()
        with self._stock.changed:
            for number in list(self._ready):
                self._release(number)
                del self._ready[number]
        for record in self._records.values():
            assert self._stock.spool is not None
            self._stock.spool.remove(record)
        self._records.clear()

    def _has_room(self, number: int) -> bool:
        """Whether a chunk may come into memory: it fits, is the only one, or somebody waits."""
        if self._closed or not self._ready or self._stock.fits(self._sizes[number]):
            return True
        return self._wanted >= 0 and self._wanted not in self._ready

    def _add(self, number: int, values: Env) -> None:
        with self._stock.changed:
            if self._closed:
                self._release(number)
            else:
                self._ready[number] = values
                self._stock.changed.notify_all()

    def _release(self, number: int) -> None:
        self._stock.used -= self._sizes[number]
        self._stock.changed.notify_all()

    def _read_ahead(self) -> None:
        """Bring the records back, in the order in which they are taken."""
        with suppress(RunError, MemoryError):
            try:
                for number in self._order:
                    if number in self._records and not self._bring(number):
                        return
            except BaseException as error:
                self.fail(error)
                raise

    def _bring(self, number: int) -> bool:
        """Bring a record back as soon as there is room for it; return whether it was wanted."""
        spool = self._stock.spool
        assert spool is not None
        with self._stock.changed:
            self._stock.changed.wait_for(lambda: self._has_room(number))
            if self._closed:
                return False
            self._stock.used += self._sizes[number]
        parts = spool.take(self._records.pop(number))
        self._add(number, self._finish(number, parts))
        return True
