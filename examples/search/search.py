"""Finds the best of somebody's documents for a query that nobody else sees.

    python examples/search/search.py "when can I borrow books?"

Without a query on the command line it reads queries from standard input, one a line. The program is
compiled the first time and kept in out/. A dealer and two parties run it as processes of their own:
the documents are weights, of which the parties hold shares; the query is masked; the client gets
the index of the best document and nothing else.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))

import srcompile
from srcompile.cli.common import reports_errors
from srcompile.cli.compile_progress import shown
from srcompile.errors import UserError
from srcompile.report.units import size_text, time_text
from srcompile.runtime.cluster import LocalCluster
from srcompile.runtime.program import Program, load
from srcompile.runtime.result import ClusterResult

FOLDER = Path(__file__).parent
FILES = ("model.py", "search_texts.py", "documents.txt", "samples.txt")


@click.command()
@click.argument("queries", nargs=-1)
@click.option("--out", default="out", show_default=True, type=click.Path(file_okay=False),
              help="Where the compiled program is kept.")  # fmt: skip
@reports_errors
def main(queries: tuple[str, ...], out: str) -> None:
    """Find the best document for each of QUERIES, under MPC."""
    if not all(query.strip() for query in queries):
        raise UserError("the query is empty; type a question or a few words")
    console = Console()
    program = _program(Path(out))
    import search_texts

    documents = search_texts.documents()
    with LocalCluster(program) as cluster:
        for query in queries or _typed():
            given = {name: tensor.numpy() for name, tensor in search_texts.encoded(query).items()}
            result = cluster.infer(given)
            index = int(result.outputs["document"].reshape(()))
            console.print(
                documents[index], style="bold", highlight=False, markup=False, soft_wrap=True
            )
            console.print(f"  {_cost(result)}", style="dim", highlight=False, soft_wrap=True)


def _typed() -> Iterator[str]:
    """Yield queries from standard input, and ask for them on a terminal."""
    asking = sys.stdin.isatty()
    if asking:
        click.echo("Type a query and press Enter; an empty one ends.", err=True)
    for line in sys.stdin:
        if asking and not line.strip():
            return
        if line.strip():
            yield line.strip()


def _cost(result: ClusterResult) -> str:
    return (
        f"online {time_text(result.online_s)}, {size_text(result.online_bytes[0])} each way, "
        f"{result.rounds} rounds; before it {time_text(result.offline_s)}, "
        f"{size_text(max(result.offline_bytes))} from the dealer"
    )


def _program(out: Path) -> Program:
    """Return the compiled program, from `out` if it is there for these very files."""
    state = hashlib.sha256(srcompile.__version__.encode())
    for name in FILES:
        state.update((FOLDER / name).read_bytes())
    file = out / f"search-{state.hexdigest()[:16]}.srp"
    if file.exists():
        return load(file)
    from srcompile.api import compile
    from srcompile.frontend.model_file import load_model_file

    with shown(Console(stderr=True), "examples/search/model.py") as listener:
        loaded = load_model_file(str(FOLDER / "model.py"))
        compiled = compile(
            loaded.model,
            loaded.example_inputs,
            calibration_inputs=loaded.calibration_inputs,
            progress=listener,
        )
    out.mkdir(parents=True, exist_ok=True)
    compiled.save(
        file
    )  # it holds the documents and the weights: its owner may read it, nobody else
    return compiled.program


if __name__ == "__main__":
    main()
