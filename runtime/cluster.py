"""Dealer and two parties as processes of this machine, over loopback TCP, and a client for them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from srcompile.runtime.channels.tcp import TcpChannel, connect, listen
from srcompile.runtime.client import (
    Array,
    Shares,
    one_inference,
    receive_outputs,
    send_inputs,
    share_weights,
)
from srcompile.runtime.errors import ProtocolError, RangeError, RunError
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.node import PARTY_NAMES
from srcompile.runtime.program import Program, save

ROLES = ("dealer", "party0", "party1")


@dataclass(frozen=True)
class ClusterResult:
    """One inference: outputs, route, and what each party counted and took."""

    outputs: dict[str, Array]
    route: int | None
    online_bytes: tuple[int, int]
    rounds: int
    online_s: float
    offline_bytes: tuple[int, int]
    offline_s: float
    by_instruction: tuple[Mapping[tuple[int, int], int], Mapping[tuple[int, int], int]]


class LocalCluster:
    """Starts the processes, loads the weights, and runs inferences. Use it as a context manager.

    Raises ProtocolError, with what the failing process said, if one of them fails.
    """

    def __init__(
        self, program: Program, shares: Shares | None = None, kernels: str | None = None
    ) -> None:
        self.program = program.without_weights()
        self.kernels = load_kernels(kernels)
        self._shares = shares or share_weights(program)
        self._kernels_name = kernels
        self._folder = tempfile.TemporaryDirectory(prefix="srcompile-")  # mode 0700
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
        save(self.program.for_parties(), path, weights=False)
        with listen() as first, listen() as second:
            ports = (first.getsockname()[1], second.getsockname()[1])
            listeners = {"party0": first.fileno(), "party1": second.fileno(), "dealer": -1}
            for role in ROLES:
                config = {
                    "role": role,
                    "token": token.hex(),
                    "program": path,
                    "ports": ports,
                    "listener": listeners[role],
                    "kernels": self._kernels_name,
                }
                self._processes[role] = _spawn(config)
        digest = self.program.digest()
        for p in (0, 1):  # one by one, so that the first is closed if the second fails
            self._channels.append(connect(ports[p], "client", PARTY_NAMES[p], token, digest))

    def _stop(self, grace_s: float) -> None:
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

    def _fail(self, error: BaseException) -> None:
        """Stop everything and add what the first failed process said to `error`."""
        time.sleep(0.2)  # let the process that failed finish saying so
        said = {r: p.stderr for r, p in self._processes.items() if p.poll() not in (None, 0)}
        texts = {role: err.read().strip() for role, err in said.items() if err is not None}
        lines = [f"{role}: {text}" for role, text in texts.items() if text]  # a killed one is mute
        self._stop(grace_s=0.0)
        self._processes, self._channels = {}, []
        if lines and isinstance(error, ProtocolError):
            raise ProtocolError("; ".join(lines)) from None

    # -- the client's side of the protocol

    def _load_weights(self) -> None:
        for channel, shares in zip(self._channels, self._shares, strict=True):
            for name in self.program.weights():
                width = self.program.constants[name].type.width
                channel.send(self.kernels.pack(shares[name], width).data)
        ready = [channel.receive_json() for channel in self._channels]
        self.setup_bytes = (int(ready[0]["setup_bytes"]), int(ready[1]["setup_bytes"]))

    def _infer(self, inputs: Mapping[str, Array]) -> ClusterResult:
        began = time.perf_counter()
        for channel in self._channels:
            channel.send_json({"command": "infer"})
        offline = [channel.receive_json()["offline"] for channel in self._channels]
        ready = time.perf_counter()
        send_inputs(self.program, inputs, self._channels, self.kernels)
        try:
            outputs = receive_outputs(self.program, self._channels, self.kernels)
            done = time.perf_counter()
        finally:  # also behind a RangeError, so that the session goes on
            reports = [channel.receive_json() for channel in self._channels]
        counted = [{(s, i): n for s, i, n in report["online"]} for report in reports]
        return ClusterResult(
            outputs,
            reports[0]["route"],
            (sum(counted[0].values()), sum(counted[1].values())),
            int(reports[0]["rounds"]),
            done - ready,
            (_total(offline[0]), _total(offline[1])),
            ready - began,
            (counted[0], counted[1]),
        )


def _total(blocks: list[list[int]]) -> int:
    return sum(size for _, size in blocks)


def _spawn(config: dict[str, Any]) -> subprocess.Popen[str]:
    listener = config["listener"]
    process = subprocess.Popen(
        [sys.executable, "-m", "srcompile.runtime.node"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[listener] if listener >= 0 else [],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(config))
    process.stdin.close()
    return process
