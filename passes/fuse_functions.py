"""Pass `fuse_functions`: make one function of a chain of elementwise ops on one value.

GPT-2 writes GELU as 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), others write x·sigmoid(x) or
1 / max(√s, ε): functions of one variable all, so one table and one opening each. A region is fused
if nothing outside it uses what is inside, if it has a table already, and if it saves an opening.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from srcompile.ir.graph import Const, Module, Node, Segment
from srcompile.ops import Registry
from srcompile.ops.composed import call_text, elementwise
from srcompile.ops.functions import Function
from srcompile.passes.fold_constants import remove_dead

LONGEST = 2000
"""Characters of a function's text; what grows longer repeats itself too often."""


def fuse_functions(module: Module, ops: Registry) -> Module:
    """Return `module` with regions of elementwise ops on one value as `function`."""
    outside = {  # values that another segment uses
        name
        for segment in module.main.segments
        for node in segment.nodes
        for name in node.inputs
        if name not in {n.out for n in segment.nodes}
    }
    segments = [
        Segment(s.name, _fused(s.nodes, module.consts, ops, outside), s.route)
        for s in module.main.segments
    ]
    return remove_dead(module.with_main(tuple(segments)))


def _fused(
    nodes: tuple[Node, ...], consts: Mapping[str, Const], ops: Registry, outside: set[str]
) -> tuple[Node, ...]:
    made = {node.out: node for node in nodes if node.out}
    users: dict[str, set[str]] = {}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, set()).add(node.out or f"{node.op} {id(node)}")
    sources: dict[str, tuple[str, ...]] = {}  # a value -> those it is a function of, nearest first
    for node in nodes:
        sources[node.out] = (node.out, *_common(node, consts, sources))
    done: set[str] = set()
    fused: dict[str, Node] = {}
    for node in reversed(nodes):
        if node.out in done:
            continue
        for source in reversed(sources[node.out][1:]):
            region = _region(node.out, source, made)
            inside = region - {node.out}
            if any(users[name] - region or name in outside for name in inside):
                continue
            if _openings([made[name] for name in region], ops) < 2:
                continue
            body = _body(node.out, {source: "x"}, made, consts)
            if len(body) > LONGEST:
                continue
            attrs = MappingProxyType({"body": body})
            fused[node.out] = replace(node, op="function", inputs=(source,), attrs=attrs)
            done |= region
            break
    return tuple(fused.get(node.out, node) for node in nodes)


def _number(name: str, consts: Mapping[str, Const]) -> float | None:
    """Return a public constant of one element, None for anything else."""
    const = consts.get(name)
    if const is None or const.secret or const.data is None or const.data.size != 1:
        return None
    return float(const.data.reshape(()))


def _common(
    node: Node, consts: Mapping[str, Const], sources: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Return the values that an elementwise op is a function of, nearest first."""
    if node.op not in elementwise() or node.type is None:
        return ()
    values = [name for name in node.inputs if _number(name, consts) is None]
    if not values or any(name not in sources for name in values):
        return ()
    others = [set(sources[name]) for name in values[1:]]
    return tuple(s for s in sources[values[0]] if all(s in other for other in others))


def _region(root: str, source: str, made: Mapping[str, Node]) -> set[str]:
    """Return the values between, `root` among them and `source` not."""
    found: set[str] = set()
    left = [root]
    while left:
        name = left.pop()
        if name != source and name not in found and name in made:
            found.add(name)
            left += made[name].inputs
    return found


def _openings(region: list[Node], ops: Registry) -> int:
    """Return how many gates a region has, 0 if none of them is a table."""
    tables = sum(isinstance(ops[node.op], Function) for node in region)
    others = sum(
        node.op in ("mul", "square", "pow", "relu", "leaky_relu", "clamp") for node in region
    )
    return tables + others if tables else 0


def _body(
    name: str, known: dict[str, str], made: Mapping[str, Node], consts: Mapping[str, Const]
) -> str:
    """Return the expression of a value in x; `known` has those found. Long ones are cut short."""
    if name not in known:
        number = _number(name, consts)
        if number is not None:
            return repr(number)
        node = made[name]
        operands = [_body(operand, known, made, consts) for operand in node.inputs]
        known[name] = call_text(node.op, operands, node.attrs)[: LONGEST + 1]
    return known[name]
