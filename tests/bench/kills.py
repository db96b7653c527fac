"""Kills processes at hundreds of random moments, and checks that no block was used twice.

    python tests/bench/kills.py [--kills 300] [--seed N] [--high 4] [--clients 2] [--longest 3]

The same as `tests/runtime/test_killed.py`, for longer: dealer, parties and clients are killed with
SIGKILL, one to three at a time, at moments drawn from the seed, also while they start.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.roles import LISTENING
from tests.support.kills import (
    check_no_reuse,
    clustered,
    kill_at_random,
    wait_for_results,
)
from tests.support.services import POOL, PROGRAM, settings_in


def main() -> None:
    """Kill, check, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--high", type=int, default=4, help="blocks in stock; none if 0")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--longest", type=float, default=3.0, help="seconds between kills")
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.kills} times", flush=True)
    samples = [(s, evaluate(POOL.module, s, registry())[0]["y"]) for s in POOL.samples]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="srcompile-kills-") as name:
        folder = Path(name)
        settings = settings_in(
            folder, timeout=5.0, log_level="debug", stock_low=2, stock_high=given.high
        )
        with clustered(folder, settings, PROGRAM, samples, given.clients, 20) as found:
            processes, clients = found
            victims = [*LISTENING, *range(given.clients)]
            rng = random.Random(given.seed)
            killed = kill_at_random(processes, clients, victims, rng, given.kills, given.longest)
            wait_for_results(clients, 20)
        noted = clients.read()
        print(f"{time.monotonic() - began:.0f} s; killed: {dict(sorted(killed.items()))}")
        print(f"results: {noted.right} right, {noted.wrong} wrong; {noted.errors.total()} errors")
        for error, count in noted.errors.most_common():
            print(f"  {count:4} {error}")
        print(check_no_reuse(settings, processes, noted))
        logs = clients.problems() + "".join(map(processes.log, LISTENING))
    assert noted.wrong == 0
    assert not [error for error in noted.errors if error.startswith("not clear")]
    assert "Traceback" not in logs
    print("no block was used twice")


if __name__ == "__main__":
    main()
