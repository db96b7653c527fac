"""Guarded programs at work: values out of range are found, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.client import receive_outputs
from srcompile.runtime.cluster import LocalCluster
from srcompile.runtime.errors import ProtocolError, RangeError
from srcompile.runtime.kernels import load
from srcompile.runtime.local import LocalSession
from srcompile.runtime.party import Running
from srcompile.runtime.plain import PlainRunner
from srcompile.runtime.program import Program
from tests.support.builds import session
from tests.support.guarded import GATES, SMALL, guarded, network, samples, with_mean

SEED = 90125
FAR = (6.0, -6.0, 13.0, 30.0, -30.0)
"""In units of the calibrated range: beyond what is supported, and within 2^4 times of that."""

each_kind = pytest.mark.parametrize("kind", GATES)


@cache
def running(kind: str, max_width: int | None = None) -> LocalSession:
    return session(guarded(kind, max_width=max_width).program, SEED)


@each_kind
@pytest.mark.parametrize("far", FAR)
def test_a_value_far_out_of_range_in_the_middle_is_found(kind: str, far: float) -> None:
    # given an input that the client accepts, but whose mean is far from those of calibration
    x = with_mean(far * SMALL, np.random.default_rng(SEED))
    # then both targets find it, and the session goes on
    for run in (running(kind).infer, PlainRunner(guarded(kind, "plain").program, load()).infer):
        with pytest.raises(RangeError, match="left the range"):
            run(x)
    assert running(kind).infer(samples()[0]).outputs["y"].size


@each_kind
@pytest.mark.parametrize("max_width", [None, 24])
def test_it_is_found_where_rings_are_wide_and_where_they_are_extended(
    kind: str, max_width: int | None
) -> None:
    # given rings that hold all, or of 24 bits at most
    x = with_mean(5.5 * SMALL, np.random.default_rng(SEED))
    # when a value leaves its range, then it is found in both, although extensions forget high bits
    with pytest.raises(RangeError):
        running(kind, max_width).infer(x)
    assert running(kind, max_width).infer(samples()[0]).outputs["y"].size


@each_kind
@settings(deadline=None, max_examples=12)
@given(mean=st.floats(-1.2, 1.2), seed=st.integers(0, 2**32 - 1))
def test_values_in_range_never_fire(kind: str, mean: float, seed: int) -> None:
    # given an input a little beyond calibration, within the margin
    x = with_mean(mean * SMALL, np.random.default_rng(seed))
    # when it runs, then there is a result, and it is right
    found = running(kind).infer(x).outputs["y"]
    want, _ = evaluate(network(kind), x, registry())
    if kind not in ("comparison", "argmax"):  # the mean may be too near to zero to tell its sign
        np.testing.assert_allclose(found, want["y"], atol=0.02 * max(1, np.abs(want["y"]).max()))


@pytest.mark.parametrize("kind", ["relu", "exp", "product of values", "softmax", "layer norm"])
def test_a_guarded_program_gives_what_an_unguarded_one_gives(kind: str) -> None:
    for x in samples()[:4]:
        found = running(kind).infer(x).outputs["y"]
        want, _ = evaluate(network(kind), x, registry())
        np.testing.assert_allclose(found, want["y"], atol=0.02 * max(1, np.abs(want["y"]).max()))


def test_more_bits_find_what_fewer_cannot_tell() -> None:
    """With one bit more, a value far beyond 2^1 times its range wraps around into it."""
    rng = np.random.default_rng(SEED)
    fired = dict.fromkeys((1, 6), 0)
    for bits in fired:
        local = session(guarded("one relu", bits=bits).program, SEED)
        for far in np.linspace(5, 34, 30):
            try:
                local.infer(with_mean(far * SMALL, rng))
            except RangeError:
                fired[bits] += 1
    assert fired[6] == 30
    assert fired[1] < 30


# -- cost and what is sent ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*GATES, "pool"])
def test_a_guarded_program_costs_what_was_predicted(kind: str) -> None:
    stages = guarded(kind)
    local = session(stages.program, SEED)
    for x in samples()[:2]:
        result = local.infer(x)
        total = stages.cost.total(result.route)
        assert tuple(c.bytes for c in result.counters) == total.online_bytes
        assert [c.rounds for c in result.counters] == [total.rounds] * 2
    clients = [channel.traffic for channel in local._clients]
    masks = sum(t.sent for t in clients)  # an input's masks are as long as the masked input
    assert sum(t.received for t in clients) == masks + 2 * stages.cost.client_download
    for number, segment in enumerate(stages.cost.segments):
        if number in local.offline.blocks:
            blocks, *sizes = local.offline.blocks[number]
            assert tuple(sizes) == tuple(blocks * s for s in segment.total.offline_bytes)


def test_without_outputs_only_what_was_sent_is_counted() -> None:
    # given a run in which a value leaves its range
    local = session(guarded("relu").program, SEED)
    with pytest.raises(RangeError):
        local.infer(with_mean(20 * SMALL, np.random.default_rng(SEED)))
    # then the client got its masks and one byte from each party, and nothing of an output
    for channel in local._clients:
        assert channel.traffic.received == channel.traffic.sent + 1


def test_the_bit_costs_two_rounds_more_and_a_line_in_the_report() -> None:
    stages = guarded("relu")
    layers = [layer for layer in stages.cost.segments[0].layers if layer.op == "guard"]
    assert sum(layer.rounds for layer in layers) == 2
    assert all(sum(layer.online_bytes) + sum(layer.offline_bytes) for layer in layers)
    assert [d.to for d in stages.leakage if d.what.startswith("one bit")] == [
        "both parties and the client"
    ]


class _Says:
    """A channel on which a party says something."""

    def __init__(self, said: bytes) -> None:
        self.said = said

    def receive(self, size: int) -> bytes:
        return self.said[:size]


@pytest.mark.parametrize("said", [(b"\x01", b"\x00"), (b"\x02", b"\x02")])
def test_parties_that_do_not_agree_are_an_error(said: tuple[bytes, bytes]) -> None:
    parties = [_Says(s) for s in said]
    with pytest.raises(ProtocolError, match="do not agree"):
        receive_outputs(guarded("relu").program, parties, load())  # type: ignore[arg-type]


# -- pools ----------------------------------------------------------------------------------------


def routed_input(route: int, mean: float, first: float = 0.8) -> dict[str, np.ndarray]:
    """Return an input whose first two values choose the route."""
    row = with_mean(mean, np.random.default_rng(SEED))["x"]
    row[0, :2] = (first, -first) if route == 0 else (-first, first)
    row[0, 2:4] = mean  # the mean of all stays what it was, nearly
    return {"x": row}


@pytest.mark.parametrize("route", [0, 1])
def test_a_pool_checks_the_router_and_the_branch_that_runs(route: int) -> None:
    local = running("pool")
    plain = PlainRunner(guarded("pool", "plain").program, load())
    assert local.infer(routed_input(route, 0.0)).route == route
    assert plain.infer(routed_input(route, 0.0))[1] == route
    for run in (local.infer, plain.infer):
        with pytest.raises(RangeError):
            run(routed_input(route, 20 * SMALL))
    assert local.infer(routed_input(route, 0.0)).route == route


def test_each_branch_of_a_pool_reveals_one_bit_for_itself_and_the_router() -> None:
    online = guarded("pool").schedule.function("online")
    count = [sum(n.op == "guard" for n in s.nodes) for s in online.segments]
    assert count == [0, 1, 1]
    checks = [sum(n.op == "check" for n in s.nodes) for s in guarded("pool").fixed.main.segments]
    assert min(checks) >= 1


@pytest.mark.parametrize("target", ["2pc", "plain"])
def test_a_route_that_does_not_exist_is_a_value_out_of_range(target: str) -> None:
    # given a pool whose program has lost a branch's number, so that the router names none
    program = guarded("pool", target).program
    body = program.functions["online"][0]
    moved = [replace(i, attrs={"by": 7}) if i.op == "offset" else i for i in body]
    assert moved != list(body)
    functions = {**program.functions, "online": (tuple(moved), *program.functions["online"][1:])}
    broken = replace(program, functions=functions)
    # then the inference ends like any other that left a range
    run = session(broken, SEED).infer if target == "2pc" else PlainRunner(broken, load()).infer
    with pytest.raises(RangeError):
        run(routed_input(0, 0.0))


# -- processes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> object:
    program: Program = guarded("exp").program
    with LocalCluster(program) as started:
        yield started


def test_processes_go_on_after_a_value_out_of_range(cluster: LocalCluster) -> None:
    far, near = with_mean(20 * SMALL, np.random.default_rng(SEED)), samples()[0]
    before = cluster.infer(near)
    with pytest.raises(RangeError, match="wider margin"):
        cluster.infer(far)
    after = cluster.infer(near)
    np.testing.assert_allclose(after.outputs["y"], before.outputs["y"], atol=0.02)
    assert after.online_bytes == before.online_bytes


def test_a_route_that_there_is_not_is_an_error_that_does_not_name_it() -> None:
    # given a run of a program without a guard that has two routes
    run = Running({}, frozenset({0, 1}), {}, {}, guarded=False, observe=None)
    # when another index is opened, then it is not said which, and there is no route
    with pytest.raises(ProtocolError, match="none of this program's") as caught:
        run.reveal(73)
    assert "73" not in str(caught.value)
    assert run.route is None
