"""Links between roles: connecting, accepting, and the first messages on a connection.

The one who connects says its role, what for, and for which session; the other answers that it is
welcome, or why not. Over TLS the role must be that of the certificate. Which role may come for what
is in `MAY`.

A visit for one of `KEPT` may be followed by others on its link. When it has ended in order, the one
who was visited says so and waits for the next; the visitor puts the link aside, and takes it again
for another session once that word has come. No link gets another visit when it is old, or when a
certificate that it was made with has expired.
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from srcompile.runtime.channels.link import EndedError, LinkChannel
from srcompile.runtime.channels.tcp import SHORT_JSON
from srcompile.runtime.channels.tls import (
    HANDSHAKE_S,
    KEY_BYTES,
    TlsChannel,
    check_role,
    name_of,
    secured,
)
from srcompile.runtime.errors import ConfigError, ProtocolError, error_text
from srcompile.runtime.roles import LISTENING, NAMES, ROLES
from srcompile.runtime.services.credentials import Credentials, load_credentials, renewed
from srcompile.runtime.services.settings import LOOPBACK, Settings

PROTOCOL = 3
"""The version of what is said between services; roles with another one do not work together."""

MAY: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("client", "party0"): ("infer", "status"),
    ("client", "party1"): ("infer", "status"),
    ("client", "dealer"): ("status",),
    ("owner", "party0"): ("deploy", "undeploy", "status"),
    ("owner", "party1"): ("deploy", "undeploy", "status"),
    ("owner", "dealer"): ("deploy", "undeploy", "status"),
    ("party0", "dealer"): ("material", "status"),
    ("party1", "dealer"): ("material", "status"),
    ("party1", "party0"): ("peer", "stock", "status"),
    ("party0", "party1"): ("status",),
    ("dealer", "party0"): ("status",),
    ("dealer", "party1"): ("status",),
}
"""Who may come to whom, and what for."""

KEPT = ("peer", "material")
"""What a visit may be for whose link is kept for the next one."""
ENDED = {"ended": True}
_STATUS_JSON = 1 << 24  # of a role with many deployments
_WORN_BYTES = KEY_BYTES >> 2  # a link that has carried so much is not kept
_LATER_S = 10.0  # how much longer than the visitor the other end keeps a link
_LOOK_S = 0.2


@dataclass(frozen=True)
class Visit:
    """A connection that was accepted: who came, what for, and what else was said.

    `name` is a client's own, from its certificate, or else the role's.
    """

    channel: LinkChannel
    role: str
    name: str
    purpose: str
    fields: Mapping[str, Any]
    admitted: Callable[[], None] = lambda: None
    """To be called when the visit's session is admitted."""


Known = Callable[[str, str], None]
"""Is told the role and the name of a visitor."""


class Links:
    """Makes and accepts the connections of one role."""

    def __init__(self, role: str, settings: Settings) -> None:
        self.role, self.settings = role, settings
        self._kept: defaultdict[str, list[_Kept]] = defaultdict(list)
        self._lock = threading.Lock()
        self.credentials: Credentials | None = None
        if not settings.insecure:
            self.credentials = load_credentials(settings.certs, role)

    def renew(self) -> bool:
        """Use the certificates in the role's files for new links if they have changed.

        Returns whether. Raises ConfigError if they cannot be used; then the old ones still are.
        """
        if self.credentials is None:
            return False
        host = self.settings.endpoint(self.role).host if self.role in LISTENING else None
        new = renewed(self.credentials, self.settings.certs, self.role, host)
        self.credentials = new or self.credentials
        return new is not None

    def listen(self) -> socket.socket:
        """Return the role's listening socket. Raises ConfigError if the address is taken."""
        place = self.settings.endpoint(self.role)
        host = self.settings.listen or place.host
        assert not self.settings.insecure or host in LOOPBACK
        try:
            family = socket.getaddrinfo(host, place.port, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, place.port), family=family, backlog=64)
        except OSError as error:
            raise ConfigError(
                f"{NAMES[self.role]} cannot listen on {host} port {place.port}: "
                f"{error_text(error)}; stop what has the port, or change the setting "
                f"'{'listen' if self.settings.listen else self.role}'"
            ) from None

    def dial(
        self,
        peer: str,
        purpose: str,
        *,
        see: Callable[[LinkChannel], None] = lambda channel: None,
        **fields: Any,
    ) -> tuple[LinkChannel, dict[str, Any]]:
        """Come to `peer`, on a link that was kept or a new one; return the channel and its answer.

        `see` gets the channel before the answer is waited for, and may raise. Raises ProtocolError,
        naming the peer and the address, if it cannot be reached, is not who it should be, or does
        not want this.
        """
        kept = self._taken(peer) if purpose in KEPT else None
        if kept is not None:
            began = time.monotonic()
            try:
                return kept, self._asked(kept, peer, purpose, fields, see)
            except EndedError:
                raise
            except ProtocolError:  # it broke while nobody used it; if not, another try is too late
                if time.monotonic() > began + self.settings.timeout:
                    raise
        channel = self._connected(peer)
        return channel, self._asked(channel, peer, purpose, fields, see)

    def _asked(
        self,
        channel: LinkChannel,
        peer: str,
        purpose: str,
        fields: Mapping[str, Any],
        see: Callable[[LinkChannel], None],
    ) -> dict[str, Any]:
        """Say what for, and return the answer; after an error the channel is closed."""
        try:
            see(channel)
            channel.send_json(
                {"protocol": PROTOCOL, "role": self.role, "purpose": purpose, **fields}
            )
            channel.wait_at_most(self.settings.timeout)
            answer = channel.receive_json(_STATUS_JSON if purpose == "status" else SHORT_JSON)
            channel.give_up_after(0)
            return answer
        except EndedError:  # it names the peer, and says why
            channel.close()
            raise
        except ProtocolError as error:
            channel.close()
            place = self.settings.endpoint(peer)
            raise ProtocolError(f"{NAMES[peer]} at {place}: {error}{self._perhaps()}") from None

    def _perhaps(self) -> str:
        """Return what an error of the first message on a link may mean, besides."""
        if self.credentials is not None:
            return ""
        return "; with insecure = true here, it must be so there, too"

    def _connected(self, peer: str) -> LinkChannel:
        place = self.settings.endpoint(peer)
        try:
            connection = socket.create_connection((place.host, place.port), timeout=HANDSHAKE_S)
        except OSError as error:
            raise ProtocolError(
                f"{NAMES[peer]} cannot be reached at {place}: {error_text(error)}"
            ) from None
        return self._outgoing(connection, peer)

    def _outgoing(self, connection: socket.socket, peer: str) -> LinkChannel:
        own = self.credentials
        if own is None:
            return LinkChannel(connection, NAMES[peer], HANDSHAKE_S)
        place = self.settings.endpoint(peer)
        try:
            tls, found = secured(connection, own.client, place.host)
        except ProtocolError as error:
            connection.close()
            raise ProtocolError(f"{NAMES[peer]} at {place}: {error}") from None
        channel = _of(tls, peer, own)
        try:
            check_role(found, peer)
        except ProtocolError:
            channel.close()
            raise
        return channel

    def welcome(self, connection: socket.socket, known: Known = lambda role, name: None) -> Visit:
        """Return who came on an accepted connection, and what for; the caller answers.

        `known` is told the visitor's role and name as soon as they are known, and may raise
        ProtocolError. Raises ProtocolError, after the connection is closed, if it is nobody who
        may, or if handshake and first words take too long together.
        """
        end, own = time.monotonic() + HANDSHAKE_S, self.credentials
        if own is None:
            tls, claimed = None, None
            channel = LinkChannel(connection, "a visitor", HANDSHAKE_S)
        else:
            tls, claimed = secured(connection, own.server, None)
            channel = _of(tls, claimed, own)
        try:
            name = "" if tls is None else name_of(tls)
            if claimed is not None:
                known(claimed, name or NAMES[claimed])
            visit = self._introduced(channel, claimed, name, end)
            if claimed is None:
                known(visit.role, visit.name)
            return visit
        except ProtocolError as error:
            channel.fail(str(error))
            raise

    def next_visit(self, visit: Visit) -> Visit | None:
        """Say that a visit has ended in order, and return the next one on its link.

        None if there is none for a while, if the visitor has left, or if the link may have no other
        visit; then who comes on it nevertheless finds it closed, and makes another.
        """
        channel = visit.channel
        try:
            channel.send_json(ENDED)
            wait_s = min(self.settings.keep_links + _LATER_S, max(0.0, self._left(channel)))
            if not channel.has_something(wait_s) or self._left(channel) <= 0:
                return None
            channel.wait_at_most(HANDSHAKE_S)
            end = time.monotonic() + HANDSHAKE_S
            return self._introduced(channel, visit.role, visit.name, end)
        except EndedError:
            return None
        except ProtocolError as error:
            channel.fail(str(error))
            return None

    def _introduced(
        self, channel: LinkChannel, certified: str | None, name: str, end: float
    ) -> Visit:
        channel.say_all_by(end)
        hello = channel.receive_json()
        channel.say_all_by(math.inf)
        role, purpose = str(hello.get("role")), str(hello.get("purpose"))
        if role not in ROLES:
            raise ProtocolError("there is no such role")
        channel.peer = NAMES[role]
        if certified is not None:
            check_role(certified, role)
        if hello.get("protocol") != PROTOCOL:
            raise ProtocolError(
                f"{NAMES[self.role]} speaks protocol {PROTOCOL}, {NAMES[role]} speaks another; "
                "install the same version of srcompile on all machines"
            )
        if purpose not in MAY.get((role, self.role), ()):
            raise ProtocolError(f"{NAMES[role]} may not come to {NAMES[self.role]} for this")
        channel.wait_at_most(self.settings.timeout)
        return Visit(channel, role, name or NAMES[role], purpose, hello)

    # -- links that are kept

    def keep(self, peer: str, channel: LinkChannel) -> None:
        """Put a link aside whose visit has ended in order here, or close it if worn or old."""
        carried = max(channel.traffic.sent, channel.traffic.received)
        good = carried < _WORN_BYTES and self._left(channel) > 0
        with self._lock:
            kept = self._kept[peer]
            few = len(kept) < self.settings.sessions
            if few and self.settings.keep_links and good:
                kept.append(_Kept(channel, time.monotonic()))
                return
        channel.close()

    def let_go(self, *, all_of_them: bool = False) -> None:
        """Close the links that were put aside for too long or are too old, or all."""
        oldest = time.monotonic() - self.settings.keep_links
        with self._lock:
            gone = [k for kept in self._kept.values() for k in kept]
            gone = [
                k for k in gone if all_of_them or k.since < oldest or self._left(k.channel) <= 0
            ]
            for kept in self._kept.values():
                kept[:] = [k for k in kept if k not in gone]
        for each in gone:
            each.channel.close()

    def _left(self, channel: LinkChannel) -> float:
        """Return for how many seconds a link may still get another visit, or 0 or less."""
        age = time.monotonic() - channel.made
        return min(self.settings.link_age - age, channel.valid_until - time.time())

    def _taken(self, peer: str) -> LinkChannel | None:
        """Return a link to a peer that was kept and on which it waits for the next visit."""
        while True:
            with self._lock:
                kept = self._kept[peer]
                said = [k for k in kept if k.channel.has_something()]
                if not said:
                    return None
                kept.remove(said[-1])
            channel = said[-1].channel
            with contextlib.suppress(ProtocolError, OSError):
                channel.wait_at_most(_LOOK_S)
                ended = channel.receive_json() == ENDED and not channel.has_something()
                if ended and self._left(channel) > 0:
                    channel.give_up_after(HANDSHAKE_S)
                    return channel
            channel.close()


def _of(tls: ssl.SSLSocket, peer: str, own: Credentials) -> TlsChannel:
    """Return a link's channel; it is valid until the first certificate that it needs expires."""
    channel = TlsChannel(tls, NAMES[peer], HANDSHAKE_S)
    channel.valid_until = min(channel.valid_until, own.valid_until)
    return channel


@dataclass(frozen=True, eq=False)
class _Kept:
    """A link that nobody uses now, and since when."""

    channel: LinkChannel
    since: float


class Visiting:
    """A visit to a peer that begins on a thread of its own, while something else is done."""

    def __init__(self, links: Links, peer: str, purpose: str, **fields: Any) -> None:
        self._error: BaseException | None = None
        self._found: tuple[LinkChannel, dict[str, Any]] | None = None
        self._channel: LinkChannel | None = None
        self._ended = False

        def work() -> None:
            try:
                self._found = links.dial(peer, purpose, see=self._see, **fields)
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=work, name=f"visits {peer}", daemon=True)
        self._thread.start()

    def answer(self, look: Callable[[], None] = lambda: None) -> tuple[LinkChannel, dict[str, Any]]:
        """Return the channel and the peer's answer, when it is there.

        `look` is called meanwhile and may raise. Raises what `Links.dial` raises.
        """
        while self._thread.is_alive():
            self._thread.join(_LOOK_S)
            look()
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found

    def fail(self, reason: str) -> None:
        """End the visit whatever it waits for, and let the peer know why if that is possible."""
        self._ended = True
        channel = self._channel
        if channel is not None:
            if self._thread.is_alive():
                channel.interrupt()
            self._thread.join()
            if not channel.closed:
                channel.fail(reason)

    def _see(self, channel: LinkChannel) -> None:
        self._channel = channel
        if self._ended:
            raise ProtocolError("the visit is no longer wanted")


def wait_for(listening: socket.socket, until: float) -> tuple[socket.socket, str] | None:
    """Return the next connection and from which address it is, or None.

    None if there is none until `until` (monotonic). Raises OSError if the system has no room.
    """
    listening.settimeout(max(0.01, until - time.monotonic()))
    with contextlib.suppress(TimeoutError):
        connection, place = listening.accept()
        return connection, str(place[0])
    return None
