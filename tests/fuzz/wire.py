"""Targets that take bytes from peers: channels, handshakes, visits, a client's session."""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.runtime.channels.link import ENDING, LinkChannel
from srcompile.runtime.channels.tcp import HEADER, TcpChannel, admit, introduce
from srcompile.runtime.errors import ProtocolError, RunError
from srcompile.runtime.isa import packed_bytes
from srcompile.runtime.program import dumps
from srcompile.runtime.roles import LISTENING, PARTIES, ROLES
from srcompile.runtime.services.client import Client
from srcompile.runtime.services.links import MAY, PROTOCOL, Links
from srcompile.runtime.services.settings import Settings, read_settings
from tests.fuzz.harness import Parser, Target
from tests.fuzz.mutations import changed_bytes, json_bytes
from tests.support.services import PROGRAM, Running, free_ports, running

DIGEST = PROGRAM.digest()
TOKEN = b"t" * 32


def framed(messages: Sequence[bytes]) -> bytes:
    """Return messages as they are on the wire."""
    return b"".join(HEADER.pack(k, len(m)) + m for k, m in enumerate(messages))


def text(fields: Any) -> bytes:
    return json.dumps(fields).encode()


def changed_stream(rng: random.Random, messages: Sequence[bytes]) -> bytes:
    """Return messages with a change: in a JSON text, in any bytes, in their order."""
    changed, what = list(messages), rng.random()
    if what < 0.6:
        at = rng.randrange(len(changed))
        try:
            changed[at] = json_bytes(rng, json.loads(changed[at]))
        except ValueError:
            changed[at] = changed_bytes(rng, [changed[at]])
    elif what < 0.7:
        changed.insert(rng.randint(0, len(changed)), rng.choice(changed))
    elif what < 0.8:
        del changed[rng.randint(0, len(changed)) :]
    stream = framed(changed)
    if rng.random() < 0.05:
        return stream + HEADER.pack(ENDING, 5) + rng.randbytes(5)
    return stream if what < 0.9 else changed_bytes(rng, [stream])


@contextlib.contextmanager
def _from_peer(data: bytes) -> Iterator[socket.socket]:
    """Give a connection on which `data` comes, and then its end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours = listening.accept()[0]
    with ours, theirs:
        theirs.sendall(data[:100_000])
        theirs.shutdown(socket.SHUT_WR)
        yield ours


# -- channels and handshakes ----------------------------------------------------------------------

CONTROL = {"progress": ["online", 1, 2], "block": 3, "nonce": "00" * 16, "proof": "11" * 32}


def _open_channel(folder: Path, stack: ExitStack) -> Parser:
    def parse(rng: random.Random) -> None:
        stream = changed_stream(rng, [text(CONTROL), bytes(20), text({}), bytes(300), b""])
        with _from_peer(stream) as connection:
            kind = rng.choice((TcpChannel, LinkChannel))
            channel = kind(connection, "the peer", 5.0)
            for size in rng.choice(((-1, 20, -1, 300, 0), (-1, -1, -1), (20, 300, 1 << 20))):
                if size < 0:
                    assert isinstance(channel.receive_json(), dict)
                elif rng.random() < 0.5:
                    assert len(channel.receive(size)) == size
                else:
                    parts = (
                        memoryview(bytearray(size // 2)),
                        memoryview(bytearray(size - size // 2)),
                    )
                    channel.exchange([memoryview(b"abc")], parts)

    return parse


def _open_handshake(folder: Path, stack: ExitStack) -> Parser:
    role, proof = {"role": "party1", "nonce": "00" * 16}, {"proof": "11" * 32}
    roles = {"party1": "party 1", "client": "the client"}

    def parse(rng: random.Random) -> None:
        with _from_peer(changed_stream(rng, [text(role), text(proof)])) as connection:
            if rng.random() < 0.5:
                admit(connection, roles, TOKEN, DIGEST)
            else:
                introduce(connection, "party1", "party 0", TOKEN, DIGEST)

    return parse


def insecure(folder: Path, **given: Any) -> Settings:
    ports = dict(zip(LISTENING, free_ports(3), strict=True))
    places = {role: f"127.0.0.1:{port}" for role, port in ports.items()}
    return read_settings(None, {**places, "insecure": True, "state": folder / "state", **given}, {})


def hello(role: str, purpose: str, **fields: Any) -> bytes:
    return text({"protocol": PROTOCOL, "role": role, "purpose": purpose, **fields})


def _open_welcome(folder: Path, stack: ExitStack) -> Parser:
    settings = insecure(folder)

    def parse(rng: random.Random) -> None:
        (role, to), purposes = rng.choice(list(MAY.items()))
        first = hello(role, rng.choice(purposes), session="00" * 16)
        with _from_peer(changed_stream(rng, [first])) as connection:
            visit = Links(to, settings).welcome(connection)
            assert visit.role in ROLES
            assert visit.purpose in MAY[visit.role, to]

    return parse


# -- visits to services ---------------------------------------------------------------------------


def _conversation(rng: random.Random, deployment: str) -> tuple[str, list[bytes]]:
    """Return a role to come to, and what a peer says that keeps to the protocol."""
    (role, to), purposes = rng.choice(list(MAY.items()))
    purpose = rng.choice(purposes)
    session = secrets.token_hex(16)
    if purpose == "deploy":
        content = dumps(PROGRAM.for_parties(), weights=False)
        first = hello(role, purpose, deployment=secrets.token_hex(16), digest=DIGEST,
                       size=len(content))  # fmt: skip
        shares = [bytes(PROGRAM.constants[n].type.packed_bytes) for n in PROGRAM.weights()]
        said = [first, content, *(shares if to != "dealer" else ()), text({"command": "activate"})]
        return to, said
    fields = {"session": session, "digest": DIGEST, "deployment": deployment, "opened": False}
    commands = [text({"command": "infer"}), text({"command": "stop"})]
    return to, [hello(role, purpose, **fields), *commands]


def _open_visits(folder: Path, stack: ExitStack) -> Parser:
    settings = insecure(folder, timeout=0.2, idle=0.2, drain=0.1, sessions=4)
    with running(replace(settings, timeout=60.0, idle=60.0)):
        pass  # the program is deployed; the rest of the time-outs is for visitors who stall
    cluster = stack.enter_context(running(settings, deployed=False))
    deployment = cluster.dealer.store.current(DIGEST) or ""

    def parse(rng: random.Random) -> None:
        to, said = _conversation(rng, deployment)
        place = settings.endpoint(to)
        before = _mistakes(cluster)
        with socket.create_connection((place.host, place.port), timeout=20) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(changed_stream(rng, said))
                connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while connection.recv(1 << 16):
                    pass
        assert _mistakes(cluster) == before, cluster.log()[-2000:]

    return parse


def _mistakes(cluster: Running) -> int:
    """Return how many times a role logged an exception that it does not raise on purpose."""
    return cluster.log().count(" error ")


# -- a client's session ---------------------------------------------------------------------------


def _party(rng: random.Random) -> list[bytes]:
    """Return what a party says in a session with one inference."""
    inputs = [bytes(packed_bytes(int(np.prod(t.shape)), t.width)) for t in PROGRAM.inputs]
    outputs = [rng.randbytes(packed_bytes(int(np.prod(t.shape)), t.width)) for t in PROGRAM.outputs]
    report = {
        "route": 0, "rounds": 9, "online": [[0, 1, 20], [1, 3, 7]], "offline": [[0, 99]],
        "dealer": {"seconds": 0.1, "memory": 1 << 20}, "memory": 1 << 20,
    }  # fmt: skip
    said = [{"welcome": True}, {"ready": True, "setup_bytes": 5, "kernels": "native"}]
    moved = {"progress": ["online", 1, 2]}
    return [*map(text, said), text(moved), text({"block": 7}), *inputs, text(report), *outputs]


class FakeRoles:
    """Listens as roles, and says to each visitor what was put down for the role."""

    def __init__(self, settings: Settings, stack: ExitStack, roles: Sequence[str]) -> None:
        self.streams = dict.fromkeys(roles, b"")
        for role in roles:
            place = settings.endpoint(role)
            listening = stack.enter_context(socket.create_server((place.host, place.port)))
            threading.Thread(target=self._serve, args=(listening, role), daemon=True).start()

    def say(self, rng: random.Random, said: Mapping[str, Sequence[bytes]]) -> None:
        """Let all roles say this, one of them something else."""
        self.streams = {role: framed(messages) for role, messages in said.items()}
        changed = rng.choice(list(said))
        self.streams[changed] = changed_stream(rng, said[changed])

    def _serve(self, listening: socket.socket, role: str) -> None:
        while True:
            try:
                connection = listening.accept()[0]
            except OSError:
                return  # it is closed
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                connection.sendall(self.streams[role])
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass


def _open_client(folder: Path, stack: ExitStack) -> Parser:
    settings = insecure(folder, timeout=5.0)
    parties = FakeRoles(settings, stack, PARTIES)
    program = PROGRAM.without_weights()
    sample = {t.given: np.zeros(t.given_shape, np.float32) for t in program.inputs}

    def parse(rng: random.Random) -> None:
        parties.say(rng, {role: _party(rng) for role in PARTIES})
        with Client(program, settings, watch=lambda progress: None) as client:
            client.infer(sample)

    return parse


TARGETS = (
    Target("channel", (ProtocolError,), _open_channel),
    Target("handshake", (ProtocolError,), _open_handshake),
    Target("welcome", (ProtocolError,), _open_welcome),
    Target("visits", (), _open_visits, 2 << 30, waits=True),
    Target("client", (RunError,), _open_client, 2 << 30),
)
