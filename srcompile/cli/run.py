"""`srrun`: run compiled programs."""

from __future__ import annotations

from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from srcompile.cli.common import print_json, read_inputs, reports_errors
from srcompile.runtime.client import Array, split_batch
from srcompile.runtime.cluster import ClusterResult, LocalCluster
from srcompile.runtime.errors import ProgramError, RangeError
from srcompile.runtime.kernels import load as load_kernels
from srcompile.runtime.program import Program, load
from srcompile.runtime.shares import read_shares


@click.group()
@click.version_option(package_name="srcompile")
def main() -> None:
    """Run compiled programs (.srp)."""


@main.command()
@click.argument("program_file", metavar="FILE.srp")
@click.option(
    "--input", "input_file", required=True, metavar="INPUT.npz", help="One array per input."
)
@click.option(
    "--weights", nargs=2, metavar="P0 P1", help="Both parties' weight shares, if left out."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@reports_errors
def local(
    program_file: str, input_file: str, weights: tuple[str, str] | None, as_json: bool
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
    console = Console(stderr=True)
    results: list[ClusterResult | None] = []
    with (
        LocalCluster(program, shares) as cluster,
        Progress(console=console, transient=True, disable=as_json or len(batch) == 1) as progress,
    ):
        for inputs in progress.track(batch, description="inferences"):
            try:
                results.append(cluster.infer(inputs))
            except RangeError:
                results.append(None)
        setup = {"bytes": list(cluster.setup_bytes), "seconds": cluster.setup_s}
    done = [r for r in results if r is not None]
    if not done:
        raise RangeError(f"in each of {len(results)} inferences " if len(results) > 1 else "")
    data = run_data(program, results, setup)
    if as_json:
        print_json(data)
    else:
        _print_run(Console(), data, done)
    if len(done) < len(results):
        shown = ", ".join(map(str, data["out_of_range"][:10]))
        more = ", ..." if len(data["out_of_range"]) > 10 else ""
        raise RangeError(f"in row {shown}{more} of the input, counted from 0, ")


def run_data(
    program: Program, ran: list[ClusterResult | None], setup: dict[str, Any]
) -> dict[str, Any]:
    """Return what `srrun local --json` prints. With several inferences, sums over all of them.

    `ran` holds None where a value left its range; at least one did not.
    """
    results = [r for r in ran if r is not None]
    names = {s.route: s.name for s in program.segments if s.route is not None}
    routes = [names[r.route] for r in results if r.route is not None]
    outputs = {
        t.name: np.concatenate([r.outputs[t.name] for r in results]) if len(results) > 1
        else results[0].outputs[t.name]
        for t in program.outputs
    }  # fmt: skip
    return {
        "outputs": {name: value.tolist() for name, value in outputs.items()},
        "route": None if not routes else routes[0] if len(ran) == 1 else routes,
        "inferences": len(ran),
        "out_of_range": [k for k, r in enumerate(ran) if r is None],
        "online": {
            "bytes": [sum(r.online_bytes[p] for r in results) for p in (0, 1)],
            "rounds": sum(r.rounds for r in results),
            "seconds": sum(r.online_s for r in results),
        },
        "offline": {
            "bytes": [sum(r.offline_bytes[p] for r in results) for p in (0, 1)],
            "seconds": sum(r.offline_s for r in results),
        },
        "setup": setup,
        "kernels": load_kernels().name,
    }


def _shown(values: Array) -> str:
    return np.array2string(values, precision=4, threshold=20, max_line_width=68)


def _print_run(console: Console, data: dict[str, Any], results: list[ClusterResult]) -> None:
    count = data["inferences"]
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    if data["route"] is not None:
        routes = [data["route"]] if count == 1 else data["route"]
        shares = (f"{name} {routes.count(name)}" for name in dict.fromkeys(routes))
        table.add_row("route", routes[0] if count == 1 else ", ".join(shares))
    for name in data["outputs"]:
        shown = [_shown(r.outputs[name]) for r in results[:5]]
        table.add_row(name, "\n".join(shown) + ("\n..." if count > 5 else ""))
    online, offline = data["online"], data["offline"]
    each = "" if count == 1 else f" ({len(results)} inferences)"
    table.add_row(
        "online",
        f"{online['bytes'][0]:,} B from party 0, {online['bytes'][1]:,} B from party 1, "
        f"{online['rounds']} rounds, {online['seconds'] * 1e3:.1f} ms{each}",
    )
    table.add_row(
        "offline",
        f"{offline['bytes'][0]:,} B to party 0, {offline['bytes'][1]:,} B to party 1, "
        f"{offline['seconds'] * 1e3:.1f} ms{each}",
    )
    table.add_row("kernels", data["kernels"])
    console.print(table)
