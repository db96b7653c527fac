"""Operating points and evaluations, on utilities and costs that are given."""

from __future__ import annotations

import numpy as np
import pytest

from srcompile.errors import UserError
from srcompile.training.evaluate import MEASURES, evaluate, random_mix
from srcompile.training.operating import (
    Costs,
    chances_of,
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
    assert point.accuracy >= best - drop / 100
    assert all(p.share >= point.share for p in points if p.accuracy >= best - drop / 100)
    assert point == point_of(utilities, right, COSTS, point.weight)


def test_a_tolerance_that_cannot_be_met_is_refused() -> None:
    utilities, right = texts()
    with pytest.raises(UserError, match="no operating point loses at most 0 points"):
        within_drop(points_of(utilities, right, COSTS), 2.0, 0)


def test_what_is_expected_to_be_lost_is_nearer_to_the_truth_than_what_is_counted() -> None:
    expected: list[float] = []
    counted: list[float] = []
    for seed in range(40):
        utilities, right = texts(400, seed)
        routes = routes_of(utilities, COSTS, 0.25)
        every = np.arange(len(routes))
        truth = (utilities[:, -1] - utilities[every, routes]).mean()
        chances = chances_of(utilities, right, np.ones(len(right)))
        expected.append((chances[:, -1] - chances[every, routes]).mean() - truth)
        counted.append((right[:, -1].mean() - right[every, routes].mean()) - truth)
    assert np.square(expected).mean() < 0.9 * np.square(counted).mean()


def test_parts_of_texts_make_what_is_expected_better_and_get_no_chances_themselves() -> None:
    alone: list[float] = []
    helped: list[float] = []
    for seed in range(40):
        utilities, right = texts(1000, seed)
        whole = np.repeat([1.0, 0.3], [200, 800])
        routes = routes_of(utilities[:200], COSTS, 0.25)
        truth = (utilities[:200, -1] - utilities[np.arange(200), routes]).mean()
        for found, n in ((alone, 200), (helped, 1000)):
            chances = chances_of(utilities[:n], right[:n], whole[:n])
            assert chances.shape == (200, 3)
            found.append((chances[:, -1] - chances[np.arange(200), routes]).mean() - truth)
    assert np.square(helped).mean() < 0.8 * np.square(alone).mean()


def test_nothing_is_lost_if_all_models_are_right_about_the_same_texts() -> None:
    utilities, right = texts()
    same = np.tile(right[:, :1], (1, 3))
    chances = chances_of(utilities, same, np.ones(len(right)))
    np.testing.assert_allclose(chances, right[:, 0].mean())


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


@pytest.mark.parametrize("measure", MEASURES)
def test_a_router_that_knows_the_chances_beats_random_routing_and_not_the_oracle(
    measure: str,
) -> None:
    utilities, right = texts(4000)
    labels = np.arange(4000) % 2
    answers = np.where(right, labels[:, None], 1 - labels[:, None])
    found = evaluate(("s", "m", "l"), answers, labels, utilities, COSTS, 0.1, measure=measure)
    lines = {line.name: line for line in found.lines}
    assert lines["router"].accuracy > lines["random at equal cost"].accuracy
    assert lines["router"].accuracy < lines["oracle"].accuracy
    assert lines["router"].seconds == pytest.approx(lines["random at equal cost"].seconds)
    assert sum(lines["router"].routes) == pytest.approx(1)
    assert lines["always largest: l"].lost_interval == (0, 0)
    assert lines["random at equal cost"].score < lines["router"].score < lines["oracle"].score
    for k, name in enumerate(("always smallest: s", "always m", "always largest: l")):
        assert lines[name].score == pytest.approx(MEASURES[measure](labels, answers[:, k]))
    for line in found.lines:
        assert line.interval[0] <= line.accuracy <= line.interval[1]
        assert line.speed_up == pytest.approx(1 / line.share)


def test_where_routing_does_not_pay_the_better_single_models_are_named() -> None:
    # given a router that costs as much as the middle model, which is right about nearly all texts
    utilities, right = texts()
    right[:, 1], labels = True, np.zeros(600, np.int64)
    answers = np.where(right, 0, 1)
    dear = Costs("lan", 0.3, COSTS.models, COSTS.alone)
    for costs, named in ((COSTS, ()), (dear, ("always m",))):
        # when all texts go to the smallest model but for some that it seems hopeless for
        found = evaluate(("s", "m", "l"), answers, labels, utilities, costs, 0.6)
        # then the middle one is named if it is no dearer, and not for its accuracy alone
        assert found.better == named
