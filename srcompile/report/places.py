"""The dearest places of a model: ops whose layers differ in their number only count as one place.

A place of a transformer is `encoder.layer.*.attention` softmax: what makes one of them cheaper
makes all of them cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from srcompile.report.figures import CostReport, Figures, Layer, Part


@dataclass(frozen=True)
class Place:
    """One op at all layers of one pattern, `*` for a number if there are several.

    names: the module paths. share: of the projected time of `parts`, which the place is taken from.
    """

    name: str
    op: str
    names: tuple[str, ...]
    sources: tuple[str, ...]
    figures: Figures
    share: float

    @property
    def count(self) -> int:
        """How many layers it stands for."""
        return len(self.names)

    @property
    def text(self) -> str:
        """The place in words."""
        where = f"{self.count} places {self.name}" if self.count > 1 else self.name
        return f"{where} {self.op}".strip()


def dearest_places(report: CostReport, most: int = 3) -> tuple[Place, ...]:
    """Return the places that take longest, of a pool on its most expensive route."""
    parts = report.parts[:1] + ((report.dearest,) if report.dearest else ())
    places = _places(parts, report.total.seconds)
    places.sort(key=lambda p: -p.figures.seconds)
    return tuple(p for p in places[:most] if p.figures.seconds > 0)


def _places(parts: Sequence[Part], seconds: float) -> list[Place]:
    groups: dict[tuple[str, str], list[Layer]] = {}
    for part in parts:
        for layer in part.layers:
            groups.setdefault((pattern(layer.name), layer.op), []).append(layer)
    found = []
    for (name, op), layers in groups.items():
        names = tuple(dict.fromkeys(layer.name for layer in layers))
        figures = summed([layer.figures for layer in layers])
        share = figures.seconds / seconds if seconds else 0.0
        sources = tuple(dict.fromkeys(layer.source for layer in layers if layer.source))
        shown = name if len(names) > 1 else names[0]
        found.append(Place(shown, op, names, sources, figures, share))
    return found


def pattern(name: str) -> str:
    """Return a module path with `*` for its numbers."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def summed(figures: Sequence[Figures]) -> Figures:
    """Return the sum of figures; seconds add up too."""
    return Figures(
        (sum(f.online_bytes[0] for f in figures), sum(f.online_bytes[1] for f in figures)),
        sum(f.rounds for f in figures),
        (sum(f.offline_bytes[0] for f in figures), sum(f.offline_bytes[1] for f in figures)),
        sum(f.compute_s for f in figures),
        sum(f.seconds for f in figures),
    )
