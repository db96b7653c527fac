"""One role as a process: `python -m srcompile.runtime.node`, configured by JSON on standard input.

`srcompile.runtime.cluster` starts these. Exit code 2 and one line on standard error if something
goes wrong.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from srcompile.runtime.channels.tcp import TcpChannel, accept, admit, connect, introduce
from srcompile.runtime.dealer import Dealer
from srcompile.runtime.errors import ProtocolError, RunError
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.material import material_bytes
from srcompile.runtime.party import Inference, Party, Prepared
from srcompile.runtime.program import Program
from srcompile.runtime.program import load as load_program
from srcompile.runtime.randomness import Seeded
from srcompile.runtime.ring import Ring

BLOCK = struct.Struct(">QI")
STOP = 0xFFFFFFFF
REQUEST = struct.Struct(">I")
PARTY_NAMES = ("party 0", "party 1")


@dataclass(frozen=True)
class Config:
    """What a role needs: its name, the token, the program, and where to listen or connect.

    listener: the descriptor of a socket that listens, inherited.
    peer: the descriptor of a connection to the other party, inherited; without one, party 1
        connects to party 0's port.
    """

    role: str  # "dealer", "party0" or "party1"
    token: bytes
    program: str
    ports: tuple[int, int]
    listener: int = -1
    peer: int = -1
    kernels: str | None = None


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
    )


# -- dealer ---------------------------------------------------------------------------------------


def run_dealer(config: Config, program: Program) -> None:
    """Deal a block for each segment that party 0 asks for, until it says stop."""
    digest = program.digest()
    dealer = Dealer(program, load_kernels(config.kernels))
    channels = [
        connect(config.ports[p], "dealer", PARTY_NAMES[p], config.token, digest) for p in (0, 1)
    ]
    for channel, seed in zip(channels, dealer.seeds, strict=True):
        channel.send(seed)
    while True:
        (segment,) = REQUEST.unpack(channels[0].receive(REQUEST.size))
        if segment == STOP:
            return
        if segment >= len(program.segments):
            raise ProtocolError(f"party 0 asked for segment {segment}, which does not exist")
        block = dealer.deal(segment)
        for channel, material in zip(channels, block.to_party, strict=True):
            channel.send(BLOCK.pack(block.block, segment))
            channel.send(material)


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
        self.party = Party(program, index, kernels, source, self.peer, self.client)
        self.stock: dict[int, Prepared] = {}
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

    def _receive_weights(self) -> dict[str, Ring]:
        shares = {}
        for name in self.program.weights():
            type_ = self.program.constants[name].type
            data = np.frombuffer(self.client.receive(type_.packed_bytes), np.uint8)
            shares[name] = self.kernels.unpack(data, type_.size, type_.width).reshape(type_.shape)
        return shares

    def _infer(self) -> None:
        offline = [self._block(0)]
        for segment in self.routed:
            if segment not in self.stock:
                offline.append(self._block(segment))
        shared = offline[0][1]
        for _, prepared in offline[1:]:
            self.stock[prepared.segment] = prepared
        self.client.send_json({"offline": [[p.segment, size] for size, p in offline]})
        self.party.send_input_masks(shared)
        run = self.party.infer(shared, [self.stock[k] for k in self.routed])
        if run.route is not None:
            del self.stock[self.routed[run.route]]
        self.client.send_json(_report(run))

    def _block(self, segment: int) -> tuple[int, Prepared]:
        """Get a block from the dealer and prepare it; return the bytes it took."""
        if self.index == 0:
            self.dealer.send(REQUEST.pack(segment))
        block, dealt = BLOCK.unpack(self.dealer.receive(BLOCK.size))
        if dealt != segment:
            raise ProtocolError(f"the dealer sent material for segment {dealt}, not {segment}")
        size = material_bytes(self.program, segment)[self.index]
        material = self.dealer.receive(size)
        return size, self.party.prepare(block, segment, material)


def _report(run: Inference) -> dict[str, Any]:
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
