"""Channels between roles: in-process queues and TCP, both counting what they carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass
class Traffic:
    """Payload bytes and messages that one end of a channel sent and received."""

    sent: int = 0
    received: int = 0
    messages: int = 0


Sendable = bytes | bytearray | memoryview


class Channel(Protocol):
    """A reliable, ordered stream of messages whose sizes the receiver knows beforehand."""

    traffic: Traffic

    def send(self, data: Sendable) -> None:
        """Send one message."""

    def receive(self, size: int) -> bytes | bytearray:
        """Return the next message. Raises ProtocolError unless it has exactly `size` bytes."""

    def exchange(self, data: Sequence[memoryview], into: Sequence[memoryview]) -> None:
        """Send the parts `data` as one message and receive one into the parts `into` meanwhile.

        Raises ProtocolError unless the message is exactly as long as `into`.
        """

    def close(self) -> None:
        """End the channel; the other end finds out."""
