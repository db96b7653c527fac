"""How far off the loss of an operating point is, counted and expected, on a pool's held-out texts.

    python tests/bench/operating.py OUT [--network lan] [--drop 0.5] [--draws 200]

OUT is a folder of `srtrain`. Whole held-out texts are drawn with replacement, their parts with
them, and taken as all there is; what all held-out texts lose is the truth. For each way to tell a
loss the table has, in points: its bias and standard deviation at three shares of the largest
model's cost; the true loss of the point that it picks for the tolerance, on average and in nine
draws of ten at most; and the mean share of that point, with its standard deviation.

Before it is the front on the held-out texts: how many the router gets right, and random routing as
good as it gets. Utilities are of texts that the router's last layer has not seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])  # not this folder: this file is named as a library

from srcompile.training.evaluate import random_mix
from srcompile.training.evidence import Evidence
from srcompile.training.operating import Costs, chances_of, points_of, routes_of

Array = np.ndarray[Any, Any]
Way = Callable[[Evidence], Array]
"""From held-out texts to how likely each model is right about each whole one, (W, M)."""

SHARES = (0.3, 0.4, 0.5)


def counted(found: Evidence) -> Array:
    """Return whether each model is right."""
    return np.asarray(found.right[found.weights == 1], np.float64)


def expected(found: Evidence) -> Array:
    """Return what whole texts alone say."""
    whole = found.weights == 1
    return chances_of(found.utilities[whole], found.right[whole], found.weights[whole])


def with_parts(found: Evidence) -> Array:
    """Return what whole texts and their parts say, as `srtrain calibrate` does."""
    return chances_of(found.utilities, found.right, found.weights)


WAYS: Mapping[str, Way] = {"counted": counted, "expected": expected, "with parts": with_parts}


def drawn(found: Evidence, draws: np.random.Generator) -> Evidence:
    """Return as many whole texts, drawn with replacement, and behind them their parts."""
    whole = int((found.weights == 1).sum())
    parts: list[list[int]] = [[] for _ in range(whole)]
    for k in range(whole, len(found.groups)):
        parts[found.groups[k]].append(k)
    chosen = draws.integers(0, whole, whole).tolist()
    places = [*chosen, *(k for text in chosen for k in parts[text])]
    return Evidence(*(field[places] for field in vars(found).values()))


def losses(utilities: Array, chances: Array, costs: Costs, weights: list[float]) -> Array:
    """Return for each cost weight how many points of 100 are lost against the largest model."""
    every = np.arange(len(utilities))
    routes = [routes_of(utilities, costs, weight) for weight in weights]
    return np.array([100 * (chances[:, -1] - chances[every, r]).mean() for r in routes])


def simulate(found: Evidence, costs: Costs, drop: float, count: int) -> str:
    """Return the table, in Markdown."""
    whole = found.utilities[found.weights == 1]
    points = sorted(points_of(whole, counted(found), costs), key=lambda p: p.share)[::4]
    weights, shares = [p.weight for p in points], np.array([p.share for p in points])
    truth = losses(whole, counted(found), costs, weights)
    places = [int(np.abs(shares - share).argmin()) for share in SHARES]
    draws = np.random.default_rng(0)
    off: dict[str, list[Array]] = {name: [] for name in WAYS}
    picked: dict[str, list[int]] = {name: [] for name in WAYS}
    for _ in range(count):
        sample = drawn(found, draws)
        utilities = sample.utilities[sample.weights == 1]
        for name, way in WAYS.items():
            told = losses(utilities, way(sample), costs, weights)
            off[name].append((told - truth)[places])
            good = np.flatnonzero(told <= drop)
            picked[name].append(int(good[0]) if len(good) else len(weights) - 1)
    head = ["", *(f"bias, deviation at {s}" for s in SHARES), "loses", "nine of ten", "costs"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in WAYS:
        errors, lost, spent = np.array(off[name]), truth[picked[name]], shares[picked[name]]
        pairs = zip(errors.mean(0), errors.std(0), strict=True)
        cells = [name, *(f"{bias:.2f}, {deviation:.2f}" for bias, deviation in pairs)]
        cells += [f"{lost.mean():.2f}", f"{np.quantile(lost, 0.9):.2f}"]
        lines.append(f"| {' | '.join([*cells, f'{spent.mean():.2f} ({spent.std():.2f})'])} |")
    return "\n".join(lines)


def front(found: Evidence, costs: Costs) -> str:
    """Return what the router and random routing get right of whole held-out texts, in Markdown."""
    whole = found.weights == 1
    points = points_of(found.utilities[whole], counted(found), costs)
    accuracy = counted(found).mean(0)
    lines = ["| share of the largest model's cost | router | random |", "|---|---|---|"]
    for low in np.arange(0.05, 1, 0.05):
        got = [100 * p.accuracy for p in points if low <= p.share < low + 0.05]
        if got:
            mixes = [random_mix(accuracy, np.array(costs.alone), costs.alone[-1] * share)
                     for share in (low, low + 0.05)]  # fmt: skip
            least, most = (100 * float(mix @ accuracy) for mix in mixes)
            lines.append(
                f"| {low:.2f} to {low + 0.05:.2f} | {min(got):.1f} to {max(got):.1f} "
                f"| {least:.1f} to {most:.1f} |"
            )
    return "\n".join(lines)


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="a folder of srtrain, calibrated")
    parser.add_argument("--network", default="lan")
    parser.add_argument("--drop", type=float, default=0.5, help="the tolerance, points of 100")
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    known = json.loads((options.out / "costs.json").read_text())[options.network]
    models, alone = tuple(known["models"]), tuple(known["alone"])
    costs = Costs(options.network, known["router"], models, alone)
    found = Evidence.load(options.out / "evidence.npz")
    print(front(found, costs), simulate(found, costs, options.drop, options.draws), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
