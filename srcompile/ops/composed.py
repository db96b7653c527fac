"""A function of one variable composed of others; under MPC it is one table like each of them.

Its attribute `body` is an expression in x with the ops of the IR, their attributes as keywords:
`mul(x, sigmoid(x))`, `offset(tanh(x), by=1.0)`.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from srcompile.ir.graph import Array, Attr
from srcompile.ir.types import Shape
from srcompile.ops import functions, linear, products
from srcompile.ops.base import Attrs, Case, Op, real

_NAMES = """
    add sub rsub neg scale offset div mul square pow sigmoid tanh gelu gelu_tanh silu erf exp
    reciprocal sqrt rsqrt relu leaky_relu clamp
"""


@cache
def elementwise() -> Mapping[str, Op]:
    """Return the ops that a body may have."""
    known = {op.name: op for op in (*linear.OPS, *products.OPS, *functions.OPS)}
    return {name: known[name] for name in _NAMES.split()}


def call_text(op: str, operands: Sequence[str], attrs: Mapping[str, Attr]) -> str:
    """Return the expression of one op on expressions."""
    named = [f"{name}={_number(value)}" for name, value in attrs.items()]
    return f"{op}({', '.join([*operands, *named])})"


def _number(value: Attr) -> str:
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    return repr(value)


class Composed(functions.Function):
    """f(x), with f written out in `body`."""

    name = "function"
    attrs = ("body",)

    def shape(self, shapes: Sequence[Shape], attrs: Attrs) -> Shape:
        parsed(attrs["body"])
        return shapes[0]

    def at(self, x: Array, attrs: Attrs) -> Array:
        with np.errstate(over="ignore"):
            value = _value(parsed(attrs["body"]), np.asarray(x, np.float64))
        return np.asarray(np.broadcast_to(value, x.shape))

    def domain_of(self, attrs: Attrs) -> tuple[float, float]:
        return (_lowest(parsed(attrs["body"])), math.inf)

    def cases(self) -> tuple[Case, ...]:
        return (
            Case(((2, 7),), {"body": "mul(x, sigmoid(x))"}, low=-6.0, high=6.0),
            Case(((3,),), {"body": "reciprocal(clamp(sqrt(x), low=1e-12, high=1e999))"}, 0.5, 8.0),
        )


@cache
def _tree(body: str) -> ast.expr:
    try:
        tree = ast.parse(body, mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        raise ValueError(f"'{body}' is not an expression") from None
    _check(tree)
    return tree


def parsed(body: object) -> ast.expr:
    """Return the expression of a body. Raises ValueError for anything but known ops of x."""
    if not isinstance(body, str):
        raise ValueError(f"{body!r} is not an expression")
    return _tree(body)


def _check(tree: ast.expr) -> None:
    if isinstance(tree, ast.Name) and tree.id == "x":
        return
    if isinstance(tree, (ast.Constant, ast.UnaryOp)):
        real(_literal(tree))
        return
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise ValueError("a body has ops, x and numbers only")
    op = elementwise().get(tree.func.id)
    if op is None:
        raise ValueError(f"'{tree.func.id}' is no op of a body")
    if sorted(str(k.arg) for k in tree.keywords) != sorted(op.attrs):
        raise ValueError(f"'{op.name}' has the attributes {', '.join(op.attrs) or 'none'}")
    if not op.arity[0] <= len(tree.args) <= op.arity[1]:
        raise ValueError(f"'{op.name}' does not take {len(tree.args)} operands")
    for keyword in tree.keywords:
        real(_literal(keyword.value))
    for operand in tree.args:
        _check(operand)


def _literal(tree: ast.expr) -> int | float:
    try:
        value: int | float = ast.literal_eval(tree)
    except (ValueError, TypeError):
        raise ValueError("an attribute in a body is a number") from None
    return value


def _value(tree: ast.expr, x: Array) -> Array:
    if isinstance(tree, ast.Name):
        return x
    if not isinstance(tree, ast.Call):
        return np.asarray(_literal(tree), np.float64)
    assert isinstance(tree.func, ast.Name)
    attrs = {str(k.arg): _literal(k.value) for k in tree.keywords}
    operands = [_value(operand, x) for operand in tree.args]
    return elementwise()[tree.func.id].reference(operands, attrs)


NEAR_A_POLE = 2.0**-10


def _lowest(tree: ast.expr) -> float:
    """Return how low x may get before a function inside leaves its domain, or -inf."""
    if not isinstance(tree, ast.Call):
        return -math.inf
    assert isinstance(tree.func, ast.Name)
    op = elementwise()[tree.func.id]
    low = max((_lowest(operand) for operand in tree.args), default=-math.inf)
    if isinstance(op, functions.Function) and op.domain[0] > -math.inf:
        low = max(low, _start(tree.args[0], op.domain[0]))
    return low


def _start(tree: ast.expr, low: float) -> float:
    """Return from where on x makes an argument reach `low`, as far as it is a line or a root."""
    if isinstance(tree, ast.Name):
        return low
    if not isinstance(tree, ast.Call):
        return -math.inf
    assert isinstance(tree.func, ast.Name)
    attrs = {str(k.arg): _literal(k.value) for k in tree.keywords}
    name, inner = tree.func.id, tree.args[0]
    if name == "offset":
        return _start(inner, low - attrs["by"])
    if name == "scale" and attrs["by"] > 0:
        return _start(inner, low / attrs["by"])
    if name == "div" and attrs["by"] > 0:
        return _start(inner, low * attrs["by"])
    if name == "sqrt":
        return _start(inner, low * abs(low))
    if name == "clamp" and attrs["low"] < NEAR_A_POLE:  # keeps zero away, no more
        return _start(inner, low)
    return -math.inf


OPS: tuple[Op, ...] = (Composed(),)
