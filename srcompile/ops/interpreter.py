"""The oracle: runs graph- and fixed-level modules on plain arrays.

On the graph level values are floats. On the fixed level they are integers, and a shift rounds to
the nearest one, where a run under MPC may be off by less than one in the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from srcompile.ir.graph import Array, Module, Node, Segment
from srcompile.ir.types import FixType, Type
from srcompile.ops import Registry
from srcompile.ops.program import INPUTS, rows_of
from srcompile.runtime.program import hot_column

Outputs = dict[str, Array]


def evaluate(
    module: Module,
    inputs: Mapping[str, Array],
    ops: Registry,
    *,
    route: int | None = None,
    observe: Callable[[Node, Array], None] | None = None,
) -> tuple[Outputs, int | None]:
    """Return the outputs by name and the route taken, None if the module has no routes.

    `inputs` are floats by input name on both levels; fixed-level outputs are floats again. `route`
    forces a route. `observe` is called with every node and its value. A value is forgotten after
    its last use.
    """
    values: dict[str, Array] = {
        name: np.asarray(data)
        for name, const in module.consts.items()
        if (data := const.data) is not None
    }
    outputs: Outputs = {}
    taken = route
    types = module.main.types()
    last_user = {name: node for node in module.main.nodes() for name in (*node.inputs, node.out)}

    def run(segment: Segment) -> None:
        nonlocal taken
        for node in segment.nodes:
            operands = [values[name] for name in node.inputs]
            if module.level == "fixed":  # constants are kept in small integers
                operands = [operand.astype(np.int64, copy=False) for operand in operands]
            if node.op in INPUTS:
                value = _enter(
                    inputs[str(node.attrs.get("ids", node.attrs["name"]))], node, operands
                )
            else:
                value = ops[node.op].reference(operands, node.attrs)
            if node.op == "output":
                outputs[str(node.attrs["name"])] = _leave(value, types, node)
            elif node.op == "route" and taken is None:
                taken = int(value.reshape(()))
            if node.out:
                values[node.out] = value
            if observe is not None:
                observe(node, value)
            for name in {*node.inputs, node.out}:
                if name.startswith("%") and last_user[name] is node:
                    del values[name]

    for segment in module.main.segments:
        if segment.route is None or segment.route == taken:
            run(segment)
    return outputs, taken


def _enter(value: Array, node: Node, operands: Sequence[Array]) -> Array:
    """Return what the client's value becomes: itself, rows of a table, or a one-hot encoding."""
    if operands:
        return np.asarray(operands[0][value.astype(np.int64)])
    if "ids" in node.attrs:
        assert node.type is not None
        columns, kind = node.type.shape[-1], str(node.attrs.get("digit", "one_hot"))
        column = hot_column(kind, value.astype(np.int64), rows_of(node), columns)
        hot = np.arange(columns) == column[..., None]
        value = hot.astype(np.float32)
    if isinstance(node.type, FixType):
        return np.rint(value.astype(np.float64) * 2.0**node.type.frac).astype(np.int64)
    if node.op == "input" and value.dtype.kind != "f":  # a mask, given as integers or booleans
        return value.astype(np.float32)
    return value


def _leave(value: Array, types: Mapping[str, Type], node: Node) -> Array:
    type_ = types.get(node.inputs[0])
    return value / 2.0**type_.frac if isinstance(type_, FixType) else value
