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

    def __init__(
        self,
        builder: GraphBuilder,
        ops: Registry,
        keep: frozenset[str],
        result: FloatType | None = None,
    ) -> None:
        self.builder, self.ops, self.keep, self.result = builder, ops, keep, result

    def emit(self, op: str, inputs: Sequence[str], attrs: Attrs = NO_ATTRS) -> str:
        if self.ops[op].primitive or op in self.keep:
            return self.builder.emit(op, inputs, attrs)
        inner = _Expander(self.builder, self.ops, self.keep)
        return self.ops[op].expand(inner, inputs, attrs)

    def const(self, data: Array, name: str = "") -> str:
        return self.builder.const(data, name)

    def type(self, operand: str) -> FloatType:
        return self.builder.type(operand)

    def is_public(self, operand: str) -> bool:
        return self.builder.is_public(operand)

    @property
    def loc(self) -> Loc:
        return self.builder.loc


def expand(module: Module, ops: Registry, keep: frozenset[str] = frozenset()) -> Module:
    """Return `module` with primitives only, and ops in `keep`.

    Ranges on its types decide between expansions.
    """
    b = GraphBuilder(ops)
    b.add_consts(module.consts)
    new: dict[str, str] = {}
    for segment in module.main.segments:
        for node in segment.nodes:
            b.loc = replace(node.loc, op=node.loc.op or node.op)
            inputs = [new.get(name, name) for name in node.inputs]
            if ops[node.op].primitive or node.op in keep:
                new[node.out] = b.replay(replace(node, loc=b.loc), inputs)
            else:
                known = node.type if isinstance(node.type, FloatType) else None
                expander = _Expander(b, ops, keep, known)
                new[node.out] = ops[node.op].expand(expander, inputs, node.attrs)
                b.set_range(new[node.out], known.range if known else None)
        b.end_segment(segment.name, segment.route)
    return b.module()
