"""`srcompile`: compile a model file, report what it costs and discloses, write the program."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from srcompile.cli.common import (
    chosen_profiles,
    json_text,
    profile_options,
    read_inputs,
    reports_errors,
)
from srcompile.cli.compare import compare
from srcompile.cli.compile_progress import shown
from srcompile.passes.choices import approximations
from srcompile.passes.progress import nobody


class _Main(click.Command):
    """The command `srcompile MODEL.py`, with `srcompile compare` beside it."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> click.Context:
        """Take the words behind `compare` as its arguments, if that is the first word."""
        if args[:1] == [compare.name]:
            return compare.make_context(f"{info_name} {compare.name}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the context is for."""
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command(cls=_Main, epilog="srcompile compare A.srp B.srp compares compiled programs.")
@click.argument("model_file", metavar="MODEL.py[:NAME]")
@click.option("--target", default="2pc", show_default=True, help="2pc, or plain: in the clear.")
@click.option("--out", metavar="FILE.srp", help="Write the compiled program.")
@click.option("--shares", nargs=2, metavar="P0 P1", help="With --out: leave the weights out of it, "
              "and write both parties' shares of them.")  # fmt: skip
@click.option("--network", default="lan", show_default=True, metavar="lan|wan|mobile|RATE:RTT",
              help="Projected times are for this network; RATE in Mbit/s, RTT in ms.")  # fmt: skip
@profile_options
@click.option(
    "--emit", metavar="graph|fixed|lowered|schedule|dealer", help="Print the program as text."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.option("--run", "run_file", is_flag=False, flag_value="", metavar="[INPUT.npz]",
              help="Run it in this process, on the example inputs or a file.")  # fmt: skip
@click.option("--set", "chosen", multiple=True, metavar="OP[@LAYER]=NAME",
              help=f"Replace a function by a cheaper one: {approximations()}.")  # fmt: skip
@click.option("--gates", is_flag=True, help="Print the range and error bound of each gate too.")
@click.option("--drift", is_flag=True, help="Print how far each layer is from the float model too.")
@click.option("--precision-bits", default=None, type=click.IntRange(0, 20), help="Default: 8.")
@click.option("--activation-bits", default=None, type=click.IntRange(4, 30), help="Default: 20.")
@click.option("--weight-bits", default=None, type=click.IntRange(4, 24), help="Default: 16.")
@click.option("--embedding", default="client", show_default=True, metavar="client|secret",
              help="client: it holds the table and looks up; secret: nobody does.")  # fmt: skip
@click.option("--mask", default="secret", show_default=True, metavar="secret|public",
              help="public: the parties learn attention masks, so the input's length.")  # fmt: skip
@click.option("--margin", default=None, type=click.FloatRange(1.0, 16.0),
              help="How much larger than in calibration values may get. Default: 2.")  # fmt: skip
@click.option("--guard", is_flag=True, help="Check while running that values stay in range.")
@click.option("--guard-bits", default=4, show_default=True, type=click.IntRange(1, 8),
              help="With --guard: find values of up to 2^N times their range.")  # fmt: skip
@click.option("--layers", metavar="DEPTH|all", help="How many modules deep the table of layers is. "
              "By default it is folded to a readable size.")  # fmt: skip
@click.option("--suggest/--no-suggest", default=None, help="Compile changes that may make the "
              "dearest places cheaper. By default for small programs.")  # fmt: skip
@click.option("--sweep", "sweeps", multiple=True, metavar="NAME=VALUE,VALUE",
              help="Compile other settings too: network, seq, set.OP, precision-bits, INPUT.AXIS "
              "...; several multiply.")  # fmt: skip
@click.option("--routes", metavar="SHARE,SHARE", help="Of a pool: the share of inputs that takes "
              "each model, for the expected cost.")  # fmt: skip
@click.option("--report", "reports", multiple=True, metavar="html|json|png|svg=FILE",
              help="Write the report into a file; png and svg draw the sweep.")  # fmt: skip
@click.version_option(package_name="srcompile")
@reports_errors
def main(
    model_file: str,
    target: str,
    out: str | None,
    shares: tuple[str, str] | None,
    network: str,
    profile: str | None,
    parties_profile: tuple[str, str] | None,
    emit: str | None,
    as_json: bool,
    run_file: str | None,
    chosen: tuple[str, ...],
    gates: bool,
    drift: bool,
    precision_bits: int | None,
    activation_bits: int | None,
    weight_bits: int | None,
    embedding: str,
    mask: str,
    margin: float | None,
    guard: bool,
    guard_bits: int,
    layers: str | None,
    suggest: bool | None,
    sweeps: tuple[str, ...],
    routes: str | None,
    reports: tuple[str, ...],
) -> None:
    """Compile MODEL.py, which defines `model` and `example_inputs`, into a secure program."""
    from srcompile.api import LEVELS, compile
    from srcompile.cli.reports import findings_data, parse_layers, parse_targets, write_reports
    from srcompile.errors import UserError
    from srcompile.frontend.model_file import load_model_file
    from srcompile.passes.quantise import Formats
    from srcompile.report.data import drift_data
    from srcompile.report.routing import parse_shares
    from srcompile.whatif import is_quick, parse_axis

    if emit is not None and emit not in LEVELS:
        raise UserError(f"there is no level '{emit}': choose {', '.join(LEVELS)}")
    if shares and not out:
        raise UserError("--shares leaves the weights out of the program file: name it with --out")
    profiles = chosen_profiles(profile, parties_profile)
    depth, targets = parse_layers(layers), parse_targets(reports)
    axes = [parse_axis(text) for text in sweeps]
    route_shares = parse_shares(routes) if routes is not None else None
    console = Console(stderr=True)
    chosen_formats = {
        "margin": margin,
        "precision_bits": precision_bits,
        "activation_bits": activation_bits,
        "weight_bits": weight_bits,
    }
    formats = Formats(**{n: v for n, v in chosen_formats.items() if v is not None})  # type: ignore[arg-type]
    quiet = as_json or emit is not None
    choices: dict[str, Any] = {
        "target": target,
        "network": network,
        "formats": formats,
        "approximations": _choices(chosen),
        "embedding": embedding,
        "mask": mask,
        "profiles": profiles,
        "guard": guard,
        "guard_bits": guard_bits,
    }
    with contextlib.nullcontext(nobody) if quiet else shown(console, model_file) as listener:
        loaded = load_model_file(model_file)
        samples = loaded.calibration_inputs or None
        compiled = compile(
            loaded.model,
            loaded.example_inputs,
            calibration_inputs=samples,
            progress=listener,
            **choices,
        )
    if not loaded.calibration_inputs:
        click.echo(
            f"note: {model_file} defines no calibration_inputs; value ranges come from the example "
            "inputs alone",
            err=True,
        )
    for note in compiled.notes:
        click.echo(f"note: {note}", err=True)
    if out:
        _write(compiled, out, shares)
    if emit is not None:
        click.echo(compiled.text(emit), nl=False)
        return
    with console.status("compiling what-ifs"):
        wanted = not as_json and is_quick(compiled) if suggest is None else suggest
        findings = _findings(compiled, loaded, axes, route_shares, wanted, choices)
    data = {**compiled.report(), **findings_data(findings)}
    if run_file is not None:
        data["run"] = _run(compiled, loaded, run_file, quiet=as_json)
    found = compiled.drift() if drift else ()
    text = json_text({**data, "drift": drift_data(found)} if drift else data)
    write_reports(targets, model_file, findings, text)
    if as_json:
        click.echo(text)
        return
    from srcompile.report.terminal import print_drift, print_gates, print_report, print_sweep

    known: dict[str, Any] = {"routes": findings.routes, "suggestions": findings.suggestions}
    print_report(Console(), model_file, findings.report, layers=depth, **known)
    if findings.sweep is not None:
        print_sweep(Console(), findings.sweep)
    if gates:
        print_gates(Console(), compiled.gates)
    if drift:
        print_drift(Console(), found)
    if run_file is not None:
        _print_run(Console(), data["run"])


def _findings(
    compiled: Any, loaded: Any, axes: Any, shares: Any, suggest: bool, choices: Any
) -> Any:
    """Compile what-ifs, and return what is known with them."""
    from srcompile.cli.reports import Findings
    from srcompile.errors import UserError
    from srcompile.report.routing import route_costs
    from srcompile.whatif import suggest as changes_for
    from srcompile.whatif import sweep

    report = compiled.cost_report()
    values = {axis.name: axis.values for axis in axes}
    if len(values) < len(axes):
        raise UserError("--sweep names an axis twice; give all its values at once")
    swept = None
    if values:
        samples = loaded.calibration_inputs or None
        swept = sweep(
            loaded.model,
            loaded.example_inputs,
            values,
            calibration_inputs=samples,
            base=compiled,
            **choices,
        )
    suggestions = changes_for(compiled) if suggest and report.target != "plain" else None
    return Findings(report, route_costs(report, shares), suggestions, swept)


def _choices(chosen: tuple[str, ...]) -> dict[str, str]:
    from srcompile.errors import UserError

    pairs = [text.partition("=") for text in chosen]
    for op, equals, name in pairs:
        if not (op and equals and name):
            raise UserError(f"--set takes OP=NAME, such as gelu=quad, not '{op}{equals}{name}'")
    return {op: name for op, _, name in pairs}


def _write(compiled: Any, out: str, shares: tuple[str, str] | None) -> None:
    from srcompile.errors import UserError
    from srcompile.runtime.client import share_weights
    from srcompile.runtime.shares import write_shares

    if not Path(out).parent.is_dir():
        raise UserError(f"there is no folder {Path(out).parent} to write {out} to")
    try:
        compiled.save(out, weights=shares is None)
        if shares:
            for party, part in enumerate(share_weights(compiled.program)):
                write_shares(shares[party], compiled.program, party, part)
    except OSError as error:
        raise UserError(f"{error.filename or out} cannot be written: {error.strerror}") from None


def _run(compiled: Any, loaded: Any, run_file: str, quiet: bool) -> dict[str, Any]:
    """Run the program in this process, and the model in float beside it."""
    from srcompile.api import as_given, samples_of
    from srcompile.cli.progress import RunProgress
    from srcompile.ops import registry
    from srcompile.ops.interpreter import evaluate
    from srcompile.runtime.client import split_batch
    from srcompile.runtime.kernels import load as load_kernels
    from srcompile.runtime.local import LocalSession
    from srcompile.runtime.plain import PlainRunner

    program, kernels = compiled.program, load_kernels()
    if run_file:
        arrays = read_inputs(run_file, program)
    else:
        (sample,) = samples_of(compiled.captured, [as_given(loaded.example_inputs)])
        arrays = dict(sample)
    batch = split_batch(program, arrays)
    outputs, routes, expected = [], [], []
    counters: dict[str, Any] = {}
    if program.target == "plain":
        runner = PlainRunner(program, kernels)
        for inputs in batch:
            found, route = runner.infer(inputs)
            outputs.append(found)
            routes.append(route)
    else:
        results = []
        with RunProgress(Console(stderr=True), len(batch), quiet) as progress:
            session = LocalSession(program, kernels, watch=progress.watch)
            for inputs in batch:
                results.append(session.infer(inputs))
                progress.finished()
        outputs, routes = [r.outputs for r in results], [r.route for r in results]
        counters["online"] = {
            "bytes": [sum(r.counters[p].bytes for r in results) for p in (0, 1)],
            "rounds": sum(r.counters[0].rounds for r in results),
        }
    for inputs in batch:
        expected.append(evaluate(compiled.captured, inputs, registry())[0])
    names = {s.route: s.name for s in program.segments}
    return {
        "outputs": {n: np.concatenate([o[n] for o in outputs]).tolist() for n in outputs[0]},
        "route": [names[r] for r in routes if r is not None] or None,
        "largest_difference": {
            n: float(max(np.abs(o[n] - e[n]).max() for o, e in zip(outputs, expected, strict=True)))
            for n in outputs[0]
        },
        **counters,
        "kernels": kernels.name,
    }


def _print_run(console: Console, run: dict[str, Any]) -> None:
    console.print()
    console.print(f"[bold]A run in this process[/bold], kernels {run['kernels']}")
    if run["route"]:
        console.print(f"route    {', '.join(run['route'][:10])}")
    for name, values in run["outputs"].items():
        shown = np.array2string(np.asarray(values), precision=4, threshold=40)
        difference = run["largest_difference"][name]
        console.print(f"{name}   {shown}\n  differs from the model in float by {difference:.3g}")


if __name__ == "__main__":
    main()
