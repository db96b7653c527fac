"""The error a table promises holds for every input, whichever of two cells a gate reads it in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from srcompile.ir.graph import Array
from srcompile.ops import registry
from srcompile.ops.builder import GraphBuilder
from srcompile.passes.cost import NETWORKS
from srcompile.passes.pipeline import Options, run_pipeline
from srcompile.passes.tables import TableSpec, fit_table
from tests.support.builds import session

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "exp": np.exp,
    "line": lambda u: 3.0 * u - 1.0,
    "kink": lambda u: np.maximum(u, 0.3),
    "sine": lambda u: np.sin(3.0 * u),
}


def readings(spec: TableSpec, x: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Return what a gate may read at x: in its cell, or in the one above with d below zero."""
    s, mask = spec.low_bits, (1 << spec.index_bits) - 1
    if not s:
        return [spec.tables[0][x & mask] / 2.0**spec.frac]
    found = []
    for up in (0, 1):
        cell = (x >> s) + up
        d = x - (cell << s)
        y = sum(table[cell & mask] * d**m for m, table in enumerate(spec.tables))
        found.append(y / 2.0**spec.frac)
    return found


@given(
    name=st.sampled_from(sorted(FUNCTIONS)),
    bits=st.integers(4, 12),
    reach_bits=st.integers(-1, 3),
    centre=st.floats(-2.0, 2.0),
    reach=st.floats(0.3, 1.0),
    accuracy=st.integers(2, 10),
)
def test_a_table_is_as_good_as_it_says(
    name: str, bits: int, reach_bits: int, centre: float, reach: float, accuracy: int
) -> None:
    # given a window as quantise makes it: around the centre, within the integers of `bits` bits
    function, f = FUNCTIONS[name], bits - 1 - reach_bits
    top = int(reach * ((1 << (bits - 1)) - 1))
    x = np.arange(-top, top + 1)
    u = x / 2.0**f + centre
    window = (float(u[0]), float(u[-1]))
    tolerance = max(float(np.abs(function(u)).max()), 1e-3) * 2.0**-accuracy
    # when a table is fitted
    spec = fit_table(function, bits, f, centre, window, 4, tolerance)
    # then all of the window is read within the error, but for the roundings of t0, t1 and x
    assert spec.index_bits + spec.low_bits in (bits, bits + 1)
    for read in readings(spec, x):
        steepest = (1 << spec.low_bits) ** (len(spec.tables) - 1)
        slack = 2.0**-spec.frac * (1 + 2 * steepest) if spec.low_bits else 0.0
        assert float(np.abs(read - function(u)).max()) <= spec.error + slack


@given(bits=st.integers(3, 11), f=st.integers(0, 8))
def test_a_line_needs_the_smallest_table(bits: int, f: int) -> None:
    high = 2.0 ** (bits - 3 - f)  # half of what fits into `bits` bits
    spec = fit_table(lambda u: 0.5 * u, bits, f, 0.0, (-high, high), 8, 0.01)
    assert spec.index_bits == 3
    assert spec.low_bits == bits - 3


def test_values_in_the_top_cell_are_not_read_in_the_bottom_one() -> None:
    """A gate may read the cell above that of x. sigmoid(7.95) was 0 in a third of all runs."""
    # given values that nearly fill their bits
    b = GraphBuilder(registry())
    x = b.emit("input", [], {"name": "x", "shape": (64,)}, "%x")
    b.emit("output", [b.emit("sigmoid", [x])], {"name": "y"})
    b.end_segment("main")
    samples = [{"x": np.linspace(-3.98, 3.98, 64, dtype=np.float32)}]
    stages = run_pipeline(b.module(), samples, registry(), Options("2pc", NETWORKS["lan"]))
    # when the largest value that the client may send is sent
    high = stages.program.inputs[0].high
    result = session(stages.program, 1).infer({"x": np.full(64, high, np.float32)})
    # then no mask makes it wrap around
    np.testing.assert_allclose(result.outputs["y"], 1.0, atol=1e-3)
