"""Clusters of services for tests: certificates, free ports, settings, and roles as processes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from itertools import count, islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from srcompile.runtime.certificates import make_certificates
from srcompile.runtime.errors import RunError
from srcompile.runtime.roles import LISTENING
from srcompile.runtime.services.client import Client, deploy
from srcompile.runtime.services.dealer import DealerService
from srcompile.runtime.services.links import Links
from srcompile.runtime.services.log import Log
from srcompile.runtime.services.party import PartyService
from srcompile.runtime.services.service import Service
from srcompile.runtime.services.settings import Settings, read_settings
from tests.support.builds import BUILDS, compiled

SRRUN = "from srcompile.cli.run import main; main()"
ROOT = Path(__file__).parents[2]
POOL = BUILDS["pool"]
PROGRAM = compiled(POOL).program


@cache
def certificates() -> Path:
    """Return a folder with certificates for loopback, made once in this process."""
    folder = Path(mkdtemp(prefix="srcompile-certs-"))
    make_certificates(folder, {})
    return folder


def _ports() -> Iterator[int]:
    """Yield ports of this worker of pytest's, none of which the system gives away by itself.

    A port that was free a moment ago, but is one of those that outgoing connections get, may be
    taken when a role is to listen on it, or to listen on it again.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 10_000 + worker % 10 * 2_000
    start = int.from_bytes(os.urandom(2))
    yield from (first + (start + step) % 2_000 for step in count())


_PORTS = _ports()


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def free_ports(many: int) -> list[int]:
    """Return ports that nothing listened on a moment ago, and that no other test gets."""
    return list(islice(filter(_is_free, _PORTS), many))


def settings_in(folder: Path, **given: Any) -> Settings:
    """Return settings of a cluster on free ports of loopback, with short times."""
    ports = dict(zip(LISTENING, free_ports(3), strict=True))
    places = {role: f"127.0.0.1:{port}" for role, port in ports.items()}
    times = {"timeout": 10.0, "drain": 5.0}
    state = folder / "state"
    return read_settings(
        None, {**places, "certs": certificates(), "state": state, **times, **given}, {}
    )


class Running:
    """Dealer and parties in this process, with their logs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.logs = {role: io.StringIO() for role in LISTENING}
        logs = {role: Log(role, stream=stream) for role, stream in self.logs.items()}
        self.dealer = DealerService(settings, logs["dealer"])
        self.parties = tuple(PartyService(p, settings, logs[f"party{p}"]) for p in (0, 1))
        self.roles: tuple[Service, ...] = (self.dealer, *self.parties)

    def log(self) -> str:
        """Return what all roles have logged."""
        return "".join(stream.getvalue() for stream in self.logs.values())


@contextlib.contextmanager
def running(settings: Settings, *, deployed: bool = True) -> Iterator[Running]:
    """Run dealer and parties in this process."""
    cluster = Running(settings)
    with contextlib.ExitStack() as stack:
        for role in cluster.roles:
            stack.enter_context(role)
        if deployed:
            deploy(PROGRAM, settings)
        yield cluster


def client(settings: Settings) -> Client:
    """Return a client of the pool, not yet connected; it has no weights."""
    return Client(PROGRAM.without_weights(), settings)


def wait_until(found: Callable[[], bool]) -> None:
    """Wait until something is so; a loaded machine may take its time."""
    end = time.monotonic() + 120
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


# -- processes ------------------------------------------------------------------------------------


def config_file(settings: Settings, folder: Path, role: str = "cluster") -> Path:
    """Write settings as a file and return it."""
    lines = []
    for f in fields(Settings):
        value = getattr(settings, f.name)
        if isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, (int, float)):
            text = str(value)
        else:
            text = f'"{value}"'
        lines.append(f"{f.name} = {text}\n")
    file = folder / f"{role}.toml"
    file.write_text("".join(lines))
    return file


class Processes:
    """Dealer and parties as processes of `srrun`, each with settings of its own if wanted."""

    def __init__(
        self, folder: Path, settings: Settings, own: Mapping[str, Settings] | None = None
    ) -> None:
        self.folder, self.settings = folder, settings
        self.files = {
            role: config_file((own or {}).get(role, settings), folder, role) for role in LISTENING
        }
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, *roles: str) -> None:
        """Start roles and wait until they answer."""
        self.launch(*roles)
        for role in roles:
            self.wait_for(role)

    def launch(self, *roles: str) -> None:
        """Start roles."""
        for role in roles:
            command = [role] if role == "dealer" else ["party", "--index", role[-1]]
            with open(self.folder / f"{role}.log", "a") as log:
                self.processes[role] = subprocess.Popen(
                    [sys.executable, "-c", SRRUN, *command, "--config", self.files[role]],
                    stderr=log,
                    text=True,
                    env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                )

    def wait_for(self, role: str) -> None:
        """Wait until a role answers."""
        links = Links("client", self.settings)
        end = time.monotonic() + 30
        while True:
            try:
                links.dial(role, "status")[0].close()
                return
            except RunError:
                assert self.processes[role].poll() is None, self.log(role)
                assert time.monotonic() < end, self.log(role)
                time.sleep(0.05)

    def kill(self, role: str) -> None:
        """Kill a role with SIGKILL."""
        self.processes[role].kill()
        self.processes[role].wait()

    def log(self, role: str) -> str:
        """Return what a role has logged."""
        return (self.folder / f"{role}.log").read_text()

    def __enter__(self) -> Processes:
        try:
            self.start(*LISTENING)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all roles."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
