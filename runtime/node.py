"""One role as a process: `python -m srcompile.runtime.node`, configured by JSON on standard input.

`srcompile.runtime.cluster` starts these. Exit code 2 and one line on standard error if something
goes wrong.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.runtime.channels.tcp import TcpChannel, accept, admit, connect, introduce
from srcompile.runtime.dealer import Dealer
from srcompile.runtime.dealing import REQUEST, STOP, send_block
from srcompile.runtime.errors import OUT_OF_MEMORY, ProtocolError, RunError
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.lockstep import unmarked
from srcompile.runtime.party import Party
from srcompile.runtime.program import Program
from srcompile.runtime.program import load as load_program
from srcompile.runtime.randomness import Seeded
from srcompile.runtime.ring import Ring
from srcompile.runtime.services.material import Material
from srcompile.runtime.services.session import Alone, Session, told
from srcompile.runtime.spool import Spool
from srcompile.runtime.stock import Stock

PATIENCE_S = 3600.0  # the dealer's, while a party takes no material and asks for none
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
        send_block(dealer.deal(segment), channels)


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
        self.running = config.running

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
        tell = told(self.index, self.client)
        Session(
            party=self.party,
            client=self.client,
            peer=self.peer,
            material=Material(self.party, self.dealer, _is_used, tell, self.running),
            runner=Alone(self.party, unmarked),
            mark=unmarked,
            count=lambda run, offline, seconds: None,
            wait_for_client=lambda command: None,
            tell=tell,
        ).serve(self.party.setup_bytes)

    def _receive_weights(self) -> Iterator[Ring]:
        """Yield this party's share of each weight, as the party takes them."""
        for name in self.program.weights():
            type_ = self.program.constants[name].type
            data = np.frombuffer(self.client.receive(type_.packed_bytes), np.uint8)
            yield self.kernels.unpack(data, type_.size, type_.width).reshape(type_.shape)


def _is_used(block: int) -> bool:
    """Return False: the dealer and the parties begin together, so no block was used before."""
    return False


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
    except MemoryError:
        print(f"it {OUT_OF_MEMORY}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
