"""What a program costs, as frozen dataclasses: the one source of all reports.

Bytes and rounds are read off the program, so they are exact. Seconds are projected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from srcompile.errors import UserError
from srcompile.passes.check_leakage import Disclosure
from srcompile.passes.cost import Cost, LayerCost, Network, SegmentCost
from srcompile.passes.quantise import Gate
from srcompile.report.learned import Learned, learned
from srcompile.report.messages import Message, Round, rounds_of
from srcompile.runtime.program import Program

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CostReport", "Figures", "Layer", "Message", "Part", "Round", "cost_report"]


@dataclass(frozen=True)
class Figures:
    """What something costs in one inference.

    online_bytes: what (party 0, party 1) sends, to the other party and to the client.
    rounds: a round counts for the op that sends most in it.
    offline_bytes: what the dealer sends to (party 0, party 1).
    compute_s, seconds: projected computing time of a party, and projected time online.
    """

    online_bytes: tuple[int, int]
    rounds: int
    offline_bytes: tuple[int, int]
    compute_s: float
    seconds: float

    @property
    def idle(self) -> bool:
        """Whether nothing is sent for it, online or offline."""
        return not any((*self.online_bytes, self.rounds, *self.offline_bytes))


@dataclass(frozen=True)
class Layer:
    """What an op of a layer costs.

    name: module path in the user's model. op: the op as the user wrote it. source: file:line or "".
    share: of the projected time of its part, 0 to 1.
    """

    name: str
    op: str
    source: str
    figures: Figures
    share: float


@dataclass(frozen=True)
class Part:
    """A part of a program that runs as a whole: a model, a router, or a model of a pool.

    route: the route that selects it; None if it always runs.
    """

    name: str
    route: int | None
    layers: tuple[Layer, ...]
    total: Figures


@dataclass(frozen=True)
class CostReport:
    """What a program costs on a network, and what a run of it discloses.

    machine: whose computing speed projected times assume.
    total: one inference; of a pool, on its most expensive route, router included.
    totals: the same for each route, in the order of `routed`; empty without a route.
    setup_bytes: what each party sends to the other, once, when the weights are loaded.
    client_upload, client_download: bytes of one inference, for both parties together.
    """

    target: str
    network: Network
    machine: str
    parts: tuple[Part, ...]
    total: Figures
    totals: tuple[Figures, ...]
    setup_bytes: tuple[int, int]
    client_upload: int
    client_download: int
    rounds: tuple[Round, ...]
    leakage: tuple[Disclosure, ...]
    learned: tuple[Learned, ...]
    gates: tuple[Gate, ...]
    notes: tuple[str, ...]

    @property
    def routed(self) -> tuple[Part, ...]:
        """The models of a pool; empty without a route."""
        return tuple(part for part in self.parts if part.route is not None)

    @property
    def dearest(self) -> Part | None:
        """The model of a pool that takes longest; None without a route."""
        pairs = zip(self.totals, self.routed, strict=True)
        return max(pairs, key=lambda pair: pair[0].seconds)[1] if self.totals else None

    def layers(self) -> Iterator[tuple[Part, Layer]]:
        """Yield every layer with its part."""
        for part in self.parts:
            for layer in part.layers:
                yield part, layer

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas DataFrame with a row for each op of each layer.

        Raises UserError if pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise UserError(
                "to_frame() needs pandas, which is not installed: pip install pandas"
            ) from None
        rows: list[dict[str, Any]] = [
            {
                "part": part.name,
                "name": layer.name,
                "op": layer.op,
                "source": layer.source,
                "online_bytes_0": layer.figures.online_bytes[0],
                "online_bytes_1": layer.figures.online_bytes[1],
                "rounds": layer.figures.rounds,
                "offline_bytes_0": layer.figures.offline_bytes[0],
                "offline_bytes_1": layer.figures.offline_bytes[1],
                "compute_seconds": layer.figures.compute_s,
                "seconds": layer.figures.seconds,
                "share": layer.share,
            }
            for part, layer in self.layers()
        ]
        return pd.DataFrame(rows)


def cost_report(
    cost: Cost,
    program: Program,
    leakage: Sequence[Disclosure] = (),
    gates: Sequence[Gate] = (),
    notes: Sequence[str] = (),
) -> CostReport:
    """Return the report of a program and its cost; a program read from a file has no gates."""
    parts = tuple(_part(cost, segment) for segment in cost.segments)
    routes = [part.route for part in parts if part.route is not None]
    totals = tuple(_figures(cost, cost.total(route)) for route in routes)
    total = max(totals, key=lambda t: t.seconds) if totals else _figures(cost, cost.total())
    return CostReport(
        cost.target,
        cost.network,
        cost.machine_name,
        parts,
        total,
        totals,
        cost.setup_bytes,
        cost.client_upload,
        cost.client_download,
        rounds_of(program),
        tuple(leakage),
        learned(program),
        tuple(gates),
        tuple(notes),
    )


def _part(cost: Cost, segment: SegmentCost) -> Part:
    total = _figures(cost, segment.total)
    layers = []
    for layer in segment.layers:
        figures = _figures(cost, layer)
        share = figures.seconds / total.seconds if total.seconds else 0.0
        layers.append(Layer(layer.name, layer.op, layer.source, figures, share))
    return Part(segment.name, segment.route, tuple(layers), total)


def _figures(cost: Cost, layer: LayerCost) -> Figures:
    return Figures(
        layer.online_bytes,
        layer.rounds,
        layer.offline_bytes,
        layer.compute_s,
        cost.seconds(layer),
    )
