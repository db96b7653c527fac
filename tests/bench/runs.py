"""One program, run by processes over a link: what it took, and that it sent what was predicted."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srcompile.passes.cost import Cost, LayerCost, Network, network
from srcompile.passes.machine import Machine
from srcompile.runtime.cluster import LocalCluster
from srcompile.runtime.program import Program
from srcompile.runtime.result import ClusterResult
from srcompile.runtime.roles import PARTIES
from tests.bench.links import LOOPBACK, Link

LOOPBACK_NETWORK = "16000:0"
"""What programs for loopback are compiled for: latency and bandwidth are next to nothing."""

Inputs = Mapping[str, Any]


def network_of(link: str, machine: Machine | None = None) -> Network:
    """Return the network of a link; over loopback a machine's profile says how fast it is."""
    if link != LOOPBACK:
        return network(link)
    if machine is None or not machine.profile.byte_s:
        return network(LOOPBACK_NETWORK)
    return Network(LOOPBACK, 8e-6 / machine.profile.byte_s, 0.0)


@dataclass(frozen=True)
class Spread:
    """Repeated figures: the median, the least and the most."""

    median: float
    least: float
    most: float


def spread(figures: Sequence[float]) -> Spread:
    """Return the spread of figures."""
    return Spread(statistics.median(figures), min(figures), max(figures))


@dataclass(frozen=True)
class Measured:
    """Inferences of one session: times in seconds, sizes in bytes, peak memory by role."""

    online_s: tuple[float, ...]
    offline_s: tuple[float, ...]
    setup_s: float
    results: tuple[ClusterResult, ...]
    memory: Mapping[str, int]


def run(
    program: Program,
    inputs: Sequence[Inputs],
    link: Link,
    warm_up: int = 1,
    memory: int | None = None,
    apart: bool = False,
) -> Measured:
    """Run an inference on each of the inputs over a new connection; the first are not counted.

    memory: the parties' budget for material, in bytes, if it is not the default one.
    apart: each party has a core of its own, as on two machines. What comes late over an emulated
        link is delivered by one core, which wakes up both parties.
    """
    results = []
    with LocalCluster(program, link=link.connect(), memory=memory) as cluster:
        if apart:
            for party, core in zip(PARTIES, sorted(os.sched_getaffinity(0)), strict=False):
                for thread in Path(f"/proc/{cluster._processes[party].pid}/task").iterdir():
                    os.sched_setaffinity(int(thread.name), {core})
        for given in inputs:
            results.append(cluster.infer(given))
        peaks = {role: _peak(process.pid) for role, process in cluster._processes.items()}
    counted = tuple(results[warm_up:])
    return Measured(
        tuple(r.online_s for r in counted),
        tuple(r.offline_s for r in counted),
        cluster.setup_s,
        counted,
        peaks,
    )


def check(cost: Cost, measured: Measured) -> LayerCost:
    """Return the predicted cost of the first inference, after asserting that all were predicted."""
    for result in measured.results:
        total = cost.total(result.route)
        assert result.online_bytes == total.online_bytes, (result.online_bytes, total.online_bytes)
        assert result.rounds == total.rounds, (result.rounds, total.rounds)
        if result.route is None:
            assert result.offline_bytes == total.offline_bytes
    return cost.total(measured.results[0].route)


def projected_s(cost: Cost, total: LayerCost) -> float:
    """Return the projected online time of a run in which client and dealer are on loopback.

    A report's time has the way of the outputs to the client, which is not on the link here.
    """
    return cost.seconds(total) - cost.network.rtt_ms / 2e3


def _peak(pid: int) -> int:
    """Return the most memory, in bytes, that a process has had; 0 where that is not known."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
