"""Pass `approximate`: replace functions by cheaper ones, where the user asks for it.

A model must be trained with what replaces its functions; without retraining it is useless. Nothing
is replaced by default. What there is, by op and name  [MPCFormer23]:

    gelu     spline  a table, up to its tolerance: the default, for both forms of GELU
             quad    x^2 / 8 + x / 4 + 1 / 2
             relu    max(x, 0)
    silu     spline  the default        relu  max(x, 0)
    softmax  exact   the default        2quad  (x + 5)^2 / sum (x + 5)^2
A choice may be for one layer only: gelu@encoder.layer.3. The longest layer that fits a node counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from srcompile.errors import UserError
from srcompile.ir.graph import Module, Node
from srcompile.ops import Registry
from srcompile.ops.base import Attrs, integer
from srcompile.ops.builder import GraphBuilder
from srcompile.passes.choices import APPROXIMATIONS
from srcompile.passes.recognise import recognise

SHIFT = 5.0
"""What 2quad adds to scores, so that most of them are above zero."""

WRITTEN_OUT = frozenset({"gelu", "gelu_tanh", "silu"})
"""Functions of one variable, which are found where a model writes them out too."""

Rule = Callable[[GraphBuilder, Sequence[str], Attrs], str]


def approximate(module: Module, ops: Registry, chosen: Mapping[str, str]) -> Module:
    """Return `module` with ops replaced as `chosen` says: {"gelu": "quad", "gelu@layer": "relu"}.

    Raises UserError for a choice that does not exist, or that no op of the module has.
    """
    choices = [_choice(key, name) for key, name in chosen.items()]
    wanted = [op for choice in choices for op in _OPS[choice.function] if op in WRITTEN_OUT]
    module = recognise(module, ops, wanted) if wanted else module
    for choice in choices:
        _check_used(choice, module)
    b = GraphBuilder(ops)
    b.add_consts(module.consts)
    new: dict[str, str] = {}
    for segment in module.main.segments:
        for node in segment.nodes:
            b.loc = replace(node.loc, op=node.loc.op or node.op)
            inputs = [new.get(name, name) for name in node.inputs]
            fitting = [choice for choice in choices if choice.fits(node)]
            best = max(fitting, key=lambda choice: len(choice.layer), default=None)
            rule = best.rule if best else None
            new[node.out] = rule(b, inputs, node.attrs) if rule else b.replay(node, inputs)
        b.end_segment(segment.name, segment.route)
    return b.module()


@dataclass(frozen=True)
class _Choice:
    """What the user wants of a function, in a layer or, if that is "", everywhere."""

    function: str
    layer: str
    rule: Rule | None

    def fits(self, node: Node) -> bool:
        inside = f"{node.loc.module}.".startswith(f"{self.layer}.")
        return node.op in _OPS[self.function] and (not self.layer or inside)


def _choice(key: str, name: str) -> _Choice:
    function, _, layer = key.partition("@")
    if function not in APPROXIMATIONS:
        raise UserError(f"'{function}' cannot be approximated: choose {', '.join(APPROXIMATIONS)}")
    found = APPROXIMATIONS[function]
    if name not in found:
        raise UserError(f"there is no '{name}' for '{function}': choose {', '.join(found)}")
    return _Choice(function, layer, _RULES[function, name] if name != found[0] else None)


def _check_used(choice: _Choice, module: Module) -> None:
    nodes = [node for node in module.main.nodes() if node.op in _OPS[choice.function]]
    if any(map(choice.fits, nodes)) or (not nodes and choice.rule is None):
        return
    where = f" in a layer '{choice.layer}'" if choice.layer else ""
    layers = ", ".join(dict.fromkeys(node.loc.module for node in nodes if node.loc.module))
    there = f"; there is one in {layers}" if layers else ""
    raise UserError(f"the model has no {choice.function}{where}{there}")


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
    for mask in inputs[1:]:  # 0 for a score that does not count
        square = b.emit("mul", [square, mask])
    total = b.emit("sum", [square], {"axes": (integer(attrs["axis"]),), "keepdims": True})
    return b.emit("mul", [square, b.emit("reciprocal", [total])])


_RULES: Mapping[tuple[str, str], Rule] = {
    ("gelu", "quad"): _quad,
    ("gelu", "relu"): _relu,
    ("silu", "relu"): _relu,
    ("softmax", "2quad"): _two_quad,
}
_OPS = {"gelu": ("gelu", "gelu_tanh"), "silu": ("silu",), "softmax": ("softmax",)}
