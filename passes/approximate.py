"""Pass `approximate`: replace functions by cheaper ones, where the user asks for it.

A model must be trained with what replaces its functions; without retraining it is useless. Nothing
is replaced by default. What there is, by op and name  [MPCFormer23]:

    gelu=quad      x^2 / 8 + x / 4 + 1 / 2          gelu=relu      max(x, 0)
    silu=relu      max(x, 0)                        softmax=2quad  (x + 5)^2 / sum (x + 5)^2
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from srcompile.errors import UserError
from srcompile.ir.graph import Module
from srcompile.ops import Registry
from srcompile.ops.base import Attrs, integer
from srcompile.ops.builder import GraphBuilder

SHIFT = 5.0
"""What 2quad adds to scores, so that most of them are above zero."""

Rule = Callable[[GraphBuilder, Sequence[str], Attrs], str]


def approximate(module: Module, ops: Registry, chosen: Mapping[str, str]) -> Module:
    """Return `module` with ops replaced as `chosen` says, by op name; "exact" leaves one alone.

    Raises UserError for a choice that does not exist.
    """
    rules = {op: _rule(op, name) for op, name in chosen.items()}
    b = GraphBuilder(ops)
    b.add_consts(module.consts)
    new: dict[str, str] = {}
    for segment in module.main.segments:
        for node in segment.nodes:
            b.loc = replace(node.loc, op=node.loc.op or node.op)
            inputs = [new.get(name, name) for name in node.inputs]
            rule = rules.get(node.op)
            new[node.out] = rule(b, inputs, node.attrs) if rule else b.replay(node, inputs)
        b.end_segment(segment.name, segment.route)
    return b.module()


def _rule(op: str, name: str) -> Rule | None:
    if op not in APPROXIMATIONS:
        raise UserError(f"'{op}' cannot be approximated: choose {', '.join(APPROXIMATIONS)}")
    if name == "exact":
        return None
    found = APPROXIMATIONS[op].get(name)
    if found is None:
        names = ", ".join(("exact", *APPROXIMATIONS[op]))
        raise UserError(f"there is no '{name}' for '{op}': choose {names}")
    return found


def _quad(b: GraphBuilder, inputs: Sequence[str], attrs: Attrs) -> str:
    # x^2 / 8 + x / 4 + 1 / 2 = ((x + 1)^2 + 3) / 8
    (x,) = inputs
    y = b.emit("offset", [x], {"by": 1.0})
    square = b.emit("offset", [b.emit("mul", [y, y])], {"by": 3.0})
    return b.emit("scale", [square], {"by": 0.125})


def _relu(b: GraphBuilder, inputs: Sequence[str], attrs: Attrs) -> str:
    return b.emit("relu", [inputs[0]])


def _two_quad(b: GraphBuilder, inputs: Sequence[str], attrs: Attrs) -> str:
    y = b.emit("offset", [inputs[0]], {"by": SHIFT})
    square = b.emit("mul", [y, y])
    total = b.emit("sum", [square], {"axes": (integer(attrs["axis"]),), "keepdims": True})
    return b.emit("mul", [square, b.emit("reciprocal", [total])])


APPROXIMATIONS: Mapping[str, Mapping[str, Rule]] = {
    "gelu": {"quad": _quad, "relu": _relu},
    "gelu_tanh": {"quad": _quad, "relu": _relu},
    "silu": {"relu": _relu},
    "softmax": {"2quad": _two_quad},
}
