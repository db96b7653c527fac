"""Channels inside one process: a pair of queues."""

from __future__ import annotations

import queue
from collections.abc import Sequence

from srcompile.runtime.channels import Sendable, Traffic
from srcompile.runtime.errors import ProtocolError

TIMEOUT_S = 300.0


class LocalChannel:
    """One end of an in-process channel."""

    def __init__(self, peer: str, out: queue.SimpleQueue[bytes], into: queue.SimpleQueue[bytes]):
        self.traffic = Traffic()
        self._peer, self._out, self._into = peer, out, into

    def send(self, data: Sendable) -> None:
        """Send one message."""
        self.traffic.sent += len(data)
        self.traffic.messages += 1
        self._out.put(bytes(data))

    def receive(self, size: int) -> bytes:
        """Return the next message. Raises ProtocolError unless it has exactly `size` bytes."""
        try:
            data = self._into.get(timeout=TIMEOUT_S)
        except queue.Empty:
            raise ProtocolError(f"{self._peer} sent nothing for {TIMEOUT_S:.0f} s") from None
        if len(data) != size:
            if not data:
                raise ProtocolError(f"{self._peer} closed the channel")
            raise ProtocolError(f"{self._peer} sent {len(data)} bytes where {size} were expected")
        self.traffic.received += size
        return data

    def exchange(self, data: Sequence[memoryview], into: Sequence[memoryview]) -> None:
        """Send the parts `data` as one message and receive one into the parts `into`."""
        self.send(b"".join(data))
        got, place = self.receive(sum(map(len, into))), 0
        for part in into:
            part[:] = got[place : place + len(part)]
            place += len(part)

    def close(self) -> None:
        """End the channel: a waiting peer gets an empty message, which is an error there."""
        self._out.put(b"")


def local_pair(a: str, b: str) -> tuple[LocalChannel, LocalChannel]:
    """Return the two ends of a channel between roles `a` and `b`, a's end first."""
    there: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    back: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    return LocalChannel(b, there, back), LocalChannel(a, back, there)
