"""Links between roles: connecting, accepting, and the first messages on a connection.

The one who connects says its role, what for, and for which session; the other answers that it is
welcome, or why not. Over TLS the role must be that of the certificate. Which role may come for what
is in `MAY`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.channels.tls import (
    HANDSHAKE_S,
    TlsChannel,
    check_role,
    contexts,
    name_of,
    secured,
)
from srcompile.runtime.errors import ConfigError, ProtocolError
from srcompile.runtime.roles import NAMES, ROLES
from srcompile.runtime.services.settings import LOOPBACK, Settings

PROTOCOL = 1
"""The version of what is said between services; roles with another one do not work together."""

MAY: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("client", "party0"): ("infer", "status"),
    ("client", "party1"): ("infer", "status"),
    ("client", "dealer"): ("status",),
    ("owner", "party0"): ("deploy", "status"),
    ("owner", "party1"): ("deploy", "status"),
    ("owner", "dealer"): ("deploy", "status"),
    ("party0", "dealer"): ("material", "status"),
    ("party1", "dealer"): ("material", "status"),
    ("party1", "party0"): ("peer", "stock", "status"),
    ("party0", "party1"): ("status",),
    ("dealer", "party0"): ("status",),
    ("dealer", "party1"): ("status",),
}
"""Who may come to whom, and what for."""


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


class Links:
    """Makes and accepts the connections of one role."""

    def __init__(self, role: str, settings: Settings) -> None:
        self.role, self.settings = role, settings
        self._server: ssl.SSLContext | None = None
        self._client: ssl.SSLContext | None = None
        if not settings.insecure:
            self._server, self._client = contexts(settings.certs, role)

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
                f"{error.strerror or error}"
            ) from None

    def dial(self, peer: str, purpose: str, **fields: Any) -> tuple[LinkChannel, dict[str, Any]]:
        """Connect to `peer`; return the channel and its answer.

        Raises ProtocolError, naming the peer and the address, if it cannot be reached, is not who
        it should be, or does not want this.
        """
        place, name = self.settings.endpoint(peer), NAMES[peer]
        try:
            connection = socket.create_connection((place.host, place.port), timeout=HANDSHAKE_S)
        except OSError as error:
            raise ProtocolError(
                f"{name} cannot be reached at {place}: {error.strerror or error}"
            ) from None
        channel = self._outgoing(connection, peer)
        try:
            channel.send_json(
                {"protocol": PROTOCOL, "role": self.role, "purpose": purpose, **fields}
            )
            channel.wait_at_most(self.settings.timeout)
            answer = channel.receive_json()
        except ProtocolError as error:
            channel.close()
            raise ProtocolError(f"{name} at {place}: {error}") from None
        return channel, answer

    def _outgoing(self, connection: socket.socket, peer: str) -> LinkChannel:
        if self._client is None:
            return LinkChannel(connection, NAMES[peer], HANDSHAKE_S)
        place = self.settings.endpoint(peer)
        try:
            tls, found = secured(connection, self._client, place.host)
        except ProtocolError as error:
            connection.close()
            raise ProtocolError(f"{NAMES[peer]} at {place}: {error}") from None
        channel = TlsChannel(tls, NAMES[peer], HANDSHAKE_S)
        try:
            check_role(found, peer)
        except ProtocolError:
            channel.close()
            raise
        return channel

    def welcome(self, connection: socket.socket) -> Visit:
        """Return who came on an accepted connection, and what for; the caller answers.

        Raises ProtocolError, after the connection is closed, if it is nobody who may.
        """
        claimed, name = None, ""
        if self._server is None:
            channel = LinkChannel(connection, "a visitor", HANDSHAKE_S)
        else:
            try:
                tls, claimed = secured(connection, self._server, None)
                name = name_of(tls)
            except ProtocolError:
                connection.close()
                raise
            channel = TlsChannel(tls, NAMES[claimed], HANDSHAKE_S)
        try:
            return self._introduced(channel, claimed, name)
        except ProtocolError as error:
            channel.fail(str(error))
            raise

    def _introduced(self, channel: LinkChannel, certified: str | None, name: str) -> Visit:
        hello = channel.receive_json()
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


def wait_for(listening: socket.socket, until: float) -> socket.socket | None:
    """Return the next connection, or None if there is none until `until` (monotonic)."""
    listening.settimeout(max(0.01, until - time.monotonic()))
    with contextlib.suppress(TimeoutError):
        return listening.accept()[0]
    return None
