"""Channels over TLS 1.3 in which both sides show a certificate that names their role.

The messages are those of `srcompile.runtime.channels.tcp`. Versions below 1.3 are refused, and
OpenSSL's first choice of ciphers, which both sides have, is AES-256-GCM. There are no session
tickets. What is read and written is never more than a socket takes at once, so that both sides may
send much at the same time.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from srcompile.runtime.channels.link import LinkChannel
from srcompile.runtime.channels.tcp import HEADER, _behind
from srcompile.runtime.errors import ConfigError, ProtocolError, error_text
from srcompile.runtime.roles import NAMES, name_of_uri, role_of_uri

HANDSHAKE_S = 10.0
KEY_BYTES = 1 << 38
"""What one key may protect: with AES-GCM 2^24.5 full records, and this is 2^24."""
_RECORD = 1 << 14
_BURST = 16  # records in a row before the other direction has its turn


class TlsChannel(LinkChannel):
    """One end of a TLS connection to `peer`."""

    def __init__(self, connection: ssl.SSLSocket, peer: str, timeout_s: float) -> None:
        super().__init__(connection, peer, timeout_s)
        self._tls = connection
        shown: Any = connection.getpeercert()
        self.valid_until = ssl.cert_time_to_seconds(shown["notAfter"])
        self._reading, self._writing = select.POLLIN, select.POLLOUT  # what each waits for

    @property
    def cipher(self) -> tuple[str, str]:
        """The protocol's version and the cipher suite."""
        name, version, _ = self._tls.cipher() or ("none", "none", 0)
        return version, name

    def has_something(self, wait_s: float = 0.0) -> bool:
        """Whether the peer has sent something or is gone; see `LinkChannel`."""
        return (not self.closed and self._tls.pending() > 0) or super().has_something(wait_s)

    def close(self) -> None:
        """End the connection; the peer is told so if it reads."""
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()
        super().close()

    def _move(
        self,
        unsent: list[memoryview],
        unread: list[memoryview],
        check: Callable[[], None] | None = None,
    ) -> None:
        self._check_key()
        super()._move(unsent, unread, check)

    def _transfer(self, out: list[memoryview], into: Sequence[memoryview]) -> None:
        self._check_key()
        super()._transfer(out, into)

    def _check_key(self) -> None:
        """Raise ProtocolError if the key has protected as much as it may."""
        if max(self.traffic.sent, self.traffic.received) > KEY_BYTES:
            raise ProtocolError(
                f"the link to {self.peer} has carried as much as one TLS key may protect; "
                "open another session"
            )

    def _wait(self, to_read: bool, to_write: bool) -> tuple[bool, bool]:
        if to_read and self._tls.pending():
            return True, to_write
        wanted = (self._reading if to_read else 0) | (self._writing if to_write else 0)
        self._poll.register(self._socket, wanted)
        events = self._events()
        if not events:
            raise ProtocolError(f"{self.peer} did not answer for {self._timeout_s:.0f} s")
        found = events[0][1]
        broken = found & ~wanted
        return (
            to_read and bool(found & self._reading or broken),
            to_write and bool(found & self._writing or broken),
        )

    def _write(self, buffers: list[memoryview]) -> list[memoryview]:
        self._torn = True
        try:
            for _ in range(_BURST):
                # after SSLWantWriteError the same bytes must come again, and they do
                buffers = _behind(buffers, self._tls.send(_record(buffers)))
                self._writing = select.POLLOUT
                if not buffers:
                    self._torn = False
                    break
        except ssl.SSLWantWriteError:
            self._writing = select.POLLOUT
        except ssl.SSLWantReadError:
            self._writing = select.POLLIN
        except OSError as error:
            raise self._broke(error) from None
        return buffers

    def _read_ahead(self) -> None:
        rest = self._read([self._room])
        self._ahead = self._room[: len(self._room) - sum(map(len, rest))]

    def _read(self, buffers: list[memoryview]) -> list[memoryview]:
        try:
            for _ in range(_BURST):
                # a header is checked, and what was read ahead used, before more is read
                once = len(buffers[0]) <= HEADER.size or buffers[0] is self._room
                got = self._tls.recv_into(buffers[0])
                self._reading = select.POLLIN
                if not got:
                    raise ProtocolError(f"{self.peer} closed the connection")
                buffers = _behind(buffers, got)
                if once or not buffers:
                    break
        except ssl.SSLWantReadError:
            self._reading = select.POLLIN
        except ssl.SSLWantWriteError:
            self._reading = select.POLLOUT
        except OSError as error:
            raise self._broke(error) from None
        return buffers

    def _broke(self, error: OSError) -> ProtocolError:
        if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return ProtocolError(f"{self.peer} closed the connection")
        if isinstance(error, ssl.SSLError):
            return ProtocolError(f"the connection to {self.peer} broke: {_reason(error)}")
        return super()._broke(error)


def _record(buffers: list[memoryview]) -> bytes | memoryview:
    """Return the first bytes to be sent; small buffers go out together, headers to begin with."""
    if len(buffers[0]) >= _RECORD or len(buffers) == 1:
        return buffers[0]
    parts, left = [], _RECORD
    for buffer in buffers:
        parts.append(buffer[:left])
        left -= len(parts[-1])
        if not left:
            break
    return b"".join(parts)


def _reason(error: ssl.SSLError) -> str:
    """Return what OpenSSL says, in words."""
    message: Any = getattr(error, "verify_message", "") or error.reason or str(error)
    return str(message).lower().replace("_", " ").replace("sslv3 alert", "the other side says")


# -- certificates ---------------------------------------------------------------------------------


def contexts(folder: Path, role: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return what `role` accepts and makes connections with, from its certificates in `folder`.

    Raises ConfigError, naming the file, if one is missing, damaged, readable by others, or not by
    this user.
    """
    authority, own, key = folder / "ca.pem", folder / f"{role}.pem", folder / f"{role}.key"
    for file in (authority, own, key):
        _check_readable(file, role)
    if key.stat().st_mode & 0o077:
        raise ConfigError(f"{key} is readable by others; `chmod 600 {key}` closes it")
    made = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0
        try:
            context.load_verify_locations(authority)
        except (ssl.SSLError, OSError):
            raise ConfigError(f"{authority} is no certificate; copy it again") from None
        try:
            context.load_cert_chain(own, key)
        except (ssl.SSLError, OSError) as error:
            wrong = "do not belong together" if _is_mismatch(error) else "cannot be read"
            raise ConfigError(
                f"{own} and {key} {wrong}; copy both again from the folder of `srrun certs init`"
            ) from None
        made.append(context)
    return made[0], made[1]


def _check_readable(file: Path, role: str) -> None:
    """Raise ConfigError unless this user may read a file that a role needs."""
    try:
        if not file.is_file():
            raise ConfigError(
                f"there is no file {file}; `srrun certs init` makes certificates for all roles"
            )
        file.open("rb").close()
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read: {error_text(error)}; give it and its folder to the user who "
            f"runs {NAMES[role]} (chown)"
        ) from None


def valid_until(folder: Path, role: str) -> float:
    """Return when the first of a role's certificate and its authority's expires, as Unix time.

    Raises ConfigError, naming the file, if one is missing or damaged.
    """
    from srcompile.runtime.certificates import describe  # large, and of no use without TLS

    return min(describe(folder / name)[1].timestamp() for name in ("ca.pem", f"{role}.pem"))


def _is_mismatch(error: OSError) -> bool:
    return getattr(error, "reason", None) == "KEY_VALUES_MISMATCH"


def role_of(connection: ssl.SSLSocket) -> str:
    """Return the role that the peer's certificate names. Raises ProtocolError if it is not one."""
    roles = [role for uri in _uris(connection) if (role := role_of_uri(uri))]
    if len(roles) != 1:
        raise ProtocolError("the certificate names no role")
    return roles[0]


def name_of(connection: ssl.SSLSocket) -> str:
    """Return the client's name that the peer's certificate has, or else nothing.

    Raises ProtocolError if it has several.
    """
    names = [name for uri in _uris(connection) if (name := name_of_uri(uri))]
    if len(names) > 1:
        raise ProtocolError("the certificate has several names")
    return names[0] if names else ""


def _uris(connection: ssl.SSLSocket) -> list[str]:
    fields: Any = connection.getpeercert() or {}
    return [uri for kind, uri in fields.get("subjectAltName", ()) if kind == "URI"]


def secured(
    connection: socket.socket, context: ssl.SSLContext, host: str | None
) -> tuple[ssl.SSLSocket, str]:
    """Return the connection after the TLS handshake, and the role of the other side.

    `host` is where it was connected to; None for one that was accepted. Raises ProtocolError unless
    the other side has a certificate of this cluster's authority, for this host, with a role.
    """
    with contextlib.ExitStack() as undo:
        undo.callback(connection.close)
        try:
            connection.settimeout(HANDSHAKE_S)
            tls = context.wrap_socket(
                connection,
                server_side=host is None,
                server_hostname=host,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=False,
            )
            undo.callback(tls.close)
            tls.do_handshake()
            found = role_of(tls)
        except ssl.SSLError as error:
            raise ProtocolError(
                f"no TLS 1.3 with a certificate of this cluster: {_reason(error)}"
            ) from None
        except OSError as error:
            raise ProtocolError(f"the TLS handshake did not end: {error_text(error)}") from None
        undo.pop_all()
        return tls, found


def check_role(found: str, wanted: str) -> None:
    """Raise ProtocolError unless the peer has the role that it should have."""
    if found != wanted:
        raise ProtocolError(f"{NAMES[wanted]} showed the certificate of {NAMES[found]}")
