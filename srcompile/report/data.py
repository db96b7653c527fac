"""The report as plain data: what `srcompile --json` prints. docs/json.md lists the keys, and
`schema.json` beside this file is their JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from srcompile.errors import Loc
from srcompile.passes.quantise import Gate
from srcompile.report.drift import Drift
from srcompile.report.figures import CostReport, Figures, Layer, Part
from srcompile.report.places import Place
from srcompile.report.routing import RouteCosts
from srcompile.report.variants import Suggestion, Sweep, Variant

FORMAT = 1
"""Counts up when a key changes its meaning or goes; new keys may come without."""


def schema() -> dict[str, Any]:
    """Return the JSON Schema of `srcompile --json`."""
    text = files("srcompile.report").joinpath("schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def report_data(report: CostReport) -> dict[str, Any]:
    """Return the report of a program. Sizes are bytes, times seconds.

    For a pool, `online`, `offline` and `layers` are those of the most expensive route, router
    included; `router` and `models` have each part on its own.
    """
    dearest = report.dearest
    shown = report.parts[:1] + ((dearest,) if dearest else ())
    data: dict[str, Any] = {
        "format": FORMAT,
        "target": report.target,
        "network": {
            "name": report.network.name,
            "rate_mbit": report.network.rate_mbit,
            "rtt_ms": report.network.rtt_ms,
        },
        "machine": report.machine,
        **_totals(report.total),
        "setup": {"bytes": list(report.setup_bytes)},
        "client": {
            "upload_bytes": report.client_upload,
            "download_bytes": report.client_download,
        },
        "layers": [_layer(layer) for part in shown for layer in part.layers],
        "rounds": [
            {
                "part": r.part,
                "number": r.number,
                "bytes": r.bytes,
                "messages": [
                    {
                        "name": m.name,
                        "op": m.op,
                        "source": m.source,
                        "kind": m.kind,
                        "elements": m.elements,
                        "ring_bits": m.width,
                        "bytes": m.bytes,
                    }
                    for m in r.messages
                ],
            }
            for r in report.rounds
        ],
        "leakage": [{"what": d.what, "to": d.to, "why": d.why} for d in report.leakage],
        "learned": [
            {"who": x.who, "what": x.what, "from": x.source, "why": x.why, "nothing": x.secret}
            for x in report.learned
        ],
        "gates": gates_data(report.gates),
        "notes": list(report.notes),
    }
    if dearest is not None:
        data["route"] = dearest.name
        data["router"] = _part(report.parts[0])
        data["models"] = {part.name: _part(part) for part in report.routed}
    return data


def gates_data(gates: Sequence[Gate]) -> list[dict[str, Any]]:
    """Return what is known of each gate."""
    return [
        {
            **_place(gate.loc),
            "gate": gate.op,
            "seen": list(gate.seen),
            "supported": list(gate.supported),
            "error": gate.error,
        }
        for gate in gates
    ]


def drift_data(drift: Sequence[Drift]) -> list[dict[str, Any]]:
    """Return how far each layer is from the float model."""
    return [
        {**_place(d.loc), "size": d.size, "error": d.error, "relative": d.relative,
         "worst": d.worst}
        for d in drift
    ]  # fmt: skip


def routes_data(found: RouteCosts) -> dict[str, Any]:
    """Return what routing costs on average, and from where on it pays."""
    return {
        "shares": dict(found.shares) if found.shares else None,
        "expected": _totals(found.expected) if found.expected else None,
        "largest": found.largest,
        "break_even": [
            {"model": b.model, "seconds": b.seconds, "online_bytes": b.online_bytes}
            for b in found.break_even
        ],
    }


def suggestions_data(found: Sequence[Suggestion]) -> list[dict[str, Any]]:
    """Return the dearest places and what the changes tried at them do to the whole program."""
    return [
        {
            **_place_data(s.place),
            "changes": [
                {"change": c.change, "how": c.how, **_totals(c.total), "note": c.note}
                for c in s.changes
            ],
        }
        for s in found
    ]


def sweep_data(sweep: Sweep) -> dict[str, Any]:
    """Return a sweep: its axes, and a row for each combination."""
    return {"axes": list(sweep.axes), "rows": [_variant(v) for v in sweep.variants]}


def _variant(variant: Variant) -> dict[str, Any]:
    return {"settings": dict(variant.settings), **_totals(variant.report.total)}


def _place_data(place: Place) -> dict[str, Any]:
    return {
        "name": place.name,
        "op": place.op,
        "count": place.count,
        "sources": list(place.sources),
        "share": place.share,
        **_totals(place.figures),
    }


def _place(loc: Loc) -> dict[str, Any]:
    source = f"{loc.file}:{loc.line}" if loc.file else ""
    return {"name": loc.module, "op": loc.op, "source": source}


def _part(part: Part) -> dict[str, Any]:
    return {**_totals(part.total), "layers": [_layer(layer) for layer in part.layers]}


def _totals(total: Figures) -> dict[str, Any]:
    return {
        "online": {
            "bytes": list(total.online_bytes),
            "rounds": total.rounds,
            "seconds": total.seconds,
            "compute_seconds": total.compute_s,
        },
        "offline": {"bytes": list(total.offline_bytes)},
    }


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "op": layer.op,
        "source": layer.source,
        "online_bytes": list(layer.figures.online_bytes),
        "rounds": layer.figures.rounds,
        "offline_bytes": list(layer.figures.offline_bytes),
        "compute_seconds": layer.figures.compute_s,
        "seconds": layer.figures.seconds,
        "share": layer.share,
    }
