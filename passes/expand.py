"""Pass `expand`: replace every op that is no primitive by its expansion, down to primitives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from srcompile.errors import Loc
from srcompile.ir.graph import NO_ATTRS, Array, Module
from srcompile.ir.types import FloatType
from srcompile.ops import Registry
from srcompile.ops.base import Attrs
from srcompile.ops.builder import GraphBuilder


class _Expander:
    """An Emitter that expands whatever it is told to emit."""

    def __init__(self, builder: GraphBuilder, ops: Registry) -> None:
        self.builder, self.ops = builder, ops

    def emit(self, op: str, inputs: Sequence[str], attrs: Attrs = NO_ATTRS) -> str:
        if self.ops[op].primitive:
            return self.builder.emit(op, inputs, attrs)
        return self.ops[op].expand(self, inputs, attrs)

    def const(self, data: Array, name: str = "") -> str:
        return self.builder.const(data, name)

    def type(self, operand: str) -> FloatType:
        return self.builder.type(operand)

    @property
    def loc(self) -> Loc:
        return self.builder.loc


def expand(module: Module, ops: Registry) -> Module:
    """Return `module` with primitives only. Ranges on its types decide between expansions."""
    b = GraphBuilder(ops)
    b.add_consts(module.consts)
    new: dict[str, str] = {}
    for segment in module.main.segments:
        for node in segment.nodes:
            b.loc = replace(node.loc, op=node.loc.op or node.op)
            inputs = [new.get(name, name) for name in node.inputs]
            if ops[node.op].primitive:
                new[node.out] = b.replay(replace(node, loc=b.loc), inputs)
            else:
                new[node.out] = _Expander(b, ops).emit(node.op, inputs, node.attrs)
                if isinstance(node.type, FloatType):
                    b.set_range(new[node.out], node.type.range)
        b.end_segment(segment.name, segment.route)
    return b.module()
