"""Every op and every case of it, through the whole compiler and under both targets.

A new op is tested by having cases: nothing is added here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from srcompile.ir.graph import Array, Module, Node
from srcompile.ir.parser import parse_module
from srcompile.ir.printer import print_module
from srcompile.ir.types import FloatType
from srcompile.ops import registry, torch_names
from srcompile.ops.interpreter import evaluate
from srcompile.ops.verifier import verify
from srcompile.passes.calibrate import calibrate
from srcompile.passes.cost import LayerCost
from srcompile.passes.expand import expand
from srcompile.passes.fold_constants import fold_constants
from srcompile.passes.fuse_layers import fuse_layers
from srcompile.report.messages import rounds_of
from srcompile.runtime.isa import sends
from srcompile.runtime.kernels import load
from srcompile.runtime.local import LocalSession, Result
from srcompile.runtime.plain import PlainRunner
from srcompile.runtime.program import dumps, loads
from tests.support.builds import BUILDS, CASES, NETWORKS_BY_NAME, Build, compiled, rounding, session
from tests.support.counted import dealt_by_layer, rounds_by_layer

SEED = 20240611
TRIES = 2
"""Samples that are run under both targets."""
RELATIVE_ERROR = 20 * 2.0**-12
"""Weights have 12 bits and tables are good to 2^-12 of their range; up to 18 such add up."""

NO_CASES = {
    "input": "every case has one",
    "output": "every case has one",
    "ids": "tested with the models in tests/frontend/test_hugging_face.py",
    "embedding": "tested with the models in tests/frontend/test_hugging_face.py",
    "route": "tested by the pool in tests/support/builds.py",
    "equals": "exact on whole numbers only: tested through argmax and one_hot_max",
    "shift": "made by quantise: tested by every case with a product",
    "table": "made by quantise: tested by every function",
    "open": "made by plan_rings",
    "extend": "made by plan_rings: tested below with narrow rings",
    "check": "made by guard: tested below, and in tests/runtime/test_guard.py",
    "guard": "made by guard: tested below, and in tests/runtime/test_guard.py",
    "row_top": "as good as the maximum only for softmax, and tested by its cases",
    "levels": "exact up to a half only: tested by the cases of softmax",
}

each_case = pytest.mark.parametrize("build", CASES.values(), ids=str)
each_program = pytest.mark.parametrize("build", BUILDS.values(), ids=str)


@dataclass(frozen=True)
class Runs:
    """What came out of the samples of a build: for each, by target and by level."""

    session: LocalSession
    results: tuple[Result, ...]
    plain: tuple[Mapping[str, Array], ...]


@cache
def runs(name: str) -> Runs:
    """Run the first samples of a build under both targets, once per process."""
    build = BUILDS[name]
    local = session(compiled(build).program, SEED)
    runner = PlainRunner(compiled(build, "plain").program, load())
    samples = build.samples[:TRIES]
    return Runs(
        local,
        tuple(local.infer(sample) for sample in samples),
        tuple(runner.infer(sample)[0] for sample in samples),
    )


def reparsed(module: Module) -> Module:
    data = {name: const.data for name, const in module.consts.items() if const.data is not None}
    return parse_module(print_module(module), data)


# -- the registry as a whole ----------------------------------------------------------------------


def test_every_op_has_cases_or_a_reason_why_not() -> None:
    without = {op.name for op in registry().values() if not op.cases()}
    assert without == set(NO_CASES)


def test_every_torch_name_stands_for_one_op() -> None:
    count = Counter(name for op in registry().values() for name in op.torch)
    assert [name for name, times in count.items() if times > 1] == []
    assert set(torch_names()) == set(count)


@pytest.mark.parametrize("op", registry().values(), ids=lambda op: str(op.name))
def test_every_op_says_in_a_sentence_what_it_is(op: object) -> None:
    assert op.__doc__
    assert op.__doc__.split("\n")[0].rstrip().endswith((".", ").")), op.__doc__


# -- levels ---------------------------------------------------------------------------------------


@each_case
def test_the_type_is_what_the_reference_makes(build: Build) -> None:
    seen = 0
    for sample in build.samples[:1]:

        def compare(node: Node, value: Array) -> None:
            nonlocal seen
            if isinstance(node.type, FloatType):
                assert value.shape == node.type.shape, node
                seen += 1

        evaluate(build.module, sample, registry(), observe=compare)
    assert seen


@each_program
@pytest.mark.parametrize("level", ["graph", "fixed", "lowered", "schedule"])
def test_text_and_back_is_the_same_module(build: Build, level: str) -> None:
    for target in ("2pc", "plain"):
        module: Module = getattr(compiled(build, target), level)
        back = reparsed(module)
        assert back == module
        assert print_module(back) == print_module(module)


@each_case
def test_the_module_as_written_keeps_its_text(build: Build) -> None:
    verify(build.module, registry())
    assert reparsed(build.module) == build.module


@each_case
def test_the_expansion_equals_the_reference(build: Build) -> None:
    ops = registry()
    module = calibrate(build.module, ops, build.samples)
    for transform in (expand, fold_constants, fuse_layers):
        module = transform(module, ops)
        verify(module, ops)
    for sample in build.samples:
        want, _ = evaluate(build.module, sample, ops)
        got, _ = evaluate(module, sample, ops)
        assert got["y"].shape == want["y"].shape
        np.testing.assert_allclose(got["y"], want["y"], rtol=1e-4, atol=1e-5)
    assert all(ops[node.op].primitive for node in module.main.nodes())


# -- values ---------------------------------------------------------------------------------------


@each_program
def test_the_plain_target_equals_the_fixed_level_bit_for_bit(build: Build) -> None:
    fixed = compiled(build, "plain").fixed
    for sample, got in zip(build.samples, runs(build.name).plain, strict=False):
        want, _ = evaluate(fixed, sample, registry())
        assert set(got) == set(want)
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])


def bound(reference: Array) -> float:
    return RELATIVE_ERROR * max(1.0, float(np.abs(reference).max()))


@each_program
def test_the_2pc_result_is_near_the_reference(build: Build) -> None:
    for sample, result in zip(build.samples, runs(build.name).results, strict=False):
        want, route = evaluate(build.module, sample, registry())
        assert result.route == route
        for name in want:
            error = float(np.abs(result.outputs[name] - want[name]).max())
            assert result.outputs[name].shape == want[name].shape
            assert error <= bound(want[name]), f"seed {SEED}: {error}"


@each_program
def test_the_2pc_result_is_the_plain_one_but_for_the_last_places(build: Build) -> None:
    # given both targets' results; exactly equal if nothing rounds
    allowed = rounding(compiled(build).fixed)
    found = runs(build.name)
    for result, plain in zip(found.results, found.plain, strict=True):
        for name, want in plain.items():
            error = float(np.abs(result.outputs[name] - want).max())
            assert error <= allowed, f"seed {SEED}: {error} > {allowed}"


@pytest.mark.parametrize("name", ["two branches", "gelu", "pool"])
def test_narrow_rings_give_the_same_values(name: str) -> None:
    # given the same network in rings of at most 24 bits, so that values are extended
    build = BUILDS[name]
    narrow = compiled(build, max_width=24)
    assert any(node.op == "extend" for node in narrow.fixed.main.nodes())
    # when both run, then the results agree but for roundings
    local = session(narrow.program, SEED)
    for sample in build.samples[:TRIES]:
        want, _ = evaluate(build.module, sample, registry())
        got = local.infer(sample).outputs
        assert float(np.abs(got["y"] - want["y"]).max()) <= bound(want["y"])


@each_program
def test_a_guarded_program_gives_the_same_and_costs_what_was_predicted(build: Build) -> None:
    # given the same program with range checks, under both targets
    stages = compiled(build, guard=4)
    local = session(stages.program, SEED)
    plain = PlainRunner(compiled(build, "plain", guard=4).program, load())
    for sample in build.samples[:TRIES]:
        result = local.infer(sample)
        want, route = evaluate(build.module, sample, registry())
        # then nothing fires, results are right, and bytes and rounds are as predicted
        assert result.route == route
        for name in want:
            assert float(np.abs(result.outputs[name] - want[name]).max()) <= bound(want[name])
            error = float(np.abs(plain.infer(sample)[0][name] - want[name]).max())
            assert error <= bound(want[name])
        total = stages.cost.total(route)
        assert tuple(c.bytes for c in result.counters) == total.online_bytes
        assert [c.rounds for c in result.counters] == [total.rounds] * 2


# -- cost -----------------------------------------------------------------------------------------


@each_program
def test_each_instruction_sends_what_was_predicted(build: Build) -> None:
    program = compiled(build).program
    types = program.types("online")
    for result in runs(build.name).results:
        taken = [k for k, s in enumerate(program.segments) if s.route in (None, result.route)]
        want: tuple[dict[tuple[int, int], int], ...] = ({}, {})
        for segment in taken:
            for index, i in enumerate(program.functions["online"][segment]):
                sent = sends(i.op, [types[name] for name in i.inputs], i.attrs)
                for party, size in enumerate((sent.p0_online, sent.p1_online)):
                    if size:
                        want[party][segment, index] = size
        for party in (0, 1):
            assert result.counters[party].online == want[party]


@each_program
def test_each_layer_sends_what_was_predicted(build: Build) -> None:
    stages = compiled(build)
    program, cost = stages.program, stages.cost
    for result in runs(build.name).results:
        for party in (0, 1):
            counted: dict[tuple[int, str, str, str], int] = {}
            for (segment, index), size in result.counters[party].online.items():
                number = program.functions["online"][segment][index].layer
                layer = program.layers[number]
                key = (segment, layer.name, layer.op, layer.source)
                counted[key] = counted.get(key, 0) + size
            predicted = {
                (k, layer.name, layer.op, layer.source): layer.online_bytes[party]
                for k, segment in enumerate(cost.segments)
                if segment.route in (None, result.route)
                for layer in segment.layers
                if layer.online_bytes[party]
            }
            assert counted == predicted


@each_program
def test_each_layer_takes_the_rounds_that_were_predicted(build: Build) -> None:
    stages = compiled(build)
    for result in runs(build.name).results:
        for party in (0, 1):
            assert rounds_by_layer(stages.program, result, party) == {
                (k, layer.name, layer.op, layer.source): layer.rounds
                for k, segment in enumerate(stages.cost.segments)
                if segment.route in (None, result.route)
                for layer in segment.layers
                if layer.rounds
            }


@each_program
def test_each_layer_is_dealt_what_was_predicted(build: Build) -> None:
    stages = compiled(build)
    for segment, dealt in enumerate(dealt_by_layer(stages.program)):
        assert dealt == {
            (layer.name, layer.op, layer.source): layer.offline_bytes
            for layer in stages.cost.segments[segment].layers
            if any(layer.offline_bytes)
        }


@each_program
def test_each_round_of_the_report_carries_what_was_counted(build: Build) -> None:
    stages = compiled(build)
    names = [segment.name for segment in stages.program.segments]
    report = rounds_of(stages.program)
    for result in runs(build.name).results:
        taken = {s.name for s in stages.program.segments if s.route in (None, result.route)}
        predicted = [(r.part, r.bytes) for r in report if r.part in taken]
        for counters in result.counters:
            counted = [
                (names[next(iter(messages))[0]], sum(messages.values()))
                for messages in counters.by_round
            ]
            assert counted == predicted


@each_program
def test_totals_and_rounds_are_as_predicted(build: Build) -> None:
    stages, found = compiled(build), runs(build.name)
    for result in found.results:
        total = stages.cost.total(result.route)
        assert tuple(c.bytes for c in result.counters) == total.online_bytes
        assert [c.rounds for c in result.counters] == [total.rounds] * 2
    assert tuple(p.setup_bytes for p in found.session.parties) == stages.cost.setup_bytes


@each_program
def test_offline_bytes_are_as_predicted(build: Build) -> None:
    stages, found = compiled(build), runs(build.name)
    for number, segment in enumerate(stages.cost.segments):
        blocks, first, second = found.session.offline.blocks[number]
        want: LayerCost = segment.total
        assert (first, second) == tuple(blocks * size for size in want.offline_bytes)


@each_program
def test_the_wires_carry_what_was_predicted(build: Build) -> None:
    stages, found = compiled(build), runs(build.name)
    program, cost = stages.program, stages.cost
    types = program.types("online")
    masks = sum(
        2 * sends(i.op, [types[n] for n in i.inputs], i.attrs).party_to_client_offline
        for _, i in program.instructions("online")
    )
    clients = [channel.traffic for channel in found.session._clients]
    assert sum(t.sent for t in clients) == TRIES * cost.client_upload
    assert sum(t.received for t in clients) == TRIES * (masks + cost.client_download)
    for party in (0, 1):
        # what is counted for outputs goes to the client, the rest to the peer
        online = sum(r.counters[party].bytes for r in found.results)
        to_peer = online - TRIES * cost.client_download // 2
        assert found.session._peers[party].traffic.sent == cost.setup_bytes[party] + to_peer


@each_program
def test_the_plain_target_costs_nothing_on_the_wire(build: Build) -> None:
    cost = compiled(build, "plain").cost
    for route in {s.route for s in cost.segments}:
        total = cost.total(route)
        assert (total.online_bytes, total.offline_bytes, total.rounds) == ((0, 0), (0, 0), 0)
    assert cost.setup_bytes == (0, 0)


# -- files ----------------------------------------------------------------------------------------


@each_program
@pytest.mark.parametrize("target", ["2pc", "plain"])
def test_a_program_file_holds_the_whole_program(build: Build, target: str) -> None:
    program = compiled(build, target).program
    content = dumps(program)
    back = loads(content)
    assert back == program
    assert back.digest() == program.digest()
    assert dumps(back) == content
    for name, const in program.constants.items():
        np.testing.assert_array_equal(np.asarray(back.constants[name].data), const.data)


@pytest.mark.parametrize("build", NETWORKS_BY_NAME.values(), ids=str)
def test_the_digest_does_not_depend_on_weights(build: Build) -> None:
    program = compiled(build).program
    assert program.without_weights().digest() == program.digest()
    assert loads(dumps(program, weights=False)).digest() == program.digest()
    assert compiled(build, "plain").program.digest() != program.digest()
