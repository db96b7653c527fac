"""One role as a process: `python -m srcompile.runtime.node`, configured by JSON on standard input.

`srcompile.runtime.cluster` starts these. Exit code 2 and one line on standard error if something
goes wrong.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.runtime.channels.tcp import TcpChannel, accept, admit, connect, introduce
from srcompile.runtime.dealer import Dealer
from srcompile.runtime.errors import ProtocolError, RunError
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.material import material_bytes, rounds_of
from srcompile.runtime.party import Inference, Party, Prepared
from srcompile.runtime.program import Program
from srcompile.runtime.program import load as load_program
from srcompile.runtime.progress import Progress, Ticker
from srcompile.runtime.randomness import Seeded
from srcompile.runtime.ring import Ring
from srcompile.runtime.spool import Spool
from srcompile.runtime.stock import Stock
from srcompile.runtime.usage import peak_memory

BLOCK = struct.Struct(">QI")
DEALT = struct.Struct(">dQ")  # after a block: seconds that making it took, peak memory in bytes
STOP = 0xFFFFFFFF
PATIENCE_S = 3600.0  # the dealer's, while a party takes no material and asks for none
REQUEST = struct.Struct(">I")
PARTY_NAMES = ("party 0", "party 1")
PARTY_FOLDERS = ("party0", "party1")


@dataclass(frozen=True)
class Config:
    """What a role needs: its name, the token, the program, and where to listen or connect.

    listener: the descriptor of a socket that listens, inherited.
    peer: the descriptor of a connection to the other party, inherited; without one, party 1
        connects to party 0's port.

    A party has `memory` bytes for prepared material; what is more goes to files in the folder
    `spool` or, while `running`, waits with the dealer until there is room.
    """

    role: str  # "dealer", "party0" or "party1"
    token: bytes
    program: str
    ports: tuple[int, int]
    listener: int = -1
    peer: int = -1
    kernels: str | None = None
    memory: int = 0
    running: bool = False
    spool: str = ""


def read_config(text: str) -> Config:
    """Return the configuration written as JSON."""
    fields: dict[str, Any] = json.loads(text)
    return Config(
        fields["role"],
        bytes.fromhex(fields["token"]),
        fields["program"],
        (fields["ports"][0], fields["ports"][1]),
        fields["listener"],
        fields["peer"],
        fields["kernels"],
        fields["memory"],
        fields["running"],
        fields["spool"],
    )


# -- dealer ---------------------------------------------------------------------------------------


def run_dealer(config: Config, program: Program) -> None:
    """Deal a block for each segment that party 0 asks for, until it says stop.

    Each message is sent as soon as it is made; a party that is slow to take it is waited for.
    """
    digest = program.digest()
    dealer = Dealer(program, load_kernels(config.kernels))
    channels = [
        connect(config.ports[p], "dealer", PARTY_NAMES[p], config.token, digest, PATIENCE_S)
        for p in (0, 1)
    ]
    for channel, seed in zip(channels, dealer.seeds, strict=True):
        channel.send(seed)
    while True:
        (segment,) = REQUEST.unpack(channels[0].receive(REQUEST.size))
        if segment == STOP:
            return
        if segment >= len(program.segments):
            raise ProtocolError(f"party 0 asked for segment {segment}, which does not exist")
        material = dealer.deal(segment)
        for channel in channels:
            channel.send(BLOCK.pack(material.block, segment))
        took, start = 0.0, time.perf_counter()
        for messages in material.messages:
            took += time.perf_counter() - start
            for channel, message in zip(channels, messages, strict=True):
                if message.size:
                    channel.send(message.data)
            start = time.perf_counter()
        took += time.perf_counter() - start
        channels[0].send(DEALT.pack(took, peak_memory()))


# -- parties --------------------------------------------------------------------------------------


class PartyNode:
    """A party as a process, with channels to its peer, the dealer and the client."""

    def __init__(self, config: Config, program: Program, index: int) -> None:
        self.program, self.index = program, index
        digest = program.digest()
        kernels = load_kernels(config.kernels)
        self.kernels = kernels
        roles = {"dealer": "the dealer", "client": "the client"}
        peer = self._peer(config, digest)
        if peer is None:
            roles["party1"] = "party 1"
        with socket.socket(fileno=config.listener) as listener:
            channels = accept(listener, roles, config.token, digest)
        self.peer = peer or channels["party1"]
        self.dealer, self.client = channels["dealer"], channels["client"]
        source = Seeded(bytes(self.dealer.receive(16)), kernels)
        stock = Stock(config.memory, Spool(Path(config.spool) / PARTY_FOLDERS[index]))
        self.party = Party(program, index, kernels, source, self.peer, self.client, stock)
        self.running, self.rounds = config.running, rounds_of(program)
        self.stock: dict[int, Prepared] = {}
        self.ticker = Ticker(self._send_progress)
        self.routed = sorted(
            (k for k, s in enumerate(program.segments) if s.route is not None),
            key=lambda k: program.segments[k].route or 0,
        )

    def _peer(self, config: Config, digest: str) -> TcpChannel | None:
        """Return the channel to the other party; None if that is going to connect."""
        if self.index == 1 and config.peer < 0:
            return connect(config.ports[0], "party1", "party 0", config.token, digest)
        if config.peer < 0:
            return None
        connection = socket.socket(fileno=config.peer)
        if self.index == 1:
            return introduce(connection, "party1", "party 0", config.token, digest)
        return admit(connection, {"party1": "party 1"}, config.token, digest)[1]

    def serve(self) -> None:
        """Do what the client says until it says stop."""
        self.party.load_weights(self._receive_weights())
        self.client.send_json({"setup_bytes": self.party.setup_bytes, "kernels": self.kernels.name})
        while self.client.receive_json().get("command") == "infer":
            self._infer()
        if self.index == 0:
            self.dealer.send(REQUEST.pack(STOP))

    def _receive_weights(self) -> Iterator[Ring]:
        """Yield this party's share of each weight, as the party takes them."""
        for name in self.program.weights():
            type_ = self.program.constants[name].type
            data = np.frombuffer(self.client.receive(type_.packed_bytes), np.uint8)
            yield self.kernels.unpack(data, type_.size, type_.width).reshape(type_.shape)

    def _infer(self) -> None:
        """Get material, run an inference, and report.

        Branches are made ahead always: until the route is revealed nobody knows which one runs.
        """
        offline = Offline(sum(self._size(k) for k in (0, *self.routed) if k not in self.stock))
        for segment in self.routed:
            if segment not in self.stock:
                self.stock[segment] = self._begin(segment)
                self._fill(self.stock[segment], offline)
        shared = self._begin(0, self.running)
        filling = None
        if self.running:
            filling = Filling(lambda: self._fill(shared, offline))
        else:
            self._fill(shared, offline)
        self.client.send_json({"ready": True})
        self.party.send_input_masks(shared)
        branches = [self.stock[k] for k in self.routed]
        run = self.party.infer(shared, branches, self._observed if self.index == 0 else None)
        if filling is not None:
            filling.finish()
        if run.route is not None:
            del self.stock[self.routed[run.route]]
        self.client.send_json(inference_report(run) | offline.report() | {"memory": peak_memory()})
        self.party.send_outputs(run)

    def _begin(self, segment: int, waits: bool = False) -> Prepared:
        """Ask the dealer for a block."""
        if self.index == 0:
            self.dealer.send(REQUEST.pack(segment))
        block, dealt = BLOCK.unpack(self.dealer.receive(BLOCK.size))
        if dealt != segment:
            raise ProtocolError(f"the dealer sent material for segment {dealt}, not {segment}")
        return self.party.begin(block, segment, waits)

    def _fill(self, prepared: Prepared, offline: Offline) -> None:
        """Prepare a block, and count what comes."""
        before = offline.bytes

        def receive(size: int) -> bytearray:
            data = self.dealer.receive(size)
            offline.bytes += size
            if self.index == 0 and threading.current_thread() is threading.main_thread():
                self.ticker.tell("offline", offline.bytes, offline.total)
            return data

        self.party.fill(prepared, receive)
        offline.blocks.append((prepared.segment, offline.bytes - before))
        if self.index == 0:
            seconds, offline.dealer_memory = DEALT.unpack(self.dealer.receive(DEALT.size))
            offline.dealer_s += seconds

    def _size(self, segment: int) -> int:
        return material_bytes(self.program, segment)[self.index]

    def _observed(self, done: int) -> None:
        self.ticker.tell("online", done, self.rounds)

    def _send_progress(self, progress: Progress) -> None:
        self.client.send_json({"progress": [progress.phase, progress.done, progress.total]})


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


class Filling:
    """Preparing a block on a thread, beside the inference that uses it."""

    def __init__(self, fill: Callable[[], None]) -> None:
        self._fill = fill
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for its end. Raises what ended it, if it was an error."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            self._fill()
        except BaseException as error:  # who waits for a chunk has it from the shelf
            self._error = error


def inference_report(run: Inference) -> dict[str, Any]:
    """Return what a party tells the client of an inference."""
    return {
        "route": run.route,
        "rounds": run.counters.rounds,
        "online": [[segment, index, n] for (segment, index), n in run.counters.online.items()],
    }


def main() -> None:
    """Run the role that standard input describes."""
    try:
        config = read_config(sys.stdin.read())
        program = load_program(config.program)
        if config.role == "dealer":
            run_dealer(config, program)
        else:
            PartyNode(config, program, int(config.role[-1])).serve()
    except RunError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
