"""The digits pool under load while processes are killed: answers, errors, reuse, memory.

    python tests/bench/soak.py [--inferences 1000] [--clients 8] [--kills 12] [--every 20]
                               [--seed N] [--high 32]

Client processes run sessions of ten inferences on loopback, over TLS. A random one of dealer and
parties is killed with SIGKILL every `--every` seconds and started again a second later, `--kills`
times, and until there are `--inferences` right answers. Then four times as many inferences run
without kills, to see whether memory grows. Each answer is compared with the plaintext model's: the
same decision, and outputs that are close. At the end marks, logs and what clients saw are compared.
"""

from __future__ import annotations

import argparse
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from srcompile.api import compile
from srcompile.frontend.model_file import load_model_file
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.program import Program
from srcompile.runtime.roles import LISTENING
from tests.support.kills import Clients, Noted, check_no_reuse, clustered
from tests.support.services import Processes, settings_in

FOLDER = Path(__file__).parents[2] / "examples" / "digits"
AWAY_S = 1.0
QUIET = 4  # times as many inferences without kills
SETTLED = 0.5  # the part of the quiet phase before memory counts
GROWTH = 0.05


def main() -> None:
    """Soak, check, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inferences", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kills", type=int, default=12, help="at least so many")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between kills")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--high", type=int, default=32, help="blocks in stock; none if 0")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    program, samples = digits()
    with tempfile.TemporaryDirectory(prefix="srcompile-soak-") as name:
        folder = Path(name)
        settings = settings_in(
            folder,
            log_level="debug",
            sessions=given.clients + 4,
            stock_low=max(1, given.high // 2),
            stock_high=given.high,
        )
        with clustered(folder, settings, program, samples, given.clients, 10) as found:
            processes, clients = found
            rng = random.Random(given.seed)
            soak(processes, clients, rng, given.inferences, given.kills, given.every)
            memory = quiet(processes, clients, QUIET * given.inferences)
        noted = clients.read()
        print(check_no_reuse(settings, processes, noted))
        logs = clients.problems() + "".join(map(processes.log, LISTENING))
    assert noted.wrong == 0
    assert not [error for error in noted.errors if error.startswith("not clear")]
    assert "Traceback" not in logs
    print_memory(memory)
    print("every answer was right or a clear error, no block was used twice, memory is flat")


def digits() -> tuple[Program, list[tuple[dict[str, Any], Any]]]:
    """Return the digits pool, compiled, and images with what the fixed-point reference gives."""
    loaded = load_model_file(str(FOLDER / "model.py"))
    sys.path.insert(0, str(FOLDER))
    from digits_data import test

    compiled = compile(
        loaded.model, loaded.example_inputs, calibration_inputs=loaded.calibration_inputs
    )
    samples = []
    for image in test()[0].numpy()[:60]:
        inputs = {"image": image[None]}
        samples.append((inputs, evaluate(compiled.stages.fixed, inputs, registry())[0]["output"]))
    return compiled.program, samples


def soak(
    processes: Processes,
    clients: Clients,
    rng: random.Random,
    inferences: int,
    kills: int,
    every_s: float,
) -> None:
    """Kill a role every so many seconds, until there are enough kills and right answers."""
    began, killed = time.monotonic(), list[str]()
    while (noted := clients.read()).right < inferences or len(killed) < kills:
        victim = rng.choice(LISTENING)
        wait_until(began + (len(killed) + 1) * every_s)
        processes.kill(victim)
        time.sleep(AWAY_S)
        processes.start(victim)
        killed.append(victim)
    took = time.monotonic() - began
    print(f"{took:.0f} s with {len(killed)} kills: {', '.join(killed)}")
    print_noted(noted, took)


def quiet(processes: Processes, clients: Clients, inferences: int) -> dict[str, list[int]]:
    """Let the cluster run without kills; return the resident bytes of each process meanwhile."""
    before, began = clients.read().right, time.monotonic()
    errors = clients.noted.errors.copy()
    pids = {role: process.pid for role, process in processes.processes.items()}
    memory: dict[str, list[int]] = defaultdict(list)
    while (done := clients.read().right - before) < inferences:
        if done >= SETTLED * inferences:
            for role, pid in pids.items():
                memory[role].append(resident(pid))
        time.sleep(0.5)
    took = time.monotonic() - began
    print(
        f"{took:.0f} s without kills: {done} right, {done / took:.1f} inferences/s, "
        f"{(clients.noted.errors - errors).total()} errors"
    )
    for error, count in (clients.noted.errors - errors).items():
        print(f"  {count:4} {error}")
    return memory


def wait_until(moment: float) -> None:
    """Wait until a moment of the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))


def resident(pid: int) -> int:
    """Return the resident bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    return 0


def print_noted(noted: Noted, took: float) -> None:
    """Print what clients have noted."""
    print(
        f"answers: {noted.right} right, {noted.wrong} wrong, {noted.right / took:.1f} a second, "
        f"median {statistics.median(noted.seconds):.2f} s, "
        f"slowest {max(noted.seconds):.2f} s"
    )
    print(f"errors: {noted.errors.total()}")
    for error, count in noted.errors.most_common():
        print(f"  {count:4} {error}")


def print_memory(memory: dict[str, list[int]]) -> None:
    """Print the memory of each process, and check that it does not grow.

    The mean of the last fifth of the samples is compared with that of the first fifth.
    """
    for role, sizes in memory.items():
        part = max(1, len(sizes) // 5)
        first, last = statistics.mean(sizes[:part]), statistics.mean(sizes[-part:])
        print(f"{role}: {first / 2**20:.1f} MiB first, {last / 2**20:.1f} MiB last")
        assert last <= (1 + GROWTH) * first, f"the memory of {role} grows"


if __name__ == "__main__":
    main()
