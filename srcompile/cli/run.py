"""`srrun`: run compiled programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from srcompile.cli.calibrate import calibrate
from srcompile.cli.common import print_json, read_inputs, reports_errors
from srcompile.cli.progress import RunProgress
from srcompile.cli.services import COMMANDS
from srcompile.cli.signals import ends_on_signals
from srcompile.runtime.client import Array, split_batch
from srcompile.runtime.cluster import LocalCluster
from srcompile.runtime.errors import ProgramError, RangeError, RunError
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.program import Program, load
from srcompile.runtime.result import ClusterResult
from srcompile.runtime.shares import read_shares
from srcompile.runtime.stock import MEMORY

OUT_OF_RANGE = "no output: out of range"


@click.group()
@click.version_option(package_name="srcompile")
def main() -> None:
    """Run compiled programs (.srp)."""


main.add_command(calibrate)
for _command in COMMANDS:
    main.add_command(_command)


@main.command()
@click.argument("program_file", metavar="FILE.srp")
@click.option(
    "--input", "input_file", required=True, metavar="INPUT.npz", help="One array per input."
)
@click.option(
    "--weights", nargs=2, metavar="P0 P1", help="Both parties' weight shares, if left out."
)
@click.option(
    "--material",
    type=click.Choice(["ahead", "running"]),
    default="ahead",
    show_default=True,
    help="When the dealer makes material: before the input is there, or while the program runs.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=0),
    metavar="MIB",
    help=f"Memory of each party for prepared material, {MEMORY[1] >> 20} by default, or less, down "
    f"to {MEMORY[0] >> 20}, beside large weights; what is more goes to disk, encrypted.",
)
@click.option("--spool", metavar="FOLDER", help="Where to put it; a temporary folder otherwise.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@reports_errors
def local(
    program_file: str,
    input_file: str,
    weights: tuple[str, str] | None,
    material: str,
    memory: int | None,
    spool: str | None,
    as_json: bool,
) -> None:
    """Run dealer and both parties as processes of this machine, over loopback TCP."""
    program = load(program_file)
    if program.target == "plain":
        raise ProgramError(f"{program_file} is compiled for the target plain: it has no parties")
    batch = split_batch(program, read_inputs(input_file, program))
    shares = (
        (read_shares(weights[0], program, 0), read_shares(weights[1], program, 1))
        if weights
        else None
    )
    with (
        ends_on_signals(),
        RunProgress(Console(stderr=True), len(batch), quiet=as_json) as progress,
    ):
        cluster = LocalCluster(
            program,
            shares,
            memory=None if memory is None else memory << 20,
            running=material == "running",
            spool=spool,
            watch=progress.watch,
        )
        program, shares = program.without_weights(), None  # the cluster lets go of them once loaded
        with cluster:
            ran = run_all(cluster.infer, batch, progress)
        setup = {"bytes": list(cluster.setup_bytes), "seconds": cluster.setup_s}
    show_run(program, ran, setup, as_json)


@dataclass(frozen=True)
class Ran:
    """What came of a batch: results in the order of its rows, up to the `error` that ended it.

    A result is None where a value left its range.
    """

    rows: int
    results: tuple[ClusterResult | None, ...]
    error: RunError | None

    @property
    def done(self) -> list[ClusterResult]:
        """The results that there are."""
        return [r for r in self.results if r is not None]

    @property
    def out_of_range(self) -> list[int]:
        """The rows, from 0, in which a value left its range."""
        return [row for row, r in enumerate(self.results) if r is None]

    def check(self) -> None:
        """Raise RunError, naming the rows, if there is a row without a result."""
        if self.error is not None and not self.results:
            raise self.error
        if self.error is None and not self.done:
            raise RangeError(f"in each of {self.rows} inferences " if self.rows > 1 else "")
        found = []
        if self.out_of_range:
            shown = ", ".join(map(str, self.out_of_range[:10]))
            more = ", ..." if len(self.out_of_range) > 10 else ""
            found.append(str(RangeError(f"in row {shown}{more} of the input, counted from 0, ")))
        if self.error is not None:
            row = len(self.results)
            found.append(
                f"there are no outputs from row {row} of the input on, counted from 0: {self.error}"
            )
        if found:
            raise RunError("; ".join(found))


def run_all(
    infer: Callable[[Mapping[str, Array]], ClusterResult],
    batch: Sequence[Mapping[str, Array]],
    progress: RunProgress,
) -> Ran:
    """Run the inferences of a batch until one ends with an error."""
    results: list[ClusterResult | None] = []
    error = None
    for inputs in batch:
        try:
            results.append(infer(inputs))
        except RangeError:
            results.append(None)
        except RunError as ended:
            error = ended
            break
        progress.finished()
    return Ran(len(batch), tuple(results), error)


def show_run(program: Program, ran: Ran, setup: dict[str, Any], as_json: bool) -> None:
    """Print the results that there are, for people or as JSON.

    Raises RunError behind them if there is none for a row.
    """
    if ran.done:
        data = run_data(program, ran, setup)
        if as_json:
            print_json(data)
        else:
            print_run(Console(), data, ran)
    ran.check()


def run_data(program: Program, ran: Ran, setup: dict[str, Any]) -> dict[str, Any]:
    """Return what `srrun local --json` prints. With several inferences, sums over all of them.

    There is at least one result.
    """
    results = ran.done
    names = {s.route: s.name for s in program.segments if s.route is not None}
    routes = [names[r.route] for r in results if r.route is not None]
    outputs = {
        t.name: np.concatenate([r.outputs[t.name] for r in results]) if len(results) > 1
        else results[0].outputs[t.name]
        for t in program.outputs
    }  # fmt: skip
    return {
        "outputs": {name: value.tolist() for name, value in outputs.items()},
        "route": None if not routes else routes[0] if ran.rows == 1 else routes,
        "inferences": len(ran.results),
        "out_of_range": ran.out_of_range,
        "error": None if ran.error is None else str(ran.error),
        "online": {
            "bytes": [sum(r.online_bytes[p] for r in results) for p in (0, 1)],
            "rounds": sum(r.rounds for r in results),
            "seconds": sum(r.online_s for r in results),
        },
        "offline": {
            "bytes": [sum(r.offline_bytes[p] for r in results) for p in (0, 1)],
            "seconds": sum(r.offline_s for r in results),
            "dealer_seconds": sum(r.dealer_s for r in results),
        },
        "setup": setup,
        "memory": {
            "parties": [results[-1].memory[role] for role in ("party0", "party1")],
            "dealer": results[-1].memory["dealer"],
            "client": results[-1].memory["client"],
        },
        "kernels": load_kernels().name,
    }


def _shown(values: Array) -> str:
    return np.array2string(values, precision=4, threshold=20, max_line_width=68)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def print_run(console: Console, data: dict[str, Any], ran: Ran) -> None:
    """Print what `srrun local` and `srrun client infer` found, for people."""
    count = ran.rows
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    if data["route"] is not None:
        routes = [data["route"]] if count == 1 else data["route"]
        shares = (f"{name} {routes.count(name)}" for name in dict.fromkeys(routes))
        table.add_row("route", routes[0] if count == 1 else ", ".join(shares))
    for name in data["outputs"]:
        shown = [OUT_OF_RANGE if r is None else _shown(r.outputs[name]) for r in ran.results[:5]]
        table.add_row(name, "\n".join(shown) + ("\n..." if len(ran.results) > 5 else ""))
    online, offline = data["online"], data["offline"]
    each = "" if count == 1 else f" ({len(ran.done)} inferences)"
    table.add_row(
        "online",
        f"{online['bytes'][0]:,} B from party 0, {online['bytes'][1]:,} B from party 1, "
        f"{online['rounds']} rounds, {online['seconds'] * 1e3:.1f} ms{each}",
    )
    table.add_row(
        "offline",
        f"{offline['bytes'][0]:,} B to party 0, {offline['bytes'][1]:,} B to party 1, "
        f"{offline['seconds'] * 1e3:.1f} ms, of which the dealer worked "
        f"{offline['dealer_seconds'] * 1e3:.1f} ms{each}",
    )
    memory = data["memory"]
    table.add_row(
        "memory",
        f"at most {_mb(memory['parties'][0])} in party 0, {_mb(memory['parties'][1])} in party 1, "
        f"{_mb(memory['dealer'])} in the dealer, {_mb(memory['client'])} in the client",
    )
    table.add_row("kernels", data["kernels"])
    console.print(table)
