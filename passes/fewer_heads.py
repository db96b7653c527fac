"""`fewer_heads`: a model with half as many attention heads, twice as wide, for a what-if.

It has the same weights and computes something else: what it costs is what counts. Heads are clear
where the graph has, with H heads of d elements and n tokens,

    q, k, v = transpose(reshape(.., (B, n, H, d)), (0, 2, 1, 3))
    y       = reshape(transpose(attention(q, k, v), (0, 2, 1, 3)), (.., H·d))

and nothing else uses what is between; attention elsewhere stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from types import MappingProxyType

from srcompile.ir.graph import Module, Node, Segment
from srcompile.ir.types import FloatType

SWAP = (0, 2, 1, 3)


@dataclass(frozen=True)
class FewerHeads:
    """The changed module, and how many heads there were where it changed."""

    module: Module
    before: tuple[int, ...]


def fewer_heads(module: Module, layers: Collection[str]) -> FewerHeads | None:
    """Return a captured module with half the heads in `layers`, module paths.

    None if no attention there has an even number of heads that the graph shows.
    """
    before: list[int] = []
    segments = []
    for segment in module.main.segments:
        changed: dict[str, Node] = {}
        for node in segment.nodes:
            if node.op == "attention" and node.loc.module in layers:
                found = _halved(node, segment)
                if found:
                    before.append(_shape(node)[1])
                    changed |= {n.out: n for n in found}
        nodes = tuple(changed.get(n.out, n) if n.out else n for n in segment.nodes)
        segments.append(Segment(segment.name, nodes, segment.route))
    return FewerHeads(module.with_main(tuple(segments)), tuple(before)) if before else None


def _halved(attention: Node, segment: Segment) -> list[Node]:
    """Return the nodes around an attention with half as many heads; none if they are not clear."""
    made = {node.out: node for node in segment.nodes if node.out}
    users: dict[str, list[Node]] = {}
    for node in segment.nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    shape = _shape(attention)
    if len(shape) != 4 or shape[1] % 2:
        return []
    changed = [_with_shape(attention, _half(shape, 1, 3))]
    for name in dict.fromkeys(attention.inputs[:3]):
        swapped = made.get(name)
        split = made.get(swapped.inputs[0]) if swapped else None
        if swapped is None or split is None or not _swaps(swapped) or split.op != "reshape":
            return []
        mine = [users[name], users[split.out]] == [[attention], [swapped]]
        if not mine or _shape(swapped)[1] != shape[1]:
            return []
        halved = _half(_shape(split), 2, 3)
        attrs = MappingProxyType({**split.attrs, "shape": halved})
        changed.append(replace(_with_shape(split, halved), attrs=attrs))
        changed.append(_with_shape(swapped, _half(_shape(swapped), 1, 3)))
    after = users.get(attention.out, [])
    joined = users.get(after[0].out, []) if len(after) == 1 and _swaps(after[0]) else []
    together = shape[1] * shape[3]
    if [node.op for node in joined] != ["reshape"] or _shape(joined[0])[-1] != together:
        return []
    for name in attention.inputs[3:]:  # a mask for each head is none for fewer of them
        mask = made.get(name)
        if mask is None or (len(_shape(mask)) > 2 and _shape(mask)[-3] != 1):
            return []
    changed.append(_with_shape(after[0], _half(_shape(after[0]), 2, 3)))
    width = _shape(made[attention.inputs[0]])[3]
    scale = attention.attrs["scale"]
    assert isinstance(scale, float)
    if math.isclose(scale, 1 / math.sqrt(width)):
        attrs = MappingProxyType({**attention.attrs, "scale": 1 / math.sqrt(2 * width)})
        changed[0] = replace(changed[0], attrs=attrs)
    return changed


def _swaps(node: Node) -> bool:
    return node.op == "transpose" and node.attrs["perm"] == SWAP


def _half(shape: tuple[int, ...], heads: int, width: int) -> tuple[int, ...]:
    """Return a shape with half the heads, twice as wide; `heads` and `width` are axes."""
    sizes = list(shape)
    sizes[heads], sizes[width] = sizes[heads] // 2, 2 * sizes[width]
    return tuple(sizes)


def _shape(node: Node) -> tuple[int, ...]:
    assert isinstance(node.type, FloatType)
    return node.type.shape


def _with_shape(node: Node, shape: tuple[int, ...]) -> Node:
    assert isinstance(node.type, FloatType)
    return replace(node, type=replace(node.type, shape=shape))
