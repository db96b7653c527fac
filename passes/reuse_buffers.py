"""Pass `reuse_buffers`: let values whose lives do not overlap share a buffer.

A linear scan over each segment. A view (reshape, slice, ...) lives in the buffer of what it looks
at, which is kept as long as the view. An opened wire gets one: its addend waits there for the
peer's. What outlives the segment gets no buffer: it is allocated.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from srcompile.ir.graph import Module, Node
from srcompile.runtime.check import PHASES
from srcompile.runtime.isa import INSTRUCTIONS, RingType
from srcompile.runtime.kernels import ring_dtype
from srcompile.runtime.ring import COMPUTED


@dataclass(frozen=True)
class Buffers:
    """The buffer of each value, by (phase, name), and the bytes all buffers of a phase take."""

    of: dict[tuple[str, str], int]
    peak: dict[str, int]


def reuse_buffers(module: Module) -> Buffers:
    """Return the buffer plan of a lowered module."""
    plan = Buffers({}, dict.fromkeys(PHASES, 0))
    online = module.function("online")
    taken_online = {i for node in online.nodes() for i in node.inputs}
    for phase in PHASES:
        segments = module.function(phase).segments
        for number, segment in enumerate(segments):
            outliving = taken_online if phase == "prepare" else set()
            if phase == "online" and number == 0:
                outliving = {i for s in segments[1:] for n in s.nodes for i in n.inputs}
            _plan_segment(phase, segment.nodes, outliving, plan)
    return plan


def _plan_segment(phase: str, nodes: Sequence[Node], outliving: set[str], plan: Buffers) -> None:
    root: dict[str, str] = {}  # value -> the value whose memory it may look at
    for node in nodes:
        shared = node.inputs[0] if node.inputs and _may_alias(node) else ""
        root[node.out] = root.get(shared, shared) if shared else node.out
    last: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in (*node.inputs, node.out):
            last[root.get(name, name)] = index
    kept = {root.get(name, name) for name in outliving}
    free: list[int] = []  # buffer numbers, smallest first
    sizes: list[int] = []
    for index, node in enumerate(nodes):
        if (node.op in COMPUTED or node.op == "open") and node.out not in kept:
            if not free:
                free.append(len(sizes))
                sizes.append(0)
            buffer = heapq.heappop(free)
            plan.of[phase, node.out] = buffer
            sizes[buffer] = max(sizes[buffer], _size(node))
        ended = {root.get(name, name) for name in (*node.inputs, node.out)}
        for name in ended:
            if last.get(name) == index and (phase, name) in plan.of:
                heapq.heappush(free, plan.of[phase, name])
    plan.peak[phase] += sum(sizes)


def _may_alias(node: Node) -> bool:
    """Whether the result may share memory with the first operand."""
    return INSTRUCTIONS[node.op].view or node.op in ("offset", "add_common", "lift", "shift")


def _size(node: Node) -> int:
    assert isinstance(node.type, RingType)
    return node.type.size * ring_dtype(node.type.width).itemsize
