"""Hypothesis strategies: random well-typed graph modules with random names and attributes."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from hypothesis import strategies as st

from srcompile.errors import Loc
from srcompile.ir.graph import Attr, Const, Module, Node
from srcompile.ir.types import FloatType, Type
from srcompile.ops import registry
from srcompile.ops.base import Case, Op
from srcompile.ops.builder import GraphBuilder

NAME_LETTERS = string.ascii_letters + string.digits + "_.-^"
CONST_LETTERS = string.ascii_letters + string.digits + "_.-/"

value_names = st.text(NAME_LETTERS, min_size=1, max_size=8).map("%{}".format)
const_names = st.text(CONST_LETTERS, min_size=1, max_size=8).map("@{}".format)
words = st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True).filter(
    lambda w: w not in {"true", "false"}
)
texts = st.one_of(
    st.sampled_from(['"', "\\", '\\"', "// no comment", "ünï", "a\nb", "\u2028", "", "😀", "\t"]),
    st.text(max_size=6),
)
odd_floats = st.sampled_from([-0.0, 0.0, 1e-30, -1e300, 0.1, float("inf"), float("-inf"), 5e-324])
floats = st.one_of(odd_floats, st.floats(allow_nan=False))
attributes = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    floats,
    texts,
    st.lists(st.integers(-9, 99), max_size=3).map(tuple),
)
locs = st.builds(
    Loc, file=texts, line=st.integers(0, 9999), module=texts, op=st.one_of(st.just(""), words)
)
ranges = st.one_of(st.none(), st.tuples(floats, floats))

OP_CASES: tuple[tuple[Op, Case], ...] = tuple(
    (op, case) for op in registry().values() for case in op.cases()
)


@st.composite
def graph_modules(draw: st.DrawFn) -> Module:
    """Return a graph-level module of a few ops of the registry's cases, chained where they fit."""
    b = GraphBuilder(registry())
    made: list[str] = []
    for op, case in draw(st.lists(st.sampled_from(OP_CASES), min_size=1, max_size=5)):
        b.loc = draw(locs)
        operands = []
        for i, shape in enumerate(case.shapes):
            fitting = [name for name in made if b.type(name).shape == shape]
            if bool(fitting) and draw(st.booleans()):
                operands.append(draw(st.sampled_from(fitting)))
            elif i in case.secret:
                operands.append(_const(draw, b, shape))
            else:
                attrs: dict[str, Attr] = {"name": draw(texts), "shape": shape}
                operands.append(b.emit("input", [], attrs, draw(value_names)))
        out = b.emit(op.name, operands, case.attrs, draw(value_names))
        b.set_range(out, draw(ranges))
        made.append(out)
    b.emit("output", [made[-1]], {"name": draw(texts)})
    b.end_segment(draw(texts))
    for route in range(draw(st.integers(0, 2))):
        b.emit("neg", [made[-1]], {}, draw(value_names))
        b.end_segment(draw(texts), route)
    return b.module()


def _const(draw: st.DrawFn, b: GraphBuilder, shape: tuple[int, ...]) -> str:
    name = b.fresh(draw(const_names))
    b.consts[name] = Const(FloatType(shape), draw(st.booleans()))
    return name


@st.composite
def modules_of_any_text(draw: st.DrawFn) -> Module:
    """Return a module that need not verify, with attributes and types of every form."""
    module = draw(graph_modules())
    segments = []
    for segment in module.main.segments:
        nodes = []
        for node in segment.nodes:
            attrs = draw(st.dictionaries(words, attributes, max_size=3))
            nodes.append(_changed(draw, node, attrs))
        segments.append(replace(segment, nodes=tuple(nodes)))
    level = draw(st.sampled_from(["graph", "fixed", "lowered", "schedule"]))
    return replace(module.with_main(tuple(segments)), level=level)


def _changed(draw: st.DrawFn, node: Node, attrs: Mapping[str, Attr]) -> Node:
    type_: Type | None = draw(st.one_of(st.none(), st.just(node.type)))
    return replace(node, op=draw(words), attrs=MappingProxyType(dict(attrs)), type=type_)
