"""The graph: modules of functions of segments of nodes, all frozen.

A node's operands are names: `%x` is a value made by an earlier node, `@w` a constant of the module.
A function has one segment, or, for a routed pool, a first one that always runs and then one for
each model, of which the one the route names runs. A later segment sees the values of the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from numpy.typing import NDArray

from srcompile.errors import Loc
from srcompile.ir.types import Type
from srcompile.runtime.source import Source, array_of

Attr = int | float | bool | str | tuple[int, ...]
Array = NDArray[Any]  # floats on the graph level, integers below
NO_ATTRS: Mapping[str, Attr] = MappingProxyType({})


@dataclass(frozen=True)
class Node:
    """One operation: `%out = op(inputs) {attrs} : type at loc`. `out` may be "": no value."""

    op: str
    out: str
    inputs: tuple[str, ...]
    attrs: Mapping[str, Attr] = field(default_factory=lambda: NO_ATTRS)
    type: Type | None = None
    loc: Loc = field(default=Loc())
    pos: tuple[int, int] = field(default=(0, 0), compare=False)


@dataclass(frozen=True)
class Segment:
    """A run of nodes. `route` is None if it always runs, else the route index that selects it."""

    name: str
    nodes: tuple[Node, ...]
    route: int | None = None


@dataclass(frozen=True)
class Function:
    """Named segments. `extends` names the function whose values this one sees as well."""

    name: str
    segments: tuple[Segment, ...]
    extends: str = ""

    def nodes(self) -> Iterator[Node]:
        """Yield every node, in order."""
        for segment in self.segments:
            yield from segment.nodes

    def types(self) -> dict[str, Type]:
        """Return the type of every value this function makes."""
        return {n.out: n.type for n in self.nodes() if n.out and n.type is not None}


@dataclass(frozen=True)
class Const:
    """A tensor the program carries. A secret one reaches the parties only as shares.

    Weights below the graph level are made of floats whenever `data` is read (runtime/source.py).
    """

    type: Type
    secret: bool
    source: Source = field(default=None, compare=False)

    @property
    def data(self) -> Array | None:
        """Its elements, None if they are not known."""
        return array_of(self.source)


@dataclass(frozen=True)
class Module:
    """A program on one level: `graph`, `fixed`, `lowered` or `schedule`."""

    level: str
    functions: tuple[Function, ...]
    consts: Mapping[str, Const]

    def function(self, name: str) -> Function:
        """Return the function called `name`."""
        return next(f for f in self.functions if f.name == name)

    @property
    def main(self) -> Function:
        """The one function of a graph or fixed-level module."""
        assert len(self.functions) == 1, [f.name for f in self.functions]
        return self.functions[0]

    def type_of(self, operand: str, types: Mapping[str, Type]) -> Type:
        """Return the type of an operand, `@constant` or `%value` (looked up in `types`)."""
        return self.consts[operand].type if operand.startswith("@") else types[operand]

    def with_main(self, segments: tuple[Segment, ...]) -> Module:
        """Return this module with the segments of its one function replaced."""
        return replace(self, functions=(replace(self.main, segments=segments),))


def public_values(module: Module) -> frozenset[str]:
    """Return the values that both parties may know: made of public inputs and public constants."""
    public = {name for name, const in module.consts.items() if not const.secret}
    for node in module.main.nodes():
        known = node.inputs and all(name in public for name in node.inputs)
        if bool(node.attrs.get("public")) if node.op == "input" else known:
            public.add(node.out)
    return frozenset(name for name in public if name.startswith("%"))


def uses(function: Function) -> dict[str, int]:
    """Return how often each operand is used in `function`."""
    count: dict[str, int] = {}
    for node in function.nodes():
        for name in node.inputs:
            count[name] = count.get(name, 0) + 1
    return count
