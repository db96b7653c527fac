"""The demo: sentences are routed and classified by two parties that see neither them nor weights.

    python examples/sentiment/classify.py "a film to fall in love with"

Without sentences on the command line it reads them from standard input, one a line; with --demo it
takes a few of its own. The pool is compiled the first time and kept in out/.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))

import srcompile
from srcompile.api import Compiled
from srcompile.cli.common import reports_errors
from srcompile.cli.compile_progress import shown
from srcompile.errors import UserError
from srcompile.passes.cost import estimate_cost
from srcompile.passes.cost import network as network_named
from srcompile.report.terminal import print_report
from srcompile.report.units import size_text, time_text
from srcompile.runtime.cluster import LocalCluster
from srcompile.runtime.program import Program, load
from srcompile.runtime.result import ClusterResult

FOLDER = Path(__file__).parent
FILES = ("model.py", "samples.txt", "pool.json", "pool.safetensors")
LABELS = ("negative", "positive")
DEMO = (
    "wonderful , from the first minute to the last .",
    "a complete waste of time and talent .",
    "the plot is familiar , but the acting is so good that you never mind .",
    "it starts with a clever idea and then has no idea what to do with it .",
    "not a bad way to spend an evening .",
    "too clever for its own good , and too slow for mine .",
)


@click.command()
@click.argument("sentences", nargs=-1)
@click.option("--demo", is_flag=True, help="Take a few sentences of its own, and print the report.")
@click.option("--network", default="lan", show_default=True, type=click.Choice(["lan", "wan"]),
              help="The operating point, and the network of projected savings.")  # fmt: skip
@click.option("--out", default="out", show_default=True, type=click.Path(file_okay=False),
              help="Where the compiled program is kept.")  # fmt: skip
@reports_errors
def main(sentences: tuple[str, ...], demo: bool, network: str, out: str) -> None:
    """Say of each of SENTENCES whether it is positive, under MPC."""
    if not all(sentence.strip() for sentence in sentences):
        raise UserError("the sentence is empty; type a few words")
    console = Console()
    program = _program(Path(out), network, console if demo else None)
    import model

    cost = estimate_cost(program, network_named(network))
    names = {s.route: s.name for s in program.segments}
    seconds = {route: cost.seconds(cost.total(route)) for route in names if route is not None}
    saved = []
    with LocalCluster(program) as cluster:
        for sentence in (DEMO if demo else sentences) or _typed():
            (given,) = model.tokens([sentence])
            result = cluster.infer({name: tensor.numpy() for name, tensor in given.items()})
            assert result.route is not None
            saved.append(1 - seconds[result.route] / max(seconds.values()))
            console.print(sentence, style="bold", highlight=False, markup=False, soft_wrap=True)
            console.print(f"  {_answer(result, names[result.route])}", highlight=False)
            console.print(f"  {_cost(result, saved[-1])}", style="dim", highlight=False)
    if saved:
        console.print(
            f"\n{len(saved)} sentences; projected for {network}, routing saved "
            f"{100 * sum(saved) / len(saved):.0f} % of always taking the dearest route.",
            soft_wrap=True,
        )


def _typed() -> Iterator[str]:
    """Yield sentences from standard input, and ask for them on a terminal."""
    asking = sys.stdin.isatty()
    if asking:
        click.echo("Type a sentence and press Enter; an empty one ends.", err=True)
    for line in sys.stdin:
        if asking and not line.strip():
            return
        if line.strip():
            yield line.strip()


def _answer(result: ClusterResult, route: str) -> str:
    logits = result.outputs["logits"].reshape(-1).astype(np.float64)
    odds = np.exp(logits - logits.max())
    best = int(odds.argmax())
    return f"{LABELS[best]}, confidence {100 * odds[best] / odds.sum():.0f} %, by model '{route}'"


def _cost(result: ClusterResult, saved: float) -> str:
    return (
        f"online {time_text(result.online_s)}, {size_text(result.online_bytes[0])} each way, "
        f"{result.rounds} rounds; saved {100 * saved:.0f} %"
    )


def _program(out: Path, network: str, report: Console | None) -> Program:
    """Return the compiled program, from `out` if it is there for these very files."""
    state = hashlib.sha256(f"{srcompile.__version__} {network}".encode())
    for name in FILES:
        state.update((FOLDER / name).read_bytes())
    file = out / f"sentiment-{state.hexdigest()[:16]}.srp"
    if file.exists() and report is None:
        return load(file)
    compiled = _compiled(network)
    out.mkdir(parents=True, exist_ok=True)
    compiled.save(file)  # it holds the weights: its owner may read it, nobody else
    if report is not None:
        print_report(report, "examples/sentiment/model.py", compiled.cost_report())
        report.print(f"\nThe program is in [bold]{file}[/bold]. Two parties run it now.\n")
    return compiled.program


def _compiled(network: str) -> Compiled:
    import model

    with shown(Console(stderr=True), "examples/sentiment/model.py") as listener:
        samples = model.calibration_inputs()
        return srcompile.compile(
            model.model(network),
            samples[0],
            calibration_inputs=samples,
            network=network,
            progress=listener,
        )


if __name__ == "__main__":
    main()
