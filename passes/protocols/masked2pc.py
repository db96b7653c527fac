"""Target `2pc`: two parties and a dealer, masked wires (docs/protocol-2pc.md).

Notation: w ring width; r a mask, x^ = x + r a masked wire, [x] an additive share; B the mask of a
weight W, F = W - B, opened once when weights are loaded. In each gate below the lines of the dealer
(D), of a party before the input is there (prepare) and after (online) stand together. `correlate`
takes a value of the dealer's and returns a party's share of it: PRG for P0, a correction for P1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from srcompile.ir.graph import NO_ATTRS, Attr, Node
from srcompile.ops.base import integer
from srcompile.passes.lower import ProgramBuilder, input_width
from srcompile.passes.quantise import PRODUCTS
from srcompile.runtime.isa import RingType


class Masked2PC:
    """Lowers nodes to gates on masked wires."""

    name = "2pc"

    def lower(self, node: Node, b: ProgramBuilder) -> None:
        """Emit the instructions of `node`."""
        value = _RULES.get(node.op, _linear)(node, b)
        if value is not None:
            b.wires[node.out] = value


# -- values ---------------------------------------------------------------------------------------


@dataclass
class Masked:
    """A masked wire: x^ online, its mask r at the dealer, and, made when first needed, [r]."""

    hat: str
    r: str
    share_of_r: Callable[[], str]
    _made: list[str] = field(default_factory=list)

    @property
    def r_share(self) -> str:
        """The name of [r] in `prepare`."""
        if not self._made:
            self._made.append(self.share_of_r())
        return self._made[0]

    @property
    def name(self) -> str:
        """The name of x, without what marks x^."""
        return self.hat.replace("^", "")


@dataclass(frozen=True)
class Share:
    """An additive share, online."""

    name: str


@dataclass(frozen=True)
class Public:
    """A value that both parties know, online: a public input, or computed from such."""

    name: str


Value = Masked | Share | Public


def _ring(node: Node) -> int:
    ring = node.attrs["ring"]
    assert isinstance(ring, int)
    return ring


def _attrs(node: Node) -> dict[str, Attr]:
    return {k: v for k, v in node.attrs.items() if k != "ring"}


def _deal(b: ProgramBuilder, op: str, inputs: Sequence[str], attrs: Mapping[str, Attr] = NO_ATTRS,
          name: str = "") -> str:  # fmt: skip
    return b.emit("dealer", op, inputs, attrs, name)


def _prepare(b: ProgramBuilder, op: str, inputs: Sequence[str],
             attrs: Mapping[str, Attr] = NO_ATTRS, name: str = "") -> str:  # fmt: skip
    return b.emit("prepare", op, inputs, attrs, name)


def _online(b: ProgramBuilder, op: str, inputs: Sequence[str], attrs: Mapping[str, Attr] = NO_ATTRS,
            name: str = "") -> str:  # fmt: skip
    return b.emit("online", op, inputs, attrs, name)


def _mapped(b: ProgramBuilder, x: Masked, op: str, attrs: Mapping[str, Attr], name: str) -> Masked:
    """Return the image of a masked wire under a linear map: the same map on x^, r and [r]."""
    return Masked(
        _online(b, op, [x.hat], attrs, f"{name}^"),
        _deal(b, op, [x.r], attrs, f"{name}.r"),
        lambda: _prepare(b, op, [x.r_share], attrs, f"{name}.r"),
    )


def _at(b: ProgramBuilder, value: Value, width: int) -> Value:
    """Return a value reduced to Z_(2^width)."""
    name = value.hat if isinstance(value, Masked) else value.name
    if b.ring_type("online", name).width == width:
        return value
    if isinstance(value, Masked):
        return _mapped(b, value, "reduce", {"width": width}, f"{value.name}.w{width}")
    return type(value)(_online(b, "reduce", [name], {"width": width}, f"{name}.w{width}"))


def _operand(b: ProgramBuilder, name: str, width: int) -> Value:
    value = b.wires[name]
    assert isinstance(value, (Masked, Share, Public))
    return _at(b, value, width)


def _masked(b: ProgramBuilder, name: str, width: int) -> Masked:
    value = _operand(b, name, width)
    assert isinstance(value, Masked), f"{name} is not opened"
    return value


def _unmasked(b: ProgramBuilder, value: Value) -> str:
    """Return [x] = p·x^ - [r] of a masked wire; P0 holds all of what both know."""
    if isinstance(value, Share):
        return value.name
    if isinstance(value, Public):
        return _online(b, "lift", [value.name], name=value.name)
    minus_r = _prepare(b, "neg", [value.r_share], NO_ATTRS, f"{value.name}.-r")
    return _online(b, "add_common", [minus_r, value.hat], NO_ATTRS, f"{value.name}.share")


def _correlate(b: ProgramBuilder, value: str) -> str:
    """Return a party's share, in `prepare`, of a value of the dealer's."""
    slot: dict[str, Attr] = {"slot": b.slot()}
    segment = b.segment_of("dealer", value)
    type_ = b.ring_type("dealer", value)
    b.emit("dealer", "correlate", [value], slot)
    declared = RingType("share", type_.width, type_.shape)
    return b.emit("prepare", "correlation", [], slot, value, declared, segment)


def _mask(b: ProgramBuilder, type_: RingType, name: str) -> tuple[str, str]:
    """Return a fresh uniform mask: r at the dealer, [r] with a party."""
    slot: dict[str, Attr] = {"slot": b.slot()}
    clear = RingType("clear", type_.width, type_.shape)
    mask = RingType("mask", type_.width, type_.shape)
    return (
        b.emit("dealer", "mask", [], slot, f"{name}.r", clear),
        b.emit("prepare", "mask", [], slot, f"{name}.r", mask),
    )


# -- openings -------------------------------------------------------------------------------------


def _open(node: Node, b: ProgramBuilder) -> Masked:
    """x^ = sum_p ([x]_p + [r]_p) >> s, a wire of x / 2^s with the mask r >> s."""
    x, by = node.inputs[0], node.attrs["by"]
    assert isinstance(by, int)
    share = _unmasked(b, _operand(b, x, _ring(node) + by))
    r, r_share = _mask(b, b.ring_type("online", share), x)
    hat = _online(b, "open", [share, r_share], {"round": 0, "by": by}, f"{x}^")
    if not by:
        return Masked(hat, r, lambda: r_share)
    high = _deal(b, "shift", [r], {"by": by}, f"{node.out}.r")
    return Masked(hat, high, lambda: _correlate(b, high))


def _input(node: Node, b: ProgramBuilder) -> Value:
    """The parties give the client [r]; it sends x + r to both. A public x it sends as it is."""
    if node.attrs.get("public"):
        x, width = b.fix_type(node.out), input_width(node, b.fix_type(node.out))
        attrs: dict[str, Attr] = {"name": node.attrs["name"], "width": width, "shape": x.shape}
        given = _online(b, "public_input", [], attrs, node.out)
        if width < _ring(node):
            given = _online(b, "public_extend", [given], {"width": _ring(node)}, node.out)
        return Public(given)
    type_ = RingType("masked", _ring(node), b.fix_type(node.out).shape)
    r, r_share = _mask(b, type_, node.out)
    hat = _online(b, "input", [r_share], {"name": node.attrs["name"]}, f"{node.out}^")
    return Masked(hat, r, lambda: r_share)


# -- linear ops -----------------------------------------------------------------------------------


def _linear(node: Node, b: ProgramBuilder) -> Value:
    attrs, width = _attrs(node), _ring(node)
    values = {i: _operand(b, i, width) for i in node.inputs if not i.startswith("@")}
    if node.op == "scale" and attrs["by"] == 1:
        return values[node.inputs[0]]
    secret = any(b.is_secret(i) for i in node.inputs)
    if secret or any(isinstance(v, Share) for v in values.values()):
        shares = [
            _unmasked(b, values[i]) if i in values else _constant(b, i, width) for i in node.inputs
        ]
        return Share(_online(b, node.op, shares, attrs, node.out))
    known = {i: v.name for i, v in values.items() if isinstance(v, Public)}

    def public(i: str) -> str:
        return known[i] if i in known else b.const(i, width)

    if len(known) == len(values):
        return Public(_online(b, node.op, [public(i) for i in node.inputs], attrs, node.out))
    masked = {i: v for i, v in values.items() if isinstance(v, Masked)}

    def operands(part: Callable[[Masked], str], other: Callable[[str], str]) -> list[str]:
        return [part(masked[i]) if i in masked else other(i) for i in node.inputs]

    # a public summand moves x^ and leaves r
    hat = _online(b, node.op, operands(lambda v: v.hat, public), attrs, f"{node.out}^")
    if node.op == "offset":
        wire = masked[node.inputs[0]]
        return Masked(hat, wire.r, lambda: wire.r_share)
    return Masked(
        hat,
        _deal(b, node.op, operands(lambda v: v.r, lambda i: b.zero(i, width)), attrs,
              f"{node.out}.r"),
        lambda: _prepare(
            b, node.op, operands(lambda v: v.r_share, lambda i: _zero_share(b, i, width)), attrs,
            f"{node.out}.r",
        ),
    )  # fmt: skip


def _zero_share(b: ProgramBuilder, operand: str, width: int) -> str:
    return _prepare(b, "lift", [b.zero(operand, width)], NO_ATTRS, operand)


def _constant(b: ProgramBuilder, name: str, width: int) -> str:
    """A constant summand as a share: a weight is one already, of a public one P0 holds it all."""
    const = b.const(name, width)
    return _online(b, "weight_share" if b.is_secret(name) else "lift", [const], name=name)


# -- products -------------------------------------------------------------------------------------


def _product(node: Node, b: ProgramBuilder) -> Value:
    x, y = node.inputs
    if any(i.startswith("@") and not b.is_secret(i) for i in (x, y)):
        return _public_product(node, b)
    if any(isinstance(b.wires.get(i), Public) for i in (x, y)):
        return _known_product(node, b)
    if x.startswith("@") or y.startswith("@"):
        return _static_product(node, b)
    return _dynamic_product(node, b)


def _public_product(node: Node, b: ProgramBuilder) -> Value:
    """A public factor: linear."""
    width, attrs = _ring(node), _attrs(node)
    const = next(i for i in node.inputs if i.startswith("@"))
    factor = b.const(const, width)
    value = _operand(b, next(i for i in node.inputs if i != const), width)

    def pair(name: str) -> list[str]:
        return [factor if i == const else name for i in node.inputs]

    if not isinstance(value, Masked):
        return type(value)(_online(b, node.op, pair(value.name), attrs, node.out))
    return Masked(
        _online(b, node.op, pair(value.hat), attrs, f"{node.out}^"),
        _deal(b, node.op, pair(value.r), attrs, f"{node.out}.r"),
        lambda: _prepare(b, node.op, pair(value.r_share), attrs, f"{node.out}.r"),
    )


def _known_product(node: Node, b: ProgramBuilder) -> Value:
    """A factor that both parties know, but not the dealer: local on shares."""
    width = _ring(node)
    values = [
        Share(_constant(b, i, width)) if i.startswith("@") else _operand(b, i, width)
        for i in node.inputs
    ]
    if all(isinstance(v, Public) for v in values):
        names = [v.name for v in values]
        return Public(_online(b, node.op, names, _attrs(node), node.out))
    names = [v.name if isinstance(v, Public) else _unmasked(b, v) for v in values]
    return Share(_online(b, node.op, names, _attrs(node), node.out))


def _static_product(node: Node, b: ProgramBuilder) -> Share:
    """x·W = x^·W - r·W,  r·W = r·F + r·B   [Beaver91, with W - B opened once]."""
    op, width, attrs = node.op, _ring(node), _attrs(node)
    const = next(i for i in node.inputs if i.startswith("@"))
    weight = b.const(const, width)
    x = _masked(b, next(i for i in node.inputs if i != const), width)

    def pair(name: str, w: str) -> list[str]:
        return [w if i == const else name for i in node.inputs]

    big_b = b.emit("dealer", "weight_mask", [weight], NO_ATTRS, f"{const}.B", None,
                   b.segment_of("dealer", x.r))  # fmt: skip
    rb = _correlate(b, _deal(b, op, pair(x.r, big_b), attrs, f"{node.out}.rB"))
    big_f = b.emit("prepare", "weight_opened", [weight], NO_ATTRS, f"{const}.F", None,
                   b.segment_of("prepare", x.r_share))  # fmt: skip
    rf = _prepare(b, op, pair(x.r_share, big_f), attrs, f"{node.out}.rF")
    rw = _prepare(b, "add", [rf, rb], NO_ATTRS, f"{node.out}.rW")
    w = _online(b, "weight_share", [weight], name=f"{const}.W")
    xw = _online(b, op, pair(x.hat, w), attrs, f"{node.out}.x^W")
    return Share(_online(b, "sub", [xw, rw], name=node.out))


def _dynamic_product(node: Node, b: ProgramBuilder) -> Share:
    """x·y = x^·[y] - [r_x]·y^ + [r_x·r_y],  [y] = p·y^ - [r_y]   [Beaver91]."""
    op, width, attrs = node.op, _ring(node), _attrs(node)
    if op == "mul" and any(_width(b, i) < width for i in node.inputs):
        return _wide_product(node, b)
    x, y = (_masked(b, i, width) for i in node.inputs)
    rr = _correlate(b, _deal(b, op, [x.r, y.r], attrs, f"{node.out}.rr"))
    left = _online(b, op, [x.hat, _unmasked(b, y)], attrs, f"{node.out}.x^y")
    right = _online(b, op, [x.r_share, y.hat], attrs, f"{node.out}.ry^")
    difference = _online(b, "sub", [left, right], NO_ATTRS, f"{node.out}.x^y-ry^")
    return Share(_online(b, "add", [difference, rr], name=node.out))


def _wide_product(node: Node, b: ProgramBuilder) -> Share:
    """x·y in a ring wider than those of x^ and y^. See runtime/gates.py.

    With r and s as integers, m = msb r and n = msb s: x = a - r + c·m and y = b - s + d·n for
    public a, b, c, d, so all products with shares of r·s, r·n, m·s and m·n are local.
    """
    width = _ring(node)
    names = dict.fromkeys(node.inputs)
    wires = [_masked(b, i, b.fix_type(i).bits + 1) for i in names]
    parts = [
        [_deal(b, op, [x.r], {"width": width}, f"{x.name}.{name}") for x in wires]
        for op, name in (("widen", "r_int"), ("msb", "m"))
    ]
    single = [_correlate(b, part) for x in zip(*parts, strict=True) for part in x]
    pairs = [(0, 0), (1, 0)] if len(wires) == 1 else [(0, 0), (0, 1), (1, 0), (1, 1)]
    products = [
        _correlate(b, _deal(b, "mul", [parts[i][0], parts[j][-1]], NO_ATTRS, f"{node.out}.{i}{j}"))
        for i, j in pairs
    ]
    op = "square" if len(wires) == 1 else "multiply"
    inputs = [*(x.hat for x in wires), *single, *products]
    return Share(_online(b, op, inputs, {"width": width}, node.out))


def _width(b: ProgramBuilder, name: str) -> int:
    """Return the ring width of a wire."""
    wire = b.wires[name]
    assert isinstance(wire, Masked)
    return b.ring_type("online", wire.hat).width


# -- gates ----------------------------------------------------------------------------------------


def _shift(node: Node, b: ProgramBuilder) -> Value:
    """x^ >> s = (x >> s) + (r >> s) + carry: x / 2^s up to less than one, unbiased.

    What both parties know is rounded to the nearest.
    """
    by = node.attrs["by"]
    assert isinstance(by, int)
    x = _operand(b, node.inputs[0], _ring(node) + by)
    if isinstance(x, Public):
        half = _online(b, "offset", [x.name], {"by": 1 << (by - 1)}, f"{node.out}.half")
        return Public(_online(b, "shift", [half], {"by": by}, node.out))
    assert isinstance(x, Masked), f"{node.inputs[0]} is not opened"
    r = _deal(b, "shift", [x.r], {"by": by}, f"{node.out}.r")
    hat = _online(b, "shift", [x.hat], {"by": by}, f"{node.out}^")
    return Masked(hat, r, lambda: _correlate(b, r))


def _table(node: Node, b: ProgramBuilder) -> Value:
    """One DPF key with payload powers of r mod 2^s at r >> s; full-domain evaluation  [BGI16].

    A public value is read from the table by each party.
    """
    index_bits, low_bits = (node.attrs[k] for k in ("index_bits", "low_bits"))
    if isinstance(b.wires[node.inputs[0]], Public):
        x = _operand(b, node.inputs[0], b.fix_type(node.inputs[0]).bits)
        names = [x.name, *(b.const(t, _ring(node)) for t in node.inputs[1:])]
        return Public(
            _online(
                b,
                "public_table",
                names,
                {"index_bits": index_bits, "low_bits": low_bits},
                node.out,
            )
        )
    x = _masked(b, node.inputs[0], b.fix_type(node.inputs[0]).bits)
    keys: dict[str, Attr] = {
        "slot": b.slot(), "index_bits": index_bits, "low_bits": low_bits,
        "degree": len(node.inputs) - 2, "width": _ring(node),
    }  # fmt: skip
    key = _keys(b, "table_key", keys, x.r, node)
    tables = [b.const(t, _ring(node)) for t in node.inputs[1:]]
    attrs: dict[str, Attr] = {"index_bits": index_bits, "low_bits": low_bits}
    return Share(_online(b, "table", [x.hat, key, *tables], attrs, node.out))


def _check(node: Node, b: ProgramBuilder) -> Share:
    """A DPF key with payload 1 at r >> s: the table is read in the cell of x, or one above."""
    index_bits, low_bits = (integer(node.attrs[k]) for k in ("index_bits", "low_bits"))
    x = _masked(b, node.inputs[0], index_bits + low_bits)
    hat, r = x.hat, x.r
    if low_bits:
        hat = _online(b, "shift", [hat], {"by": low_bits}, f"{x.name}.cell^")
        r = _deal(b, "shift", [r], {"by": low_bits}, f"{x.name}.cell.r")
    keys: dict[str, Attr] = {
        "slot": b.slot(), "index_bits": index_bits, "low_bits": 0, "degree": 0,
        "width": _ring(node),
    }  # fmt: skip
    key = _keys(b, "table_key", keys, r, node)
    marks = b.const(node.inputs[1], _ring(node))
    attrs: dict[str, Attr] = {"index_bits": index_bits, "low_bits": 0}
    return Share(_online(b, "table", [hat, key, marks], attrs, node.out))


def _keys(b: ProgramBuilder, op: str, attrs: Mapping[str, Attr], r: str, node: Node) -> str:
    """Let the dealer make keys for the mask r; return the party's."""
    b.emit("dealer", f"{op}s", [r], attrs)
    shape = b.ring_type("dealer", r).shape
    declared = RingType("key", 1, shape)  # the rule of the instruction says how long a key is
    segment = b.segment_of("dealer", r)
    return b.emit("prepare", op, [], attrs, f"{node.out}.key", declared, segment)


def _sign(node: Node, b: ProgramBuilder) -> Value:
    """A DCF key tells the borrow c = [x^ < r] below the sign bit  [BCGGIKR21].

    With m = msb r and h = msb x^:  [x < 0] = h xor m xor c. See runtime/gates.py for the rest.
    """
    bits, width, select = b.fix_type(node.inputs[0]).bits, _ring(node), node.op == "relu"
    if isinstance(b.wires[node.inputs[0]], Public):
        known = _operand(b, node.inputs[0], bits).name
        return Public(_online(b, f"public_{node.op}", [known], {"width": width}, node.out))
    x = _masked(b, node.inputs[0], bits)
    key = _keys(
        b,
        "sign_key",
        {"slot": b.slot(), "in_width": bits, "width": width, "select": select},
        x.r,
        node,
    )
    m = _deal(b, "msb", [x.r], {"width": width}, f"{node.out}.m")
    shares = [_correlate(b, m)]
    if select:
        r = _deal(b, "widen", [x.r], {"width": width}, f"{node.out}.r_int")
        shares.append(_correlate(b, _deal(b, "mul", [m, r], NO_ATTRS, f"{node.out}.mr")))
        # in a ring no wider than x's, [r] needs nothing from the dealer
        if width <= bits:
            narrow = {"width": width}
            shares.append(_prepare(b, "reduce", [x.r_share], narrow, f"{node.out}.r_int"))
        else:
            shares.append(_correlate(b, r))
    return Share(_online(b, node.op, [x.hat, key, *shares], {"width": width}, node.out))


def _extend(node: Node, b: ProgramBuilder) -> Value:
    """With c = x + 2^(w-2) + r mod 2^w:  x = c - 2^(w-2) - r + 2^w·(1 - msb c)·msb r."""
    width = _ring(node)
    bits = b.fix_type(node.inputs[0]).bits + 1
    if isinstance(b.wires[node.inputs[0]], Public):
        known = _operand(b, node.inputs[0], bits).name
        return Public(_online(b, "public_extend", [known], {"width": width}, node.out))
    if width <= bits:
        return Share(_unmasked(b, _operand(b, node.inputs[0], width)))
    x = _masked(b, node.inputs[0], bits)
    r = _correlate(b, _deal(b, "widen", [x.r], {"width": width}, f"{node.out}.r_int"))
    m = _correlate(b, _deal(b, "msb", [x.r], {"width": width}, f"{node.out}.m"))
    return Share(_online(b, "extend", [x.hat, r, m], {"width": width}, node.out))


# -- results --------------------------------------------------------------------------------------


def _output(node: Node, b: ProgramBuilder) -> None:
    """[x] goes to the client."""
    share = _unmasked(b, _operand(b, node.inputs[0], b.fix_type(node.inputs[0]).bits))
    _online(b, "output", [share], {"name": node.attrs["name"], "round": 0})


def _route(node: Node, b: ProgramBuilder) -> None:
    """[x] goes to both parties: the one value that is declassified."""
    share = _unmasked(b, _operand(b, node.inputs[0], b.fix_type(node.inputs[0]).bits))
    _online(b, "route", [share], {"round": 0})


def _guard(node: Node, b: ProgramBuilder) -> None:
    """[x] of one bit goes to both parties, and from them to the client."""
    share = _unmasked(b, _operand(b, node.inputs[0], 1))
    _online(b, "guard", [share], {"round": 0})


_RULES: Mapping[str, Callable[[Node, ProgramBuilder], Value | None]] = {
    **dict.fromkeys(PRODUCTS, _product),
    "open": _open,
    "shift": _shift,
    "table": _table,
    "check": _check,
    "relu": _sign,
    "nonneg": _sign,
    "extend": _extend,
    "input": _input,
    "output": _output,
    "route": _route,
    "guard": _guard,
}
