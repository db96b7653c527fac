"""Pass `merge_common`: compute equal things once.

For a pool this is what lets router and models share an embedding and its opened wires.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from srcompile.ir.graph import Const, Module, Node, Segment

_EFFECTS = frozenset({"input", "output", "route"})


def merge_common(module: Module) -> Module:
    """Return `module` with equal constants and equal nodes merged into the first of them."""
    new: dict[str, str] = {}
    by_data: dict[object, str] = {}
    for name, const in module.consts.items():
        new[name] = by_data.setdefault(_const_key(name, const), name)
    shared: dict[object, str] = {}
    segments = []
    for segment in module.main.segments:
        seen = dict(shared)
        kept: list[Node] = []
        for node in segment.nodes:
            inputs = tuple(new.get(i, i) for i in node.inputs)
            key = (node.op, inputs, tuple(sorted(node.attrs.items())))
            if node.op not in _EFFECTS and key in seen:
                new[node.out] = seen[key]
                continue
            seen[key] = node.out
            kept.append(replace(node, inputs=inputs))
        if segment.route is None:
            shared = seen
        segments.append(Segment(segment.name, tuple(kept), segment.route))
    return module.with_main(tuple(segments))


def _const_key(name: str, const: Const) -> object:
    if const.data is None:
        return name
    data = np.ascontiguousarray(const.data)
    return (const.type, const.secret, data.dtype.str, hashlib.sha256(data.data).digest())
