"""Drift compares each value with the float one of its name, and with no other."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from srcompile.api import Compiled, compile


class Clash(nn.Module):
    """Sums that are called offset and offset.2, as what shifts the arguments of tables would be."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.between = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.sigmoid(x) + 1
        out: Tensor = torch.sigmoid(self.between(first)) + 3
        return out


@cache
def clash() -> Compiled:
    rows = [(torch.linspace(k, k + 1, 4)[None],) for k in (0.5, 0.6, 0.8)]
    return compile(Clash(), rows[0], calibration_inputs=rows)


def test_a_value_keeps_its_name_though_a_table_would_take_it() -> None:
    # given a graph with values that have the names of what quantise adds
    stages = clash().stages
    graph = {node.out: node for node in stages.expanded.main.nodes() if node.out}
    assert {"%offset", "%offset.2"} <= set(graph)
    # when it is quantised
    fixed = {node.out: node for node in stages.fixed.main.nodes() if node.out}
    # then each value is under its name, and at its own place
    assert set(graph) <= set(fixed)
    for name, node in graph.items():
        assert fixed[name].loc == node.loc


def test_drift_compares_a_value_with_the_float_one_of_its_name() -> None:
    drifts = clash().drift()
    first = ["input", "sigmoid", "offset"]
    assert [d.loc.op for d in drifts] == [*first, "linear", *first[1:]]
    assert all(d.relative < 0.05 for d in drifts), max(drifts, key=lambda d: d.relative)
