"""Channels over TCP between processes, with a handshake that proves a shared token.

A message is 4 bytes of sequence number, 4 bytes of length (both big-endian), and the payload. The
receiver knows the length beforehand and checks it. Traffic counts payloads; the 8 bytes are not in
it. The token keeps other users of the machine out; confidentiality across a network needs TLS
(`srcompile.runtime.channels.tls`), so these channels bind and connect to loopback only.
"""

from __future__ import annotations

import hmac
import json
import secrets
import select
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from srcompile.runtime.channels import Sendable, Traffic
from srcompile.runtime.errors import ProtocolError, error_text

LOOPBACK = "127.0.0.1"
HEADER = struct.Struct(">II")
MAX_MESSAGE = (1 << 32) - 1
SHORT_JSON = 1 << 12
"""What a control message may take, unless its receiver expects a long list."""
TOGETHER = 1 << 16
"""So many bytes of small messages go to the system at once, and come from it."""


class TcpChannel:
    """One end of a connection to `peer`. A `timeout_s` without a byte ends it with an error."""

    def __init__(self, connection: socket.socket, peer: str, timeout_s: float = 120.0) -> None:
        self.traffic = Traffic()
        self.peer, self._socket, self._timeout_s = peer, connection, timeout_s
        self._sent = self._received = 0
        self._soon = bytearray()  # messages that go out together
        self._ahead = memoryview(b"")  # what was read and belongs to later buffers
        self._room = memoryview(bytearray(TOGETHER))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        self._poll = select.poll()

    def send(self, data: Sendable) -> None:
        """Send one message."""
        self.flush()
        self._move(self._framed([memoryview(data)]), [])

    def send_soon(self, data: Sendable) -> None:
        """Send one message together with the next ones, at the latest when `flush` is called."""
        if len(data) >= TOGETHER:
            return self.send(data)
        for part in self._framed([memoryview(data)]):
            self._soon += part
        if len(self._soon) >= TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Send what is to be sent soon."""
        if self._soon:
            soon, self._soon = self._soon, bytearray()
            self._move([memoryview(soon)], [])

    def receive(self, size: int) -> bytearray:
        """Return the next message. Raises ProtocolError unless it has exactly `size` bytes."""
        data = bytearray(size)
        self._transfer([], [memoryview(data)])
        return data

    def exchange(self, data: Sequence[memoryview], into: Sequence[memoryview]) -> None:
        """Send the parts `data` as one message and receive one into the parts `into` meanwhile."""
        if self._soon:
            self.flush()
        self._transfer(self._framed(data), into)

    def send_json(self, fields: Mapping[str, Any]) -> None:
        """Send a control message."""
        self.send(json.dumps(fields).encode())

    def receive_json(self, most: int = SHORT_JSON) -> dict[str, Any]:
        """Return the next control message. Raises ProtocolError if it is none.

        Or if it takes more than `most` bytes; what is parsed takes up to thirty times as many.
        """
        head = bytearray(HEADER.size)
        self._move([], [memoryview(head)])
        length = self._length(head)
        if length > most:
            raise ProtocolError(
                f"{self.peer} sent a control message of {length} bytes, where at most {most} were "
                "expected"
            )
        data = bytearray(length)
        self._move([], [memoryview(data)])
        self.traffic.received += length
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise ProtocolError(f"{self.peer} sent something that is no control message")
        return fields

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    # -- the wire

    def _framed(self, parts: Sequence[memoryview]) -> list[memoryview]:
        size = sum(map(len, parts))
        if size > MAX_MESSAGE:
            raise ProtocolError(f"a message of {size} bytes is too long")
        header = HEADER.pack(self._sent & 0xFFFFFFFF, size)
        self._sent += 1
        self.traffic.sent += size
        self.traffic.messages += 1
        return [memoryview(header), *parts]

    def _transfer(self, out: list[memoryview], into: Sequence[memoryview]) -> None:
        """Write the buffers `out` and fill `into` with one message."""
        size = sum(map(len, into))
        unsent = self._write_first(out) if out else out  # mostly it fits into the socket's buffer
        if not (unsent or self._ahead) and size < TOGETHER // 2:
            self._wait(True, False)
            self._read_ahead()
        if not unsent and len(self._ahead) >= HEADER.size + size:
            head, self._ahead = self._ahead[: HEADER.size], self._ahead[HEADER.size :]
            self._check_length(head, size)
            for part in into:
                length = len(part)
                part[:], self._ahead = self._ahead[:length], self._ahead[length:]
        else:
            place = memoryview(bytearray(HEADER.size))
            self._move(unsent, [place, *into], lambda: self._check_length(place, size))
        self.traffic.received += size

    def _check_length(self, head: memoryview, size: int) -> None:
        length = self._length(head)
        if length != size:
            raise ProtocolError(f"{self.peer} sent {length} bytes where {size} were expected")

    def _move(
        self,
        unsent: list[memoryview],
        unread: list[memoryview],
        check: Callable[[], None] | None = None,
    ) -> None:
        """Write all of `unsent` and fill all of `unread` at once, so that neither end waits.

        `check` is called as soon as the first buffer of `unread` is full.
        """
        unread = _behind(unread, 0)
        buffers = len(unread)
        if unsent:  # a message mostly fits into the socket's buffer
            unsent = self._write_first(unsent)
        while unsent or unread:
            if unread and self._ahead:
                filled = len(unread) if check is None else 1  # a header is checked first
                unread = _behind(self._from_ahead(unread[:filled]) + unread[filled:], 0)
            else:
                readable, writable = self._wait(bool(unread), bool(unsent))
                if writable:
                    unsent = self._write(unsent)
                if readable:
                    unread = self._read_more(unread)
            if check is not None and len(unread) < buffers:
                check()
                check = None

    def _from_ahead(self, buffers: list[memoryview]) -> list[memoryview]:
        """Fill buffers with what was read before; return what is still to be filled."""
        for number, buffer in enumerate(buffers):
            count = min(len(buffer), len(self._ahead))
            buffer[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
            if count < len(buffer):
                return [buffer[count:], *buffers[number + 1 :]]
        return []

    def _read_more(self, buffers: list[memoryview]) -> list[memoryview]:
        """Read what is there, straight into buffers if they are large; return what is missing."""
        if sum(map(len, buffers)) >= TOGETHER // 2:
            return self._read(buffers)
        self._read_ahead()
        return buffers

    def _read_ahead(self) -> None:
        """Read what is there, if there is anything."""
        try:
            got = self._socket.recv_into(self._room)
        except BlockingIOError:
            return
        except OSError as error:
            raise self._broke(error) from None
        if not got:
            raise ProtocolError(f"{self.peer} closed the connection")
        self._ahead = self._room[:got]

    def _wait(self, to_read: bool, to_write: bool) -> tuple[bool, bool]:
        """Return whether the connection can be read and written, as soon as it can either."""
        wanted = (select.POLLIN if to_read else 0) | (select.POLLOUT if to_write else 0)
        self._poll.register(self._socket, wanted)
        events = self._events()
        if not events:
            raise ProtocolError(f"{self.peer} did not answer for {self._timeout_s:.0f} s")
        broken = events[0][1] & ~wanted  # reading or writing says how
        return (
            to_read and bool(events[0][1] & select.POLLIN or broken),
            to_write and bool(events[0][1] & select.POLLOUT or broken),
        )

    def _events(self) -> list[tuple[int, int]]:
        """Return what has happened of that which was registered, or nothing after the time-out."""
        return self._poll.poll(1000 * self._timeout_s)

    def _write_first(self, buffers: list[memoryview]) -> list[memoryview]:
        """Write while nothing of the peer's next message has been taken."""
        return self._write(buffers)

    def _write(self, buffers: list[memoryview]) -> list[memoryview]:
        """Send what the socket takes now; return the rest."""
        try:
            return _behind(buffers, self._socket.sendmsg(buffers))
        except BlockingIOError:
            return buffers
        except OSError as error:
            raise self._broke(error) from None

    def _read(self, buffers: list[memoryview]) -> list[memoryview]:
        """Read what is there; return what is still to be filled."""
        try:
            got = self._socket.recvmsg_into(buffers)[0]
        except BlockingIOError:
            return buffers
        except OSError as error:
            raise self._broke(error) from None
        if not got:
            raise ProtocolError(f"{self.peer} closed the connection")
        return _behind(buffers, got)

    def _broke(self, error: OSError) -> ProtocolError:
        return ProtocolError(f"the connection to {self.peer} broke: {error_text(error)}")

    def _length(self, head: bytearray | memoryview) -> int:
        number, length = HEADER.unpack(head)
        if number != self._received & 0xFFFFFFFF:
            raise ProtocolError(f"{self.peer} sent message {number}, not {self._received}")
        self._received += 1
        return int(length)


def list_json(count: int) -> int:
    """Return what a control message may take that lists `count` things, a few numbers for each."""
    return SHORT_JSON + 64 * count


def _behind(buffers: list[memoryview], count: int) -> list[memoryview]:
    """Return the parts of the buffers behind the first `count` bytes."""
    for number, buffer in enumerate(buffers):
        if count < len(buffer):
            return [buffer[count:], *buffers[number + 1 :]]
        count -= len(buffer)
    return []


# -- connecting -----------------------------------------------------------------------------------


def listen() -> socket.socket:
    """Return a socket that listens on a free loopback port."""
    return socket.create_server((LOOPBACK, 0))


def connect(
    port: int, role: str, peer: str, token: bytes, digest: str, timeout_s: float = 120.0
) -> TcpChannel:
    """Connect to `peer` as `role`. Raises ProtocolError if it is not there or not who it should be.

    Both sides prove that they have the token, and that they run the program with this digest.
    """
    try:
        connection = socket.create_connection((LOOPBACK, port), timeout=30)
    except OSError as error:
        raise ProtocolError(f"{peer} cannot be reached: {error}") from None
    return introduce(connection, role, peer, token, digest, timeout_s)


def introduce(
    connection: socket.socket,
    role: str,
    peer: str,
    token: bytes,
    digest: str,
    timeout_s: float = 120.0,
) -> TcpChannel:
    """Return a channel over a connection to `peer`, after the handshake of the one who connects.

    Raises ProtocolError, and closes the connection, if the other end is not who it should be.
    """
    channel = TcpChannel(connection, peer, timeout_s)
    nonce = secrets.token_hex(16)
    try:
        channel.send_json({"role": role, "nonce": nonce})
        answer = channel.receive_json()
        other = str(answer.get("nonce"))
        _check(answer, _proof(token, "accept", role, nonce, other, digest), peer)
        channel.send_json({"proof": _proof(token, "connect", role, nonce, other, digest)})
    except ProtocolError:
        channel.close()
        raise
    return channel


def accept(
    listener: socket.socket, roles: Mapping[str, str], token: bytes, digest: str
) -> dict[str, TcpChannel]:
    """Accept one connection from each of `roles` (name on the wire -> name in messages).

    A stranger is turned away. Raises ProtocolError if somebody does not come within 60 s.
    """
    channels: dict[str, TcpChannel] = {}
    listener.settimeout(60)
    while set(channels) != set(roles):
        try:
            connection, _ = listener.accept()
        except OSError as error:
            missing = ", ".join(roles[r] for r in roles if r not in channels)
            raise ProtocolError(f"{missing} did not connect: {error}") from None
        wanted = {role: name for role, name in roles.items() if role not in channels}
        try:
            role, channel = admit(connection, wanted, token, digest)
        except ProtocolError:
            continue
        channels[role] = channel
    return channels


def admit(
    connection: socket.socket, roles: Mapping[str, str], token: bytes, digest: str
) -> tuple[str, TcpChannel]:
    """Return who of `roles` is at the other end, and the channel, after the acceptor's handshake.

    Raises ProtocolError, and closes the connection, if it is nobody of them.
    """
    channel = TcpChannel(connection, "a peer", 30.0)
    try:
        role = _admit(channel, set(roles), token, digest)
    except ProtocolError:
        channel.close()
        raise
    connected = TcpChannel(connection, roles[role])
    connected._sent, connected._received = channel._sent, channel._received
    connected._ahead = channel._ahead
    return role, connected


def _admit(channel: TcpChannel, roles: set[str], token: bytes, digest: str) -> str:
    hello = channel.receive_json()
    role, other = str(hello.get("role")), str(hello.get("nonce"))
    if role not in roles:
        raise ProtocolError(f"'{role}' is not expected")
    nonce = secrets.token_hex(16)
    channel.send_json(
        {"nonce": nonce, "proof": _proof(token, "accept", role, other, nonce, digest)}
    )
    proof = _proof(token, "connect", role, other, nonce, digest)
    _check(channel.receive_json(), proof, role)
    return role


def _proof(token: bytes, side: str, role: str, first: str, second: str, digest: str) -> str:
    said = "|".join((side, role, first, second, digest)).encode("utf-8", "replace")
    return hmac.new(token, said, "sha256").hexdigest()


def _check(answer: Mapping[str, Any], proof: str, peer: str) -> None:
    found = str(answer.get("proof")).encode("utf-8", "replace")
    if not hmac.compare_digest(found, proof.encode()):
        raise ProtocolError(f"{peer} has another token or another program")
