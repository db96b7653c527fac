"""The report for people, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from srcompile.passes.check_leakage import Disclosure
from srcompile.passes.cost import Cost, LayerCost, SegmentCost
from srcompile.passes.quantise import Gate
from srcompile.report.drift import Drift


def size_text(count: int) -> str:
    """Return a number of bytes as people read it."""
    if count < 1000:
        return f"{count} B"
    for unit in ("kB", "MB", "GB"):
        scaled = count / 1000 ** (1 + ("kB", "MB", "GB").index(unit))
        if scaled < 1000:
            break
    return f"{scaled:.1f} {unit}"


def time_text(seconds: float) -> str:
    """Return a time as people read it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def print_report(console: Console, title: str, cost: Cost, leakage: Sequence[Disclosure]) -> None:
    """Print what a program costs, by layer, and what it discloses."""
    net = cost.network
    head = Text.assemble((title, "bold"), f"  target {cost.target}, network {net.name}")
    head.append(f" ({net.rate_mbit:g} Mbit/s, RTT {net.rtt_ms:g} ms)", "dim")
    legend = "online: bytes each party sends; offline: bytes the dealer sends to party 1 (the more)"
    parts: list[RenderableType] = [head, Text(legend, "dim"), Text()]
    for segment in cost.segments:
        parts += [_segment_table(cost, segment), Text()]
    if len(cost.segments) > 1:
        parts += [_routes_table(cost), Text()]
    parts += [
        Text.assemble(
            ("once   ", "bold"),
            f"{size_text(cost.setup_bytes[0])} each way, when the weights are loaded",
        ),
        Text.assemble(
            ("client ", "bold"),
            f"sends {size_text(cost.client_upload)}, receives {size_text(cost.client_download)}",
        ),
        Text(),
        Text("What is disclosed", "bold"),
    ]
    for d in leakage:
        line = Text.assemble("- ", d.what, (" to ", "dim"), d.to, (f": {d.why}", "dim"))
        parts.append(Padding(line, (0, 0, 0, 1)))
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


def _segment_table(cost: Cost, segment: SegmentCost) -> Table:
    when = "" if segment.route is None else f" (if the route is {segment.route})"
    columns = ("layer", "op", "source", "online", "rounds", "offline", "time")
    table = _table(segment.name + when, columns, 3)
    total = segment.total
    for layer in segment.layers:
        if any((*layer.online_bytes, *layer.offline_bytes, layer.rounds)):
            name = layer.name.removeprefix(f"{segment.name}.") or "-"
            source = layer.source.rpartition("/")[2]
            table.add_row(name, layer.op, source, *_figures(cost, layer))
    table.add_section()
    table.add_row("total", "", "", *_figures(cost, total), style="bold")
    return table


def _figures(cost: Cost, layer: LayerCost) -> tuple[str, ...]:
    return (
        size_text(layer.online_bytes[0]),
        str(layer.rounds or ""),
        size_text(max(layer.offline_bytes)),
        time_text(cost.seconds(layer)),
    )


def _routes_table(cost: Cost) -> Table:
    columns = ("route", "online", "rounds", "offline", "time", "of the slowest")
    table = _table("One inference, router included", columns, 1)
    totals = {s.name: cost.total(s.route) for s in cost.segments[1:]}
    slowest = max(cost.seconds(t) for t in totals.values())
    for name, total in totals.items():
        share = cost.seconds(total) / slowest
        table.add_row(name, *_figures(cost, total), f"{share:.0%}")
    return table


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
