"""Operating points and evaluations, on utilities and costs that are given."""

from __future__ import annotations

import numpy as np
import pytest

from srcompile.errors import UserError
from srcompile.training.evaluate import evaluate, random_mix
from srcompile.training.operating import (
    Costs,
    point_of,
    points_of,
    routes_of,
    within_drop,
    within_share,
)

COSTS = Costs("lan", 0.02, (0.01, 0.3, 1.0), (0.03, 0.3, 1.0))


def texts(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return utilities (n, 3) that are the true probabilities, and whether each model is right."""
    draws = np.random.default_rng(seed)
    hardness = draws.uniform(size=n)
    chances = np.stack([1 - 0.5 * hardness, 1 - 0.3 * hardness, 1 - 0.1 * hardness], 1)
    return chances, draws.uniform(size=(n, 3)) < chances


def test_more_weight_on_cost_never_makes_it_dearer() -> None:
    utilities, right = texts()
    shares = [p.share for p in points_of(utilities, right, COSTS)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(COSTS.share(np.zeros(1, int)))


@pytest.mark.parametrize("drop", [0.5, 2.0, 10.0])
def test_a_tolerance_gives_the_cheapest_point_within_it(drop: float) -> None:
    utilities, right = texts()
    points, best = points_of(utilities, right, COSTS), float(right[:, -1].mean())
    point = within_drop(points, best, drop)
    assert point.share < 1
    assert point.accuracy > best - drop / 100 - 0.01  # neighbours are averaged
    assert point == point_of(utilities, right, COSTS, point.weight)


def test_a_tolerance_that_cannot_be_met_is_refused() -> None:
    utilities, right = texts()
    with pytest.raises(UserError, match="no operating point loses at most 0 points"):
        within_drop(points_of(utilities, right, COSTS), 2.0, 0)


def test_a_budget_gives_the_most_accurate_point_within_it() -> None:
    utilities, right = texts()
    points = points_of(utilities, right, COSTS)
    point = within_share(points, 0.4)
    assert point.share <= 0.4
    assert point.accuracy == max(p.accuracy for p in points if p.share <= 0.4)


def test_a_budget_below_the_cheapest_is_refused() -> None:
    utilities, right = texts()
    with pytest.raises(UserError, match=r"the cheapest costs 0\.03"):
        within_share(points_of(utilities, right, COSTS), 0.01)


def test_a_rule_of_other_costs_decides_while_these_are_counted() -> None:
    utilities = np.array([[0.5, 0.6]])
    dear = Costs("x", 0.0, (1.0, 2.0), (1.0, 2.0), rule=(0.0, 1.0))
    assert routes_of(utilities, dear, 0.15).tolist() == [0]
    assert routes_of(utilities, Costs("x", 0.0, (1.0, 2.0), (1.0, 2.0)), 0.15).tolist() == [1]


def test_random_routing_mixes_the_two_models_around_the_budget() -> None:
    mixed = random_mix(np.array([0.8, 0.81, 0.9]), np.array([0.0, 0.5, 1.0]), 0.25)
    assert mixed == pytest.approx([0.75, 0.0, 0.25])  # the middle one is below the line


def test_a_router_that_knows_the_chances_beats_random_routing_and_not_the_oracle() -> None:
    utilities, right = texts(4000)
    found = evaluate(("s", "m", "l"), right, utilities, COSTS, 0.1)
    lines = {line.name: line for line in found.lines}
    assert lines["router"].accuracy > lines["random at equal cost"].accuracy
    assert lines["router"].accuracy < lines["oracle"].accuracy
    assert lines["router"].seconds == pytest.approx(lines["random at equal cost"].seconds)
    assert sum(lines["router"].routes) == pytest.approx(1)
    assert lines["always largest: l"].lost_interval == (0, 0)
    for line in found.lines:
        assert line.interval[0] <= line.accuracy <= line.interval[1]
        assert line.speed_up == pytest.approx(1 / line.share)
