"""The report for people, on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from srcompile.passes.check_leakage import Disclosure
from srcompile.passes.cost import Cost, LayerCost, SegmentCost


def size_text(count: int) -> str:
    """Return a number of bytes as people read it."""
    if count < 1000:
        return f"{count} B"
    for unit in ("kB", "MB", "GB"):
        scaled = count / 1000 ** ("kB", "MB", "GB").index(unit) / 1000
        if scaled < 1000 or unit == "GB":
            return f"{scaled:.1f} {unit}"
    raise AssertionError


def time_text(seconds: float) -> str:
    """Return a time as people read it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def print_report(
    console: Console, title: str, cost: Cost, leakage: Sequence[Disclosure]
) -> None:
    """Print what a program costs, by layer, and what it discloses."""
    net = cost.network
    head = Text.assemble((title, "bold"), f"  target {cost.target}, network {net.name}")
    head.append(f" ({net.rate_mbit:g} Mbit/s, RTT {net.rtt_ms:g} ms)", "dim")
    parts: list[RenderableType] = [head, Text()]
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


def _segment_table(cost: Cost, segment: SegmentCost) -> Table:
    when = "" if segment.route is None else f" (if the route is {segment.route})"
    table = Table(
        title=f"{segment.name}{when}", title_justify="left", title_style="bold", box=None,
        pad_edge=False, padding=(0, 2, 0, 0),
    )  # fmt: skip
    for name, justify in (
        ("layer", "left"), ("op", "left"), ("source", "left"), ("online", "right"),
        ("rounds", "right"), ("offline P0 / P1", "right"), ("time", "right"), ("share", "right"),
    ):  # fmt: skip
        table.add_column(name, justify=justify, header_style="dim", no_wrap=name != "layer")  # type: ignore[arg-type]
    total = segment.total
    whole = cost.seconds(total) or 1.0
    for layer in segment.layers:
        if any((*layer.online_bytes, *layer.offline_bytes, layer.rounds)):
            table.add_row(*_row(cost, layer, whole))
    table.add_section()
    table.add_row(*_row(cost, total, whole)[:1], "", "", *_row(cost, total, whole)[3:], style="bold")
    return table


def _row(cost: Cost, layer: LayerCost, whole: float) -> tuple[str, ...]:
    seconds = cost.seconds(layer)
    first, second = (size_text(n) for n in layer.offline_bytes)
    return (
        layer.name or "-",
        layer.op,
        layer.source,
        size_text(layer.online_bytes[0]),
        str(layer.rounds) if layer.rounds else "",
        f"{first} / {second}",
        time_text(seconds),
        f"{seconds / whole:.0%}",
    )


def _routes_table(cost: Cost) -> Table:
    table = Table(title="One inference, router included", title_justify="left", title_style="bold",
                  box=None, pad_edge=False, padding=(0, 2, 0, 0))  # fmt: skip
    for name in ("route", "online each way", "rounds", "time", "against the slowest"):
        justify = "left" if name == "route" else "right"
        table.add_column(name, justify=justify, header_style="dim")  # type: ignore[arg-type]
    totals = {s.name: cost.total(s.route) for s in cost.segments[1:]}
    slowest = max(cost.seconds(t) for t in totals.values())
    for name, total in totals.items():
        seconds = cost.seconds(total)
        table.add_row(
            name, size_text(total.online_bytes[0]), str(total.rounds), time_text(seconds),
            f"{seconds / slowest:.0%}",
        )  # fmt: skip
    return table
