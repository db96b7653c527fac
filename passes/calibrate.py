"""Pass `calibrate`: run the model on sample inputs and note range and size of every value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from srcompile.errors import CompileError
from srcompile.ir.graph import Array, Module, Node, Segment
from srcompile.ir.types import FloatType
from srcompile.ops import Registry
from srcompile.ops.interpreter import evaluate

SMALL = 0.1
"""The share of rows that are smaller than a value's size; zero rows do not count."""


def calibrate(module: Module, ops: Registry, samples: Iterable[Mapping[str, Array]]) -> Module:
    """Return `module` with what each value is like over `samples` (inputs by name) in its type.

    Raises CompileError at the op that makes a value that is not finite.
    """
    ranges: dict[str, tuple[float, float]] = {}
    sizes: dict[str, float] = {}

    def observe(node: Node, value: Array) -> None:
        if not node.out:
            return
        low, high = float(np.min(value)), float(np.max(value))
        if not np.isfinite(low) or not np.isfinite(high):
            raise CompileError(f"{node.op} makes a value that is not finite", node.loc)
        before = ranges.get(node.out, (low, high))
        ranges[node.out] = (min(low, before[0]), max(high, before[1]))
        size = _size(value)
        if size:
            sizes[node.out] = min(size, sizes.get(node.out, size))

    routes: list[int | None] = [s.route for s in module.main.segments if s.route is not None]
    routes = routes or [None]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for sample in samples:
            for route in routes:
                evaluate(module, sample, ops, route=route, observe=observe)

    def ranged(node: Node) -> Node:
        if not isinstance(node.type, FloatType) or node.out not in ranges:
            return node
        known = replace(node.type, range=ranges[node.out], size=sizes.get(node.out))
        return replace(node, type=known)

    return module.with_main(
        tuple(Segment(s.name, tuple(map(ranged, s.nodes)), s.route) for s in module.main.segments)
    )


def _size(value: Array) -> float:
    """Return the root mean square of a rather small row of `value`, 0 if all are zero."""
    rows = value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)
    squares = np.mean(np.square(rows, dtype=np.float64), axis=1)
    squares = squares[squares > 0]
    return float(np.sqrt(np.quantile(squares, SMALL, method="lower"))) if squares.size else 0.0
