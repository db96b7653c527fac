"""Pass `calibrate`: run the model on sample inputs and note range and size of every value.

Samples run side by side, each on one processor, and a value is forgotten after its last use. What
is found does not depend on how many processors there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from threadpoolctl import threadpool_limits

from srcompile.errors import CompileError
from srcompile.ir.graph import Array, Module, Node, Segment
from srcompile.ir.types import FloatType
from srcompile.ops import Registry
from srcompile.ops.interpreter import evaluate

SMALL = 0.1
"""The share of rows that are smaller than a value's size; zero rows do not count."""

Sample = Mapping[str, Array]


@dataclass
class _Seen:
    """Ranges and sizes of values by name."""

    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    sizes: dict[str, float] = field(default_factory=dict)

    def observe(self, node: Node, value: Array) -> None:
        low, high = float(np.min(value)), float(np.max(value))
        if not np.isfinite(low) or not np.isfinite(high):
            raise CompileError(f"{node.op} makes a value that is not finite", node.loc)
        self.add(node.out, (low, high), _size(value))

    def add(self, name: str, range_: tuple[float, float], size: float) -> None:
        before = self.ranges.get(name, range_)
        self.ranges[name] = (min(range_[0], before[0]), max(range_[1], before[1]))
        if size:
            self.sizes[name] = min(size, self.sizes.get(name, size))


def calibrate(
    module: Module,
    ops: Registry,
    samples: Iterable[Sample],
    only: Collection[str] = (),
    done: Callable[[int], None] = lambda count: None,
) -> Module:
    """Return `module` with what each value is like over `samples` (inputs by name) in its type.

    only: ops to look at, if not all; what they do not depend on is not computed.
    done: called with the number of samples that have been run.
    Raises CompileError at the op that makes a value that is not finite.
    """
    seen = _Seen()
    looked_at = _needed(module, only) if only else module
    with (
        threadpool_limits(1, "blas"),
        ThreadPoolExecutor(_processors()) as pool,
    ):
        found = pool.map(lambda sample: _run(looked_at, ops, sample, only), samples)
        for number, one in enumerate(found, 1):
            for name, range_ in one.ranges.items():
                seen.add(name, range_, one.sizes.get(name, 0.0))
            done(number)

    def ranged(node: Node) -> Node:
        if not isinstance(node.type, FloatType) or node.out not in seen.ranges:
            return node
        known = replace(node.type, range=seen.ranges[node.out], size=seen.sizes.get(node.out))
        return replace(node, type=known)

    return module.with_main(
        tuple(Segment(s.name, tuple(map(ranged, s.nodes)), s.route) for s in module.main.segments)
    )


def _run(module: Module, ops: Registry, sample: Sample, only: Collection[str]) -> _Seen:
    """Return what values are like on one sample, on every route."""
    seen = _Seen()

    def observe(node: Node, value: Array) -> None:
        if node.out and (not only or node.op in only):
            seen.observe(node, value)

    routes: list[int | None] = [s.route for s in module.main.segments if s.route is not None]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for route in routes or [None]:
            evaluate(module, sample, ops, route=route, observe=observe)
    return seen


def _processors() -> int:
    """Return how many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _needed(module: Module, wanted: Collection[str]) -> Module:
    """Return `module` with the ops in `wanted` and what they depend on."""
    needed: set[str] = set()
    segments = []
    for segment in reversed(module.main.segments):
        kept = []
        for node in reversed(segment.nodes):
            if node.op in wanted or node.out in needed:
                needed.update(node.inputs)
                kept.append(node)
        segments.append(Segment(segment.name, tuple(reversed(kept)), segment.route))
    return module.with_main(tuple(reversed(segments)))


def _size(value: Array) -> float:
    """Return the root mean square of a rather small row of `value`, 0 if all are zero."""
    rows = value.reshape(-1, value.shape[-1]) if value.ndim else value.reshape(1, 1)
    squares = np.mean(np.square(rows, dtype=np.float64), axis=1)
    squares = squares[squares > 0]
    return float(np.sqrt(np.quantile(squares, SMALL, method="lower"))) if squares.size else 0.0
