"""The report's figures are the cost's, rounds are the program's, and pandas gets them all."""

from __future__ import annotations

import sys

import pytest

import srcompile
from srcompile.errors import UserError
from srcompile.report.figures import CostReport, Figures
from srcompile.report.places import dearest_places, pattern
from srcompile.report.tree import ROWS, Branch, rows, tree
from tests.report import samples
from tests.report.models import IDS, POINTS, SAMPLES, compiled, encoder, mlp

NAMES = ("encoder", "mlp", "pool")


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_those_of_the_cost(name: str) -> None:
    cost, report = compiled(name).cost, compiled(name).cost_report()
    for segment, part in zip(cost.segments, report.parts, strict=True):
        assert part.total.online_bytes == segment.total.online_bytes
        assert part.total.rounds == segment.total.rounds
        assert part.total.offline_bytes == segment.total.offline_bytes
        assert part.total.seconds == cost.seconds(segment.total)
        assert [x.figures.online_bytes for x in part.layers] == [
            x.online_bytes for x in segment.layers
        ]
    routes = [s.route for s in cost.segments if s.route is not None]
    for route, total in zip(routes, report.totals, strict=True):
        assert total.online_bytes == cost.total(route).online_bytes


@pytest.mark.parametrize("name", NAMES)
def test_rounds_of_a_part_carry_its_bytes(name: str) -> None:
    report = compiled(name).cost_report()
    for part in report.parts:
        rounds = [r for r in report.rounds if r.part == part.name]
        assert len(rounds) == part.total.rounds
        assert sum(r.bytes for r in rounds) == part.total.online_bytes[0]
        for message in (m for r in rounds for m in r.messages):
            assert message.bytes == -(-message.elements * message.width // 8)


def test_a_round_counts_for_the_layer_that_sends_most_in_it() -> None:
    report = compiled("encoder").cost_report()
    (part,) = report.parts
    counted: dict[tuple[str, str], int] = {}
    for r in report.rounds:
        key = (r.largest.name, r.largest.op)
        counted[key] = counted.get(key, 0) + 1
    predicted: dict[tuple[str, str], int] = {}
    for x in part.layers:
        if x.figures.rounds:
            key = (x.name, x.op)
            predicted[key] = predicted.get(key, 0) + x.figures.rounds
    assert counted == predicted


def test_cost_compiles_and_reports() -> None:
    report = srcompile.cost(encoder(), IDS, calibration_inputs=SAMPLES, network="wan")
    assert isinstance(report, CostReport)
    assert report.network.name == "wan"
    assert report.total.seconds > report.total.rounds * 0.04 / 2


def test_a_wider_model_costs_more() -> None:
    narrow, wide = (
        srcompile.cost(mlp(width), POINTS[0], calibration_inputs=POINTS).total for width in (4, 16)
    )
    assert narrow.online_bytes < wide.online_bytes
    assert narrow.offline_bytes < wide.offline_bytes
    assert narrow.rounds == wide.rounds


def test_a_frame_has_a_row_for_each_op_of_each_layer() -> None:
    report = compiled("pool").cost_report()
    frame = report.to_frame()
    assert len(frame) == sum(len(part.layers) for part in report.parts)
    sums = frame.groupby("part", sort=False)[["online_bytes_0", "rounds", "offline_bytes_1"]].sum()
    assert sums.to_numpy().tolist() == [
        [p.total.online_bytes[0], p.total.rounds, p.total.offline_bytes[1]] for p in report.parts
    ]


def test_without_pandas_to_frame_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="needs pandas, which is not installed: pip install pandas"):
        samples.encoder().to_frame()


# -- the tree and the dearest places --------------------------------------------------------------


def _leaves(branch: Branch) -> list[Figures]:
    own = [o.figures for o in branch.ops]
    return own + [f for child in branch.children for f in _leaves(child)]


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("report", [samples.encoder(), samples.pool()], ids=["encoder", "pool"])
def test_a_tree_loses_nothing(report: CostReport, alike: bool) -> None:
    for part in report.parts:
        leaves = _leaves(tree(part, alike=alike))
        for which in ("online_bytes", "offline_bytes"):
            assert sum(getattr(f, which)[1] for f in leaves) == getattr(part.total, which)[1]
        assert sum(f.rounds for f in leaves) == part.total.rounds


@pytest.mark.parametrize("depth", [None, 1, 2, 3])
def test_rows_add_up_to_the_total_however_deep(depth: int | None) -> None:
    (part,) = samples.encoder().parts
    found = [row for row in rows(part, depth) if not row.inner]
    assert sum(row.figures.online_bytes[0] for row in found) == part.total.online_bytes[0]
    assert sum(row.figures.rounds for row in found) == part.total.rounds
    assert sum(row.share for row in found) == pytest.approx(1, abs=1e-3)


def test_a_deep_model_of_many_layers_is_folded_to_a_readable_size() -> None:
    layers = [x for k in range(48) for x in samples.block(k)]
    part = samples.part("main", layers)
    found = rows(part)
    assert len(found) <= ROWS
    assert found[0].label == "encoder.layer.0-47 (all 48)"
    assert len(rows(part, everything=True)) > 48 * 6


def test_many_modules_that_are_not_alike_are_folded_too() -> None:
    cost = samples.figures(1000, 1, 1000, 1e-3)
    layers = [
        samples.layer(f"stage.{k}.step{j}.{'abc'[k % 3]}{j}", "relu", j, cost)
        for k in range(30)
        for j in range(k % 5 + 2)
    ]
    found = rows(samples.part("main", layers))
    assert len(found) <= ROWS
    assert any(row.folded for row in found)


def test_layers_that_differ_in_number_only_are_one_place() -> None:
    report = samples.encoder()
    first = dearest_places(report)[0]
    assert (first.name, first.op, first.count) == ("encoder.layer.*.act", "gelu", 2)
    assert first.figures.offline_bytes[1] == 80_000_000
    assert pattern("a.12.b3.0") == "a.*.b3.*"
