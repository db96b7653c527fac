"""Projected online time against measured: how well a machine's profile tells what a run takes.

    python tests/bench/projection.py --data SST-2/train.tsv.gz --netlab SCRIPT
        [--profile FILE] [--link lan,wan,mobile] [--parts random,digits,minilm,bert-base]
        [--random 12] [--repeats 5] [--turns 3] [--folder DIR] [--limit SECONDS]
        [--prepare] [--json]

Parts: `random` is that many architectures drawn by seed (tests/bench/random_models.py), `digits`
the models of the digits example and their pool, `minilm` MiniLM for 32, 64 and 128 tokens, and
`bert-base` BERT-base for 128. Each is compiled for the link's network, projected with the profile
(default: the stored one, see `srrun calibrate`), and run by processes over the link. Compiling
takes longer than measuring: `--prepare` only compiles, into the folder, and a later run with the
same folder takes the programs from there. `--limit` begins no run after so many seconds.

Emulated links are not quite what they are called. So it is measured what they do, without any of
the product, and times are projected for that; `--nominal` projects for what they are called.

A machine that is shared is slower at one minute than at the next. With `--turns N` all is done N
times: the machine is calibrated as by `srrun calibrate --shared`, then each program is measured.
Figures are medians over the turns. Whatever else runs on the machine disturbs: the column `others`
is the part of its CPU time that other processes took meanwhile.

`--steps` shows where the difference is: party 0's CPU time for each instruction, timed one by one,
against the projected one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(
        Path(__file__).parents[2]
    )  # not this folder: a file here is named as a library

from srcompile.api import compile
from srcompile.passes.cost import Network, estimate_cost
from srcompile.passes.machine import Machine, machines
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.measure import measure
from srcompile.runtime.program import load, save
from tests.bench.links import LOOPBACK, Link, add_link_options, link, probe
from tests.bench.runs import LOOPBACK_NETWORK, check, network_of, projected_s, run
from tests.bench.steps import print_steps

PARTS = ("random", "digits", "minilm", "bert-base")
LENGTHS = {"minilm": (32, 64, 128), "bert-base": (128,)}
MEMORY = 4 << 30
"""Bytes that parties have for material: what they read back from the disk is not projected."""
SHORT_S, SESSIONS = 0.1, 3
"""Inferences that take less are measured in so many sessions: where the system puts the processes
makes a fifth of their time."""
DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@dataclass(frozen=True)
class Case:
    """A program to be measured: `make` compiles it for a network and gives an input for it."""

    part: str
    name: str
    make: Callable[[str], tuple[Any, dict[str, Any]]]


@dataclass(frozen=True)
class Compared:
    """One program on one link: times in seconds, the ratio of projected to measured time.

    others: which part of the machine's CPU time other processes took.
    """

    name: str
    link: str
    rounds: int
    megabytes: float
    compute_s: float
    projected_s: float
    measured_s: float
    least_s: float
    most_s: float
    ratio: float
    others: float


def cases(parts: list[str], count: int, data: Path | None, calibration: int) -> Iterator[Case]:
    """Yield the programs of the parts."""
    if "random" in parts:
        for seed in range(count):
            yield Case("random", f"random {seed}", partial(_random, seed))
    if "digits" in parts:
        for name in ("mlp", "small_cnn", "large_cnn", "pool"):
            yield Case("digits", name, partial(_digits, name))
    for part, lengths in LENGTHS.items():
        if part in parts:
            if data is None:
                raise SystemExit(f"the part {part} needs texts: --data FILE.tsv")
            for length in lengths:
                make = partial(_transformer, part, length, data, calibration)
                yield Case(part, f"{part} {length}", make)


def _random(seed: int, network: str) -> tuple[Any, dict[str, Any]]:
    from tests.bench.random_models import draw

    drawn = draw(seed)
    compiled = compile(
        drawn.model, drawn.samples[0], calibration_inputs=list(drawn.samples), network=network
    )
    (name,) = (t.given for t in compiled.program.inputs)
    return compiled.program, {name: drawn.samples[0][0].numpy()}


def _digits(name: str, network: str) -> tuple[Any, dict[str, Any]]:
    if str(DIGITS) not in sys.path:
        sys.path.append(str(DIGITS))
    from digits_data import test

    from srcompile.frontend.model_file import load_model_file

    digits = import_module("model")
    loaded = load_model_file(str(DIGITS / "model.py"))
    module = digits.model() if name == "pool" else getattr(digits, name)()
    samples = loaded.calibration_inputs
    compiled = compile(module, loaded.example_inputs, calibration_inputs=samples, network=network)
    return compiled.program, {"image": test()[0].numpy()[:1]}


def _transformer(
    part: str, length: int, data: Path, calibration: int, network: str
) -> tuple[Any, dict[str, Any]]:
    from tests.bench.subjects import calibration_texts, subject

    found, texts = subject(part, length), calibration_texts(data, calibration)
    return found.compile(texts, network).program, found.arrays(texts[0])


def prepared(case: Case, wanted: str, folder: Path) -> tuple[Any, dict[str, Any]]:
    """Return a compiled program and an input for it, from the folder or made and kept there."""
    path = folder / f"{case.name}.{wanted}.srp".replace(" ", "-").replace(":", "-")
    inputs = path.with_suffix(".npz")
    if not inputs.exists():
        program, given = case.make(LOOPBACK_NETWORK if wanted == LOOPBACK else wanted)
        save(program, path)
        np.savez(inputs, **given)
    with np.load(inputs) as archive:
        return load(path), dict(archive)


def compare(
    case: Case,
    program: Any,
    inputs: dict[str, Any],
    at: Link,
    network: Network,
    machine: Machine,
    repeats: int,
) -> Compared:
    """Measure a program over a link, and project it."""
    warm_up, taken = 2, list[float]()
    cost = estimate_cost(program, network, (machine, machine))
    busy = Busy()
    for _ in range(SESSIONS):
        measured = run(program, [inputs] * (repeats + warm_up), at, warm_up, MEMORY, apart=True)
        total = check(cost, measured)
        taken += measured.online_s
        if min(taken) > SHORT_S:
            break
    others = busy.others()
    projected, median_s = projected_s(cost, total), statistics.median(taken)
    return Compared(
        case.name,
        at.name,
        total.rounds,
        max(total.online_bytes) / 1e6,
        total.compute_s,
        projected,
        median_s,
        min(taken),
        max(taken),
        projected / median_s,
        others,
    )


def over_turns(same: list[Compared]) -> Compared:
    """Return the medians of one program's figures over the turns; of the least, the least."""

    def median(of: Callable[[Compared], float]) -> float:
        return statistics.median(map(of, same))

    return replace(
        same[0],
        compute_s=median(lambda c: c.compute_s),
        projected_s=median(lambda c: c.projected_s),
        measured_s=median(lambda c: c.measured_s),
        least_s=min(c.least_s for c in same),
        most_s=max(c.most_s for c in same),
        ratio=median(lambda c: c.ratio),
        others=median(lambda c: c.others),
    )


class Busy:
    """Counts what other processes take of the machine's CPU time; the kernel's network is not in
    it, nor is what a hypervisor takes."""

    def __init__(self) -> None:
        self._start = self._now()

    def others(self) -> float:
        """Return the part of the CPU time of all cores since it was made."""
        total, busy, own = (now - then for now, then in zip(self._now(), self._start, strict=True))
        return max(busy - own, 0.0) / max(total, 1e-9)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        line = Path("/proc/stat").read_text().split("\n", 1)[0]
        user, nice, system, idle, waiting, irq, softirq, *_ = map(int, line.split()[1:])
        total = user + nice + system + idle + waiting + irq + softirq
        tick = os.sysconf("SC_CLK_TCK")
        return total / tick, (user + nice + system) / tick, sum(os.times()[:4])


def as_measured(called: Network, at: Link) -> Network:
    """Return a network as a link really is, and say so; it is no faster than it is called."""
    rate, rtt = probe(at)
    found = Network(called.name, min(rate, called.rate_mbit), rtt)
    print(f"{called.name}: {rate:.0f} Mbit/s each way, RTT {rtt:.2f} ms", file=sys.stderr)
    return found


HEAD = (
    f"{'program':<16} {'link':<9} {'rounds':>6} {'MB':>8} {'compute':>9} {'projected':>9} "
    f"{'measured':>9} {'least':>9} {'most':>9} {'ratio':>6} {'others':>6}   ms"
)


def row(c: Compared) -> str:
    """Return a line of the table."""
    times = (c.compute_s, c.projected_s, c.measured_s, c.least_s, c.most_s)
    shown = " ".join(f"{1e3 * t:9.2f}" for t in times)
    sizes = f"{c.name:<16} {c.link:<9} {c.rounds:6} {c.megabytes:8.3f}"
    return f"{sizes} {shown} {c.ratio:6.2f} {c.others:6.0%}"


def summary(compared: list[Compared]) -> dict[str, float]:
    """Return the median and the worst error, and the part of programs within 15 %."""
    errors = [abs(c.ratio - 1) for c in compared]
    return {
        "median_error": statistics.median(errors),
        "worst_error": max(errors),
        "within_15_percent": sum(e <= 0.15 for e in errors) / len(errors),
    }


def main() -> int:
    """Print a line for each program and link, and how far off projections are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--profile", help="a file of srrun calibrate; default: the stored one")
    parser.add_argument("--parts", default=",".join(PARTS), help="a list with commas")
    parser.add_argument("--random", type=int, default=12, help="random architectures")
    parser.add_argument("--data", type=Path, help="a TSV of texts, to calibrate transformers with")
    parser.add_argument("--calibration", type=int, default=16, help="texts for ranges")
    parser.add_argument("--repeats", type=int, default=5, help="inferences that are counted")
    parser.add_argument("--turns", type=int, default=0, help="calibrate and measure so many times")
    parser.add_argument("--folder", type=Path, help="keep compiled programs here")
    parser.add_argument("--prepare", action="store_true", help="only compile, into the folder")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds, then no new run begins")
    parser.add_argument(
        "--nominal", action="store_true", help="project for links as they are called"
    )
    parser.add_argument("--steps", action="store_true", help="time each instruction instead")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_link_options(parser, "lan,wan,mobile")
    options = parser.parse_args()
    unknown = set(options.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}: choose {', '.join(PARTS)}")
    machine, _ = machines([options.profile] if options.profile else ())
    wanted = list(
        cases(options.parts.split(","), options.random, options.data, options.calibration)
    )
    start = time.monotonic()
    compared: dict[tuple[str, str], list[Compared]] = {}
    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        names = options.link.split(",")
        for name, case in ((n, c) for n in names for c in wanted):
            program, inputs = prepared(case, name, folder)
            if options.steps and not options.prepare:
                print(f"\n{case.name}, compiled for {name}")
                print_steps(program, inputs, machine)
        if options.prepare or options.steps:
            return 0
        for turn in range(max(options.turns, 1)):
            if options.turns:
                print(f"turn {turn + 1} of {options.turns}", file=sys.stderr)
                machine = Machine(measure(load_kernels(), beside=True))
            for name in names:
                with link(name, options.netlab) as at:
                    network = network_of(name, machine)
                    if name != LOOPBACK and not options.nominal:
                        network = as_measured(network, at)
                    for case in wanted:
                        if time.monotonic() - start > options.limit:
                            print(f"{case.name} on {name} left out: no time left", file=sys.stderr)
                            continue
                        program, inputs = prepared(case, name, folder)
                        found = compare(
                            case, program, inputs, at, network, machine, options.repeats
                        )
                        print(row(found), file=sys.stderr, flush=True)
                        compared.setdefault((name, case.name), []).append(found)
    medians = [over_turns(same) for same in compared.values()]
    if options.json:
        print(json.dumps({"programs": [asdict(c) for c in medians], **summary(medians)}, indent=1))
    elif medians:
        errors = summary(medians)
        told = f"measured in {options.turns} turns" if options.turns else machine.name
        print(f"profile: {told}\n\n{HEAD}", *map(row, medians), sep="\n")
        print(
            f"\nerror: median {errors['median_error']:.1%}, worst {errors['worst_error']:.1%}; "
            f"{errors['within_15_percent']:.0%} within 15 %"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
