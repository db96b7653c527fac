"""Targets in which roles answer: a doctor's questions, a model owner's, a monitor's."""

from __future__ import annotations

import errno
import io
import random
import secrets
import socket
import struct
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import srcompile
from srcompile.runtime.errors import ProtocolError
from srcompile.runtime.roles import LISTENING
from srcompile.runtime.services.client import deploy, undeploy
from srcompile.runtime.services.doctor import Finding, examine
from srcompile.runtime.services.health import Health
from tests.fuzz.harness import Parser, Target
from tests.fuzz.mutations import changed_bytes
from tests.fuzz.wire import FakeRoles, insecure, text
from tests.support.services import PROGRAM, free_ports

DIGEST, DEPLOYMENT = PROGRAM.digest(), secrets.token_hex(16)


# -- the doctor -----------------------------------------------------------------------------------


def _state(role: str) -> dict[str, Any]:
    """Return what a role says of itself."""
    return {
        "role": role, "version": srcompile.__version__, "time": time.time(), "kernels": "native",
        "sessions": 2, "deployed": {DIGEST: DEPLOYMENT, "ab" * 32: "cd" * 16},
        "free_bytes": 1 << 40, "processors": 2, "stopping": False, "listening": True,
    }  # fmt: skip


def _open_doctor(folder: Path, stack: ExitStack) -> Parser:
    settings = insecure(folder, timeout=5.0)
    roles = FakeRoles(settings, stack, LISTENING)

    def parse(rng: random.Random) -> None:
        roles.say(rng, {role: [text(_state(role))] for role in LISTENING})
        for finding in examine("client", settings, rng.choice((None, DIGEST))):
            assert isinstance(finding, Finding)
            assert finding.found.isprintable(), "a peer's text is shown as it is"
            assert finding.what.isprintable(), "a peer's text is shown as it is"

    return parse


# -- the owner ------------------------------------------------------------------------------------


def _open_owner(folder: Path, stack: ExitStack) -> Parser:
    settings = insecure(folder, timeout=5.0)
    roles = FakeRoles(settings, stack, LISTENING)
    said = [{"welcome": True}, {"program": True}, {"stored": True}, {"active": True}]

    def parse(rng: random.Random) -> None:
        if rng.random() < 0.1:
            roles.say(rng, {role: [text({"had": True})] for role in LISTENING})
            assert set(undeploy(DIGEST, settings)) <= set(LISTENING)
            return
        answers = list(map(text, said))
        roles.say(rng, {r: [a for k, a in enumerate(answers) if k != 1 or r != "dealer"]
                        for r in LISTENING})  # fmt: skip
        deploy(PROGRAM, settings)

    return parse


# -- health and metrics ---------------------------------------------------------------------------

REQUESTS = (
    b"GET /health HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nConnection: close\r\n\r\n",
    b"GET /metrics HTTP/1.0\r\nUser-Agent: Prometheus/2.50\r\nAccept-Encoding: gzip\r\n\r\n",
    b"GET /metrics\r\n",
    b"POST /health HTTP/1.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nabcd",
    b"HEAD /%2e%2e/health?x=1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
)
_RESET = struct.pack("ii", 1, 0)  # close a connection without a word


def _open_health(folder: Path, stack: ExitStack) -> Parser:
    (port,) = free_ports(1)
    state = {"stopping": False, "listening": True, "long": "x" * 100_000}
    health = Health(port, lambda: state, lambda: "a 1\n")
    stack.callback(health.close)
    said = stack.enter_context(mock.patch("sys.stderr", io.StringIO()))

    def parse(rng: random.Random) -> None:
        request = changed_bytes(rng, REQUESTS)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(request[:60_000])
            if rng.random() < 0.1:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            else:
                _read_all(connection)
        assert not said.getvalue(), said.getvalue()[-2000:]

    return parse


def _read_all(connection: socket.socket) -> None:
    """Read until the server has closed, which it may do before it has read all."""
    try:
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass
    except OSError as error:
        if error.errno not in (errno.ENOTCONN, errno.ECONNRESET):
            raise


TARGETS = (
    Target("doctor", (), _open_doctor, 2 << 30),
    Target("owner", (ProtocolError,), _open_owner, 2 << 30),
    Target("health", (), _open_health, 2 << 30),
)
