"""Clusters of processes with clients that are processes too, for tests that kill any of them."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srcompile.runtime.program import Program, save
from srcompile.runtime.roles import LISTENING
from srcompile.runtime.services.client import deploy
from srcompile.runtime.services.settings import Settings
from srcompile.runtime.services.state import _read_limit, _read_ranges
from tests.support.asking import write_samples
from tests.support.services import ROOT, Processes, config_file

CLEAR = re.compile(
    r"(party [01]|the dealer)( at \S+)?(: | ended the session: | cannot be reached at | closed "
    r"| did not | in round |'s )|the connection to (party [01]|the dealer) broke"
)
"""What an error for a client begins with: who is gone or says what."""


@dataclass
class Noted:
    """What all clients have noted."""

    blocks: list[tuple[int, int]] = field(default_factory=list)  # (party, block)
    masks: list[tuple[int, str]] = field(default_factory=list)  # (party, hash)
    right: int = 0
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


class Clients:
    """Client processes, each with notes of its own."""

    def __init__(self, folder: Path, config: Path, count: int, inferences: int) -> None:
        self._folder, self._config, self._inferences = folder, config, inferences
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * count
        self._read = [0] * count
        self.noted = Noted()

    def start(self, number: int) -> None:
        """Start a client."""
        command: list[str | Path] = [
            *(sys.executable, "-m", "tests.support.asking"),
            *(self._folder / "program.srp", self._folder / "samples.npz", self._config),
            *(self._file(number), str(self._inferences)),
        ]
        with open(self._folder / f"client{number}.log", "a") as log:
            self._processes[number] = subprocess.Popen(
                command,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            )

    def kill(self, number: int) -> None:
        """Kill a client with SIGKILL."""
        process = self._processes[number]
        if process is not None:
            process.kill()
            process.wait()

    def pid(self, number: int) -> int:
        """Return the process id of a client."""
        process = self._processes[number]
        assert process is not None
        return process.pid

    def stop(self) -> None:
        """Kill all clients."""
        for number in range(len(self._processes)):
            self.kill(number)

    def read(self) -> Noted:
        """Return all that was noted until now."""
        for number in range(len(self._read)):
            file = self._file(number)
            if not file.exists():
                continue
            with file.open() as stream:
                stream.seek(self._read[number])
                while (line := stream.readline()).endswith("\n"):
                    self._read[number] += len(line)
                    self._note(json.loads(line))
        return self.noted

    def problems(self) -> str:
        """Return what clients have written to standard error: nothing, if all is well."""
        return "".join(file.read_text() for file in sorted(self._folder.glob("client*.log")))

    def _file(self, number: int) -> Path:
        return self._folder / f"client{number}.notes"

    def _note(self, line: dict[str, Any]) -> None:
        noted = self.noted
        if "block" in line:
            noted.blocks.append((line["block"][0], line["block"][1]))
        elif "mask" in line:
            noted.masks.append((line["mask"][0], line["mask"][1]))
        elif "right" in line:
            noted.right += line["right"]
            noted.wrong += not line["right"]
            noted.seconds.append(line["seconds"])
        else:
            noted.errors[re.sub(r"[0-9a-f]{8,}|%\S+|\d+", "N", line["error"])] += 1
            if not CLEAR.search(line["error"]):
                noted.errors[f"not clear: {line['error']}"] += 1


@contextmanager
def clustered(
    folder: Path,
    settings: Settings,
    program: Program,
    samples: list[tuple[dict[str, Any], Any]],
    clients: int,
    inferences: int,
) -> Iterator[tuple[Processes, Clients]]:
    """Run a cluster with a program deployed, and clients, all as processes."""
    save(program, folder / "program.srp", weights=False)
    write_samples(folder / "samples.npz", samples)
    with Processes(folder, settings) as processes:
        deploy(program, settings)
        asking = Clients(folder, config_file(settings, folder, "client"), clients, inferences)
        try:
            for number in range(clients):
                asking.start(number)
            yield processes, asking
        finally:
            asking.stop()


def kill_at_random(
    processes: Processes,
    clients: Clients,
    victims: Sequence[str | int],
    rng: random.Random,
    kills: int,
    longest_s: float,
) -> Counter[str]:
    """Kill one to three victims, roles or clients, at random moments, and start them again.

    They are not waited for, so that the next kill may come while they start. Returns how often each
    was killed.
    """
    killed = Counter[str]()
    for _ in range(kills):
        time.sleep(rng.uniform(0.0, longest_s))
        chosen = rng.sample(victims, min(len(victims), rng.choice([1, 1, 1, 2, 3])))
        killed.update(v if isinstance(v, str) else f"client {v}" for v in chosen)
        for victim in chosen:
            if isinstance(victim, str):
                processes.kill(victim)
            else:
                clients.kill(victim)
        for victim in chosen:
            if isinstance(victim, str):
                processes.launch(victim)
            else:
                clients.start(victim)
    for role in LISTENING:
        processes.wait_for(role)
    return killed


def wait_for_results(clients: Clients, count: int) -> None:
    """Wait until clients have so many right results more."""
    before, end = clients.read().right, time.monotonic() + 120
    while (noted := clients.read()).right < before + count:
        assert time.monotonic() < end, noted.errors
        time.sleep(0.05)


def check_no_reuse(settings: Settings, processes: Processes, noted: Noted) -> str:
    """Check marks, logs and notes after the end: no block was used twice. Returns a summary.

    Each party's log has a line behind each mark, at the level debug.
    """
    # each party offered each block once, no share of a mask came twice, and both offered the same
    assert max(Counter(noted.blocks).values(), default=0) == 1
    assert max(Counter(noted.masks).values(), default=0) == 1
    (dealt,) = (settings.state / "dealer").glob("deployments/*/numbers")
    counts = []
    for party in (0, 1):
        (file,) = (settings.state / f"party{party}").glob("deployments/*/used")
        marked = Counter(b for first, last in _read_ranges(file) for b in range(first, last + 1))
        log = processes.log(f"party{party}")
        said = [int(block) for block in re.findall(r"marks a block .*block=(\d+)$", log, re.M)]
        # all that was offered is marked, each mark was made once and is there, and was dealt
        assert max(marked.values()) == 1
        assert {block for p, block in noted.blocks if p == party} <= set(marked)
        assert max(Counter(said).values()) == 1
        lost = sorted(set(said) - set(marked))
        assert not lost, (lost, re.findall(rf".*marks a block .*block={lost[0]}$", log, re.M))
        assert max(marked) < _read_limit(dealt)
        # and none of them is in stock, in a folder that a party has just started with
        left = (settings.state / f"party{party}").glob("deployments/*/stock/*.*")
        kept = {int(path.name.split(".")[0]) for path in left if path.suffix != ".part"}
        counts.append(f"party {party}: {len(marked)} blocks marked, {len(kept)} in stock")
        assert not kept & set(marked)
    return "; ".join(counts)
