"""Where values go wrong: fixed-point values beside those of the float model, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from srcompile.errors import Loc
from srcompile.ir.graph import Array, Node
from srcompile.ir.types import FixType
from srcompile.ops import Registry
from srcompile.ops.interpreter import evaluate
from srcompile.passes.pipeline import Stages


@dataclass(frozen=True)
class Drift:
    """How far the last value of an op of a layer is from the float model's.

    error, size: root mean squares, over all elements and samples, of the difference and the value.
    worst: the largest difference.
    """

    loc: Loc
    size: float
    error: float
    worst: float

    @property
    def relative(self) -> float:
        """The error in proportion to the size."""
        return self.error / self.size if self.size else 0.0


def measure_drift(
    stages: Stages, samples: list[Mapping[str, Array]], ops: Registry
) -> tuple[Drift, ...]:
    """Return the drift of each op of each layer, in order, over `samples` (inputs by name).

    The fixed-level program is run on plain integers: what a secure run opens under masks, up to
    the last places that rounding decides.
    """
    sums: dict[str, list[tuple[float, float, float]]] = {}
    for sample in samples:
        floats: dict[str, Array] = {}

        def keep(node: Node, value: Array, floats: dict[str, Array] = floats) -> None:
            floats[node.out] = value

        def compare(node: Node, value: Array, floats: dict[str, Array] = floats) -> None:
            if not isinstance(node.type, FixType) or node.out not in floats:
                return
            want = np.asarray(floats[node.out], np.float64)
            gap = value / 2.0**node.type.frac - want
            sums.setdefault(node.out, []).append(
                (float(np.mean(want**2)), float(np.mean(gap**2)), float(np.abs(gap).max()))
            )

        _, route = evaluate(stages.expanded, sample, ops, observe=keep)
        evaluate(stages.fixed, sample, ops, route=route, observe=compare)
    last = {
        (node.loc.module, node.loc.op, node.loc.file, node.loc.line): node
        for node in stages.fixed.main.nodes()
        if node.out in sums
    }
    found = []
    for node in last.values():
        rows = np.array(sums[node.out])
        size, error = np.sqrt(rows[:, :2].mean(0))
        found.append(Drift(node.loc, float(size), float(error), float(rows[:, 2].max())))
    return tuple(found)
