"""Pass `reorder_relu`: max_pool2d(relu(x)) becomes relu(max_pool2d(x)).

The result is the same, and a window's worth of comparisons becomes one.
"""

from __future__ import annotations

from dataclasses import replace

from srcompile.ir.graph import Module, Node, Segment, uses


def reorder_relu(module: Module) -> Module:
    """Return `module` with ReLUs that only feed a max pool moved behind it."""
    count = uses(module.main)
    segments = []
    for segment in module.main.segments:
        made = {node.out: node for node in segment.nodes}
        nodes: list[Node] = []
        for node in segment.nodes:
            relu = made.get(node.inputs[0]) if node.op == "max_pool2d" else None
            if relu is None or relu.op != "relu" or count[relu.out] != 1:
                nodes.append(node)
                continue
            nodes.remove(relu)
            # the pool takes the name of the ReLU, so that the ReLU can take the name of the pool
            nodes.append(replace(node, out=relu.out, inputs=relu.inputs, type=node.type))
            nodes.append(replace(relu, out=node.out, inputs=(relu.out,), type=node.type))
        segments.append(Segment(segment.name, tuple(nodes), segment.route))
    return module.with_main(tuple(segments))
