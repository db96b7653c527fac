"""What-ifs: programs of one model under other settings, and what changes at dear places bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from srcompile.report.figures import CostReport, Figures
from srcompile.report.places import Place


@dataclass(frozen=True)
class Variant:
    """A compiled what-if: what was set, by axis of the sweep, and its report."""

    settings: Mapping[str, str]
    report: CostReport


@dataclass(frozen=True)
class Sweep:
    """All combinations of settings, the first axis slowest."""

    axes: tuple[str, ...]
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Change:
    """A change that was compiled, and what the whole program costs with it.

    change: what changes, in words. how: the option or the way to get it. note: what it needs.
    """

    change: str
    how: str
    note: str
    total: Figures


@dataclass(frozen=True)
class Suggestion:
    """A dear place, and the changes tried that make the program cheaper, the best first."""

    place: Place
    changes: tuple[Change, ...]
