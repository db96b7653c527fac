"""Passes that may not change values, on random small graphs; and formats that must hold them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srcompile.ir.graph import Array, Module, Node, public_values
from srcompile.ir.types import FixType
from srcompile.ops import registry
from srcompile.ops.builder import GraphBuilder
from srcompile.ops.interpreter import evaluate
from srcompile.ops.verifier import verify
from srcompile.passes.fold_constants import fold_constants
from srcompile.passes.fuse_layers import fuse_layers
from srcompile.passes.merge_common import merge_common
from srcompile.passes.plan_rings import plan_rings
from srcompile.passes.quantise import quantise
from tests.support.builds import BUILDS, PRECISE, Build, compiled

OPS = registry()
LAYERS = ("relu", "neg", "transpose", "scale", "offset", "add", "sub", "mul", "matmul")
FACTORS = (-2.0, 0.5, 3.0, 1.0)


@dataclass(frozen=True)
class Random:
    """A random module and an input for it."""

    module: Module
    x: Array


@st.composite
def small_graphs(draw: st.DrawFn) -> Random:
    """Return a graph of 2x2 tensors in which every value may be used again, and constants too."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    b = GraphBuilder(OPS)
    values = [b.emit("input", [], {"name": "x", "shape": (2, 2)}, "%x")]
    shapes = [(2, 2), (2,), (1, 2), (1, 1)]
    consts = [
        b.const(rng.integers(-4, 5, shape).astype(np.float32) / 4, f"c{i}", draw(st.booleans()))
        for i, shape in enumerate(shapes)
    ]
    twin = b.const(np.array(b.consts[consts[0]].data), "twin", b.consts[consts[0]].secret)
    for op in draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=9)):
        x = draw(st.sampled_from(values[-3:]))
        if op in ("scale", "offset"):
            values.append(b.emit(op, [x], {"by": draw(st.sampled_from(FACTORS))}))
        elif op == "transpose":
            values.append(b.emit(op, [x], {"perm": (1, 0)}))
        elif op in ("relu", "neg"):
            values.append(b.emit(op, [x]))
        else:
            matrices = [*values[-3:], consts[0], twin]
            others = matrices if op == "matmul" else [*matrices, *consts]
            pair = [x, draw(st.sampled_from(others))]
            values.append(b.emit(op, pair if draw(st.booleans()) or op == "matmul" else pair[::-1]))
    for k, value in enumerate(draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))):
        b.emit("output", [value], {"name": f"y{k}"})
    b.end_segment("main")
    return Random(b.module(), rng.integers(-8, 9, (2, 2)).astype(np.float32) / 4)


def same_values(given: Random, module: Module) -> None:
    verify(module, OPS)
    want, _ = evaluate(given.module, {"x": given.x}, OPS)
    got, _ = evaluate(module, {"x": given.x}, OPS)
    assert set(got) == set(want)
    for name in want:
        scale = float(np.abs(want[name]).max()) + 1.0
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-4 * scale)


@given(small_graphs())
def test_folding_constants_keeps_values(graph: Random) -> None:
    same_values(graph, fold_constants(graph.module, OPS))


@given(small_graphs())
def test_merging_equal_nodes_keeps_values(graph: Random) -> None:
    same_values(graph, merge_common(graph.module))


@given(small_graphs())
def test_fusing_layers_keeps_values_and_adds_no_work(graph: Random) -> None:
    folded = fold_constants(graph.module, OPS)
    fused = fuse_layers(folded, OPS)
    same_values(graph, fused)
    # a factor moves into a weight only if nothing else needs the product without it
    count = {op: sum(n.op == op for n in folded.main.nodes()) for op in ("matmul", "mul", "conv2d")}
    for op, before in count.items():
        assert sum(n.op == op for n in fused.main.nodes()) <= before


@given(small_graphs())
def test_secrets_stay_secret_when_folded(graph: Random) -> None:
    """A constant that comes out public depends on public ones only."""
    for transform in (fold_constants, fuse_layers):
        module = transform(graph.module, OPS)
        # poison the secret constants: public ones must not change
        poisoned = {
            name: np.full_like(const.data, 977.0)
            if const.secret and const.data is not None
            else const.data
            for name, const in graph.module.consts.items()
        }
        again = transform(_with_data(graph.module, poisoned), OPS)
        for name, const in module.consts.items():
            if not const.secret and const.data is not None:
                np.testing.assert_array_equal(again.consts[name].data, const.data)


def _with_data(module: Module, data: dict[str, Array | None]) -> Module:
    consts = {name: replace(const, source=data[name]) for name, const in module.consts.items()}
    return replace(module, consts=consts)


@pytest.mark.parametrize("build", BUILDS.values(), ids=str)
def test_formats_hold_what_was_calibrated(build: Build) -> None:
    fixed = compiled(build).fixed

    def fits(node: Node, value: Array) -> None:
        if isinstance(node.type, FixType):
            top = int(np.abs(value).max(initial=0))
            assert top < 1 << (node.type.bits - 1), f"{node.out} holds {top}: {node.type}"

    routes = {s.route for s in fixed.main.segments[1:]} or {None}
    for sample in build.samples:
        for route in routes:
            evaluate(fixed, sample, OPS, route=route, observe=fits)


@pytest.mark.parametrize("build", BUILDS.values(), ids=str)
@pytest.mark.parametrize("max_width", [20, 32, 62])
def test_planning_rings_keeps_values_and_the_widths_asked_for(build: Build, max_width: int) -> None:
    # given a fixed-level module without openings
    before = compiled(build).fixed
    bare = quantise(compiled(build).expanded, OPS, PRECISE)
    # when rings are planned anew
    after = plan_rings(bare, OPS, max_width)
    verify(after, OPS)
    # then the values are the same, and every ring holds its value
    for sample in build.samples[:1]:
        want, route = evaluate(before, sample, OPS)
        got, _ = evaluate(after, sample, OPS, route=route)
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])
    masked_needed(after)


def masked_needed(module: Module) -> None:
    """Check, without the pass's rules, that gates get opened wires and rings are wide enough."""
    types = module.main.types()
    known = public_values(module)
    opened: dict[str, bool] = {}
    ring: dict[str, int] = {}
    for node in module.main.nodes():
        values = [i for i in node.inputs if not i.startswith("@")]
        hidden = [i for i in values if i not in known]
        secret = any(i.startswith("@") and module.consts[i].secret for i in node.inputs)
        public = any(i.startswith("@") and not module.consts[i].secret for i in node.inputs)
        product = node.op in ("mul", "matmul", "conv2d")
        scaled = product and len(hidden) < len(values)  # by what both parties know: on shares
        gate = node.op in ("table", "relu", "nonneg", "shift") or (
            product and not public and not scaled
        )
        assert not gate or all(opened[v] for v in hidden), f"{node.op} of a share: {node}"
        if node.op == "extend":
            type_ = types[values[0]]
            assert isinstance(type_, FixType)
            assert (
                not hidden or opened[values[0]] or ring[values[0]] >= int(str(node.attrs["ring"]))
            )
        if not node.out:
            continue
        linear = OPS[node.op].linear or (product and public)
        opened[node.out] = node.op in ("input", "open", "shift") or (
            linear and not secret and not scaled and all(opened[v] for v in hidden)
        )
        ring[node.out] = int(str(node.attrs["ring"]))
        own = ring[node.out]
        if node.op in ("shift", "open"):
            assert ring[values[0]] >= own + int(str(node.attrs["by"]))
        if node.op == "mul" and not (secret or public or scaled):
            operands = [types[v] for v in values]
            widths = [t.bits + 1 for t in operands if isinstance(t, FixType)]
            assert all(ring[v] >= w for v, w in zip(values, widths, strict=True)), node
        elif linear or product:
            assert all(ring[v] >= own for v in values), node


@pytest.mark.parametrize("build", BUILDS.values(), ids=str)
def test_what_has_the_name_of_a_graph_value_is_that_value(build: Build) -> None:
    """What compares a fixed value with the float one of its name (drift) relies on it."""
    graph = {node.out: node for node in compiled(build).expanded.main.nodes() if node.out}
    for node in quantise(compiled(build).expanded, OPS, PRECISE).main.nodes():
        if node.out in graph:
            assert node.op in (graph[node.out].op, "table")
            assert node.loc == graph[node.out].loc
