"""Range checks: which cells are marked, what is checked, and what a run says of any value."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srcompile.ir.graph import Array, Module, Node
from srcompile.ir.types import FixType
from srcompile.ops import registry
from srcompile.ops.base import integer
from srcompile.ops.interpreter import evaluate
from srcompile.passes.guard import _BOUNDS, CELL_BITS, Cells, cells_for
from srcompile.passes.plan_rings import FREE_RING
from srcompile.passes.quantise import PRODUCTS
from tests.support.builds import BUILDS, NETWORKS_BY_NAME, Build, compiled
from tests.support.guarded import GATES, guarded

each_program = pytest.mark.parametrize("build", BUILDS.values(), ids=str)


def marked(cells: Cells, x: Array, r: Array) -> Array:
    """Return what the gate reads for x under the mask r, as `runtime/gates.py` does."""
    ring = 1 << (cells.index_bits + cells.low_bits)
    cell = (((x + r) % ring) >> cells.low_bits) - ((r % ring) >> cells.low_bits)
    return np.asarray(cells.table[cell % (1 << cells.index_bits)])


@st.composite
def wires(draw: st.DrawFn) -> tuple[int, tuple[int, int]]:
    """Return bits, and a range that leaves a sixteenth of them empty, as `quantise` does."""
    bits = draw(st.integers(2, 9))
    top = next(t for t in range(1 << (bits - 1), -1, -1) if (t * 16 // 15).bit_length() < bits)
    low = draw(st.integers(-top, top))
    return bits, (low, draw(st.integers(low, top)))


@settings(deadline=None, max_examples=60)
@given(wires(), st.integers(1, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_cells_hold_what_is_required_and_nothing_that_is_not_supported(
    wire: tuple[int, tuple[int, int]], more: int, tight: bool, seed: int
) -> None:
    # given a check of a wire, and every value that its bits and `more` others hold
    bits, (low, high) = wire
    cells = cells_for(bits, (low, high), more, tight)
    assert cells.index_bits + cells.low_bits == bits + more
    half = 1 << (bits + more - 1)
    x = np.arange(-half, half)
    r = np.random.default_rng(seed).integers(0, 2 * half, (64, 1))
    # when it is read under many masks
    found = marked(cells, x, r)
    # then values in range are always marked, and values that do not fit the bits never
    assert found[:, (x >= low) & (x <= high)].all()
    assert not found[:, np.abs(x) >= 1 << (bits - 1)].any()
    # and what may be marked at all is what the check says
    assert not found[:, (x < cells.holds[0]) | (x > cells.holds[1])].any()
    if tight:
        assert max(low - cells.holds[0], cells.holds[1] - high) <= 1 << max(0, bits - 4)


def test_a_value_is_found_up_to_twice_two_to_the_g_times_its_range() -> None:
    """What is not found lies within one range of a multiple of 2^(bits + g)."""
    bits, more = 8, 3
    cells = cells_for(bits, (-100, 100), more, tight=False)
    x = np.arange(-(1 << 13), 1 << 13)
    missed = x[marked(cells, x, np.arange(1 << (bits + more))[:, None]).any(axis=0)]
    period = 1 << (bits + more)
    assert set(np.abs((missed + period // 2) % period - period // 2) < 1 << (bits - 1)) == {True}
    assert np.abs(missed[np.abs(missed) >= 1 << (bits - 1)]).min() > (2 << more) * 100


def test_a_range_that_fills_its_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        cells_for(10, (-511, 511), 4, tight=False)
    assert cells_for(10, (-480, 480), 4, tight=False).index_bits == 4 + CELL_BITS


# -- what is checked ------------------------------------------------------------------------------


def fixed(build: Build) -> Module:
    return compiled(build, "plain", guard=4).fixed


@each_program
def test_each_wire_that_may_leave_its_range_is_checked_once(build: Build) -> None:
    # given the samples of a program, and its values on them
    module = fixed(build)
    checked = Counter(n.inputs[0] for n in module.main.nodes() if n.op == "check")
    assert set(checked.values()) <= {1}
    for sample in build.samples:
        values: dict[str, Array] = {}

        def keep(node: Node, value: Array, values: dict[str, Array] = values) -> None:
            values[node.out] = value

        evaluate(module, sample, registry(), observe=keep)
        # then every check marks every element, and the bit says so
        for node in module.main.nodes():
            if node.op == "check" and node.out in values:
                assert values[node.out].all(), node
            if node.op == "guard" and node.inputs[0] in values:
                assert values[node.inputs[0]].all()


NARROW = [(build, 24) for build in NETWORKS_BY_NAME.values()]


@pytest.mark.parametrize(("build", "max_width"), [*((b, None) for b in BUILDS.values()), *NARROW],
                         ids=str)  # fmt: skip
def test_what_is_not_checked_cannot_leave_its_range(build: Build, max_width: int | None) -> None:
    """Whatever the input within the client's limits: what no check marks out fits its bits."""
    module = compiled(build, "plain", max_width, guard=4).fixed
    rng = np.random.default_rng(5)
    checks = {n.inputs[0] for n in module.main.nodes() if n.op == "check"}
    inputs = [n for n in module.main.nodes() if n.op == "input"]
    bits = {n.attrs["name"] for n in inputs if n.attrs.get("bits")}
    gates, products = {"table", "relu", "nonneg", "extend"}, {"matmul", "mul", "conv2d"}
    taken = {
        i
        for n in module.main.nodes()
        if n.op in gates or (n.op in products and not any(i[0] == "@" for i in n.inputs))
        for i in n.inputs
        if i[0] == "%"
    }
    for _ in range(3):
        sample = {
            name: x if name in bits else x * far
            for name, x in build.samples[0].items()
            for far in (rng.uniform(-1.4, 1.4),)
        }
        values: dict[str, Array] = {}
        types: dict[str, FixType] = {}

        def keep(
            node: Node,
            value: Array,
            values: dict[str, Array] = values,
            types: dict[str, FixType] = types,
        ) -> None:
            if node.out and isinstance(node.type, FixType):
                values[node.out], types[node.out] = value, node.type

        evaluate(module, sample, registry(), observe=keep)
        if not all(v.all() for name, v in values.items() if name.endswith(".inside")):
            continue  # a check fires, and nothing is promised of the rest
        for name in (taken - checks) & set(values):
            assert int(np.abs(values[name]).max(initial=0)) < 1 << (types[name].bits - 1), name


@pytest.mark.parametrize("kind", GATES)
def test_rings_hold_the_bits_that_are_checked(kind: str) -> None:
    module = guarded(kind).fixed
    rings = {n.out: n.attrs["ring"] for n in module.main.nodes() if n.out}
    for node in module.main.nodes():
        if node.op == "check":
            bits = integer(node.attrs["index_bits"]) + integer(node.attrs["low_bits"])
            assert integer(rings[node.inputs[0]]) >= bits


def test_extensions_are_checked() -> None:
    """They forget what is above the bits of what they extend."""
    found = 0
    for build, width in NARROW:
        nodes = list(compiled(build, "plain", width, guard=4).fixed.main.nodes())
        checked = {n.inputs[0] for n in nodes if n.op == "check"}
        found += len(checked & {n.inputs[0] for n in nodes if n.op == "extend"})
    assert found


def test_the_sum_of_marks_fits_its_ring_even_if_nothing_is_marked() -> None:
    for build in BUILDS.values():
        module = fixed(build)
        types = module.main.types()
        for segment in module.main.segments:
            for node in segment.nodes:
                if node.op == "offset" and node.out.startswith("%missing"):
                    type_ = types[node.out]
                    assert isinstance(type_, FixType)
                    assert -integer(node.attrs["by"]) < 1 << (type_.bits - 1)


def test_what_every_primitive_may_give_is_known() -> None:
    kept = {name for name, op in registry().items() if op.linear} | PRODUCTS | FREE_RING
    assert kept - {"check", "extend"} <= set(_BOUNDS)


def test_a_program_that_cannot_leave_its_ranges_has_no_guard() -> None:
    assert not guarded("output").program.guarded
    assert guarded("relu").program.guarded
