"""Weights that enter products with many rows are packed for the kernels, once, when loaded."""

from __future__ import annotations

import numpy as np
import pytest

from srcompile.ops import registry
from srcompile.ops.builder import GraphBuilder
from srcompile.passes.cost import NETWORKS
from srcompile.passes.pipeline import Options, run_pipeline
from srcompile.runtime.kernels import Kernels, PackedMatrix
from srcompile.runtime.local import LocalSession


@pytest.mark.parametrize(("rows", "packed"), [(2, 0), (40, 1)])
def test_weights_that_meet_many_rows_are_packed(
    rows: int, packed: int, fast_kernels: Kernels
) -> None:
    # given x @ W, for few and for many rows
    rng = np.random.default_rng(rows)
    w = rng.uniform(-1, 1, (6, 5)).astype(np.float32)
    b = GraphBuilder(registry())
    x = b.emit("input", [], {"name": "x", "shape": (rows, 6)}, "%x")
    b.emit("output", [b.emit("matmul", [x, b.const(w, "w", secret=True)])], {"name": "y"})
    b.end_segment("main")
    samples = [{"x": rng.uniform(-1, 1, (rows, 6)).astype(np.float32)} for _ in range(4)]
    program = run_pipeline(b.module(), samples, registry(), Options("2pc", NETWORKS["lan"])).program
    # when it is loaded and run
    session = LocalSession(program, fast_kernels)
    y = session.infer(samples[0]).outputs["y"]
    # then each party holds W's share and F packed, the dealer B, and the product is right
    held = [[*party._shares.values(), *party._opened.values()] for party in session.parties]
    held.append(list(session.dealer._weight_masks.values()))
    counts = [sum(isinstance(w, PackedMatrix) for w in weights) for weights in held]
    assert counts == [2 * packed, 2 * packed, packed]
    np.testing.assert_allclose(y, samples[0]["x"] @ w, atol=0.02)
