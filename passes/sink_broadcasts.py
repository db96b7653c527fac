"""Pass `sink_broadcasts`: compute before repeating, and repeat only what has to be.

    f(broadcast(x)) = broadcast(f(x))                  for f of one variable, sums over other axes
    x * broadcast(y) = x * y, softmax(x, broadcast(m)) = softmax(x, m)     as ops broadcast anyway
A mean over tokens divides by a count that torch code often expands to the size of the sum: one
division is enough.
"""

from __future__ import annotations

import numpy as np

from srcompile.ir.graph import Module, Node
from srcompile.ops import Registry
from srcompile.ops.base import ints
from srcompile.ops.builder import GraphBuilder
from srcompile.ops.composed import elementwise
from srcompile.passes.fold_constants import remove_dead

_PAIRS = frozenset({"add", "sub", "rsub", "mul", "softmax"})


def sink_broadcasts(module: Module, ops: Registry) -> Module:
    """Return `module` with broadcasts behind functions and left out before pairwise ops."""
    b = GraphBuilder(ops)
    b.add_consts(module.consts)
    new: dict[str, str] = {}
    source: dict[str, str] = {}  # a broadcast -> what it repeats, with as many axes

    def moved(node: Node, inputs: list[str]) -> str | None:
        repeated = [source.get(i) for i in inputs]
        if node.op in _PAIRS and len(inputs) == 2 and any(repeated):
            return _pair(b, node, inputs, source)
        if len(inputs) != 1 or repeated[0] is None:
            return None
        if node.op in elementwise():
            return b.emit(node.op, [repeated[0]], node.attrs)
        if node.op == "sum":
            small, full = b.type(repeated[0]).shape, b.type(inputs[0]).shape
            if all(small[a] == full[a] for a in ints(node.attrs["axes"])):
                return b.emit(node.op, [repeated[0]], node.attrs)
        return None

    for segment in module.main.segments:
        for node in segment.nodes:
            b.loc = node.loc
            inputs = [new.get(i, i) for i in node.inputs]
            if node.op == "broadcast" and inputs[0] in source:
                inputs = [source[inputs[0]]]
            out = moved(node, inputs)
            if out is None:
                out = b.replay(node, inputs)
                if node.op == "broadcast":
                    source[out] = _same_rank(b, inputs[0], len(b.type(out).shape))
            elif node.type is not None and b.type(out).shape != node.type.shape:
                small, out = out, b.emit("broadcast", [out], {"shape": tuple(node.type.shape)})
                source[out] = _same_rank(b, small, len(node.type.shape))
            new[node.out] = out
        b.end_segment(segment.name, segment.route)
    return remove_dead(b.module())


def _same_rank(b: GraphBuilder, x: str, rank: int) -> str:
    """Return x with as many axes as its broadcast has."""
    shape = b.type(x).shape
    if len(shape) == rank:
        return x
    return b.emit("reshape", [x], {"shape": (1,) * (rank - len(shape)) + shape})


def _pair(b: GraphBuilder, node: Node, inputs: list[str], source: dict[str, str]) -> str | None:
    """Return the op on operands that are not repeated, as far as the result stays the same."""
    small = [source.get(i, i) for i in inputs]
    if node.op == "softmax":
        return b.emit(node.op, [inputs[0], small[1]], node.attrs, node.out)
    shapes = [b.type(i).shape for i in small]
    if np.broadcast_shapes(*shapes) == b.type(inputs[0]).shape or any(i in source for i in inputs):
        return b.emit(node.op, small, node.attrs, node.out)
    return None
