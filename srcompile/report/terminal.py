"""The report for people, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from srcompile.passes.quantise import Gate
from srcompile.report.drift import Drift
from srcompile.report.figures import CostReport, Figures, Part
from srcompile.report.learned import Learned
from srcompile.report.places import Place, dearest_places
from srcompile.report.routing import RouteCosts, route_costs
from srcompile.report.tree import rows
from srcompile.report.units import change_text, count_text, pair_text, size_text, time_text
from srcompile.report.variants import Suggestion, Sweep

WIDE = 104
"""From this many columns on there is a column for source lines."""

Layers = int | str | None
"""How many modules deep the tree is: a number, "all", or None to fold it to a readable size."""


def print_report(
    console: Console,
    title: str,
    report: CostReport,
    *,
    layers: Layers = None,
    routes: RouteCosts | None = None,
    suggestions: Sequence[Suggestion] | None = None,
) -> None:
    """Print what a program costs, by layer, where it is dearest, and who learns what.

    routes: of a pool; by default without an expected cost. suggestions: None if nothing was tried.
    """
    net = report.network
    head = Text.assemble((title, "bold"), f"  target {report.target}, network {net.name}")
    head.append(f" ({net.rate_mbit:g} Mbit/s, RTT {net.rtt_ms:g} ms)", "dim")
    legend = (
        "online: bytes each party sends; offline: bytes the dealer sends to party 1 (the more); "
        "time: projected, with its compute"
    )
    parts: list[RenderableType] = [head, Text(legend, "dim"), Text()]
    for part in report.parts:
        parts += [_part_table(part, layers, console.width >= WIDE), Text()]
    if report.totals:
        found = routes or route_costs(report)
        assert found is not None
        parts += [_routes_table(report, found), Text(found.text), Text()]
    parts += [
        Text.assemble(
            ("once   ", "bold"),
            f"{size_text(report.setup_bytes[0])} each way, when the weights are loaded",
        ),
        Text.assemble(
            ("client ", "bold"),
            f"sends {size_text(report.client_upload)}, "
            f"receives {size_text(report.client_download)}",
        ),
        Text(),
        *_dearest(report, suggestions),
        *_learned(report.learned),
    ]
    console.print(Group(*parts), soft_wrap=False)


def _table(title: str, columns: Sequence[str], left: int) -> Table:
    """Return an empty table whose first `left` columns hold text, the others numbers."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False,
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    for number, name in enumerate(columns):
        if number < left:
            table.add_column(name, header_style="dim", overflow="fold", no_wrap=name == "source")
        else:
            table.add_column(name, header_style="dim", justify="right", no_wrap=True)
    return table


def _part_table(part: Part, layers: Layers, wide: bool) -> Table:
    when = "" if part.route is None else f" (if the route is {part.route})"
    places = ("layer", "op", "source") if wide else ("layer", "op")
    columns = (*places, "online", "rounds", "offline", "compute", "time", "share")
    table = _table(part.name + when, columns, len(places))
    depth = layers if isinstance(layers, int) else None
    for row in rows(part, depth, everything=layers == "all"):
        label = "  " * row.depth + (row.label or ("-" if row.depth == 0 else ""))
        place = (label, row.op or ("..." if row.folded else ""), _file(row.source))
        style = "dim" if row.inner else ""
        table.add_row(*place[: len(places)], *_figures(row.figures), f"{row.share:.1%}",
                      style=style)  # fmt: skip
    table.add_section()
    blank = ("",) * (len(places) - 1)
    table.add_row("total", *blank, *_figures(part.total), "", style="bold")
    return table


def _file(source: str) -> str:
    """Return a source line without its folders."""
    return source.rpartition("/")[2]


def _figures(figures: Figures) -> tuple[str, ...]:
    return (
        pair_text(figures.online_bytes),
        str(figures.rounds or ""),
        size_text(max(figures.offline_bytes)),
        time_text(figures.compute_s),
        time_text(figures.seconds),
    )


def _routes_table(report: CostReport, routes: RouteCosts) -> Table:
    columns = ("route", "inputs", "online", "rounds", "offline", "compute", "time", "share")
    table = _table("One inference, router included", columns, 1)
    slowest = report.total.seconds
    for part, total in zip(report.routed, report.totals, strict=True):
        inputs = f"{routes.shares[part.name]:.0%}" if routes.shares else ""
        share = f"{total.seconds / slowest:.0%}"
        table.add_row(part.name, inputs, *_figures(total), share)
    if routes.expected:
        share = f"{routes.expected.seconds / slowest:.0%}"
        table.add_row("expected", "", *_figures(routes.expected), share, style="bold")
    share = f"{routes.alone.seconds / slowest:.0%}"
    label = f"{routes.largest} alone, no router"
    table.add_row(label, "", *_figures(routes.alone), share, style="dim")
    return table


def _dearest(report: CostReport, tried: Sequence[Suggestion] | None) -> list[RenderableType]:
    parts: list[RenderableType] = [Text("Where it is dearest", "bold")]
    places = [(s.place, s) for s in tried] if tried is not None else [
        (place, None) for place in dearest_places(report)
    ]  # fmt: skip
    before = report.total
    for number, (place, suggestion) in enumerate(places, 1):
        parts.append(Text.assemble(f" {number}. ", _place_text(place)))
        if suggestion is None:
            continue
        for c in suggestion.changes:
            sent = change_text(max(before.online_bytes), max(c.total.online_bytes))
            dealt = change_text(max(before.offline_bytes), max(c.total.offline_bytes))
            turns = c.total.rounds - before.rounds
            time = change_text(before.seconds, c.total.seconds)
            effect = f"online {sent}, offline {dealt}, rounds {turns:+d}, time {time}"
            line = Text.assemble(c.change, (f" ({c.how})", "dim"), f": {effect}")
            line.append(f"; {c.note}" if c.note else "", "dim")
            parts.append(Padding(line, (0, 0, 0, 4)))
        if not suggestion.changes:
            line = Text("none of the changes that were compiled makes it cheaper", "dim")
            parts.append(Padding(line, (0, 0, 0, 4)))
    if tried is not None and any(s.changes for s in tried):
        parts.append(Text(" Each change was compiled; its effect is on the whole program.", "dim"))
    return [*parts, Text()]


def _place_text(place: Place) -> str:
    figures = place.figures
    lines = ", ".join(_file(s) for s in place.sources[:2])
    return (
        f"{place.text}{f' ({lines})' if lines else ''}: {place.share:.0%} of the time, "
        f"{size_text(max(figures.online_bytes))} online, {count_text(figures.rounds, 'round')}, "
        f"{size_text(max(figures.offline_bytes))} offline"
    )


def _learned(found: Sequence[Learned]) -> list[RenderableType]:
    """Say who learns what; roles that learn the same stand together."""
    by_role: dict[str, list[Learned]] = {}
    for x in found:
        by_role.setdefault(x.who, []).append(x)
    together: dict[tuple[Learned, ...], list[str]] = {}
    for who, things in by_role.items():
        alike = tuple(replace(x, who="") for x in things)
        together.setdefault(alike, []).append(who)
    parts: list[RenderableType] = [Text("Who learns what", "bold")]
    for things_alike, roles in together.items():
        parts.append(Text(f" {' and '.join(roles)}, each" if len(roles) > 1 else f" {roles[0]}"))
        for x in things_alike:
            line = Text.assemble("- ", x.what, (f", from {x.source}: {x.why}", "dim"))
            parts.append(Padding(line, (0, 0, 0, 2)))
    return parts


def print_sweep(console: Console, sweep: Sweep) -> None:
    """Print a table with a row for each combination of a sweep; changes are from the first one."""
    columns = (*sweep.axes, "online", "rounds", "offline", "compute", "time", "against the first")
    table = _table("What if", columns, len(sweep.axes))
    first = sweep.variants[0].report.total
    for variant in sweep.variants:
        total = variant.report.total
        settings = (variant.settings[axis] for axis in sweep.axes)
        table.add_row(*settings, *_figures(total), change_text(first.seconds, total.seconds))
    console.print(table)


def print_comparison(console: Console, names: Sequence[str], reports: Sequence[CostReport]) -> None:
    """Print programs side by side, with changes from the first."""
    columns = ("program", "target", "online", "rounds", "offline", "compute", "time", "once",
               "client")  # fmt: skip
    net = reports[0].network
    title = f"Network {net.name} ({net.rate_mbit:g} Mbit/s, RTT {net.rtt_ms:g} ms)"
    table = _table(title, columns, 2)
    first = reports[0].total
    for name, report in zip(names, reports, strict=True):
        total = report.total
        client = size_text(report.client_upload + report.client_download)
        once = size_text(report.setup_bytes[0])
        table.add_row(name, report.target, *_figures(total), once, client)
        if report is not reports[0]:
            table.add_row("", "", *_changes(first, total), "", "", style="dim")
    console.print(table)


def _changes(before: Figures, after: Figures) -> tuple[str, ...]:
    return (
        change_text(max(before.online_bytes), max(after.online_bytes)),
        f"{after.rounds - before.rounds:+d}",
        change_text(max(before.offline_bytes), max(after.offline_bytes)),
        change_text(before.compute_s, after.compute_s),
        change_text(before.seconds, after.seconds),
    )


def print_gates(console: Console, gates: Sequence[Gate]) -> None:
    """Print what each gate takes: range seen, range supported, error bound."""
    columns = ("layer", "op", "gate", "seen", "supported", "error")
    table = _table("Gates: ranges of their arguments, and error bounds", columns, 3)
    for gate in gates:
        seen, supported = (f"{low:.3g} to {high:.3g}" for low, high in (gate.seen, gate.supported))
        place = (gate.loc.module or "-", gate.loc.op, gate.op)
        table.add_row(*place, seen, supported, f"{gate.error:.2g}")
    console.print(table)


def print_drift(console: Console, drift: Sequence[Drift]) -> None:
    """Print how far each layer is from the float model; the largest error of all stands out."""
    columns = ("layer", "op", "size", "error", "relative", "largest")
    table = _table("Drift: values beside those of the model in float", columns, 2)
    most = max((d.relative for d in drift), default=0.0)
    for d in drift:
        figures = (f"{d.size:.3g}", f"{d.error:.2g}", f"{d.relative:.2%}", f"{d.worst:.2g}")
        style = "bold" if d.relative == most else ""
        table.add_row(d.loc.module or "-", d.loc.op, *figures, style=style)
    console.print(table)
