"""Pass `fold_constants`: compute what depends on constants only, drop what nothing uses."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import numpy as np

from srcompile.ir.graph import Const, Module, Node, Segment, uses
from srcompile.ir.types import FloatType
from srcompile.ops import Registry

KEEP = frozenset({"input", "output", "route"})


def fold_constants(module: Module, ops: Registry) -> Module:
    """Return `module` with constant subgraphs evaluated and dead nodes and constants removed.

    A folded constant is secret if anything it was computed from is. It is forgotten as soon as all
    that needs it is folded too.
    """
    consts = dict(module.consts)
    taken = set(consts)
    count = uses(module.main)
    left = {name: count.get(name, 0) for name in consts}
    new: dict[str, str] = {}
    segments = []
    for segment in module.main.segments:
        kept = []
        for node in segment.nodes:
            renamed = replace(node, inputs=tuple(new.get(i, i) for i in node.inputs))
            if _is_constant(renamed, consts):
                name = _fold(renamed, consts, taken, ops)
                new[node.out], left[name] = name, count.get(node.out, 0)
                for operand in renamed.inputs:
                    left[operand] -= 1
                    if not left[operand]:
                        del consts[operand]
            else:
                kept.append(renamed)
        segments.append(Segment(segment.name, tuple(kept), segment.route))
    return remove_dead(replace(module.with_main(tuple(segments)), consts=MappingProxyType(consts)))


def _is_constant(node: Node, consts: dict[str, Const]) -> bool:
    if node.op in KEEP or not node.inputs:
        return False
    return all(name in consts and consts[name].data is not None for name in node.inputs)


def _fold(node: Node, consts: dict[str, Const], taken: set[str], ops: Registry) -> str:
    """Add what a node computes to `consts`, under a name that is not `taken`; return the name."""
    operands = [np.asarray(consts[name].data) for name in node.inputs]
    data = np.asarray(ops[node.op].reference(operands, node.attrs))  # a transpose stays a view
    data = data.astype(np.float32) if data.dtype == np.float64 else data
    name = f"{node.inputs[0]}.{node.op}"
    while name in taken:
        name += "-"
    taken.add(name)
    secret = any(consts[i].secret for i in node.inputs)
    consts[name] = Const(FloatType(data.shape), secret, data)
    return name


def remove_dead(module: Module) -> Module:
    """Return `module` without nodes and constants that no output depends on."""
    needed: set[str] = set()
    segments = []
    for segment in reversed(module.main.segments):
        kept = []
        for node in reversed(segment.nodes):
            if node.op in KEEP or node.out in needed:
                needed.update(node.inputs)
                kept.append(node)
        segments.append(Segment(segment.name, tuple(reversed(kept)), segment.route))
    consts = {name: const for name, const in module.consts.items() if name in needed}
    module = replace(module, consts=MappingProxyType(consts))
    return module.with_main(tuple(reversed(segments)))
