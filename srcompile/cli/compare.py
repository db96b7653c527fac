"""`srcompile compare`: programs side by side."""

from __future__ import annotations

import click
from rich.console import Console

from srcompile.cli.common import chosen_profiles, print_json, profile_options, reports_errors


@click.command(name="compare")
@click.argument("program_files", metavar="A.srp B.srp...", nargs=-1, required=True)
@click.option("--network", default="lan", show_default=True, metavar="lan|wan|mobile|RATE:RTT",
              help="Projected times are for this network; RATE in Mbit/s, RTT in ms.")  # fmt: skip
@profile_options
@click.option("--report", "reports", multiple=True, metavar="html=FILE",
              help="Write them side by side into a file.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@reports_errors
def compare(
    program_files: tuple[str, ...],
    network: str,
    profile: str | None,
    parties_profile: tuple[str, str] | None,
    reports: tuple[str, ...],
    as_json: bool,
) -> None:
    """Print what compiled programs cost, side by side, with changes from the first."""
    from srcompile.cli.reports import parse_targets, write_text
    from srcompile.passes.cost import estimate_cost
    from srcompile.passes.cost import network as network_named
    from srcompile.passes.machine import machines
    from srcompile.report.data import report_data
    from srcompile.report.figures import cost_report
    from srcompile.report.html import Shown, html_report
    from srcompile.report.routing import route_costs
    from srcompile.report.terminal import print_comparison
    from srcompile.runtime.program import load

    targets = parse_targets(reports, ("html",))
    link, computing = network_named(network), machines(chosen_profiles(profile, parties_profile))
    found = []
    for name in program_files:
        program = load(name)
        found.append(cost_report(estimate_cost(program, link, computing), program))
    if targets:
        shown = [Shown(n, r, route_costs(r)) for n, r in zip(program_files, found, strict=True)]
        for target in targets:
            write_text(target.path, html_report(" and ".join(program_files), shown))
    if as_json:
        rows = zip(program_files, found, strict=True)
        print_json({"programs": [{"file": name, **report_data(r)} for name, r in rows]})
        return
    print_comparison(Console(), program_files, found)
