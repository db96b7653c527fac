"""A client as a process, for tests that kill it: it runs sessions without end and notes what it
sees, one JSON object a line, each written before it goes on.

    python -m tests.support.asking PROGRAM.srp SAMPLES.npz CLUSTER.toml NOTES INFERENCES

SAMPLES.npz has, for each sample k, inputs `k/NAME` and the right output `k` of the one output that
the program has. NOTES gets

    {"block": [party, number]}          what a party said it uses
    {"mask": [party, hash]}             the first message that depends on it: a share of a mask
    {"right": bool, "seconds": s}       the result, against SAMPLES.npz
    {"error": text}                     why a session ended
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from srcompile.runtime.errors import RunError
from srcompile.runtime.program import Program, load
from srcompile.runtime.services.client import Client
from srcompile.runtime.services.settings import read_settings

PAUSE_S = 0.2  # after an error


class Notes:
    """The file of notes; a line is written at once or not at all."""

    def __init__(self, file: Path) -> None:
        self._descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, **fields: object) -> None:
        """Write a line."""
        os.write(self._descriptor, json.dumps(fields).encode() + b"\n")


class Watched:
    """A channel of the client that notes the block and the mask of each inference."""

    def __init__(self, inner: Any, party: int, notes: Notes) -> None:
        self._inner, self._party, self._notes = inner, party, notes
        self._mask_is_next = False

    def receive_json(self, most: int) -> dict[str, Any]:
        """Return the next control message, and note a block."""
        fields: dict[str, Any] = self._inner.receive_json(most)
        if "block" in fields:
            self._notes.add(block=[self._party, fields["block"]])
            self._mask_is_next = True
        return fields

    def receive(self, size: int) -> bytes:
        """Return the next message, and note the first one behind a block."""
        data = bytes(self._inner.receive(size))
        if self._mask_is_next:
            self._notes.add(mask=[self._party, hashlib.sha256(data).hexdigest()])
            self._mask_is_next = False
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def write_samples(file: Path, samples: list[tuple[dict[str, Any], Any]]) -> None:
    """Write inputs and their right outputs for a client to read."""
    arrays = {str(k): output for k, (_, output) in enumerate(samples)}
    for k, (inputs, _) in enumerate(samples):
        arrays |= {f"{k}/{name}": value for name, value in inputs.items()}
    np.savez(file, **arrays)


def read_samples(file: Path) -> list[tuple[dict[str, Any], Any]]:
    """Return what `write_samples` has written."""
    with np.load(file) as arrays:
        found: list[tuple[dict[str, Any], Any]] = []
        while str(len(found)) in arrays:
            begin = f"{len(found)}/"
            inputs = {n.removeprefix(begin): arrays[n] for n in arrays if n.startswith(begin)}
            found.append((inputs, arrays[str(len(found))]))
        return found


def is_right(output: Any, wanted: Any) -> bool:
    """Whether an output is the right one: the same decision, and values that are close."""
    same = int(np.argmax(output)) == int(np.argmax(wanted))
    return same and bool(np.allclose(output, wanted, atol=0.05))


def session(program: Program, settings: Any, samples: list[Any], notes: Notes, count: int) -> None:
    """Run one session of `count` inferences."""
    with Client(program, settings) as client:
        client._channels[:] = [
            Watched(channel, party, notes)  # type: ignore[misc]
            for party, channel in enumerate(client._channels)
        ]
        for _ in range(count):
            inputs, wanted = random.choice(samples)
            began = time.perf_counter()
            (output,) = client.infer(inputs).outputs.values()
            seconds = time.perf_counter() - began
            notes.add(right=is_right(output, wanted), seconds=seconds)


def main() -> None:
    """Run sessions until somebody kills this process."""
    program, samples = load(Path(sys.argv[1])), read_samples(Path(sys.argv[2]))
    settings, notes = read_settings(Path(sys.argv[3]), {}, {}), Notes(Path(sys.argv[4]))
    while True:
        try:
            session(program, settings, samples, notes, int(sys.argv[5]))
        except RunError as error:
            notes.add(error=str(error))
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
