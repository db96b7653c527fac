"""Accuracy against cost: the router beside every single model, random routing and the oracle.

Random routing picks models at random with the probabilities that bring the best accuracy for the
router's expected cost, without a router to pay: a point of the upper hull of the single models. The
oracle takes the cheapest model that is right, and the cheapest if none is. Intervals are those of
the bootstrap over texts, 95 %. Beside accuracy there is the measure that is usual for a task
(`MEASURES`), by scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import metrics

from srcompile.training.operating import Costs, Point, points_of, routes_of

Array = np.ndarray[Any, Any]

DRAWS = 2000
"""Samples of the bootstrap."""

MEASURES: Mapping[str, Callable[..., float]] = {
    "accuracy": metrics.accuracy_score,
    "f1": metrics.f1_score,
    "matthews": metrics.matthews_corrcoef,
}
"""What a recipe may name: a function of labels, answers and `sample_weight`."""


@dataclass(frozen=True)
class Line:
    """One way to choose models, on one network.

    accuracy, lost: 0 to 1, lost against the largest model; interval and lost_interval: 95 %.
    score: by the task's measure, 1 at best.
    seconds, share, speed_up: of one inference, against the largest model alone.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    lost: float
    lost_interval: tuple[float, float]
    score: float
    seconds: float
    share: float
    speed_up: float
    routes: tuple[float, ...]


@dataclass(frozen=True)
class Evaluation:
    """All lines for one network, and the router's curve over all weights."""

    network: str
    kind: str
    measure: str
    weight: float
    router_share: float
    lines: tuple[Line, ...]
    curve: tuple[Point, ...]

    @property
    def better(self) -> tuple[str, ...]:
        """Single models that are at least as accurate as the router, and no dearer: their lines."""
        (router,) = (line for line in self.lines if line.name == "router")
        return tuple(
            line.name
            for line in self.lines
            if line.name.startswith("always")
            and line.accuracy >= router.accuracy
            and line.seconds <= router.seconds
        )


def evaluate(
    names: tuple[str, ...],
    answers: Array,
    labels: Array,
    utilities: Array,
    costs: Costs,
    weight: float,
    kind: str = "projected",
    measure: str = "accuracy",
    seed: int = 0,
) -> Evaluation:
    """Return the evaluation of a pool on N texts.

    answers: the label that each model gives each text, (N, M); labels: what is right, (N,);
    utilities: (N, M). measure: one of MEASURES.
    """
    n, m = answers.shape
    right = answers == labels[:, None]
    y = right.astype(np.float64)
    large = y[:, -1]
    draws = np.random.default_rng(seed).integers(0, n, (DRAWS, n))

    def line(name: str, taken: Array, seconds: float) -> Line:
        """taken: the probability that a text takes each model, (N, M)."""
        got, routes = (y * taken).sum(1), taken.mean(0)
        sampled, lost = got[draws].mean(1), (large - got)[draws].mean(1)
        score = MEASURES[measure](
            np.repeat(labels, m), answers.reshape(-1), sample_weight=taken.reshape(-1)
        )
        return Line(
            name,
            float(got.mean()),
            _interval(sampled),
            float((large - got).mean()),
            _interval(lost),
            float(score),
            seconds,
            seconds / costs.alone[-1],
            costs.alone[-1] / seconds,
            tuple(map(float, routes)),
        )

    every, lines = np.eye(m), []
    for k, name in enumerate(names):
        role = {0: "always smallest: ", m - 1: "always largest: "}.get(k, "always ")
        lines.append(line(f"{role}{name}", np.tile(every[k], (n, 1)), costs.alone[k]))
    taken = routes_of(utilities, costs, weight)
    spent = costs.expected(taken)
    mixed = random_mix(y.mean(0), np.array(costs.alone), spent)
    money = float(mixed @ costs.alone)
    lines.append(line("random at equal cost", np.tile(mixed, (n, 1)), money))
    lines.append(line("router", every[taken], spent))
    ideal = np.where(y.any(1), y.argmax(1), 0)
    lines.append(line("oracle", every[ideal], costs.expected(ideal)))
    curve = tuple(points_of(utilities, right, costs))
    share = costs.router / costs.alone[-1]
    return Evaluation(costs.network, kind, measure, weight, share, tuple(lines), curve)


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
