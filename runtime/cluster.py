"""Dealer and two parties as processes of this machine, over loopback TCP, and a client for them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from srcompile.runtime.channels.tcp import TcpChannel, connect, listen
from srcompile.runtime.client import (
    Array,
    Shares,
    check_weights,
    one_inference,
    receive_outputs,
    report_bytes,
    send_inputs,
    share_weight,
)
from srcompile.runtime.errors import ProtocolError, RangeError, RunError, SpoolError
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.node import PARTY_NAMES
from srcompile.runtime.program import Program, save
from srcompile.runtime.progress import Progress, Ticker, Watch
from srcompile.runtime.randomness import Seeded
from srcompile.runtime.result import ClusterResult
from srcompile.runtime.stock import default_memory
from srcompile.runtime.usage import peak_memory

ROLES = ("dealer", "party0", "party1")


class LocalCluster:
    """Starts the processes, loads the weights, and runs inferences. Use it as a context manager.

    link: the two ends, party 0's first, of a connection for the parties, if it is not to be a new
        one over loopback; the cluster closes them.

    Each party keeps `memory` bytes of prepared material in memory (see `default_memory`), and the
    rest in encrypted files below the folder `spool`, or a temporary one. With `running` material is
    dealt while an inference runs, and only that of branches may be written. `watch` is told how far
    setup, offline and online phases are. Raises ProtocolError, with what the failing process said,
    if one of them fails.
    """

    def __init__(
        self,
        program: Program,
        shares: Shares | None = None,
        kernels: str | None = None,
        link: tuple[socket.socket, socket.socket] | None = None,
        *,
        memory: int | None = None,
        running: bool = False,
        spool: str | Path | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.program = program.without_weights()
        self._report_bytes = report_bytes(program)
        self.kernels = load_kernels(kernels)
        if shares is None:
            check_weights(program)
        self._owner: Program | Shares | None = shares or program  # until the weights are loaded
        self._kernels_name = kernels
        self._link = link
        self._memory = default_memory(program) if memory is None else memory
        self._running, self._spool = running, spool
        self._watch: Watch = watch or (lambda progress: None)
        self._folder = tempfile.TemporaryDirectory(prefix="srcompile-")  # mode 0700
        self._other: tempfile.TemporaryDirectory[str] | None = None
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._channels: list[TcpChannel] = []
        self.setup_bytes = (0, 0)
        self.setup_s = 0.0

    def __enter__(self) -> Self:
        """Start everything and load the weights."""
        try:
            start = time.perf_counter()
            self._start()
            self._load_weights()
            self.setup_s = time.perf_counter() - start
        except BaseException as error:
            self._fail(error)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything."""
        with contextlib.suppress(ProtocolError):
            for channel in self._channels:
                channel.send_json({"command": "stop"})
        self._stop(grace_s=5.0)

    def infer(self, inputs: Mapping[str, Array]) -> ClusterResult:
        """Run one inference on floats by name.

        Raises InputError, before anything is sent, if they do not fit, and RangeError if a guarded
        program finds a value out of its range. The session goes on after either.
        """
        inputs = one_inference(self.program, inputs)
        try:
            return self._infer(inputs)
        except RangeError:
            raise
        except RunError as error:
            self._fail(error)
            raise

    # -- processes

    def _start(self) -> None:
        token = secrets.token_bytes(32)
        path = str(Path(self._folder.name) / "program.srp")
        spool = self._spool_folder()
        save(self.program.for_parties(), path, weights=False)
        with listen() as first, listen() as second:
            ports = (first.getsockname()[1], second.getsockname()[1])
            listeners = {"party0": first.fileno(), "party1": second.fileno()}
            peers = {f"party{p}": end.fileno() for p, end in enumerate(self._link or ())}
            for role in ROLES:
                config = {
                    "role": role,
                    "token": token.hex(),
                    "program": path,
                    "ports": ports,
                    "listener": listeners.get(role, -1),
                    "peer": peers.get(role, -1),
                    "kernels": self._kernels_name,
                    "memory": self._memory,
                    "running": self._running,
                    "spool": spool,
                }
                # one that is not told what it is ends by itself, so none is told before it is known
                self._processes[role] = _spawn(config)
                _tell(self._processes[role], config)
        self._leave_link()  # each party has its own end now
        digest = self.program.digest()
        for p in (0, 1):  # one by one, so that the first is closed if the second fails
            self._channels.append(connect(ports[p], "client", PARTY_NAMES[p], token, digest))

    def _leave_link(self) -> None:
        for end in self._link or ():
            end.close()

    def _spool_folder(self) -> str:
        """Return a private folder for the parties' files, which goes when the cluster stops."""
        if self._spool is None:
            return self._folder.name
        try:
            self._other = tempfile.TemporaryDirectory(prefix="srcompile-", dir=self._spool)
        except OSError as error:
            raise SpoolError(
                f"the folder for offline material {self._spool} cannot be used: {error.strerror}; "
                "give one that can be written to"
            ) from None
        return self._other.name

    def _stop(self, grace_s: float) -> None:
        self._leave_link()
        for channel in self._channels:
            channel.close()
        deadline = time.monotonic() + grace_s
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stderr is not None:
                process.stderr.close()
        self._folder.cleanup()
        if self._other is not None:
            self._other.cleanup()

    def _wait_for_ends(self, limit_s: float) -> None:
        """Let the processes find out and say what failed: one after the other, they end by it."""
        deadline = time.monotonic() + limit_s
        while any(p.poll() is None for p in self._processes.values()):
            if time.monotonic() >= deadline:
                return
            time.sleep(0.01)

    def _fail(self, error: BaseException) -> None:
        """Stop everything and add what the first failed process said to `error`."""
        if isinstance(error, ProtocolError):
            self._wait_for_ends(2.0)
        said = {r: p.stderr for r, p in self._processes.items() if p.poll() not in (None, 0)}
        texts = {role: err.read().strip() for role, err in said.items() if err is not None}
        lines = [f"{role}: {text}" for role, text in texts.items() if text]  # a killed one is mute
        self._stop(grace_s=0.0)
        self._processes, self._channels = {}, []
        if lines and isinstance(error, ProtocolError):
            raise ProtocolError("; ".join(lines)) from None

    # -- the client's side of the protocol

    def _load_weights(self) -> None:
        """Share and send one weight after the other, and keep none."""
        names = self.program.weights()
        sizes = [self.program.constants[name].type.packed_bytes for name in names]
        ticker, done, total = Ticker(self._watch), 0, 2 * sum(sizes)
        source = Seeded(secrets.token_bytes(16), self.kernels)
        for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
            type_ = self.program.constants[name].type
            if isinstance(self._owner, Program):
                shares = share_weight(self._owner, name, source.ring(0, number, type_))
            else:
                assert self._owner is not None
                shares = self._owner[0][name], self._owner[1][name]
            for channel, share in zip(self._channels, shares, strict=True):
                channel.send(self.kernels.pack(share, type_.width).data)
            done += 2 * size
            ticker.tell("setup", done, total)
        self._owner = None
        ready = [channel.receive_json() for channel in self._channels]
        self.setup_bytes = (int(ready[0]["setup_bytes"]), int(ready[1]["setup_bytes"]))
        self._watch(Progress("setup", total, total))

    def _infer(self, inputs: Mapping[str, Array]) -> ClusterResult:
        began = time.perf_counter()
        for channel in self._channels:
            channel.send_json({"command": "infer"})
        for channel in self._channels:
            self._answer(channel)
        ready = time.perf_counter()
        send_inputs(self.program, inputs, self._channels, self.kernels)
        reports = [self._answer(channel) for channel in self._channels]
        outputs = receive_outputs(self.program, self._channels, self.kernels)
        done = time.perf_counter()
        counted = [{(s, i): n for s, i, n in report["online"]} for report in reports]
        offline = [sum(size for _, size in report["offline"]) for report in reports]
        rounds, dealer = int(reports[0]["rounds"]), reports[0]["dealer"]
        self._watch(Progress("online", rounds, rounds))
        return ClusterResult(
            outputs,
            reports[0]["route"],
            (sum(counted[0].values()), sum(counted[1].values())),
            rounds,
            done - ready,
            (offline[0], offline[1]),
            ready - began,
            (counted[0], counted[1]),
            float(dealer["seconds"]),
            {
                "dealer": int(dealer["memory"]),
                "party0": int(reports[0]["memory"]),
                "party1": int(reports[1]["memory"]),
                "client": peak_memory(),
            },
        )

    def _answer(self, channel: TcpChannel) -> dict[str, Any]:
        """Return the next control message that is not about progress."""
        while True:
            fields = channel.receive_json(self._report_bytes)
            if "progress" not in fields:
                return fields
            phase, done, total = fields["progress"]
            self._watch(Progress(str(phase), int(done), int(total)))


def _spawn(config: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "srcompile.runtime.node"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[fd for fd in (config["listener"], config["peer"]) if fd >= 0],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def _tell(process: subprocess.Popen[str], config: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(config))
    process.stdin.close()
