"""The demo: a router and three digit classifiers, compiled for two parties and run on real digits.

Compiles model.py, writes out/digits.srp, and classifies handwritten digits of the test split with
dealer and both parties as processes of their own, which see neither images nor weights.

    python examples/digits/demo.py [--count N]
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

from digits_data import test

from srcompile.api import Compiled, compile
from srcompile.frontend.model_file import load_model_file
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.report.terminal import print_report
from srcompile.report.units import size_text, time_text
from srcompile.runtime.cluster import LocalCluster
from srcompile.runtime.result import ClusterResult

FOLDER = Path(__file__).parent
OUT = Path("out")
SHADES = " .:-=+*#%@"


@click.command()
@click.option("--count", default=12, show_default=True, type=click.IntRange(1, 360))
@click.option("--network", default="lan", show_default=True, help="For projected times.")
def main(count: int, network: str) -> None:
    """Compile the pool, report, and classify COUNT test digits under 2pc."""
    console = Console()
    with console.status("compiling examples/digits/model.py"):
        loaded = load_model_file(str(FOLDER / "model.py"))
        compiled = compile(
            loaded.model,
            loaded.example_inputs,
            calibration_inputs=loaded.calibration_inputs,
            network=network,
        )
        OUT.mkdir(exist_ok=True)
        compiled.save(OUT / "digits.srp")
    print_report(console, "examples/digits/model.py", compiled.cost_report())
    console.print(
        f"\nThe program is in [bold]{OUT / 'digits.srp'}[/bold]. Two parties run it now.\n"
    )
    images, labels = test()
    results = _classify(console, compiled, images.numpy()[:count], labels.numpy()[:count])
    _print_summary(console, compiled, results, images.numpy()[:count])


def _classify(
    console: Console, compiled: Compiled, images: np.ndarray, labels: np.ndarray
) -> list[ClusterResult]:
    """Classify every image under 2pc and show each as it is done."""
    names = {s.route: s.name for s in compiled.program.segments}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("digit", "route", "secure", "plaintext", "truth", "online", "rounds", "time"):
        table.add_column(column, justify="left" if column in ("digit", "route") else "right")
    results = []
    with LocalCluster(compiled.program) as cluster, Live(table, console=console):
        np.savez(OUT / "digits.npz", image=images)
        for image, label in zip(images, labels, strict=True):
            result = cluster.infer({"image": image[None]})
            plain, _ = evaluate(compiled.stages.graph, {"image": image[None]}, registry())
            results.append(result)
            table.add_row(
                _drawn(image[0]),
                names[result.route],
                str(result.outputs["output"].argmax()),
                str(plain["output"].argmax()),
                str(label),
                f"{size_text(result.online_bytes[0])}",
                str(result.rounds),
                time_text(result.online_s),
            )
        console.print(f"kernels: {cluster.kernels.name}")
    return results


def _drawn(image: np.ndarray) -> str:
    """Return an 8x8 image with values 0..1 as text, every second row."""
    rows = image.reshape(4, 2, 8).mean(1)
    levels = np.clip((rows * len(SHADES)).astype(int), 0, len(SHADES) - 1)
    return "\n".join("".join(SHADES[v] * 2 for v in row) for row in levels)


def _print_summary(
    console: Console, compiled: Compiled, results: list[ClusterResult], images: np.ndarray
) -> None:
    """Say how secure and plaintext runs agree, and that the cost was predicted exactly."""
    same = routes = exact = 0
    for image, result in zip(images, results, strict=True):
        inputs = {"image": image[None]}
        plain, route = evaluate(compiled.stages.graph, inputs, registry())
        predicted = compiled.cost.total(result.route)
        same += plain["output"].argmax() == result.outputs["output"].argmax()
        routes += route == result.route
        exact += predicted.online_bytes == result.online_bytes and predicted.rounds == result.rounds
    count = len(results)
    console.print(
        f"\nSame decision as in float: {same} of {count}; same route: {routes} of {count}."
        f"\nBytes and rounds as predicted, exactly: {exact} of {count}."
        f"\nOnline in total: {size_text(sum(r.online_bytes[0] for r in results))} each way, "
        f"{time_text(sum(r.online_s for r in results))}; "
        f"offline {size_text(sum(r.offline_bytes[1] for r in results))} to party 1."
        "\nRun it again on a file:  srrun local out/digits.srp --input out/digits.npz"
    )


if __name__ == "__main__":
    main()
