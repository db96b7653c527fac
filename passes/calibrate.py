"""Pass `calibrate`: run the model on sample inputs and note the range of every value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from srcompile.errors import CompileError
from srcompile.ir.graph import Array, Module, Node, Segment
from srcompile.ir.types import FloatType
from srcompile.ops import Registry
from srcompile.ops.interpreter import evaluate


def calibrate(module: Module, ops: Registry, samples: Iterable[Mapping[str, Array]]) -> Module:
    """Return `module` with the range each value takes over `samples` (inputs by name) in its type.

    Raises CompileError at the op that makes a value that is not finite.
    """
    ranges: dict[str, tuple[float, float]] = {}

    def observe(node: Node, value: Array) -> None:
        if not node.out:
            return
        low, high = float(np.min(value)), float(np.max(value))
        if not np.isfinite(low) or not np.isfinite(high):
            raise CompileError(f"{node.op} makes a value that is not finite", node.loc)
        before = ranges.get(node.out, (low, high))
        ranges[node.out] = (min(low, before[0]), max(high, before[1]))

    routes: list[int | None] = [s.route for s in module.main.segments if s.route is not None]
    routes = routes or [None]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for sample in samples:
            for route in routes:
                evaluate(module, sample, ops, route=route, observe=observe)

    def ranged(node: Node) -> Node:
        if not isinstance(node.type, FloatType) or node.out not in ranges:
            return node
        return replace(node, type=replace(node.type, range=ranges[node.out]))

    return module.with_main(
        tuple(Segment(s.name, tuple(map(ranged, s.nodes)), s.route) for s in module.main.segments)
    )
