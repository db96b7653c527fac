"""What opening a session costs, beside an inference in it.

    python -m tests.bench.sessions [--program FILE.srp --input INPUT.npz] [--link loopback,lan,wan]
                                   [--netlab SCRIPT] [--repeats 15] [--set NAME=VALUE]

Dealer and parties are processes of `srrun` with mutual TLS. Sessions are opened one after the
other, and each runs two inferences. Over an emulated link (`tests/bench/links.py`) party 0 is at
one end, and party 1, the dealer and the client are at the other. Without `--program` it is the
digits pool. Printed are medians, in milliseconds:

- `visit`: the client comes to party 0, says what for and is answered: TCP, TLS, one question;
- `opening`: until a session may run inferences;
- `first` and `next`: its inferences, offline part and all;
- `opening - visit` as a share of `next`: what a session costs beyond that one visit.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from srcompile.cli.common import read_inputs
from srcompile.runtime import Client, Program, Settings, deploy, load_program
from srcompile.runtime.certificates import make_certificates
from srcompile.runtime.roles import LISTENING
from srcompile.runtime.services.links import Links
from srcompile.runtime.services.settings import Endpoint
from tests.bench.links import ADDRESSES, LOOPBACK, NAMESPACES, add_link_options, link, run_at
from tests.bench.soak import digits
from tests.support.services import Processes, settings_in

Inputs = Mapping[str, Any]
FAR = "party0"  # the role at the other end of the link


@dataclass(frozen=True)
class Taken:
    """Milliseconds of each session: the visit before it, opening it, and its two inferences."""

    visit: float
    opening: float
    first: float
    next: float


class Placed(Processes):
    """Roles as processes, one of them at the far end of an emulated link."""

    def launch(self, *roles: str) -> None:
        """Start roles."""
        for role in roles:
            run_at(NAMESPACES[0 if role == FAR else 1], partial(self._launch, role))

    def _launch(self, role: str) -> None:
        super().launch(role)


def placed(folder: Path, settings: Settings) -> Settings:
    """Return settings with the addresses of an emulated link, and certificates for them."""
    hosts = {role: ADDRESSES[0 if role == FAR else 1] for role in LISTENING}
    make_certificates(folder / "certs", {role: [host] for role, host in hosts.items()})
    places: dict[str, Any] = {
        role: Endpoint(host, settings.endpoint(role).port) for role, host in hosts.items()
    }
    return replace(settings, certs=folder / "certs", **places)


def measure(program: Program, inputs: Inputs, processes: Processes, repeats: int) -> list[Taken]:
    """Return what sessions took, one after the other; the first one is not among them."""
    settings = processes.settings
    with processes:
        deploy(program, settings)
        public = program.without_weights()
        return [session(public, inputs, settings) for _ in range(repeats + 1)][1:]


def session(program: Program, inputs: Inputs, settings: Settings) -> Taken:
    """Return what a visit, and a session with two inferences, took."""
    marks = [time.perf_counter()]
    Links("client", settings).dial("party0", "status")[0].close()
    marks.append(time.perf_counter())
    with Client(program, settings) as client:
        marks.append(time.perf_counter())
        for _ in range(2):
            client.infer(inputs)
            marks.append(time.perf_counter())
    return Taken(*(1e3 * (b - a) for a, b in pairwise(marks)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_link_options(parser)
    parser.add_argument("--program", type=Path, help="with weights")
    parser.add_argument("--input", type=Path)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args()
    program, inputs = chosen(given.program, given.input)
    changed = dict(setting.split("=", 1) for setting in given.set)
    print("| link | visit | opening | first | next | opening - visit |")
    print("|---|---|---|---|---|---|")
    for name in given.link.split(","):
        with tempfile.TemporaryDirectory() as path, link(name, given.netlab):
            folder = Path(path)
            settings = settings_in(folder, log_level="warning", **changed)
            if name == LOOPBACK:
                taken = measure(program, inputs, Processes(folder, settings), given.repeats)
            else:
                processes = Placed(folder, placed(folder, settings))
                taken = run_at(
                    NAMESPACES[1],
                    partial(measure, program, inputs, processes, given.repeats),
                )
        print_row(name, taken)


def chosen(file: Path | None, input_file: Path | None) -> tuple[Program, Inputs]:
    """Return the program and an input of it."""
    if file is None:
        program, samples = digits()
        return program, samples[0][0]
    if input_file is None:
        raise SystemExit("--program needs --input")
    program = load_program(file)
    return program, read_inputs(str(input_file), program)


def print_row(name: str, taken: list[Taken]) -> None:
    """Print medians as a row of the table."""
    visit, opening, first, following = (
        statistics.median(getattr(one, part) for one in taken)
        for part in ("visit", "opening", "first", "next")
    )
    beyond = opening - visit
    cells = (f"{visit:.1f}", f"{opening:.1f}", f"{first:.1f}", f"{following:.1f}")
    print(f"| {name} | {' | '.join(cells)} | {beyond:.1f}, {beyond / following:.0%} of next |")


if __name__ == "__main__":
    main()
