"""Where visits wait for the other side of their session: party 1 at party 0, parties at the dealer.

Who comes twice for one session has lost its first link, a kept one that broke (`links`). The later
visit takes the place of the first one, as long as the session has not begun with that; if it has,
it ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.roles import NAMES
from srcompile.runtime.services.links import Visit

_LOOK_S = 0.2


@dataclass(eq=False)
class Guest:
    """A visit that is silent until its session begins: it is `met`, and others use its link."""

    session: str
    visit: Visit
    met: bool = False
    came_again: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def key(self) -> tuple[str, str]:
        """Its session, and who it is."""
        return self.session, self.visit.role

    @property
    def broke(self) -> str:
        """What to say if it came again."""
        who = NAMES[self.visit.role]
        return f"the link of {who} broke when its session began; open another session"

    @property
    def waits(self) -> bool:
        """Whether it waits for its session, and has neither left nor lost its link."""
        return not self.met and not self.visit.channel.has_something()


class Meeting:
    """The visits to one role that have a session, by that and by who came."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._guests: dict[tuple[str, str], Guest] = {}
        self._closed: str | None = None

    def close(self, reason: str) -> None:
        """Let nobody wait any longer, since nobody else comes."""
        with self._changed:
            self._closed = reason
            self._changed.notify_all()

    def arrive(self, session: str, visit: Visit) -> Guest:
        """Let a visit wait for its session, in place of an earlier one of the same visitor.

        Raises ProtocolError if the session has begun with the earlier one, which ends it.
        """
        guest = Guest(session, visit)
        with self._changed:
            earlier = self._guests.get(guest.key)
            if earlier is not None:
                earlier.came_again = True
                earlier.visit.channel.interrupt()
                if earlier.met:
                    raise ProtocolError(earlier.broke)
                earlier.ended.set()
            self._guests[guest.key] = guest
            self._changed.notify_all()
        return guest

    def wait_for(
        self, session: str, role: str, until: float, look: Callable[[], None]
    ) -> Guest | None:
        """Meet the guest of a session, or return None if there is none until then (monotonic).

        `look` is called meanwhile and may raise. Raises ProtocolError if this was closed.
        """
        with self._changed:
            while (guest := self._guests.get((session, role))) is None or not guest.waits:
                left = until - time.monotonic()
                if left <= 0:
                    return None
                if self._closed is not None:
                    raise ProtocolError(self._closed)
                look()
                self._changed.wait(min(left, _LOOK_S))
            guest.met = True
            return guest

    def pair(self, guest: Guest, role: str) -> Guest | None:
        """Let a guest meet the other one of its session, if that waits, and return it."""
        with self._changed:
            other = self._guests.get((guest.session, role))
            if other is None or not other.waits or guest.met or guest.came_again:
                return None
            guest.met = other.met = True
            return other

    def stay(self, guest: Guest, until: float, nobody: str) -> None:
        """Keep a guest's link until its session has ended.

        Raises ProtocolError if it leaves or comes again before its session has begun, or, with the
        text `nobody`, if that has not begun by then (monotonic), or if this was closed.
        """
        while not guest.ended.wait(_LOOK_S):
            with self._changed:
                if guest.met:
                    break
                reason = self._closed or (nobody if time.monotonic() > until else None)
                if guest.visit.channel.has_something():
                    reason = f"{NAMES[guest.visit.role]} left before its session began"
                if guest.came_again or reason is None:
                    continue
                del self._guests[guest.key]
                raise ProtocolError(reason)
        guest.ended.wait()
        if guest.came_again:
            raise ProtocolError(guest.broke)

    def end(self, guest: Guest) -> None:
        """Let a guest know that its session has ended."""
        with self._changed:
            if self._guests.get(guest.key) is guest:
                del self._guests[guest.key]
        guest.ended.set()
