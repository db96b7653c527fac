"""Pass `fuse_layers`: move factors and summands that are constant into the weights before them.

Batch norm behind a convolution, an average pool's factor before a linear layer, chains of biases:
all become part of a weight, and cost nothing.

    (y + c) * s        = y * s + c * s          (y + c) + d = y + (c + d)
    conv(x, w) * s     = conv(x, w * s)         (x @ w) * s = x @ (w * s)
    view(x * a)        = view(x) * a            (x * a) @ w = x @ (w * a)
    (z * g + c) @ w    = z @ (g * w) + c @ w     (x @ y) * a = (x * a) @ y
    (e * r) @ v        = (e @ v) * r, if v has fewer columns than rows
    (x + y) @ C        = x @ C + y @ C                  (x @ w) @ C = x @ (w @ C)
with a a number, r one factor for each row, s constant along every axis but the output channels, c,
d, g and w constants. The rule for g and c holds for layer norm before a linear layer, even if
others use the norm's result: what the linear layer opens is then z itself, which is opened anyway.
The one for r lets attention divide by the sums of softmax after the product: the sums' inverses
are computed meanwhile, and the quotients, as many as scores, need not be opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from srcompile.ir.graph import NO_ATTRS, Attr, Module, Node, uses
from srcompile.ops import Registry
from srcompile.ops.builder import GraphBuilder
from srcompile.passes.fold_constants import fold_constants

_VIEWS = frozenset({"reshape", "transpose", "slice", "broadcast", "pad"})
_LAYERS = frozenset({"matmul", "conv2d"})


def fuse_layers(module: Module, ops: Registry) -> Module:
    """Return `module` (primitives only) with constant factors and summands fused into weights.

    Once more as long as that helps: what one rule makes of constants is one for the next.
    """
    fused = fold_constants(_Fuser(module, ops).run(), ops)
    again = fold_constants(_Fuser(fused, ops).run(), ops)
    while _size(again) < _size(fused):
        fused, again = again, fold_constants(_Fuser(again, ops).run(), ops)
    return fused


def _size(module: Module) -> int:
    return sum(1 for _ in module.main.nodes())


class _Fuser:
    def __init__(self, module: Module, ops: Registry) -> None:
        self.module, self.b = module, GraphBuilder(ops)
        self.b.add_consts(module.consts)
        self.made: dict[str, Node] = {}
        self.single: set[str] = set()

    def run(self) -> Module:
        count = uses(self.module.main)
        new: dict[str, str] = {}
        for segment in self.module.main.segments:
            for node in segment.nodes:
                self.b.loc = node.loc
                inputs = [new.get(i, i) for i in node.inputs]
                rule = _RULES.get(node.op)
                out = rule(self, inputs, node) if rule else None
                if out is None:
                    out = self.b.replay(node, inputs)
                    self.made[out] = replace(node, out=out, inputs=tuple(inputs))
                new[node.out] = out
                if count.get(node.out) == 1:
                    self.single.add(out)
            self.b.end_segment(segment.name, segment.route)
        return self.b.module()

    # -- emitting, with the rules applied to what is emitted

    def emit(self, op: str, inputs: Sequence[str], attrs: Mapping[str, Attr] = NO_ATTRS) -> str:
        rule = _RULES.get(op)
        node = Node(op, "", tuple(inputs), attrs, loc=self.b.loc)
        out = rule(self, list(inputs), node) if rule else None
        if out is None:
            out = self.b.emit(op, inputs, attrs)
            self.made[out] = replace(node, out=out)
            self.single.add(out)
        return out

    def emit_layer(self, layer: Node, inputs: Sequence[str]) -> str:
        """Emit a layer again with another weight, at its own place in the user's source."""
        here, self.b.loc = self.b.loc, layer.loc
        out = self.emit(layer.op, inputs, layer.attrs)
        self.b.loc = here
        return out

    def alone(self, name: str, *ops: str) -> Node | None:
        """Return the node that makes `name` if it is one of `ops` and nothing else uses it."""
        node = self.made.get(name)
        return node if node is not None and name in self.single and node.op in ops else None

    def affine(self, x: str, weight: tuple[int, ...]) -> tuple[str, str, str | None] | None:
        """Return (z, g, c) if x = z * g + c with vectors g and c (or None) along the last axis."""
        made, c = self.made.get(x), None
        if made is not None and made.op == "add" and _constant(made) is not None:
            x, c = _split(made)
            made = self.made.get(x)
        if made is None or made.op != "mul" or _constant(made) is None or len(weight) != 2:
            return None
        z, g = _split(made)
        vectors = [v for v in (g, c) if v is not None]
        if any(self.b.type(v).shape != weight[:1] for v in vectors):
            return None
        return z, g, c

    def row_factor(self, x: str) -> tuple[str, str] | None:
        """Return (e, r) if x = e * r, for nobody else, with one factor r for each row of e."""
        made = self.alone(x, "mul")
        if made is None or _constant(made) is not None:
            return None
        whole = self.b.type(x).shape
        for e, r in (made.inputs, made.inputs[::-1]):
            per_row = self.b.type(r).shape
            if self.b.type(e).shape == whole and per_row == (*whole[:-1], 1) != whole:
                return e, r
        return None

    # -- rules: return the new value, or None to leave the node as it is

    def mul(self, inputs: list[str], node: Node) -> str | None:
        y, s = inputs if inputs[1].startswith("@") else inputs[::-1]
        if not s.startswith("@") or y.startswith("@"):
            return None
        summed = self.alone(y, "add")
        if summed and _constant(summed) is not None and self._same_shape(y, s):
            x, c = _split(summed)
            return self.emit("add", [self.emit("mul", [x, s]), self.b.emit("mul", [c, s])])
        layer = self.alone(y, *_LAYERS)
        if layer is None or not layer.inputs[1].startswith("@"):
            return None
        w = layer.inputs[1]
        shape, rank = self.b.type(s).shape, len(self.b.type(y).shape)
        channel = rank - 1 if layer.op == "matmul" else 1
        full = (1,) * (rank - len(shape)) + shape
        if len(full) != rank or any(n != 1 for i, n in enumerate(full) if i != channel):
            return None
        if layer.op == "matmul":
            factor = self.b.emit("reshape", [s], {"shape": (full[channel],)})
        else:
            factor = self.b.emit("reshape", [s], {"shape": (full[channel], 1, 1, 1)})
        return self.emit_layer(layer, [layer.inputs[0], self.b.emit("mul", [w, factor])])

    def _same_shape(self, y: str, s: str) -> bool:
        """Whether y * s has the shape of y, so that a summand may be scaled before it is added."""
        made = self.made[y]
        shapes = [self.b.type(i).shape for i in made.inputs]
        return self.b.type(y).shape in shapes and len(self.b.type(s).shape) <= len(
            self.b.type(y).shape
        )

    def add(self, inputs: list[str], node: Node) -> str | None:
        y, d = inputs if inputs[1].startswith("@") else inputs[::-1]
        inner = self.alone(y, "add")
        if not d.startswith("@") or inner is None or _constant(inner) is None:
            return None
        x, c = _split(inner)
        return self.emit("add", [x, self.b.emit("add", [c, d])])

    def scale(self, inputs: list[str], node: Node) -> str | None:
        inner = self.alone(inputs[0], "scale")
        by = float(node.attrs["by"])  # type: ignore[arg-type]
        if inner is not None:
            both = by * float(inner.attrs["by"])  # type: ignore[arg-type]
            return self.emit("scale", [inner.inputs[0]], {"by": both})
        return self.scaled(inputs[0], by)

    def scaled(self, x: str, by: float) -> str | None:
        """Return x * by with the factor in a weight before x, None if there is none to take it."""
        made = self.alone(x, "add", *_LAYERS, *_VIEWS)
        if made is None:
            return None
        if made.op in _VIEWS:
            inside = self.scaled(made.inputs[0], by)
            return inside and self.emit(made.op, [inside], made.attrs)
        if made.op == "add":
            if _constant(made) is None:
                return None
            y, c = _split(made)
            inside = self.scaled(y, by)
            return inside and self.emit("add", [inside, self.b.emit("scale", [c], {"by": by})])
        for i, operand in enumerate(made.inputs):
            if operand.startswith("@"):
                factor: str | None = self.b.emit("scale", [operand], {"by": by})
            else:
                factor = self.scaled(operand, by) if _constant(made) is None else None
            if factor is not None:
                operands = list(made.inputs)
                operands[i] = factor
                return self.emit_layer(made, operands)
        return None

    def view(self, inputs: list[str], node: Node) -> str | None:
        inner = self.alone(inputs[0], "scale")
        if inner is None:
            return None
        return self.emit("scale", [self.emit(node.op, inner.inputs, node.attrs)], inner.attrs)

    def layer(self, inputs: list[str], node: Node) -> str | None:
        x, w = inputs
        if node.op == "matmul" and w.startswith("@") and not x.startswith("@"):
            normed = self.affine(x, self.b.type(w).shape)
            if normed is not None:
                z, g, c = normed
                rows = self.b.emit("reshape", [g], {"shape": (self.b.type(g).shape[-1], 1)})
                out = self.emit("matmul", [z, self.b.emit("mul", [w, rows])])
                if c is None:
                    return out
                row = self.b.emit("reshape", [c], {"shape": (1, self.b.type(c).shape[-1])})
                return self.emit("add", [out, self.b.emit("matmul", [row, w])])
        if node.op == "matmul" and w.startswith("@") and not self.b.consts[w].secret:
            moved = self.public_matrix(x, w)
            if moved is not None:
                return moved
        factor = self.row_factor(x) if node.op == "matmul" else None
        if factor is not None:
            e, r = factor
            narrow = self.b.type(w).shape[-1] < self.b.type(e).shape[-1]
            if narrow:
                return self.emit("mul", [self.emit("matmul", [e, w]), r])
        inner = self.alone(x, "scale")
        if inner is None or not w.startswith("@"):
            return None
        return self.emit(
            node.op, [inner.inputs[0], self.b.emit("scale", [w], inner.attrs)], node.attrs
        )

    def public_matrix(self, x: str, c: str) -> str | None:
        """Return x @ C with the public matrix C in the weights before x, None if it cannot be."""
        summed, product = self.alone(x, "add"), self.alone(x, "matmul")
        if summed is not None and all(self._as_long(i, x) for i in summed.inputs):
            return self.emit("add", [self.times(i, c) for i in summed.inputs])
        if product is not None and product.inputs[1].startswith("@"):
            both = self.b.emit("matmul", [product.inputs[1], c])
            return self.emit_layer(product, [product.inputs[0], both])
        return None

    def _as_long(self, summand: str, x: str) -> bool:
        return self.b.type(summand).shape[-1:] == self.b.type(x).shape[-1:]

    def times(self, x: str, c: str) -> str:
        """Return x @ C; a vector counts as a row."""
        shape = self.b.type(x).shape
        if len(shape) == 1:
            x = self.b.emit("reshape", [x], {"shape": (1, *shape)})
        return self.emit("matmul", [x, c])


def _constant(node: Node) -> str | None:
    """Return the constant operand of an addition or product, if it has one."""
    return next((i for i in node.inputs if i.startswith("@")), None)


def _split(node: Node) -> tuple[str, str]:
    """Return (value, constant) of an addition or product of the two."""
    x, c = node.inputs
    return (c, x) if x.startswith("@") else (x, c)


_Rule = Callable[[_Fuser, list[str], Node], str | None]
_RULES: Mapping[str, _Rule] = {
    "mul": _Fuser.mul,
    "add": _Fuser.add,
    "scale": _Fuser.scale,
    **dict.fromkeys(_LAYERS, _Fuser.layer),
    **dict.fromkeys(_VIEWS, _Fuser.view),
}
