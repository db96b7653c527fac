"""What routing over a pool costs on average, and from which share of routed inputs on it pays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from srcompile.errors import UserError
from srcompile.report.figures import CostReport, Figures
from srcompile.report.places import summed


@dataclass(frozen=True)
class BreakEven:
    """The least share of inputs for `model`, the rest for the largest, with which routing pays.

    In time and in online bytes; None where it never does. Against the largest model without router.
    """

    model: str
    seconds: float | None
    online_bytes: float | None


@dataclass(frozen=True)
class RouteCosts:
    """Expected cost of an inference for given shares of routes, and break-even shares.

    shares: by model; None, like `expected`, if none were given. `expected.rounds` is rounded up.
    largest: the model that takes longest.
    alone: what it costs by itself, without the router.
    """

    shares: Mapping[str, float] | None
    expected: Figures | None
    largest: str
    alone: Figures
    break_even: tuple[BreakEven, ...]

    @property
    def text(self) -> str:
        """From which share of inputs on routing pays, in words."""
        said = [
            f"{b.model}: time {_from(b.seconds)}, bytes {_from(b.online_bytes)}"
            for b in self.break_even
        ]
        return (
            f"Routing between a model and {self.largest} saves against always {self.largest} "
            f"without a router from this share of inputs for the model on: {'; '.join(said)}."
        )


def _from(share: float | None) -> str:
    return "never" if share is None else f"from {share:.1%}"


def route_costs(report: CostReport, shares: Sequence[float] | None = None) -> RouteCosts | None:
    """Return what routing costs; None if the program does not route.

    shares: of inputs that take each model, in the pool's order. Raises UserError unless there is
    one for each model, none is negative and they add up to 1, or if the program does not route.
    """
    models = report.routed
    if not models:
        if shares is not None:
            raise UserError("--routes is for a pool whose route is revealed; this program has none")
        return None
    largest = report.dearest
    assert largest is not None
    alone = _alone(report, largest.name)
    names = [m.name for m in models]
    expected = None
    if shares is not None:
        _check(shares, names)
        expected = mean_figures(report.totals, shares)
    router = _router(report)
    even = tuple(
        BreakEven(
            m.name,
            _share(router.seconds, _alone(report, m.name).seconds, alone.seconds),
            _share(
                max(router.online_bytes),
                max(_alone(report, m.name).online_bytes),
                max(alone.online_bytes),
            ),
        )
        for m in models
        if m.name != largest.name
    )
    given = dict(zip(names, shares, strict=True)) if shares is not None else None
    return RouteCosts(given, expected, largest.name, alone, even)


def mean_figures(figures: Sequence[Figures], shares: Sequence[float]) -> Figures:
    """Return the mean of figures, weighted by shares that add up to 1; bytes are rounded."""

    def mean(values: Sequence[float]) -> float:
        return sum(value * share for value, share in zip(values, shares, strict=True))

    return Figures(
        (
            round(mean([f.online_bytes[0] for f in figures])),
            round(mean([f.online_bytes[1] for f in figures])),
        ),
        math.ceil(mean([f.rounds for f in figures]) - 1e-9),
        (
            round(mean([f.offline_bytes[0] for f in figures])),
            round(mean([f.offline_bytes[1] for f in figures])),
        ),
        mean([f.compute_s for f in figures]),
        mean([f.seconds for f in figures]),
    )


def parse_shares(text: str) -> tuple[float, ...]:
    """Return the numbers of `0.7,0.3`. Raises UserError if one is none."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--routes takes a share for each model, such as 0.7,0.3, not '{text}'"
                        ) from None  # fmt: skip


def _check(shares: Sequence[float], names: Sequence[str]) -> None:
    if len(shares) != len(names):
        raise UserError(
            f"--routes gives {len(shares)} shares; the pool has {len(names)} models: "
            f"{', '.join(names)}"
        )
    good = all(math.isfinite(share) and share >= 0 for share in shares)
    if not good or abs(sum(shares) - 1) > 1e-6:
        raise UserError("the shares of --routes are 0 or more and add up to 1")


def _share(router: float, model: float, largest: float) -> float | None:
    """Solve router + s * model + (1 - s) * largest = largest for s."""
    if model >= largest:
        return None
    share = router / (largest - model)
    return share if share <= 1 else None


def _alone(report: CostReport, model: str) -> Figures:
    """What a model costs without the router: its part, and what the first part does for it."""
    part = next(p for p in report.routed if p.name == model)
    own = [x.figures for x in report.parts[0].layers if belongs_to(x.name, model)]
    return summed([part.total, *own])


def _router(report: CostReport) -> Figures:
    """What the first part costs besides what it does for the models."""
    names = [m.name for m in report.routed]
    first = report.parts[0].layers
    return summed([x.figures for x in first if not any(belongs_to(x.name, m) for m in names)])


def belongs_to(name: str, model: str) -> bool:
    """Return whether a module path is of a model of a pool."""
    return name == model or name.startswith(f"{model}.")
