"""Accuracy against cost: the router beside every single model, random routing and the oracle.

Random routing picks models at random with the probabilities that bring the best accuracy for the
router's expected cost, without a router to pay: a point of the upper hull of the single models. The
oracle takes the cheapest model that is right, and the cheapest if none is. Intervals are those of
the bootstrap over texts, 95 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from srcompile.training.operating import Costs, Point, points_of, routes_of

Array = np.ndarray[Any, Any]

DRAWS = 2000
"""Samples of the bootstrap."""


@dataclass(frozen=True)
class Line:
    """One way to choose models, on one network.

    accuracy, lost: 0 to 1, lost against the largest model; interval and lost_interval: 95 %.
    seconds, share, speed_up: of one inference, against the largest model alone.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    lost: float
    lost_interval: tuple[float, float]
    seconds: float
    share: float
    speed_up: float
    routes: tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    """All lines for one network, and the router's curve over all weights."""

    network: str
    kind: str
    weight: float
    router_share: float
    lines: tuple[Line, ...]
    curve: tuple[Point, ...]


def evaluate(
    names: tuple[str, ...],
    right: Array,
    utilities: Array,
    costs: Costs,
    weight: float,
    kind: str = "projected",
    seed: int = 0,
) -> Evaluation:
    """Return the evaluation of a pool on N texts.

    right: whether each model is right, (N, M); utilities: (N, M).
    """
    n, m = right.shape
    y = right.astype(np.float64)
    large = y[:, -1]
    draws = np.random.default_rng(seed).integers(0, n, (DRAWS, n))

    def line(name: str, got: Array, seconds: float, routes: Array) -> Line:
        """got: probability of being right, by text; routes: of each model, (M,)."""
        sampled, lost = got[draws].mean(1), (large - got)[draws].mean(1)
        return Line(
            name,
            float(got.mean()),
            _interval(sampled),
            float((large - got).mean()),
            _interval(lost),
            seconds,
            seconds / costs.alone[-1],
            costs.alone[-1] / seconds,
            tuple(map(float, routes)),
        )

    lines = []
    for k, name in enumerate(names):
        role = {0: "always smallest: ", m - 1: "always largest: "}.get(k, "always ")
        lines.append(line(f"{role}{name}", y[:, k], costs.alone[k], np.eye(m)[k]))
    taken = routes_of(utilities, costs, weight)
    shares = np.bincount(taken, minlength=m) / n
    spent = costs.expected(taken)
    mixed = random_mix(y.mean(0), np.array(costs.alone), spent)
    lines.append(line("random at equal cost", y @ mixed, float(mixed @ costs.alone), mixed))
    lines.append(line("router", y[np.arange(n), taken], spent, shares))
    ideal = np.where(y.any(1), y.argmax(1), 0)
    oracle = np.bincount(ideal, minlength=m) / n
    lines.append(line("oracle", y[np.arange(n), ideal], costs.expected(ideal), oracle))
    curve = tuple(points_of(utilities, right, costs))
    share = costs.router / costs.alone[-1]
    return Evaluation(costs.network, kind, weight, share, tuple(lines), curve)


def random_mix(accuracy: Array, seconds: Array, budget: float) -> Array:
    """Return the probabilities (M,) of the most accurate random routing within a budget.

    At most two models have any; all is spent, unless more money buys nothing.
    """
    m = len(accuracy)
    best, found = -1.0, np.eye(m)[int(np.argmin(seconds))]
    for a in range(m):
        for b in range(m):
            if seconds[a] > budget or (a != b and seconds[b] <= seconds[a]):
                continue
            p = 0.0 if a == b else min(1.0, (budget - seconds[a]) / (seconds[b] - seconds[a]))
            got = (1 - p) * accuracy[a] + p * accuracy[b]
            if got > best:
                best, found = got, (1 - p) * np.eye(m)[a] + p * np.eye(m)[b]
    return np.asarray(found)


def _interval(samples: Array) -> tuple[float, float]:
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)
