"""What-ifs are compiled programs, and nothing is captured or calibrated without need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import srcompile
from srcompile import api, whatif
from srcompile.api import compile
from srcompile.errors import UserError
from srcompile.passes.quantise import Formats
from srcompile.report.plot import save_plot
from srcompile.whatif import parse_axis, suggest, sweep
from tests.report import samples
from tests.report.models import IDS, POINTS, SAMPLES, compiled, encoder, mlp


def test_a_variant_is_what_compiling_with_its_settings_gives() -> None:
    # given a sweep over four kinds of settings at once
    found = sweep(
        encoder(),
        IDS,
        {
            "network": ["lan", "100:20"],
            "set.gelu": ["exact", "quad"],
            "precision-bits": [6],
            "seq": [3, 5],
        },
        calibration_inputs=SAMPLES,
        base=compiled("encoder"),
    )
    assert len(found.variants) == 8
    # when one of them is compiled by itself
    longer = [(torch.arange(5)[None] % 3,)]
    for index in (0, 6):
        settings = found.variants[index].settings
        length = int(settings["seq"])
        rows = [(ids[:, torch.arange(length) % 3],) for (ids,) in SAMPLES]
        assert length == 3 or rows[0][0].shape == longer[0][0].shape
        want = compile(
            encoder(),
            rows[0],
            calibration_inputs=rows,
            network=settings["network"],
            formats=Formats(precision_bits=6),
            approximations={} if settings["set.gelu"] == "exact" else {"gelu": "quad"},
        ).cost_report()
        # then the figures are the same
        assert found.variants[index].report.total == want.total


def test_longer_sequences_cost_more() -> None:
    found = sweep(encoder(), IDS, {"seq": (2, 4, 8)}, calibration_inputs=SAMPLES)
    sent = [v.report.total.online_bytes[0] for v in found.variants]
    assert sent == sorted(sent)
    assert sent[0] < sent[-1]


def test_nothing_is_captured_or_calibrated_again_without_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = compiled("encoder")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("captured again")

    monkeypatch.setattr(api, "capture", refuse)
    axes: dict[str, Sequence[object]] = {"set.gelu": ["exact", "quad"], "embedding": ["secret"]}
    assert len(sweep(encoder(), IDS, axes, base=base).variants) == 2
    monkeypatch.setattr(api, "run_pipeline", refuse)
    axes = {"network": ["lan", "wan"], "weight-bits": [8, 12], "activation-bits": [12]}
    assert len(sweep(encoder(), IDS, axes, base=base).variants) == 4


def test_the_route_of_a_pool_is_planned_for_its_network() -> None:
    pool = srcompile.Pool({"a": mlp(2), "b": mlp(40)}, mlp(3), cost_weight=0.5)
    found = sweep(pool, POINTS[0], {"network": ["lan", "1:200"]}, calibration_inputs=POINTS)
    want = srcompile.cost(pool, POINTS[0], calibration_inputs=POINTS, network="1:200")
    assert found.variants[1].report == want


def test_any_axis_of_an_input_can_be_swept() -> None:
    found = sweep(mlp(4), (torch.ones(2, 3),), {"input.0": (1, 4)})
    first, second = (v.report.client_upload for v in found.variants)
    assert second > 2 * first


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"seq": [4]}, "which axis is the sequence is not obvious.*the inputs are input"),
        ({"depth": [4]}, "there is no 'depth' to sweep: choose network, seq, set.OP"),
        ({"input.7": [4]}, "there is no 'input.7' to sweep"),
        ({"input.1": ["x"]}, "sizes of 1 or more, not 'x'"),
        ({"input.1": [0]}, "sizes of 1 or more, not '0'"),
        ({"set.norm": ["quad"]}, "'norm' cannot be approximated"),
        ({"set.gelu": ["cubic"]}, "there is no 'cubic' for 'gelu': choose exact, spline, quad"),
        ({"network": ["moon"]}, "there is no network 'moon'"),
        ({"precision-bits": ["99"]}, "takes numbers from 0 to 20, not '99'"),
        ({}, "a sweep needs an axis"),
    ],
)
def test_what_cannot_be_swept_is_refused(axes: dict[str, list[object]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sweep(mlp(4), POINTS[0], axes, base=compiled("mlp"))


@pytest.mark.parametrize("text", ["network", "network=", "=lan", "seq=1,1"])
def test_an_axis_has_a_name_and_values(text: str) -> None:
    with pytest.raises(UserError, match="--sweep"):
        parse_axis(text)


def test_axes_are_read_as_they_are_written() -> None:
    assert parse_axis("network=lan, 100:20") == whatif.Axis("network", ("lan", "100:20"))


# -- suggestions ----------------------------------------------------------------------------------


def test_suggestions_name_dear_places_and_cheaper_programs() -> None:
    base = compiled("encoder")
    before = base.cost_report().total
    found = suggest(base)
    assert len(found) == 4
    changes = [c for s in found for c in s.changes]
    assert changes
    for change in changes:
        sent = sum((*change.total.online_bytes, *change.total.offline_bytes))
        cheaper = sent < sum((*before.online_bytes, *before.offline_bytes))
        assert change.total.seconds < before.seconds or cheaper


def test_a_suggested_precision_is_what_the_option_gives() -> None:
    base = compiled("encoder")
    change = next(c for s in suggest(base) for c in s.changes if c.how == "--precision-bits 6")
    want = base.again(formats=Formats(precision_bits=6)).cost_report()
    assert change.total == want.total


def test_a_suggested_function_is_what_set_gives() -> None:
    class Wide(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.gelu(x)

    points = [(torch.linspace(-k, k, 64)[None],) for k in (1.0, 2.0, 4.0)]
    # on a network where nothing counts but bytes online: a comparison opens fewer bits than a table
    base = compile(Wide(), points[0], calibration_inputs=points, network="0.001:0")
    by_how = {c.how: c for s in suggest(base) for c in s.changes}
    want = base.again(approximations={"gelu": "relu"}).cost_report().total
    assert by_how["--set gelu=relu"].total == want


class Heads(torch.nn.Module):
    """Attention with so many heads; the weights do not depend on their number."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads = heads
        self.q, self.k, self.v = (torch.nn.Linear(8, 8) for _ in range(3))
        self.out = torch.nn.Linear(8, 8)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(1, 6, self.heads, -1).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.split(layer(x)) for layer in (self.q, self.k, self.v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        joined: torch.Tensor = self.out(y.transpose(1, 2).reshape(1, 6, 8))
        return joined


def test_fewer_heads_cost_what_the_model_with_fewer_heads_costs() -> None:
    # given attention with four heads, and the same with two
    rng = torch.Generator().manual_seed(0)
    rows = [(torch.randn(1, 6, 8, generator=rng),) for _ in range(4)]
    four, two = (compile(Heads(h), rows[0], calibration_inputs=rows) for h in (4, 2))
    # when changes are suggested for four
    changes = [c for s in suggest(four) for c in s.changes]
    # then two are among them, and cost what compiling them costs
    (change,) = (c for c in changes if c.change == "heads: 2 instead of 4")
    assert change.total == two.cost_report().total
    assert change.total.seconds < four.cost_report().total.seconds
    assert "trained again" in change.note


def test_an_odd_number_of_heads_is_left_alone() -> None:
    rows = [(torch.ones(1, 6, 8),)]
    one = compile(Heads(1), rows[0], calibration_inputs=rows)
    assert not [c for s in suggest(one) for c in s.changes if "heads" in c.change]


# -- plots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_a_sweep_is_drawn(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / f"plot.{suffix}"
    save_plot(samples.sweep(), path)
    assert path.read_bytes().startswith(start)


def test_a_plot_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"written as \.png or \.svg, not as plot\.gif"):
        save_plot(samples.sweep(), tmp_path / "plot.gif")
