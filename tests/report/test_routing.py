"""Expected costs of routes, and from which share on routing pays."""

from __future__ import annotations

import pytest

from srcompile.errors import UserError
from srcompile.report.routing import parse_shares, route_costs
from tests.report import samples
from tests.report.models import compiled


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_expected_cost_is_the_mean_over_routes(share: float) -> None:
    report = samples.pool()
    found = route_costs(report, (share, 1 - share))
    assert found is not None
    assert found.expected is not None
    small, large = report.totals
    assert found.expected.seconds == pytest.approx(
        share * small.seconds + (1 - share) * large.seconds
    )
    assert found.expected.online_bytes[0] == pytest.approx(
        share * small.online_bytes[0] + (1 - share) * large.online_bytes[0], abs=1
    )


@pytest.mark.parametrize("report", [samples.pool(), compiled("pool").cost_report()])
def test_at_the_break_even_share_routing_costs_as_much_as_the_largest_model(report: object) -> None:
    from srcompile.report.figures import CostReport

    assert isinstance(report, CostReport)
    found = route_costs(report)
    assert found is not None
    assert found.largest == "large"
    (even,) = found.break_even
    assert even.online_bytes is not None
    small, large = (max(t.online_bytes) for t in report.totals)
    mean = even.online_bytes * small + (1 - even.online_bytes) * large
    # the small model's material in the router is offline, so online bytes agree exactly
    assert mean == pytest.approx(max(found.alone.online_bytes))


def test_where_routing_never_pays_it_says_so() -> None:
    found = route_costs(compiled("pool").cost_report())
    assert found is not None
    (even,) = found.break_even
    assert even.seconds is None
    assert "small: time never, bytes from" in found.text


def test_the_model_alone_includes_what_the_router_does_for_it() -> None:
    report = samples.pool()
    found = route_costs(report)
    assert found is not None
    assert found.alone.offline_bytes[1] == report.parts[2].total.offline_bytes[1] + 5000


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((1.0,), "gives 1 shares; the pool has 2 models: small, large"),
        ((0.5, 0.6), "0 or more and add up to 1"),
        ((-0.5, 1.5), "0 or more and add up to 1"),
        ((float("nan"), 1.0), "0 or more and add up to 1"),
    ],
)
def test_wrong_shares_are_refused(shares: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        route_costs(samples.pool(), shares)


def test_shares_are_for_pools_only() -> None:
    assert route_costs(samples.encoder()) is None
    with pytest.raises(UserError, match="for a pool whose route is revealed"):
        route_costs(samples.encoder(), (1.0,))


def test_shares_are_numbers() -> None:
    assert parse_shares("0.7,0.3") == (0.7, 0.3)
    with pytest.raises(UserError, match=r"such as 0\.7,0\.3, not 'half'"):
        parse_shares("half")
