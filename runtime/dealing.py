"""What parties and dealer say to each other while blocks are dealt, and what parties count of it.

Party 0 asks for a segment, for both; the dealer answers both with the number of a block and the
segment, then the block's messages, and party 0 with what making it took. Between services party 0
also says from time to time that a session still runs, which has no answer.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from srcompile.runtime.channels.tcp import TcpChannel
from srcompile.runtime.dealer import Material
from srcompile.runtime.usage import peak_memory

REQUEST = struct.Struct(">I")
STOP = 0xFFFFFFFF
BEAT = 0xFFFFFFFE
"""What party 0 says instead of a segment while it asks for nothing."""
BEAT_S = 0.5  # how often those who wait hear of a session that still runs
BLOCK = struct.Struct(">QI")
DEALT = struct.Struct(">dQ")  # after a block: seconds that making it took, peak memory in bytes


@dataclass
class Offline:
    """What came from the dealer for one inference: `total` bytes are to come."""

    total: int
    bytes: int = 0
    blocks: list[tuple[int, int]] = field(default_factory=list)  # (segment, bytes)
    dealer_s: float = 0.0
    dealer_memory: int = 0

    def report(self) -> dict[str, Any]:
        """Return what the client is told."""
        dealer = {"seconds": self.dealer_s, "memory": self.dealer_memory}
        return {"offline": self.blocks, "dealer": dealer}


def send_block(material: Material, channels: Sequence[TcpChannel]) -> int:
    """Send both parties a block, large messages as soon as they are made; return the bytes."""
    for channel in channels:
        channel.send_soon(BLOCK.pack(material.block, material.segment))
    sent, took, start = 0, 0.0, time.perf_counter()
    for messages in material.messages:
        took += time.perf_counter() - start
        for channel, message in zip(channels, messages, strict=True):
            if message.size:
                channel.send_soon(message.data)
                sent += message.size
        start = time.perf_counter()
    took += time.perf_counter() - start
    channels[0].send_soon(DEALT.pack(took, peak_memory()))
    for channel in channels:
        channel.flush()
    return sent
