"""Verification of graph- and fixed-level modules; it runs after every pass."""

from __future__ import annotations

from srcompile.errors import TextError, VerifyError
from srcompile.ir.graph import Module, Node
from srcompile.ir.types import FixType, FloatType, Type
from srcompile.ops import Registry
from srcompile.ops.base import Op
from srcompile.ops.program import FIXED_ONLY, INPUTS

MAX_BITS = 60


def verify(module: Module, ops: Registry) -> None:
    """Check every node of a `graph` or `fixed` module.

    Raises VerifyError, at the node's place, for an unknown op or value, a name used twice, missing
    or extra attributes, operands that do not fit, or a type that is not what the op makes.
    """
    types: dict[str, Type] = {}
    if len(module.functions) != 1:
        raise VerifyError(f"a module of the level {module.level} has one function")
    routed = [s for s in module.main.segments if s.route is not None]
    first = module.main.segments[: len(module.main.segments) - len(routed)]
    if len(first) != 1:
        raise VerifyError("a function has one segment that always runs, and it comes first")
    for segment in module.main.segments:
        scope = dict(types)
        for node in segment.nodes:
            _verify_node(node, module, scope, ops)
            if node.op in INPUTS and segment.route is not None:
                raise VerifyError("inputs belong in the first segment", node.loc, node.pos)
            if node.out:
                scope[node.out] = node.type  # type: ignore[assignment]
        if segment.route is None:
            types = scope
    routes = [n for n in first[0].nodes if n.op == "route"]
    if len(routes) != (1 if routed else 0):
        raise VerifyError("a function with routed segments reveals exactly one route")


def _verify_node(node: Node, module: Module, scope: dict[str, Type], ops: Registry) -> None:
    def need(condition: bool, message: str) -> None:
        if not condition:
            raise VerifyError(message, node.loc, node.pos)

    op = ops.get(node.op)
    need(op is not None, f"there is no op '{node.op}'")
    assert op is not None
    need(module.level == "fixed" or op.name not in FIXED_ONLY, f"'{op.name}' is a fixed-level op")
    need(node.out not in scope, f"{node.out} is defined twice")
    need(bool(node.out) == op.result, f"'{op.name}' makes {'a' if op.result else 'no'} value")
    extra = {"ring"} if module.level == "fixed" else set()
    need(
        set(op.attrs) == set(node.attrs) - extra - set(op.optional),
        f"'{op.name}' has the attributes {', '.join(op.attrs) or 'none'}",
    )
    low, high = op.arity
    need(low <= len(node.inputs) <= high, f"'{op.name}' does not take {len(node.inputs)} operands")
    for name in node.inputs:
        known = name in module.consts if name.startswith("@") else name in scope
        need(known, f"{name} is not defined here")
    inputs = [module.type_of(name, scope) for name in node.inputs]
    need(all(isinstance(t, (FloatType, FixType)) for t in inputs), "an operand is not a tensor")
    try:
        shape = tuple(op.shape([t.shape for t in inputs], node.attrs))
        if module.level == "fixed":
            _verify_fixed(node, op, inputs)
    except (ValueError, KeyError, IndexError) as error:
        need(False, f"'{op.name}': {error}")
    if op.result:
        found = node.type
        want = FixType if module.level == "fixed" else FloatType
        need(isinstance(found, want), f"'{op.name}' needs a {want.__name__} on this level")
        assert found is not None
        need(found.shape == shape, f"'{op.name}' makes the shape {shape}, not {found.shape}")


def _verify_fixed(node: Node, op: Op, inputs: list[Type]) -> None:
    if not op.primitive:
        raise ValueError("only primitives remain on the fixed level")
    fixed = [t for t in inputs if isinstance(t, FixType)]
    if len(fixed) != len(inputs):
        raise ValueError("an operand has no fixed-point type")
    frac = op.frac([t.frac for t in fixed], node.attrs)
    if not isinstance(node.type, FixType):
        return
    if frac is not None and node.type.frac != frac:
        raise ValueError(f"makes {frac} fraction bits, not {node.type.frac}")
    if not 1 <= node.type.bits <= MAX_BITS:
        raise ValueError(f"{node.type.bits} bits are outside 1..{MAX_BITS}")


def verify_text(module: Module, text: str, ops: Registry) -> None:
    """Verify a module that was parsed from `text`. Raises TextError with line, column and caret."""
    try:
        verify(module, ops)
    except VerifyError as error:
        raise TextError(error.message, text, *error.pos) from None
