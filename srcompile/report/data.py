"""The report as plain data: what `srcompile --json` prints. docs/json.md lists the keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from srcompile.errors import Loc
from srcompile.passes.check_leakage import Disclosure
from srcompile.passes.cost import Cost, LayerCost, SegmentCost
from srcompile.passes.quantise import Gate
from srcompile.report.drift import Drift


def report_data(cost: Cost, leakage: Sequence[Disclosure]) -> dict[str, Any]:
    """Return the report of a program. Sizes are bytes, times seconds.

    For a pool, `online`, `offline` and `layers` are those of the most expensive route, router
    included; `router` and `models` have each part on its own.
    """
    routed = [s for s in cost.segments if s.route is not None]
    slowest = max(routed, key=lambda s: cost.seconds(s.total), default=None)
    layers = cost.segments[0].layers + (slowest.layers if slowest else ())
    data: dict[str, Any] = {
        "target": cost.target,
        "network": {
            "name": cost.network.name,
            "rate_mbit": cost.network.rate_mbit,
            "rtt_ms": cost.network.rtt_ms,
        },
        "machine": cost.machine_name,
        **_totals(cost, cost.total(slowest.route if slowest else None)),
        "setup": {"bytes": list(cost.setup_bytes)},
        "client": {"upload_bytes": cost.client_upload, "download_bytes": cost.client_download},
        "layers": [_layer(layer) for layer in layers],
        "leakage": [{"what": d.what, "to": d.to, "why": d.why} for d in leakage],
    }
    if slowest is not None:
        data["route"] = slowest.name
        data["router"] = _segment(cost, cost.segments[0])
        data["models"] = {s.name: _segment(cost, s) for s in routed}
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


def _place(loc: Loc) -> dict[str, Any]:
    source = f"{loc.file}:{loc.line}" if loc.file else ""
    return {"name": loc.module, "op": loc.op, "source": source}


def _segment(cost: Cost, segment: SegmentCost) -> dict[str, Any]:
    layers = [_layer(layer) for layer in segment.layers]
    return {**_totals(cost, segment.total), "layers": layers}


def _totals(cost: Cost, total: LayerCost) -> dict[str, Any]:
    return {
        "online": {
            "bytes": list(total.online_bytes),
            "rounds": total.rounds,
            "seconds": cost.seconds(total),
        },
        "offline": {"bytes": list(total.offline_bytes)},
    }


def _layer(layer: LayerCost) -> dict[str, Any]:
    return {
        "name": layer.name,
        "op": layer.op,
        "source": layer.source,
        "online_bytes": list(layer.online_bytes),
        "rounds": layer.rounds,
        "offline_bytes": list(layer.offline_bytes),
        "compute_seconds": layer.compute_s,
    }
