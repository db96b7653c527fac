"""Target `plain`: one party, nothing hidden. Computes exactly what the fixed level says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from srcompile.ir.graph import NO_ATTRS, Attr, Node
from srcompile.ops.base import integer
from srcompile.passes.lower import ProgramBuilder, input_width
from srcompile.passes.quantise import PRODUCTS
from srcompile.runtime.isa import RingType


class Plain:
    """Lowers every node to one or two instructions on clear values."""

    name = "plain"

    def lower(self, node: Node, b: ProgramBuilder) -> None:
        """Emit the instructions of `node`."""
        rule = _RULES.get(node.op, _local)
        out = rule(node, b)
        if out:
            b.wires[node.out] = out


# -- values ---------------------------------------------------------------------------------------


def _ring(node: Node) -> int:
    ring = node.attrs["ring"]
    assert isinstance(ring, int)
    return ring


def _emit(
    b: ProgramBuilder, op: str, inputs: list[str], attrs: Mapping[str, Attr], node: Node
) -> str:
    return b.emit("online", op, inputs, attrs, node.out)


def _operand(b: ProgramBuilder, name: str, width: int) -> str:
    """Return an operand in Z_(2^width)."""
    if name.startswith("@"):
        const = b.const(name, width)
        return b.emit("online", "plain_weight", [const]) if b.is_secret(name) else const
    value = b.wires[name]
    assert isinstance(value, str)
    known = b.ring_type("online", value).width
    if known == width:
        return value
    if known < width:  # an operand of an elementwise product
        return b.emit("online", "plain_extend", [value], {"width": width})
    return b.emit("online", "reduce", [value], {"width": width})


# -- linear ops and products ----------------------------------------------------------------------


def _local(node: Node, b: ProgramBuilder) -> str:
    inputs = [_operand(b, i, _ring(node)) for i in node.inputs]
    attrs = {k: v for k, v in node.attrs.items() if k != "ring"}
    if node.op == "scale" and attrs["by"] == 1:
        return inputs[0]
    return _emit(b, node.op, inputs, attrs, node)


def _open(node: Node, b: ProgramBuilder) -> str:
    return _shift(node, b) if node.attrs["by"] else _operand(b, node.inputs[0], _ring(node))


# -- gates ----------------------------------------------------------------------------------------


def _shift(node: Node, b: ProgramBuilder) -> str:
    # round to nearest: floor((x + 2^(s-1)) / 2^s)
    by = node.attrs["by"]
    assert isinstance(by, int)
    x = _operand(b, node.inputs[0], _ring(node) + by)
    half = b.emit("online", "offset", [x], {"by": 1 << (by - 1)})
    return _emit(b, "shift", [half], {"by": by}, node)


def _sign(node: Node, b: ProgramBuilder) -> str:
    x = _operand(b, node.inputs[0], b.fix_type(node.inputs[0]).bits)
    return _emit(b, f"plain_{node.op}", [x], {"width": _ring(node)}, node)


def _extend(node: Node, b: ProgramBuilder) -> str:
    x = _operand(b, node.inputs[0], b.fix_type(node.inputs[0]).bits + 1)
    return _emit(b, "plain_extend", [x], {"width": _ring(node)}, node)


def _table(node: Node, b: ProgramBuilder) -> str:
    x = _operand(b, node.inputs[0], b.fix_type(node.inputs[0]).bits)
    tables = [b.const(t, _ring(node)) for t in node.inputs[1:]]
    attrs = {k: node.attrs[k] for k in ("index_bits", "low_bits")}
    return _emit(b, "plain_table", [x, *tables], attrs, node)


def _check(node: Node, b: ProgramBuilder) -> str:
    index_bits, low_bits = (integer(node.attrs[k]) for k in ("index_bits", "low_bits"))
    x = _operand(b, node.inputs[0], index_bits + low_bits)
    if low_bits:
        x = b.emit("online", "shift", [x], {"by": low_bits})
    marks = b.const(node.inputs[1], _ring(node))
    return _emit(b, "plain_table", [x, marks], {"index_bits": index_bits, "low_bits": 0}, node)


# -- messages -------------------------------------------------------------------------------------


def _input(node: Node, b: ProgramBuilder) -> str:
    type_, width = b.fix_type(node.out), input_width(node, b.fix_type(node.out))
    declared = RingType("clear", width, type_.shape)
    x = b.emit("online", "plain_input", [], {"name": node.attrs["name"]}, node.out, declared)
    return (
        x if width == _ring(node) else _emit(b, "plain_extend", [x], {"width": _ring(node)}, node)
    )


def _output(node: Node, b: ProgramBuilder) -> str:
    x = _operand(b, node.inputs[0], b.fix_type(node.inputs[0]).bits)
    return _emit(b, "plain_output", [x], {"name": node.attrs["name"]}, node)


def _route(node: Node, b: ProgramBuilder) -> str:
    x = _operand(b, node.inputs[0], b.fix_type(node.inputs[0]).bits)
    return _emit(b, "plain_route", [x], NO_ATTRS, node)


def _guard(node: Node, b: ProgramBuilder) -> str:
    return _emit(b, "plain_guard", [_operand(b, node.inputs[0], 1)], NO_ATTRS, node)


_RULES: Mapping[str, Callable[[Node, ProgramBuilder], str]] = {
    **dict.fromkeys(PRODUCTS, _local),
    "open": _open,
    "shift": _shift,
    "relu": _sign,
    "nonneg": _sign,
    "table": _table,
    "check": _check,
    "extend": _extend,
    "input": _input,
    "output": _output,
    "route": _route,
    "guard": _guard,
}
