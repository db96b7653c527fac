"""The report as one HTML file that needs no network: tables, trees, and plots that react to the
network chosen with sliders. The page is in the folder `page`; Bokeh draws the plots.

A time on the page is made of three numbers, the `cost` of an element: seconds that no network
changes, bytes each way, and rounds. The script makes a time of them for the network chosen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from srcompile.errors import UserError
from srcompile.passes.cost import NETWORKS, Network
from srcompile.passes.quantise import Gate
from srcompile.report.figures import CostReport, Figures, Part, Round
from srcompile.report.learned import Learned
from srcompile.report.places import dearest_places
from srcompile.report.routing import RouteCosts
from srcompile.report.tree import Branch, Ops, rows, tree
from srcompile.report.units import change_text, pair_text, size_text, time_text
from srcompile.report.variants import Suggestion, Sweep

STACK = ("compute", "bandwidth", "latency")
COLOURS = ("#0b5fa5", "#b35900", "#00795c")
LONGEST = 44
"""Characters of a bar's label."""
FEW = 20
"""A list of at most so many gates is open at first."""


@dataclass(frozen=True)
class Shown:
    """A program to show: its name and report, and what is known besides."""

    name: str
    report: CostReport
    routes: RouteCosts | None = None
    suggestions: Sequence[Suggestion] | None = None
    sweeps: Sequence[Sweep] = ()


def html_report(title: str, programs: Sequence[Shown]) -> str:
    """Return the page for one program, or for several side by side.

    Raises UserError if Bokeh is not installed.
    """
    page = _Page(programs)
    body = "\n".join(page.body())
    network = programs[0].report.network
    data = {
        "network": {"rate_mbit": network.rate_mbit, "rtt_ms": network.rtt_ms},
        "charts": page.charts,
    }
    known = {network.name: network, **NETWORKS}
    presets = "".join(
        f'<button type="button" data-network="{n.rate_mbit:g},{n.rtt_ms:g}">{escape(n.name)}'
        "</button>"
        for n in known.values()
    )
    count = f"{len(programs)} programs side by side, " if len(programs) > 1 else ""
    first = programs[0].report
    lead = f"{count}target {first.target}; computing times of the machine {first.machine}"
    return Template(_file("page.html")).substitute(
        title=escape(title),
        lead=escape(lead),
        presets=presets,
        body=body,
        css=_file("page.css"),
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        library=_library(),
        script=_file("page.js"),
        version=_version(),
    )


def _file(name: str) -> str:
    return files("srcompile.report").joinpath("page", name).read_text(encoding="utf-8")


def _version() -> str:
    import srcompile

    return srcompile.__version__


def _library() -> str:
    """Return BokehJS, minified, as it may stand in a script element."""
    bokeh = _bokeh()
    folder = files(bokeh.__name__).joinpath("server", "static", "js", "bokeh.min.js")
    return folder.read_text(encoding="utf-8").replace("</script", "<\\/script")


def _bokeh() -> Any:
    try:
        import bokeh
    except ModuleNotFoundError:
        raise UserError(
            "an HTML report needs bokeh, which is not installed: pip install 'srcompile[report]'"
        ) from None
    return bokeh


class _Page:
    """Collects the charts while the body is made."""

    def __init__(self, programs: Sequence[Shown]) -> None:
        self.programs = programs
        self.charts: list[dict[str, Any]] = []

    def body(self) -> Iterator[str]:
        if len(self.programs) > 1:
            yield self.comparison()
        for shown in self.programs:
            content = "\n".join(self.program(shown))
            if len(self.programs) > 1:
                first = " open" if shown is self.programs[0] else ""
                name = escape(shown.name)
                content = f"<details{first}><summary><strong>{name}</strong></summary>" + content
                content += "</details>"
            yield content

    def comparison(self) -> str:
        reports = [p.report for p in self.programs]
        first = reports[0].total
        names = [p.name for p in self.programs]
        body = []
        for name, r in zip(names, reports, strict=True):
            against = change_text(max(first.online_bytes), max(r.total.online_bytes))
            dealt = change_text(max(first.offline_bytes), max(r.total.offline_bytes))
            body.append(
                _tr(escape(name), escape(r.target), *_figure_cells(r.total, r.network),
                    _n(against), _n(f"{r.total.rounds - first.rounds:+d}"), _n(dealt),
                    _n(size_text(r.setup_bytes[0])),
                    _n(size_text(r.client_upload + r.client_download)))
            )  # fmt: skip
        head = ("program", "target", *_HEAD, "online, against the first", "rounds", "offline",
                "once", "client")  # fmt: skip
        chart = self.bars("Time of one inference", names, [r.total for r in reports],
                          reports[0].network)  # fmt: skip
        return _section("Side by side", chart + _table(head, 2, body, "One inference"))

    def program(self, shown: Shown) -> Iterator[str]:
        report = shown.report
        yield _section("One inference", self.overview(shown))
        yield _section("Where the time goes", self.leaves(report))
        yield _section("The model, module by module", _trees(report))
        if shown.suggestions is not None or dearest_places(report):
            yield _section("Where it is dearest, and what would make it cheaper", _dearest(shown))
        for sweep in shown.sweeps:
            yield _section("What if", self.sweep(sweep))
        yield _section("Rounds", self.rounds(report))
        yield _section("Ring widths on the wire", _widths(report))
        if report.gates:
            yield _section("Gates: ranges and errors", _gates(report.gates))
        yield _section("Who learns what", _roles(report.learned))
        if report.notes:
            notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
            yield _section("Notes", f"<ul>{notes}</ul>")

    def overview(self, shown: Shown) -> str:
        report = shown.report
        net = report.network
        body = [_tr(escape(p.name), *_figure_cells(p.total, net)) for p in report.parts]
        if report.totals:
            for part, total in zip(report.routed, report.totals, strict=True):
                share = ""
                if shown.routes and shown.routes.shares:
                    share = f", {shown.routes.shares[part.name]:.0%} of inputs"
                name = f"router and {part.name}{share}"
                body.append(_tr(escape(name), *_figure_cells(total, net)))
        elif len(report.parts) == 1:
            body = [_tr(escape(shown.name), *_figure_cells(report.total, net))]
        routes = shown.routes
        if routes and routes.expected:
            body.append(_tr("expected", *_figure_cells(routes.expected, net), style="total"))
        if routes:
            name = escape(f"{routes.largest} alone, without router")
            body.append(_tr(name, *_figure_cells(routes.alone, net)))
        table = _table(("what", *_HEAD), 1, body, "Bytes are what each party sends; offline is "
                       "what the dealer sends to party 1, the more")  # fmt: skip
        said = (
            f"<p>Once, when the weights are loaded: {size_text(report.setup_bytes[0])} each way. "
            f"The client sends {size_text(report.client_upload)} and receives "
            f"{size_text(report.client_download)}.</p>"
        )
        return table + said + (f"<p>{escape(routes.text)}</p>" if routes else "")

    def leaves(self, report: CostReport) -> str:
        labels, figures = [], []
        for part in report.parts:
            for label, found in _leaves(part):
                labels.append(f"{part.name}: {label}" if len(report.parts) > 1 else label)
                figures.append(found)
        chart = self.bars("Time by op", labels, figures, report.network)
        body = [
            _tr(escape(label), *_figure_cells(f, report.network))
            for label, f in zip(labels, figures, strict=True)
        ]
        return chart + _behind(_table(("place", *_HEAD), 1, body, "Time by op"))

    def sweep(self, sweep: Sweep) -> str:
        labels = [" ".join(v.settings[a] for a in sweep.axes) for v in sweep.variants]
        figures = [v.report.total for v in sweep.variants]
        networks = [v.report.network for v in sweep.variants]
        chart = self.bars("Time of one inference", labels, figures, networks[0], networks)
        body = [
            _tr(*(escape(v.settings[a]) for a in sweep.axes), *_fixed_cells(v.report.total))
            for v in sweep.variants
        ]
        head = (*sweep.axes, *_HEAD)
        caption = "Each row is a compiled program, on the network it was compiled for"
        return chart + _table(head, len(sweep.axes), body, caption)

    def rounds(self, report: CostReport) -> str:
        found = report.rounds
        each = _message_s(report)
        costs = [(each, r.bytes, 1) for r in found]
        labels = [f"{r.part} {r.number}" if len(report.parts) > 1 else str(r.number) for r in found]
        chart = self.columns("Time of each round on the network", labels, costs)
        body = [
            _tr(escape(r.part), _n(str(r.number)), _n(size_text(r.bytes)),
                _time((each, r.bytes, 1)), escape(_sent(r)))
            for r in found
        ]  # fmt: skip
        head = ("part", "round", "bytes each way", "time", "what is sent: elements × ring bits")
        table = _table(head, 1, body, "Rounds, in order; on each route they go on from the router")
        return chart + _behind(table)

    # -- charts

    def bars(
        self, title: str, labels: Sequence[str], figures: Sequence[Figures], network: Network,
        networks: Sequence[Network] | None = None,
    ) -> str:  # fmt: skip
        """Return the place of a chart of horizontal bars, the first at the top."""
        costs = [_cost(f, n) for f, n in zip(figures, networks or [network] * len(figures),
                                             strict=True)]  # fmt: skip
        chart: dict[str, Any] = {"costs": costs}
        if networks:
            chart["networks"] = [{"rate": n.rate_mbit, "rtt": n.rtt_ms} for n in networks]
        names = _unique(labels)
        item = _stacked(names, f"h{len(self.charts)}", horizontal=True, title=title)
        return self.add(chart, item, f"{title}: stacked bars of computing, bandwidth and latency "
                        "in milliseconds; the table has the same numbers")  # fmt: skip

    def columns(
        self, title: str, labels: Sequence[str], costs: Sequence[tuple[float, int, int]]
    ) -> str:
        """Return the place of a chart of columns in order."""
        item = _stacked(_unique(labels), f"v{len(self.charts)}", horizontal=False, title=title)
        return self.add({"costs": costs}, item, f"{title}: stacked columns of bandwidth and "
                        "latency in milliseconds; the table has the same numbers")  # fmt: skip

    def add(self, chart: dict[str, Any], item: Any, said: str) -> str:
        name = f"chart{len(self.charts)}"
        item["target_id"] = name
        self.charts.append({**chart, "item": item})
        return f'<figure><div id="{name}" role="img" aria-label="{escape(said)}"></div></figure>'


def _stacked(labels: Sequence[str], key: str, *, horizontal: bool, title: str) -> Any:
    """Return a Bokeh chart as JSON; the script fills in the numbers."""
    _bokeh()
    p: Any
    drawn: Any
    from bokeh.core.types import ID
    from bokeh.embed import json_item
    from bokeh.models import ColumnDataSource, FactorRange, HoverTool
    from bokeh.plotting import figure

    blank = [0.0] * len(labels)
    source = ColumnDataSource({"label": list(labels), **dict.fromkeys(STACK, blank)}, name="source")
    factors = FactorRange(factors=list(reversed(labels)) if horizontal else list(labels))
    size: dict[str, Any] = {
        "sizing_mode": "stretch_width",
        "toolbar_location": None,
        "background_fill_color": None,
        "border_fill_color": None,
        "outline_line_color": None,
    }
    tips = [("", "@label"), *((n, f"@{n}{{0.000}} ms") for n in STACK)]
    if horizontal:
        p = figure(y_range=factors, height=110 + 21 * len(labels), name="figure", **size)
        drawn = p.hbar_stack(STACK, y="label", height=0.75, color=COLOURS, source=source,
                             legend_label=list(STACK))  # fmt: skip
        p.xaxis.axis_label = f"{title}, ms"
        p.x_range.start = 0
        p.ygrid.visible = False
    else:
        p = figure(x_range=factors, height=260, name="figure", **size)
        drawn = p.vbar_stack(STACK, x="label", width=0.9, color=COLOURS, source=source,
                             legend_label=list(STACK))  # fmt: skip
        p.yaxis.axis_label = f"{title}, ms"
        p.xaxis.axis_label = "round"
        p.y_range.start = 0
        p.xgrid.visible = False
        p.xaxis.major_label_orientation = 1.0
        if len(labels) > 60:
            p.xaxis.visible = False
    for name, bar in zip(STACK, drawn, strict=True):
        bar.name = name
    p.add_tools(HoverTool(tooltips=tips))
    legend = p.legend[0]
    legend.orientation = "horizontal"
    p.add_layout(legend, "above")
    return json_item(p, ID(key))


def _unique(labels: Sequence[str]) -> list[str]:
    """Return labels short enough for an axis, none twice; a module path loses its beginning."""
    found: dict[str, None] = {}
    for label in labels:
        short = label
        while len(short) > LONGEST and "." in short:
            short = short[short.index(".") + 1 :]
        short = short if short == label else f"…{short[-LONGEST:]}"
        name, count = short, 1
        while name in found:
            count += 1
            name = f"{short} ({count})"
        found[name] = None
    return list(found)


def _leaves(part: Part) -> Iterator[tuple[str, Figures]]:
    """Yield what a folded tree's rows stand for that are no sums of others, with full paths."""
    path: list[str] = []
    for row in rows(part):
        path[row.depth :] = [row.label.partition(" ")[0]]
        if not row.inner:
            place = ".".join(word for word in path if word)
            yield f"{place} {row.op or '…'}".strip(), row.figures


# -- tables ---------------------------------------------------------------------------------------

_HEAD = ("online", "rounds", "offline", "compute", "time")


def _cost(figures: Figures, network: Network) -> tuple[float, int, int]:
    """Return the seconds that do not depend on the network, bytes each way, and rounds."""
    sent = max(figures.online_bytes)
    fixed = figures.seconds - network.seconds(sent, figures.rounds)
    return (max(fixed, 0.0), sent, figures.rounds)


def _message_s(report: CostReport) -> float:
    """Return what a round takes besides the network and computing."""
    total = report.total
    spent = total.compute_s + report.network.seconds(max(total.online_bytes), total.rounds)
    return max(total.seconds - spent, 0.0) / max(total.rounds, 1)


def _figure_cells(figures: Figures, network: Network) -> tuple[str, ...]:
    return (*_fixed_cells(figures)[:-1], _time(_cost(figures, network)))


def _fixed_cells(figures: Figures) -> tuple[str, ...]:
    """Return cells whose time stays that of the network the program was compiled for."""
    return (
        _n(pair_text(figures.online_bytes)),
        _n(str(figures.rounds)),
        _n(size_text(max(figures.offline_bytes))),
        _n(time_text(figures.compute_s)),
        _n(time_text(figures.seconds)),
    )


def _numbers(cost: tuple[float, int, int]) -> str:
    return f"{cost[0]:.9g},{cost[1]},{cost[2]}"


def _time(cost: tuple[float, int, int]) -> str:
    return f'<td class="n" data-cost="{_numbers(cost)}"></td>'


def _n(text: str) -> str:
    return f'<td class="n">{escape(text)}</td>'


def _tr(*cells: str, style: str = "") -> str:
    """Return a row; the first cell is its heading, and what is no cell yet becomes one."""
    first, *others = cells
    made = "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in others)
    head = first if first.startswith("<t") else f'<th scope="row">{first}</th>'
    return f"<tr{f' class={style}' if style else ''}>{head}{made}</tr>"


def _table(head: Sequence[str], left: int, body: Sequence[str], caption: str) -> str:
    columns = "".join(
        f'<th scope="col"{"" if k < left else " class=n"}>{escape(name)}</th>'
        for k, name in enumerate(head)
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{columns}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _behind(table: str) -> str:
    return f"<details><summary>The same as a table</summary>{table}</details>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _sent(round_: Round) -> str:
    return "; ".join(
        f"{m.name or '-'} {m.op} {m.elements} × {m.width}"
        + (f" ({m.kind})" if m.kind != "open" else "")
        for m in round_.messages
    )


def _widths(report: CostReport) -> str:
    found: dict[int, tuple[int, int, int]] = {}
    for r in report.rounds:
        for m in r.messages:
            count, elements, size = found.get(m.width, (0, 0, 0))
            found[m.width] = (count + 1, elements + m.elements, size + m.bytes)
    whole = sum(size for _, _, size in found.values()) or 1
    body = [
        _tr(_n(f"{width} bits"), _n(str(count)), _n(f"{elements:,}"), _n(size_text(size)),
            f'<td class="n"><span class="heat" style="--share:{size / whole:.4f}">'
            f"{size / whole:.1%}</span></td>")
        for width, (count, elements, size) in sorted(found.items())
    ]  # fmt: skip
    head = ("ring", "messages", "elements", "bytes each way", "share")
    return _table(head, 0, body, "An element takes as many bits on the wire as its ring has")


def _gates(gates: Sequence[Gate]) -> str:
    body = []
    for gate in gates:
        source = f"{gate.loc.file}:{gate.loc.line}" if gate.loc.file else ""
        seen, supported = (f"{low:.3g} to {high:.3g}" for low, high in (gate.seen, gate.supported))
        style = "total" if gate.note else ""
        body.append(
            _tr(escape(gate.loc.module or "-"), escape(gate.loc.op), escape(gate.op),
                escape(source), _n(seen), _n(supported), _n(f"{gate.error:.2g}"), style=style)
        )  # fmt: skip
    head = ("layer", "op", "gate", "source", "seen", "supported", "error")
    caption = "Values beyond the supported range wrap; bold: less precise than asked for"
    opened = " open" if len(gates) <= FEW else ""
    return f"<details{opened}><summary>{len(gates)} gates</summary>" + (
        _table(head, 4, body, caption) + "</details>"
    )


def _roles(found: Sequence[Learned]) -> str:
    parts = []
    for who in dict.fromkeys(x.who for x in found):
        lines = "".join(
            f"<li{' class=nothing' if x.secret else ''}>{escape(x.what)} "
            f'<span class="dim">from {escape(x.source)}: {escape(x.why)}</span></li>'
            for x in found
            if x.who == who
        )
        parts.append(f"<div><h3>{escape(who)}</h3><ul>{lines}</ul></div>")
    return f'<div class="roles">{"".join(parts)}</div>'


def _dearest(shown: Shown) -> str:
    report = shown.report
    body = []
    places = (
        [(s.place, s.changes) for s in shown.suggestions]
        if shown.suggestions is not None
        else [(place, ()) for place in dearest_places(report)]
    )
    for place, changes in places:
        cells = _figure_cells(place.figures, report.network)
        body.append(_tr(escape(place.text), *cells, style="total"))
        for c in changes:
            said = f"{c.change} ({c.how}{'; ' + c.note if c.note else ''})"
            before, after = report.total, c.total
            body.append(
                _tr(f"<td>{escape(said)}</td>",
                    _n(change_text(max(before.online_bytes), max(after.online_bytes))),
                    _n(f"{after.rounds - before.rounds:+d}"),
                    _n(change_text(max(before.offline_bytes), max(after.offline_bytes))),
                    _n(change_text(before.compute_s, after.compute_s)),
                    _n(change_text(before.seconds, after.seconds)))
            )  # fmt: skip
    caption = "Below a place: changes that were compiled, and what they do to the whole program"
    return _table(("place or change", *_HEAD), 1, body, caption)


# -- the tree -------------------------------------------------------------------------------------

_OPEN = 2
"""So many levels of the tree are open at first."""


def _trees(report: CostReport) -> str:
    head = (
        '<div class="leaf dim"><span class="line"><span>module</span><span>op</span>'
        '<span>source</span><span class="n">online</span><span class="n">rounds</span>'
        '<span class="n">offline</span><span class="n">time</span><span class="n">share</span>'
        "</span></div>"
    )
    parts = []
    for part in report.parts:
        whole = _cost(part.total, report.network)
        inner = "".join(_branches(tree(part, alike=False), 0, whole, report.network))
        title = f"<h3>{escape(part.name)}</h3>" if len(report.parts) > 1 else ""
        parts.append(f'{title}<div class="scroll"><div class="tree">{head}{inner}</div></div>')
    return "".join(parts)


def _branches(
    branch: Branch, depth: int, whole: tuple[float, int, int], network: Network
) -> Iterator[str]:
    for o in branch.ops:
        if o.figures.seconds or not o.figures.idle:
            line = _line("", o, o.figures, whole, network)
            yield f'<div class="leaf">{line}</div>'
    for child in branch.children:
        if not child.children and len(child.ops) == 1:
            line = _line(child.label, child.ops[0], child.figures, whole, network)
            yield f'<div class="leaf">{line}</div>'
            continue
        opened = " open" if depth < _OPEN - 1 else ""
        line = _line(child.label, None, child.figures, whole, network)
        inner = "".join(_branches(child, depth + 1, whole, network))
        yield f"<details{opened}><summary>{line}</summary>{inner}</details>"


def _line(
    label: str, ops: Ops | None, figures: Figures, whole: tuple[float, int, int], network: Network
) -> str:
    cost = _numbers(_cost(figures, network))
    source = ops.sources[0] if ops and ops.sources else ""
    return (
        f'<span class="line"><span class="name">{escape(label or "·")}</span>'
        f"<span>{escape(ops.op if ops else '')}</span>"
        f'<span class="dim" title="{escape(source)}">{escape(source.rpartition("/")[2])}</span>'
        f'<span class="n">{size_text(max(figures.online_bytes))}</span>'
        f'<span class="n">{figures.rounds or ""}</span>'
        f'<span class="n">{size_text(max(figures.offline_bytes))}</span>'
        f'<span class="n" data-cost="{cost}"></span>'
        f'<span class="n heat" data-cost="{cost}" data-of="{_numbers(whole)}"></span></span>'
    )
