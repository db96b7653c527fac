"""The memory that the sessions of a party may take together, and what one session takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from srcompile.runtime.engine import arena_bytes
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.openings import largest_message
from srcompile.runtime.preparation import memory_of
from srcompile.runtime.program import Program

_ENDING_S = 1.0
_POLL_S = 0.05


def session_bytes(program: Program, material: int) -> int:
    """Return the bytes that a session of a program has in memory at a party, beside the weights.

    They are the buffers of its inferences, its messages, and the values of its material, of which
    there are `material` bytes in memory at most.
    """
    bodies = program.functions["online"]
    buffers = sum(arena_bytes(body) for body in bodies)
    messages = 2 * largest_message(bodies, program.types("online"))
    needed = {name for _, i in program.instructions("online") for name in i.inputs}
    prepared = sum(
        memory_of(i.type)
        for _, i in program.instructions("prepare")
        if i.out in needed and i.type is not None and i.op != "weight_opened"
    )
    return buffers + messages + min(material, prepared)


class Memory:
    """A budget in bytes, without a limit if it is 0. `free` gives back what nobody uses now."""

    def __init__(self, limit: int, free: Callable[[], None]) -> None:
        self.limit, self.taken = limit, 0
        self._free, self._lock = free, threading.Lock()

    def take(self, size: int, party: str) -> None:
        """Take bytes for a session.

        A session that is about to end is waited for a little. Raises ProtocolError if there are not
        as many left.
        """
        end = time.monotonic() + _ENDING_S
        while not self._took(size):
            if time.monotonic() > end:
                raise ProtocolError(
                    f"a session of this program takes {_mib(size)} MiB at {party}, and its other "
                    f"sessions take {_mib(self.taken)} of the {_mib(self.limit)} that the setting "
                    "'session_memory' allows; try again later"
                )
            self._free()
            if self._took(size):
                return
            time.sleep(_POLL_S)

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self.taken -= size

    def _took(self, size: int) -> bool:
        with self._lock:
            fits = not self.limit or self.taken + size <= self.limit
            self.taken += size if fits else 0
            return fits


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.3g}"
