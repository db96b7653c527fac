"""Places for the visits to a role, so that no visitor takes those that others need.

A visit has a place by the address that it comes from, until its certificate has said who it is.
Then a client's place is by its name, until its session is admitted, which `sessions` bounds; that
of another role is by the role. Of each kind there are places for each one, and in all.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter

from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.roles import NAMES

ADDRESS, CLIENT, ROLE = "address", "client", "role"
_EACH, _ALL = 16, 64  # places beside those for sessions
_PREFIX_BYTES = 8  # of an IPv6 address: who has one has all that begin so

Whose = tuple[str, str]
"""A kind of place, and the address, the client's name or the role that has it."""


class Entrance:
    """The places of one role, which runs up to so many sessions."""

    def __init__(self, role: str, sessions: int) -> None:
        self._role, self._lock = role, threading.Lock()
        few, all_, many = _EACH + sessions, _ALL + 2 * sessions, _ALL + 4 * sessions
        self._most = {ADDRESS: (few, all_), CLIENT: (few, all_), ROLE: (many, len(NAMES) * many)}
        self._each, self._all = Counter[Whose](), Counter[str]()

    def enter(self, address: str) -> Place:
        """Return a place for a visit from an address. Raises ProtocolError if there is none."""
        whose = ADDRESS, network(address)
        self.move(None, whose)
        return Place(self, whose)

    def move(self, left: Whose | None, taken: Whose | None) -> None:
        """Count a place that was left and one that is taken, or neither if that is not there.

        Raises ProtocolError if it is not.
        """
        with self._lock:
            if taken is not None:
                self._check(taken)
            for whose, count in ((left, -1), (taken, 1)):
                if whose is not None:
                    self._all[whose[0]] += count
                    self._each[whose] += count
                    if not self._each[whose]:
                        del self._each[whose]

    def _check(self, whose: Whose) -> None:
        kind, who = whose
        counts, of = (self._each[whose], self._all[kind]), (f" of {who}", "")
        for count, most, some in zip(counts, self._most[kind], of, strict=True):
            if count >= most:
                raise ProtocolError(
                    f"{NAMES[self._role]} has {count} visits{some} that are not admitted yet, "
                    "which is all that it takes at once; try again later"
                )


class Place:
    """The place of one visit."""

    def __init__(self, entrance: Entrance, whose: Whose) -> None:
        self._entrance = entrance
        self._whose: Whose | None = whose

    def known(self, role: str, name: str) -> None:
        """Have a place of a client with this name, or of a role, in place of an address's.

        Raises ProtocolError if there is none; then the visit keeps the one that it has.
        """
        self._move((CLIENT, name) if role == "client" else (ROLE, NAMES[role]))

    def leave(self) -> None:
        """Have no place any more."""
        self._move(None)

    def _move(self, whose: Whose | None) -> None:
        self._entrance.move(self._whose, whose)
        self._whose = whose


def network(address: str) -> str:
    """Return what one visitor has of an address: all of IPv4, and the first half of IPv6."""
    if ":" not in address:
        return address
    return socket.inet_pton(socket.AF_INET6, address.split("%")[0])[:_PREFIX_BYTES].hex(":", 2)
