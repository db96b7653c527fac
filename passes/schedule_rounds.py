"""Pass `schedule_rounds`: give every message its round, and put all messages of a round together.

A value's depth is the number of rounds before it is there. Messages go out as early as they can,
so the number of rounds is the depth of the deepest result, and independent openings share a round.
The rounds of a branch begin behind the round that reveals the route, and outputs come behind the
one that reveals the guard.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from srcompile.ir.graph import Module, Node
from srcompile.runtime.isa import INSTRUCTIONS


def schedule_rounds(module: Module) -> Module:
    """Return the `schedule` form of a lowered module: rounds numbered from 1, nodes in order."""
    online = module.function("online")
    depth: dict[str, int] = {}
    first = 0  # rounds before this segment
    segments = []
    for segment in online.segments:
        start = 0 if segment.route is None else first
        placed = []
        guard = 0
        for node in segment.nodes:
            level, node = _placed(node, depth, max(start, guard if node.op == "output" else 0))
            placed.append((level, node))
            guard = level if node.op == "guard" else guard
        if segment.route is None:
            first = max((level for level, _ in placed), default=0)
        # messages of a round before what is computed from them; else in the order given
        placed.sort(key=lambda p: (p[0], not _is_message(p[1])))
        segments.append(replace(segment, nodes=tuple(node for _, node in placed)))
    scheduled = replace(online, segments=tuple(segments))
    functions = tuple(scheduled if f.name == "online" else f for f in module.functions)
    return replace(module, level="schedule", functions=functions)


def _is_message(node: Node) -> bool:
    return INSTRUCTIONS[node.op].communicates


def _placed(node: Node, depth: dict[str, int], start: int) -> tuple[int, Node]:
    level = max([start, *(depth.get(i, 0) for i in node.inputs)])
    if _is_message(node):
        level += 1
        node = replace(node, attrs=MappingProxyType({**node.attrs, "round": level}))
    if node.out:
        depth[node.out] = level
    return level, node
