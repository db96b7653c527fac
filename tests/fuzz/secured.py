"""The target `tls`: a visitor that speaks TLS, or nearly so, and what it says behind it."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
import threading
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from srcompile.runtime.channels import link
from srcompile.runtime.channels.tls import contexts
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.services.links import MAY, Links
from tests.fuzz.harness import Parser, Target
from tests.fuzz.mutations import changed_bytes
from tests.fuzz.wire import changed_stream, hello, text
from tests.support.services import certificates, settings_in

_RESET = struct.pack("ii", 1, 0)  # close a connection without a word


def _first_flight(context: ssl.SSLContext) -> bytes:
    """Return what a client says first."""
    sent = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return sent.read()


def _open_tls(folder: Path, stack: ExitStack) -> Parser:
    stack.enter_context(mock.patch.object(link, "_LINGER_S", 0.05))
    settings = settings_in(folder, timeout=5.0)
    roles = {role for role, _ in MAY}
    clients = {role: contexts(certificates(), role)[1] for role in sorted(roles)}
    links = {to: Links(to, settings) for _, to in MAY}
    listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    place = listening.getsockname()

    def visit(rng: random.Random, role: str, stream: bytes) -> None:
        """Come to the role, and be gone."""
        with socket.create_connection(place, timeout=5) as connection:
            if rng.random() < 0.05:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            if rng.random() < 0.4:
                connection.sendall(changed_bytes(rng, [_first_flight(clients[role]), stream]))
                return
            tls = clients[role].wrap_socket(connection, server_hostname="127.0.0.1")
            with tls:
                tls.sendall(stream[:100_000])
                what = rng.random()
                if what < 0.5:
                    tls.unwrap()
                elif what < 0.7:  # a record that nobody sealed
                    socket.socket.sendall(tls, changed_bytes(rng, [b"\x17\x03\x03\0\x40" * 14]))

    def parse(rng: random.Random) -> None:
        (role, to), purposes = rng.choice(list(MAY.items()))
        first = hello(role, rng.choice(purposes), session="00" * 16)
        stream = changed_stream(rng, [first, text({"command": "infer"}), bytes(20)])
        own = rng.choice((role, role, role, *clients))

        def quietly() -> None:
            with contextlib.suppress(OSError):
                visit(random.Random(rng.getrandbits(64)), own, stream)

        thread = threading.Thread(target=quietly, daemon=True)
        thread.start()
        connection = listening.accept()[0]
        try:
            found = links[to].welcome(connection)
            assert found.role == own, "a visitor has another role than its certificate"
            with contextlib.closing(found.channel):
                found.channel.receive_json()
                found.channel.receive(20)
        finally:
            thread.join()

    return parse


TARGETS = (Target("tls", (ProtocolError,), _open_tls, 2 << 30, waits=True),)
