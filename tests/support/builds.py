"""Modules, compiled once each, that tests of several folders use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from srcompile.errors import Loc
from srcompile.ir.graph import Attr, Module
from srcompile.ir.types import FixType
from srcompile.ops import registry
from srcompile.ops.base import Case, Op
from srcompile.ops.builder import GraphBuilder
from srcompile.passes.cost import NETWORKS
from srcompile.passes.pipeline import Options, Stages, run_pipeline
from srcompile.passes.quantise import Formats
from srcompile.runtime.kernels import load
from srcompile.runtime.local import LocalSession
from srcompile.runtime.program import Program
from srcompile.runtime.randomness import Randomness, Seeded

Inputs = dict[str, NDArray[np.float32]]
SAMPLES = 5


@dataclass(frozen=True)
class Build:
    """A graph-level module, the samples it is calibrated with, and its name in test ids."""

    name: str
    module: Module
    samples: tuple[Inputs, ...]

    def __str__(self) -> str:
        return self.name


PRECISE = Formats(activation_bits=16, weight_bits=12, table_bits=12, precision_bits=0)
"""As precise as 16 bits allow: what is tested here is that an op is right, not how few bits do."""


@cache
def _compiled(name: str, target: str, max_width: int | None, guard: int) -> Stages:
    build = BUILDS[name]
    options = Options(target, NETWORKS["lan"], PRECISE, max_width, guard=guard)
    return run_pipeline(build.module, build.samples, registry(), options)


def compiled(
    build: Build, target: str = "2pc", max_width: int | None = None, guard: int = 0
) -> Stages:
    """Return `build` compiled; each combination is compiled once per process."""
    return _compiled(build.name, target, max_width, guard)


def rounding(fixed: Module) -> float:
    """Return how far two runs of a fixed-level module may be apart, in units of its values.

    A shift is off by less than one and a half in its last place, and a line of a table is read in a
    cell or the one before, each within the table's error. Behind either stand few factors below 8.
    """
    error = 0.0
    for node in fixed.main.nodes():
        if not isinstance(node.type, FixType):
            continue
        if node.op in ("shift", "extend") or (node.attrs.get("by") and node.op == "open"):
            error = max(error, 8 * 2.0**-node.type.frac)
        if node.op == "table" and node.attrs["low_bits"]:
            error = max(error, 8 * 2.0 ** (node.type.bits - 1 - node.type.frac - 12))
    return error


def seeded_sources(seed: int) -> tuple[Randomness, Randomness]:
    """Return the randomness of dealer and parties for a seed that a test can print."""
    kernels = load()
    return (
        Seeded(seed.to_bytes(8, "big") + b"party  0", kernels),
        Seeded(seed.to_bytes(8, "big") + b"party  1", kernels),
    )


def session(program: Program, seed: int) -> LocalSession:
    """Return a local session whose masks follow from `seed`."""
    return LocalSession(program, load(), sources=seeded_sources(seed))


# -- one build for each case of each op -----------------------------------------------------------


def draw(rng: np.random.Generator, shape: Sequence[int], case: Case) -> NDArray[np.float32]:
    """Return values as the case wants them."""
    return rng.uniform(case.low, case.high, tuple(shape)).astype(np.float32)


def draw_operand(rng: np.random.Generator, case: Case, number: int) -> NDArray[np.float32]:
    """Return a value of an operand: reals, or 0 and 1 with a 1 at the start of each row."""
    if number not in case.bits:
        return draw(rng, case.shapes[number], case)
    bits = rng.integers(0, 2, case.shapes[number]).astype(np.float32)
    bits[..., 0] = 1
    return bits


def case_build(op: Op, case: Case, name: str) -> Build:
    """Return `y = op(operands)`, the operands named x0, x1, .. or, if secret, @w0, @w1, .."""
    rng = np.random.default_rng(sum(map(ord, name)))
    b = GraphBuilder(registry())
    operands, numbers = [], {}
    for i, shape in enumerate(case.shapes):
        if i in case.secret or i in case.public:
            operands.append(b.const(draw_operand(rng, case, i), f"w{i}", secret=i in case.secret))
            continue
        b.loc = Loc("model.py", 10 + i)
        attrs: dict[str, Attr] = {"name": f"x{i}", "shape": shape}
        if i in case.bits:
            attrs["bits"] = True
        operands.append(b.emit("input", [], attrs, f"%x{i}"))
        numbers[f"x{i}"] = i
    b.loc = Loc("model.py", 20, "block.0", op.name)
    out = b.emit(op.name, operands, case.attrs)
    b.loc = Loc("model.py", 21)
    b.emit("output", [out], {"name": "y"})
    b.end_segment("main")
    samples = tuple(
        {x: draw_operand(rng, case, i) for x, i in numbers.items()} for _ in range(SAMPLES)
    )
    return Build(name, b.module(), samples)


def _case_builds() -> dict[str, Build]:
    found = {}
    for op in registry().values():
        for number, case in enumerate(op.cases()):
            shapes = ",".join("x".join(map(str, s)) or "scalar" for s in case.shapes)
            name = f"{op.name}-{number}-{shapes}"
            found[name] = case_build(op, case, name)
    return found


CASES: Mapping[str, Build] = _case_builds()


# -- networks -------------------------------------------------------------------------------------


def _weights(b: GraphBuilder, rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> str:
    data = (rng.normal(size=shape) / np.sqrt(shape[-1])).astype(np.float32)
    return b.const(data, name, secret=True)


def _linear(b: GraphBuilder, rng: np.random.Generator, name: str, x: str, out: int) -> str:
    b.loc = Loc("model.py", 30, name)
    w = _weights(b, rng, f"{name}.weight", (out, b.type(x).shape[-1]))
    bias = _weights(b, rng, f"{name}.bias", (out,))
    return b.emit("linear", [x, w, bias])


def _network(
    name: str, shape: tuple[int, ...], layers: Callable[[GraphBuilder, str], None]
) -> Build:
    b = GraphBuilder(registry())
    b.loc = Loc("model.py", 1)
    layers(b, b.emit("input", [], {"name": "x", "shape": shape}, "%x"))
    rng = np.random.default_rng(7)
    samples = tuple({"x": rng.normal(size=shape).astype(np.float32)} for _ in range(24))
    return Build(name, b.module(), samples)


def _finish(b: GraphBuilder, y: str) -> None:
    b.loc = Loc("model.py", 90)
    b.emit("output", [y], {"name": "y"})
    b.end_segment("main")


def _mlp(b: GraphBuilder, x: str) -> None:
    rng = np.random.default_rng(1)
    h = b.emit("relu", [_linear(b, rng, "fc1", x, 5)])
    _finish(b, _linear(b, rng, "fc2", h, 3))


def _softmax(b: GraphBuilder, x: str) -> None:
    rng = np.random.default_rng(2)
    _finish(b, b.emit("softmax", [_linear(b, rng, "fc", x, 4)], {"axis": 1}))


def _gelu(b: GraphBuilder, x: str) -> None:
    rng = np.random.default_rng(3)
    h = b.emit("gelu", [_linear(b, rng, "fc1", x, 4)])
    _finish(b, _linear(b, rng, "fc2", h, 2))


def _two_branches(b: GraphBuilder, x: str) -> None:
    rng = np.random.default_rng(4)
    left = _linear(b, rng, "left.2", b.emit("gelu", [_linear(b, rng, "left.1", x, 4)]), 3)
    right = _linear(b, rng, "right.2", b.emit("relu", [_linear(b, rng, "right.1", x, 4)]), 3)
    _finish(b, b.emit("add", [left, right]))


def _convolution(b: GraphBuilder, x: str) -> None:
    rng = np.random.default_rng(5)
    b.loc = Loc("model.py", 40, "conv")
    w = _weights(b, rng, "conv.weight", (2, 1, 3, 3))
    attrs: dict[str, Attr] = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    h = b.emit("relu", [b.emit("conv2d", [x, w], attrs)])
    pool = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}
    h = b.emit("max_pool2d", [h], pool)
    h = b.emit("reshape", [h], {"shape": (1, 8)})
    _finish(b, _linear(b, rng, "fc", h, 2))


def _deep(b: GraphBuilder, x: str) -> None:
    """Layers in a row, with keys of some KiB each."""
    rng = np.random.default_rng(8)
    for i in range(6):
        x = b.emit("relu", [_linear(b, rng, f"fc{i}", x, 40)])
    _finish(b, x)


def _pool(b: GraphBuilder, x: str) -> None:
    """A router that takes an argmax, and three models; they share x and the hidden layer."""
    rng = np.random.default_rng(6)
    h = b.emit("relu", [_linear(b, rng, "router.fc", x, 3)])
    b.emit("route", [b.emit("argmax", [h], {"axis": 1, "keepdims": False})])
    b.end_segment("router")
    for i in range(3):
        y = b.emit("add", [_linear(b, rng, f"m{i}.h", h, 2), _linear(b, rng, f"m{i}.x", x, 2)])
        if i:
            front = {"starts": (0, 0), "stops": (1, 2), "steps": (1, 1)}
            y = b.emit("mul", [b.emit("relu", [y]), b.emit("slice", [x], front)])
        b.emit("output", [y], {"name": "y"})
        b.end_segment(f"m{i}", i)


def _public_mask() -> Build:
    """A softmax under a public mask, and every gate on what both parties know of the mask.

    Samples 2k and 2k + 1 have the same mask.
    """
    rng = np.random.default_rng(8)
    b = GraphBuilder(registry())
    b.loc = Loc("model.py", 1)
    x = b.emit("input", [], {"name": "x", "shape": (1, 4)}, "%x")
    given: dict[str, Attr] = {"name": "m", "shape": (1, 4), "bits": True, "public": True}
    m = b.emit("input", [], given, "%m")
    weights = b.emit("softmax", [_linear(b, rng, "fc1", x, 4), m], {"axis": 1})
    count = b.emit("sum", [m], {"axes": (1,), "keepdims": True})
    above = b.emit("offset", [b.emit("scale", [count], {"by": 0.375})], {"by": -1.0})
    known = [b.emit(op, [above]) for op in ("relu", "nonneg", "gelu")]
    total = b.emit("add", [b.emit("add", known[:2]), b.emit("square", [known[2]])])
    hidden = b.emit("mul", [b.emit("add", [x, m]), b.emit("reciprocal", [count])])
    y = b.emit("add", [b.emit("mul", [weights, hidden]), total])
    _finish(b, _linear(b, rng, "fc2", b.emit("mul", [y, b.emit("add", [m, total])]), 2))
    masks = [(np.arange(4) <= k // 2 % 4).astype(np.float32)[None] for k in range(24)]
    samples = tuple({"x": rng.normal(size=(1, 4)).astype(np.float32), "m": k} for k in masks)
    return Build("public mask", b.module(), samples)


NETWORKS_BY_NAME: Mapping[str, Build] = {
    build.name: build
    for build in (
        _network("mlp", (1, 4), _mlp),
        _network("softmax", (1, 4), _softmax),
        _network("gelu", (1, 3), _gelu),
        _network("two branches", (1, 3), _two_branches),
        _network("convolution", (1, 1, 4, 4), _convolution),
        _network("pool", (1, 4), _pool),
        _public_mask(),
    )
}
DEEP = _network("deep", (1, 40), _deep)
BUILDS: Mapping[str, Build] = {**CASES, **NETWORKS_BY_NAME, DEEP.name: DEEP}
