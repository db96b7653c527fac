"""The operating point: how much a unit of cost weighs against accuracy, found on held-out texts.

Notation: u utilities (N, M), y whether each model is right (N, M), c costs (M,), the dearest model
costing 1; L is the largest, the last one. A text goes to argmax_m u_m - weight * c_m.
Nothing is trained: another network, target or wish is another weight.

What a weight loses is not counted but expected: model m loses E[y_L - y_m | u_L - u_m] on a text,
which grows with the gap between the utilities, whatever they are worth as probabilities, and is
found by isotonic regression. Parts of texts help to find it, if there are any; the expectation is
over whole ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression

from srcompile.errors import UserError

Array = np.ndarray[Any, Any]

MOST_WEIGHTS = 400
"""Weights that are tried."""


@dataclass(frozen=True)
class Costs:
    """What a pool costs on a network, in projected or measured seconds.

    router: seconds of the router, which always runs. models: seconds of each model behind it.
    alone: seconds of each model without a router, as a program of its own.
    rule: the shares that the routing rule has, if it was compiled with others than these.
    """

    network: str
    router: float
    models: tuple[float, ...]
    alone: tuple[float, ...]
    rule: tuple[float, ...] = ()

    @property
    def shares(self) -> Array:
        """c: what the routing rule has, (M,), the dearest model costing 1."""
        return np.array(self.rule or self.models) / max(self.rule or self.models)

    def expected(self, routes: Array) -> float:
        """Return mean seconds of inferences that took these routes, router included."""
        return self.router + float(np.array(self.models)[routes].mean())

    def share(self, routes: Array) -> float:
        """Return the same as a share of the largest model alone."""
        return self.expected(routes) / self.alone[-1]


@dataclass(frozen=True)
class Point:
    """One weight, and what it brings; accuracy is expected on held-out texts, counted on others."""

    weight: float
    accuracy: float
    share: float
    routes: tuple[float, ...]


def chances_of(utilities: Array, right: Array, weights: Array) -> Array:
    """Return how likely each model is right about each whole text, (W, M), W of N texts.

    utilities, right: (N, M). weights: what a text counts, (N,); those of whole texts are 1. Of the
    largest model the mean is returned for every text: only what others lose against it is needed.
    """
    y, whole = right.astype(np.float64), weights == 1
    found = np.full((int(whole.sum()), right.shape[1]), y[whole, -1].mean())
    for m in range(right.shape[1] - 1):
        gaps, lost = utilities[:, -1] - utilities[:, m], y[:, -1] - y[:, m]
        expected = IsotonicRegression(out_of_bounds="clip").fit(gaps, lost, sample_weight=weights)
        found[:, m] -= expected.predict(gaps[whole])
    return found


def routes_of(utilities: Array, costs: Costs, weight: float) -> Array:
    """Return the model that each text goes to, (N,)."""
    found: Array = np.argmax(utilities - weight * costs.shares, axis=1)
    return found


def points_of(utilities: Array, right: Array, costs: Costs) -> list[Point]:
    """Return points for weights from 0 to where everything goes to the cheapest model.

    right: whether each model is right, or how likely it is, (N, M).
    """
    shares = costs.shares
    found = {0.0}
    for m in range(len(shares)):
        for o in range(m):
            if shares[m] > shares[o]:
                gains = (utilities[:, m] - utilities[:, o]) / (shares[m] - shares[o])
                found |= {
                    float(g) for g in np.quantile(gains, np.linspace(0, 1, MOST_WEIGHTS)) if g > 0
                }
    weights = sorted({round(w, 6) for w in found})
    return [point_of(utilities, right, costs, weight) for weight in (*weights, weights[-1] + 1e-3)]


def point_of(utilities: Array, right: Array, costs: Costs, weight: float) -> Point:
    """Return what a weight brings."""
    routes = routes_of(utilities, costs, weight)
    counts = np.bincount(routes, minlength=right.shape[1]) / len(routes)
    accuracy = float(right[np.arange(len(routes)), routes].mean())
    return Point(weight, accuracy, costs.share(routes), tuple(map(float, counts)))


def within_drop(points: Sequence[Point], best: float, drop: float) -> Point:
    """Return the cheapest point whose accuracy is at most `drop` points of 100 below `best`.

    Raises UserError if no point is good enough.
    """
    good = [point for point in points if point.accuracy >= best - drop / 100]
    if not good:
        least = best - max(point.accuracy for point in points)
        raise UserError(
            f"no operating point loses at most {drop} points of accuracy; the best loses "
            f"{100 * least:.2f}"
        )
    return min(good, key=lambda point: point.share)


def within_share(points: Sequence[Point], share: float) -> Point:
    """Return the most accurate point that costs at most `share` of the largest model.

    Raises UserError if even the cheapest costs more.
    """
    cheap = [point for point in points if point.share <= share]
    if not cheap:
        least = min(point.share for point in points)
        raise UserError(
            f"no operating point costs at most {share:.3g} of the largest model; the cheapest "
            f"costs {least:.3g}"
        )
    return max(cheap, key=lambda point: (point.accuracy, -point.share))
