"""The operating point: how much a unit of cost weighs against accuracy, found on held-out texts.

Notation: u utilities (N, M), y whether each model is right (N, M), c costs (M,), the dearest model
costing 1. A text goes to argmax_m u_m - weight * c_m.
Nothing is trained: another network, target or wish is another weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    """One weight, and what it brings on the held-out texts."""

    weight: float
    accuracy: float
    share: float
    routes: tuple[float, ...]


def routes_of(utilities: Array, costs: Costs, weight: float) -> Array:
    """Return the model that each text goes to, (N,)."""
    found: Array = np.argmax(utilities - weight * costs.shares, axis=1)
    return found


def points_of(utilities: Array, right: Array, costs: Costs) -> list[Point]:
    """Return points for weights from 0 to where everything goes to the cheapest model."""
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

    One lucky weight among its neighbours does not count: the accuracy of a point is the mean of the
    points around it. Raises UserError if no point is good enough.
    """
    ordered = sorted(points, key=lambda p: p.share)
    smooth = _smooth(np.array([p.accuracy for p in ordered]))
    for point, accuracy in zip(ordered, smooth, strict=True):
        if accuracy >= best - drop / 100:
            return point
    raise UserError(
        f"no operating point loses at most {drop} points of accuracy; the best loses "
        f"{100 * (best - float(smooth.max())):.2f}"
    )


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


def _smooth(accuracies: Array, reach: int = 2) -> Array:
    padded = np.pad(accuracies, reach, mode="edge")
    window = np.ones(2 * reach + 1) / (2 * reach + 1)
    found: Array = np.convolve(padded, window, mode="valid")
    return found
