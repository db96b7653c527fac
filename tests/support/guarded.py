"""Networks whose middle is calibrated far below what inputs in range can make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray

from srcompile.ir.graph import Attr, Module
from srcompile.ops import registry
from srcompile.ops.builder import GraphBuilder
from srcompile.passes.cost import NETWORKS
from srcompile.passes.pipeline import Options, Stages, run_pipeline
from srcompile.passes.quantise import Formats

SIZE = 8
SMALL = 0.05
"""In calibration the inputs are up to 1, but their mean is no larger than this."""
FORMATS = Formats(activation_bits=16, weight_bits=12, table_bits=8)

Emit = Callable[[GraphBuilder, str], str]
Input = dict[str, NDArray[np.float32]]


def _weights(b: GraphBuilder, *shape: int) -> str:
    return b.const(np.full(shape, 0.5, np.float32), "w", secret=True)


def _shifted(b: GraphBuilder, h: str, by: float) -> str:
    return b.emit("offset", [h], {"by": by})


LAST: Mapping[str, Attr] = {"starts": (0, 3), "stops": (1, 4), "steps": (1, 1)}


def _column(b: GraphBuilder, h: str) -> str:
    return b.emit("transpose", [h], {"perm": (1, 0)})


GATES: Mapping[str, Emit] = {
    "relu": lambda b, h: b.emit("relu", [h]),
    "one relu": lambda b, h: b.emit("relu", [b.emit("slice", [h], LAST)]),
    "comparison": lambda b, h: b.emit("nonneg", [h]),
    "gelu": lambda b, h: b.emit("gelu", [h]),
    "exp": lambda b, h: b.emit("exp", [h]),
    "tanh": lambda b, h: b.emit("tanh", [h]),
    "reciprocal": lambda b, h: b.emit("reciprocal", [_shifted(b, h, 1.0)]),
    "rsqrt": lambda b, h: b.emit("rsqrt", [_shifted(b, h, 1.0)]),
    "clamp": lambda b, h: b.emit("clamp", [h], {"low": -0.1, "high": 0.1}),
    "product with weights": lambda b, h: b.emit("matmul", [h, _weights(b, 4, 2)]),
    "product of values": lambda b, h: b.emit("mul", [h, _shifted(b, h, 0.5)]),
    "matrix product of values": lambda b, h: b.emit("matmul", [h, _column(b, h)]),
    "convolution": lambda b, h: b.emit(
        "conv2d",
        [b.emit("reshape", [h], {"shape": (1, 1, 2, 2)}), _weights(b, 1, 1, 2, 2)],
        {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1},
    ),
    "softmax": lambda b, h: b.emit("softmax", [h], {"axis": 1}),
    "layer norm": lambda b, h: b.emit("layer_norm", [h], {"eps": 1e-5}),
    "argmax": lambda b, h: b.emit("argmax", [h], {"axis": 1, "keepdims": False}),
    "output": lambda b, h: h,
}
"""How a gate of each kind takes h, (1, 4), whose columns are 1, 2, 3 and 4 times the mean of x."""


def _hidden(b: GraphBuilder) -> str:
    x = b.emit("input", [], {"name": "x", "shape": (1, SIZE)}, "%x")
    columns = np.tile(np.arange(1, 5, dtype=np.float32) / SIZE, (SIZE, 1))  # (SIZE, 4)
    return b.emit("matmul", [x, b.const(columns, "mean", secret=True)])


def network(kind: str) -> Module:
    """Return y = gate(h)."""
    b = GraphBuilder(registry())
    y = GATES[kind](b, _hidden(b))
    b.emit("output", [y], {"name": "y"})
    b.end_segment("main")
    return b.module()


def routed() -> Module:
    """Return a pool: the router compares two elements of x, branch 1 takes exp of h."""
    b = GraphBuilder(registry())
    x = b.emit("input", [], {"name": "x", "shape": (1, SIZE)}, "%x")
    halves = np.zeros((SIZE, 2), np.float32)
    halves[0, 0], halves[1, 1] = 1.0, 1.0
    scores = b.emit("matmul", [x, b.const(halves, "route", secret=True)])
    b.emit("route", [b.emit("argmax", [scores], {"axis": 1, "keepdims": False})])
    b.end_segment("router")
    columns = np.tile(np.arange(1, 5, dtype=np.float32) / SIZE, (SIZE, 1))
    for route, op in enumerate(("relu", "exp")):
        h = b.emit("matmul", [x, b.const(columns, f"mean{route}", secret=True)])
        b.emit("output", [b.emit(op, [h])], {"name": "y"})
        b.end_segment(op, route)
    return b.module()


def with_mean(mean: float, rng: np.random.Generator) -> Input:
    """Return an input of mean `mean`, of up to 1.8, which the client accepts."""
    half = rng.uniform(0, min(1.0, 1.8 - abs(mean)), SIZE // 2)
    half[0] = 1.0 if abs(mean) <= 2 * SMALL else half[0]
    row = np.stack([mean + half, mean - half], axis=1).reshape(1, SIZE)
    return {"x": row.astype(np.float32)}


def samples() -> tuple[Input, ...]:
    rng = np.random.default_rng(3)
    ends = [with_mean(mean, rng) for mean in (-SMALL, SMALL)]
    return (*ends, *(with_mean(mean, rng) for mean in rng.uniform(-SMALL, SMALL, 14)))


@cache
def guarded(kind: str, target: str = "2pc", max_width: int | None = None, bits: int = 4) -> Stages:
    """Return `network(kind)`, or `routed()` for "pool", compiled with a guard."""
    module = routed() if kind == "pool" else network(kind)
    options = Options(target, NETWORKS["lan"], FORMATS, max_width, guard=bits)
    return run_pipeline(module, samples(), registry(), options)
