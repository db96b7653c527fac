"""Fuzz targets one after the other: `python -m tests.fuzz [TARGET...] --seconds 600`.

Prints how many cases each target ran for how long, and each finding with the command that shows it
again. Exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.fuzz import asked, batched, compared, files, programs, secured, stocked, trained, wire
from tests.fuzz.harness import run_case, serve, watch

MODULES = (files, programs, wire, stocked, batched, asked, compared, trained, secured)
TARGETS = {target.name: target for module in MODULES for target in module.TARGETS}


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="for each target, of CPU time unless it waits"
    )
    parser.add_argument("--seed", type=int, help="which cases; another each time if left out")
    parser.add_argument("--case", type=int, help="run this case alone, and let its error through")
    parser.add_argument(
        "--no-limit", action="store_true", help="no limit of memory, for sanitizers"
    )
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    unknown = set(given.targets) - set(TARGETS)
    if unknown:
        parser.error(f"there is no target {unknown.pop()}; the targets are {', '.join(TARGETS)}")
    seed = given.seed if given.seed is not None else time.time_ns() % 1_000_000
    chosen = given.targets or list(TARGETS)
    if given.serve is not None:
        target, limited = TARGETS[chosen[0]], not given.no_limit
        serve(target, seed, given.first, given.seconds, given.serve, limited)
        return 0
    if given.case is not None:
        return _again(chosen[0], seed, given.case)
    failed = False
    for name in chosen:
        summary = watch(name, seed, given.seconds, not given.no_limit)
        kind = "s" if TARGETS[name].waits else "s of CPU time"
        print(f"{name}: {summary.cases} cases in {summary.seconds:.0f} {kind}, seed {seed}, "
              f"{len(summary.findings)} findings", flush=True)  # fmt: skip
        for finding in summary.findings:
            print(finding, flush=True)
        failed |= bool(summary.findings)
    return int(failed)


def _again(name: str, seed: int, case: int) -> int:
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, ExitStack() as stack:
        parse = target.open(Path(folder), stack)
        finding = run_case(target, parse, seed, case)
        if finding is None:
            print(f"{name}, case {case}: nothing is wrong")
            return 0
        parse(random.Random(f"{name} {seed} {case}"))
    return 1


if __name__ == "__main__":
    sys.exit(main())
