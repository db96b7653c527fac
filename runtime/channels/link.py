"""Channels between services: like TCP channels, and they can end with a reason.

A link that ends with a reason sends one last message with the sequence number that no other has,
and the reason as its text. The receiver raises it as a ProtocolError, whatever message it expected.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import NoReturn

from srcompile.runtime.channels.tcp import HEADER, TcpChannel, _behind
from srcompile.runtime.errors import ProtocolError

ENDING = 0xFFFFFFFF
"""The sequence number of the last message of a link that ends with a reason."""
MAX_REASON = 2000
_LINGER_S = 1.0
_AT_ONCE_S = 0.1
_LOOK_S = 0.2  # how soon who waits finds out that it should not
_SKIPPED = 1 << 26  # a longer message is not waited for, to find out why a link ended


def printable(text: str) -> str:
    """Return a peer's text so that a terminal or a log shows it, and does nothing else."""
    return "".join(c if c.isprintable() else "?" for c in text)


class EndedError(ProtocolError):
    """The peer ended the session, and said why."""


class LinkChannel(TcpChannel):
    """One end of a link to `peer`, not encrypted: for loopback. Its messages are a session's."""

    valid_until = math.inf
    """When the first certificate that was used for it expires, in seconds since 1970."""

    def __init__(self, connection: socket.socket, peer: str, timeout_s: float) -> None:
        super().__init__(connection, peer, timeout_s)
        self.made = time.monotonic()
        self._torn = False  # part of a message is out, so that no other can follow
        self._stopped: str | None = None  # why nobody should go on with it
        self._end = math.inf  # when the peer must have said all that it is to say

    def wait_at_most(self, timeout_s: float) -> None:
        """Take a silence of this length for the peer's end."""
        self._timeout_s = timeout_s

    def say_all_by(self, end: float) -> None:
        """Break off with a peer that has not said by then (monotonic) what is waited for.

        However many bytes of it come meanwhile. With infinity only silences count.
        """
        self._end = end

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._socket.fileno() < 0

    def has_something(self, wait_s: float = 0.0) -> bool:
        """Whether the peer has sent something or is gone, which is one if it should be silent.

        Also if the link is closed, by another thread for instance. It is waited for up to `wait_s`.
        """
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLIN)
        except ValueError:
            return True
        return bool(self._ahead or poll.poll(1000 * wait_s))

    def ended(self) -> str | None:
        """Return why the peer has ended the link, if it has said so and nothing else before.

        Does not wait, and leaves other messages where they are.
        """
        if not self._ahead and self.has_something():
            with contextlib.suppress(ProtocolError):
                self._read_ahead()
        if len(self._ahead) < HEADER.size or not self._is_ending(self._ahead[: HEADER.size]):
            return None
        return self.reason(_AT_ONCE_S)

    def give_up_after(self, seconds: float) -> None:
        """Let the system break the link if nothing is confirmed for so long; 0: its own time."""
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux has it
            wait_ms = round(1000 * seconds)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, wait_ms)

    def stop(self, reason: str) -> None:
        """Let whoever uses this link get an error with this text soon; from any thread.

        It is raised before the next message, or while one is waited for, and `fail` may follow.
        """
        self._stopped = reason

    def fail(self, reason: str) -> None:
        """End the link, and let the peer know why if that is still possible."""
        self._stopped, self._end = None, math.inf
        with contextlib.suppress(ProtocolError, OSError):
            if not self._torn:
                text = reason.encode("utf-8", "replace")[:MAX_REASON]
                self._timeout_s = _LINGER_S
                self._move([memoryview(HEADER.pack(ENDING, len(text)) + text)], [])
                self._linger()
        self.close()

    def reason(self, wait_s: float) -> str | None:
        """Return why the peer ended the link, if it says so within `wait_s`."""
        self._timeout_s = wait_s
        try:
            while True:
                head = bytearray(HEADER.size)
                self._move([], [memoryview(head)])
                length = self._length(head)
                if length > _SKIPPED:
                    return None
                self._move([], [memoryview(bytearray(length))])
        except EndedError as ended:
            return str(ended)
        except ProtocolError:
            return None

    def interrupt(self) -> None:
        """Let whoever waits for this link find it closed; from any thread."""
        with contextlib.suppress(OSError):
            _shut(self._socket, socket.SHUT_RDWR)

    def _linger(self) -> None:
        """Wait until the peer has closed: closing with unread data would take the reason back."""
        descriptor = self._socket.fileno()
        _shut(self._socket, socket.SHUT_WR)
        end = time.monotonic() + _LINGER_S
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while (left := end - time.monotonic()) > 0 and poll.poll(1000 * left):
            if not os.read(descriptor, 1 << 16):
                return

    # -- the wire

    def _framed(self, parts: Sequence[memoryview]) -> list[memoryview]:
        self._check_stopped()
        return super()._framed(parts)

    def _events(self) -> list[tuple[int, int]]:
        self._check_stopped()
        now = time.monotonic()
        end = min(now + self._timeout_s, self._end)
        while now < end:
            events = self._poll.poll(1000 * min(end - now, _LOOK_S))
            if events:
                return events
            self._check_stopped()
            now = time.monotonic()
        return []

    def _write_first(self, buffers: list[memoryview]) -> list[memoryview]:
        try:
            return self._write(buffers)
        except ProtocolError:  # the peer may have ended the link before
            said = self.reason(_AT_ONCE_S)
            if said is None:
                raise
            raise EndedError(said) from None

    def _check_stopped(self) -> None:
        if self._stopped is not None:
            raise ProtocolError(self._stopped)
        if self._end < math.inf and time.monotonic() >= self._end:
            raise ProtocolError(f"{self.peer} took too long to say what it wants")

    def _write(self, buffers: list[memoryview]) -> list[memoryview]:
        rest = super()._write(buffers)
        self._torn = bool(rest)
        return rest

    def _read(self, buffers: list[memoryview]) -> list[memoryview]:
        count = 1 if len(buffers[0]) <= HEADER.size else len(buffers)
        rest = super()._read(buffers[:count])  # a header by itself: nothing may follow it
        return _behind(rest + buffers[count:], 0)

    def _length(self, head: bytearray | memoryview) -> int:
        if head[0] == 0xFF and self._is_ending(head):
            self._raise_reason(HEADER.unpack(head)[1])
        return super()._length(head)

    def _is_ending(self, head: bytearray | memoryview) -> bool:
        return HEADER.unpack(head)[0] == ENDING and self._received & 0xFFFFFFFF != ENDING

    def _raise_reason(self, length: int) -> NoReturn:
        if length > MAX_REASON:
            raise ProtocolError(f"{self.peer} ended the session without a proper reason")
        text = bytearray(length)
        self._move([], [memoryview(text)])
        raise EndedError(
            f"{self.peer} ended the session: {printable(text.decode(errors='replace'))}"
        )


def _shut(connection: socket.socket, how: int) -> None:
    """Shut a connection down without ssl's own method, after which it would send in the clear."""
    socket.socket.shutdown(connection, how)
